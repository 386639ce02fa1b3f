"""`fovea crds`: the custom resource definitions."""

from __future__ import annotations

import click
import yaml
from fovea_api.schema import KINDS, custom_resource_definition


@click.command("crds")
def command() -> None:
    """Prints the custom resource definitions, for `kubectl apply --server-side -f -`."""
    definitions = [custom_resource_definition(kind) for kind in KINDS]
    click.echo(yaml.safe_dump_all(definitions, sort_keys=False, width=110), nl=False)
