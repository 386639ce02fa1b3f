"""What the commands that read a manifest share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click


def manifest_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options -f, --set, --store, --adopt, --source and --name."""
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="FIELD=VALUE",
            help="A field of the object's spec that is not as the file has it, such as training.epochs=20; in YAML.",
        ),
        click.option("--name", help="The object, where the file has several of its kind."),
        click.option(
            "--source",
            multiple=True,
            metavar="NAME=PLACE",
            help="Where a source of the Dataset lies on this machine: a folder, an archive or a URI.",
        ),
        click.option(
            "--store",
            default="fovea-store",
            show_default=True,
            help="Folder or URI that datasets and bundles are written to.",
        ),
        click.option(
            "--adopt",
            default="",
            metavar="OWNER",
            help="Take a store over from this owner, who may write there no more.",
        ),
        click.option(
            "--file",
            "-f",
            required=True,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The manifest.",
        ),
    ):
        command = option(command)
    return command


def sources_of(given: Sequence[str]) -> dict[str, str]:
    """Reads NAME=PLACE pairs."""
    pairs = [item.partition("=") for item in given]
    for name, divider, place in pairs:
        if not (name and divider and place):
            raise click.BadParameter(f"{name!r} is not NAME=PLACE", param_hint="--source")
    return {name: place for name, _, place in pairs}
