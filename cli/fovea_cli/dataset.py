"""`fovea dataset`: what can be done with datasets on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from fovea_cli.manifest import manifest_options, sources_of
from fovea_cli.output import output_option, print_json, print_table


@click.group("dataset")
def command() -> None:
    """Builds datasets."""


@command.command("build")
@manifest_options
@output_option
def build(file: Path, store: str, source: tuple[str, ...], name: str | None, output: str) -> None:
    """Builds the version of a manifest's Dataset: reads, checks, splits, and writes it to the store."""
    from fovea_trainer.local import build_manifest

    result = build_manifest(file, store, name=name, sources=sources_of(source))
    if output == "json":
        print_json(result.to_dict())
        return
    assert result.dataset is not None
    print_table([(name, str(count)) for name, count in result.dataset.splits.items()], ("SPLIT", "IMAGES"))
    click.echo(f"\nversion  {result.digest}\nartifact {result.artifact}\nreport   {result.report}")
