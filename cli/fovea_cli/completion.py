"""`fovea completion`: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Prints the completion script of a SHELL: `source <(fovea completion bash)`."""
    from fovea_cli.main import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise click.ClickException(f"no completion for {shell}")
    click.echo(completion(cli, {}, "fovea", "_FOVEA_COMPLETE").source())
