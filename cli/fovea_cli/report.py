"""`fovea report`: the report of a model bundle or a dataset version."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from fovea_cli.remote import claim_options, open_remote


@click.command("report")
@click.argument("artifact")
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="File that the report is written to.",
)
@claim_options
def command(artifact: str, to: Path, namespace: str | None, image: str | None) -> None:
    """Copies the report of an ARTIFACT (folder or URI of a bundle or a dataset version) to a file.

    That of a bundle is held against the digest in its bundle.yaml, and that one against the bundle's name.
    """
    from fovea_api.bundle import MANIFEST
    from fovea_serving.bundle import REPORT, parse_manifest, verify_digest, verify_file
    from fovea_store import NotFound, StorePath

    with tempfile.TemporaryDirectory(prefix="fovea-report-") as work:
        folder = Path(work)
        with open_remote(artifact, namespace, image) as remote:
            there = {entry.path for entry in remote.files()} & {MANIFEST, REPORT}
            if REPORT not in there:
                raise NotFound("there is nothing", f"{artifact.rstrip('/')}/{REPORT}", "check the path")
            remote.receive(folder, sorted(there), lambda count: None)
        if MANIFEST in there:
            manifest = parse_manifest((folder / MANIFEST).read_bytes(), f"{artifact.rstrip('/')}/{MANIFEST}")
            verify_digest(manifest, artifact.rstrip("/").rpartition("/")[2], artifact)
            entry = next((each for each in manifest.files if each.path == REPORT), None)
            if entry is not None:
                verify_file(folder / REPORT, entry, f"{artifact}/{REPORT}")
        StorePath.parse(str(to)).upload(folder / REPORT)
    click.echo(str(to))
