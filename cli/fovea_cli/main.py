"""The console script `fovea`: a thin layer over the packages, each imported only when its command runs."""

from __future__ import annotations

import importlib
import tempfile
import traceback
from dataclasses import dataclass

import click
from fovea_api.errors import FoveaError, MissingExtra

COMMANDS = {
    "init": ("fovea_cli.init", "trainer"),
    "train": ("fovea_cli.train", "trainer"),
    "tune": ("fovea_cli.tune", "trainer"),
    "sweep": ("fovea_cli.sweep", "trainer"),
    "dataset": ("fovea_cli.dataset", "trainer"),
    "predict": ("fovea_cli.predict", "serving"),
    "serve": ("fovea_cli.serve", "serving"),
    "gateway": ("fovea_cli.gateway", "serving"),
    "triton": ("fovea_cli.triton", "serving"),
    "captures": ("fovea_cli.captures", "serving"),
    "drift": ("fovea_cli.drift", "trainer"),
    "evaluate": ("fovea_cli.evaluate", "trainer"),
    "compare": ("fovea_cli.compare", "serving"),
    "export": ("fovea_cli.export", "trainer"),
    "report": ("fovea_cli.report", "serving"),
    "rollout": ("fovea_cli.rollout", None),
    "logs": ("fovea_cli.logs", "trainer"),
    "list": ("fovea_cli.list", "trainer"),
    "store": ("fovea_cli.store", "trainer"),
    "push": ("fovea_cli.push", "serving"),
    "pull": ("fovea_cli.pull", "serving"),
    "sign": ("fovea_cli.sign", "serving"),
    "verify": ("fovea_cli.verify", "serving"),
    "models": ("fovea_cli.models", None),
    "crds": ("fovea_cli.crds", None),
    "operator": ("fovea_cli.operator", "operator"),
    "run": ("fovea_cli.run", "trainer"),
    "completion": ("fovea_cli.completion", None),
}
"""Each command: the module that defines it under the name `command`, and the extra that it needs."""
SERVICES = frozenset({"operator", "run", "gateway", "triton"})
"""Commands of pods: what they print is a log, which is where the traceback of an unexpected error belongs."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in the words and with the exit code of the command line."""

    message: str
    exit_code: int = 1


class Commands(click.Group):
    """Imports a command's module when it is asked for, so that `fovea crds` needs neither torch nor kopf."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = importlib.import_module(module).command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise  # click's own
        except Exception as error:
            failure = explain(error, ctx.invoked_subcommand or "")
            if failure is None and ctx.invoked_subcommand in SERVICES:
                raise
            failure = failure or _unexpected(error)
            click.echo(f"fovea: {failure.message}", err=True)
            raise click.exceptions.Exit(failure.exit_code) from error


def explain(error: Exception, command: str) -> Failure | None:
    """What a command's error means to its user; None for one that nobody foresaw."""
    extra = COMMANDS.get(command, ("", None))[1]
    match error:
        case FoveaError():
            return Failure(str(error), error.exit_code)
        case ModuleNotFoundError(name=str() as module) if extra and not module.startswith("fovea_"):
            return Failure(str(MissingExtra(extra, f"`fovea {command}` (module {module})")))
        case OSError(filename=str() as file, strerror=str() as reason):
            return Failure(f"{file}: {reason}")
        case OSError() if (fault := _fault(error)) is not None:
            return Failure(str(fault), fault.exit_code)
    return None


def _fault(error: OSError) -> FoveaError | None:
    """The fault of a disk or a store that a library has met, and that names no file."""
    try:
        from fovea_store.errors import outside_cause
    except ImportError:  # an installation without the packages of stores
        return None
    return outside_cause(error)


def _unexpected(error: Exception) -> Failure:
    with tempfile.NamedTemporaryFile("w", prefix="fovea-", suffix=".log", delete=False) as file:
        traceback.print_exception(error, file=file)
    text = f"{type(error).__name__}: {error}"
    return Failure(f"unexpected error, please report it: {text} (the traceback is in {file.name})")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fovea")
def cli() -> None:
    """Fovea: the whole life of a computer-vision model, by hand as on the cluster.

    Ends with 0; with 1 for wrong input, 2 for a wrong command line, 3 for a model that misses its success criteria
    and 75 for what may work later.
    """


def main() -> None:
    """Entry of the console script."""
    cli(prog_name="fovea")
