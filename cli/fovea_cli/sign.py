"""`fovea sign`: signs a model bundle, so that a deployment with `model.verify` serves it."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import click

PASSWORD_VARIABLE = "FOVEA_SIGNING_PASSWORD"


@click.command("sign", help=f"""Signs a BUNDLE, a folder or a URI: writes the signature into it.

Every file is verified against its digest first. An encrypted key's password is in {PASSWORD_VARIABLE}.
""")  # fmt: skip
@click.argument("bundle")
@click.option(
    "--key",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private key on an elliptic curve (PEM).",
)
def command(bundle: str, key: Path) -> None:
    from fovea_serving.fetch import fetch_bundle
    from fovea_serving.signature import SIGNATURE, sign_bundle
    from fovea_store import StorePath

    with TemporaryDirectory(prefix="fovea-bundle-") as folder:
        verified = fetch_bundle(bundle, Path(folder))
        signature = sign_bundle(verified.path, key, os.environ.get(PASSWORD_VARIABLE))
    target = StorePath.parse(bundle) / SIGNATURE
    target.write_bytes(signature)
    click.echo(f"{verified.digest} is signed: {target}")
