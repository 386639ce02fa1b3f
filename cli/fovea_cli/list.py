"""`fovea list`: the dataset versions and model bundles of a store."""

from __future__ import annotations

import click

from fovea_cli.output import output_option, print_json, print_table
from fovea_cli.progress import size_in_words

SHOWN_DIGEST = len("sha256-") + 12
"""Letters of a digest that a table shows; JSON has all."""


@click.command("list")
@click.argument("store", default="fovea-store")
@click.option("--name", help="Only those of this Dataset or TrainingJob.")
@output_option
def command(store: str, name: str | None, output: str) -> None:
    """Lists the dataset versions and model bundles of a STORE (folder or URI; absent: fovea-store).

    Versions come before bundles; those of one name together, the newest first.
    """
    from fovea_store import StorePath
    from fovea_trainer.inventory import artifacts

    chosen = [each for each in artifacts(StorePath.parse(store)) if name in (None, each.name)]
    if output == "json":
        print_json([each.to_dict() for each in chosen])
        return
    rows = [
        (
            each.kind,
            each.name,
            each.digest[:SHOWN_DIGEST],
            f"{each.written:%Y-%m-%d %H:%M}",
            size_in_words(each.bytes),
            each.summary,
        )
        for each in chosen
    ]
    print_table(rows, ("KIND", "NAME", "DIGEST", "WRITTEN", "SIZE", "WHAT"))
