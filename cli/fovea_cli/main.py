"""The console script `fovea`: a thin layer over the packages, each imported only when its command runs."""

from __future__ import annotations

import importlib
import sys

import click
from fovea_api.errors import FoveaError, MissingExtra

COMMANDS = {
    "train": ("fovea_cli.train", "trainer"),
    "dataset": ("fovea_cli.dataset", "trainer"),
    "predict": ("fovea_cli.predict", "serving"),
    "report": ("fovea_cli.report", "trainer"),
    "logs": ("fovea_cli.logs", "trainer"),
    "models": ("fovea_cli.models", None),
    "crds": ("fovea_cli.crds", None),
    "operator": ("fovea_cli.operator", "operator"),
    "run": ("fovea_cli.run", "trainer"),
    "completion": ("fovea_cli.completion", None),
}
"""Each command: the module that defines it under the name `command`, and the extra that it needs."""


class LazyGroup(click.Group):
    """Imports a command's module when it is asked for, so that `fovea crds` needs neither torch nor kopf."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = importlib.import_module(module).command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fovea")
def cli() -> None:
    """Fovea: the whole life of a computer-vision model, by hand as on the cluster."""


def main() -> None:
    """Entry of the console script. Ends with 0; 1 for wrong input; 75 for what may work later; 2 for usage."""
    try:
        cli(prog_name="fovea")
    except ModuleNotFoundError as error:
        name = next((word for word in sys.argv[1:] if word in COMMANDS), "")
        extra = COMMANDS.get(name, ("", None))[1]
        if extra is None or (error.name or "").startswith("fovea_cli"):
            raise
        _fail(MissingExtra(extra, f"`fovea {name}` (module {error.name})"))
    except FoveaError as error:
        _fail(error)


def _fail(error: FoveaError) -> None:
    click.echo(f"fovea: {error}", err=True)
    sys.exit(error.exit_code)
