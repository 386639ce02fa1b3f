"""`fovea logs`: what a run printed, from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from fovea_api.errors import InvalidInput, InvalidManifest
from fovea_api.run import Run
from pydantic import JsonValue, ValidationError

from fovea_cli.kubectl import get_object

if TYPE_CHECKING:
    from fovea_store import StorePath


@click.command("logs")
@click.argument("run")
@click.option("--namespace", "-n", help="Namespace of the run; absent: kubectl's own.")
def command(run: str, namespace: str | None) -> None:
    """Prints the log of a RUN (its name, r-…; see `kubectl get runs`), whether it succeeded, failed or is going on.

    What a run that is going on prints now: `kubectl logs -f -l fovea.dev/run=RUN`.
    """
    from fovea_store import NotFound

    content = get_object("runs.fovea.dev", run, namespace, "kubectl get runs --all-namespaces")
    try:
        click.echo(_log_of(content).read_text(), nl=False)
    except NotFound as error:
        raise InvalidInput(
            f"the run {run} has stored no log yet",
            None,
            f"kubectl logs -l fovea.dev/run={run} --all-containers",
        ) from error


def _log_of(run: JsonValue) -> StorePath:
    """Where a run keeps its log, whatever has become of it: in its folder, which follows from its order."""
    from fovea_trainer.results import LOG, folder_of

    try:
        parsed = Run.model_validate(run)
    except ValidationError as error:
        raise InvalidManifest.from_validation(error, "the run, as this version reads it") from error
    return folder_of(parsed.spec, parsed.metadata.name) / LOG
