"""`fovea verify`: whether a model bundle is what was made, and what was signed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click


@click.command("verify")
@click.argument("bundle")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key (PEM) of whoever must have signed it.  [default: digests alone are verified]",
)
def command(bundle: str, key: Path | None) -> None:
    """Verifies a BUNDLE, a folder or a URI: each file against its digest and, with --key, the signature."""
    from fovea_serving.fetch import fetch_bundle

    with TemporaryDirectory(prefix="fovea-bundle-") as folder:
        verified = fetch_bundle(bundle, Path(folder), public_key=key)
    click.echo(f"{verified.digest}: every file has its digest" + (", and the signature holds" if key else ""))
