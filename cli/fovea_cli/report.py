"""`fovea report`: the report of a model bundle or a dataset version."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("artifact")
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="File that the report is written to.",
)
def command(artifact: str, to: Path) -> None:
    """Copies the report of an ARTIFACT (folder or URI of a bundle or a dataset version) to a file."""
    from fovea_store import StorePath

    StorePath.parse(str(to)).write_bytes((StorePath.parse(artifact) / "report.html").read_bytes())
    click.echo(str(to))
