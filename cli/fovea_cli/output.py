"""How commands print: for people, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import click
from pydantic import JsonValue

output_option: Callable[[click.decorators.FC], click.decorators.FC] = click.option(
    "--output",
    "-o",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Text for people, JSON for programs; everything else goes to standard error.",
)


def print_json(value: JsonValue | Mapping[str, JsonValue]) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """Columns as wide as their widest cell, as kubectl prints them."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
