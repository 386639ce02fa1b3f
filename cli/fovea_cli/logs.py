"""`fovea logs`: what a run printed, from the store."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import click
from fovea_api.errors import InvalidInput, InvalidManifest, Retryable
from fovea_api.run import Run
from pydantic import JsonValue, ValidationError

if TYPE_CHECKING:
    from fovea_store import StorePath

_FINAL = re.compile(r"\((NotFound|Forbidden|Unauthorized|BadRequest)\)|doesn't have a resource type")
"""In kubectl's words: what trying again does not change."""


@click.command("logs")
@click.argument("run")
@click.option("--namespace", "-n", help="Namespace of the run; absent: kubectl's own.")
def command(run: str, namespace: str | None) -> None:
    """Prints the log of a RUN (its name, r-…; see `kubectl get runs`), whether it succeeded, failed or is going on.

    What a run that is going on prints now: `kubectl logs -f -l fovea.dev/run=RUN`.
    """
    from fovea_store import NotFound

    scope = [] if namespace is None else ["--namespace", namespace]
    try:
        found = subprocess.run(
            ["kubectl", *scope, "get", f"runs.fovea.dev/{run}", "--output=json"],
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError as error:
        raise InvalidInput("kubectl is not installed", None, "install it; `fovea logs` asks it for the run") from error
    except subprocess.CalledProcessError as error:
        said = ["kubectl failed", *str(error.stderr).strip().splitlines()][-1]
        if _FINAL.search(said):
            raise InvalidInput(said, None, "kubectl get runs --all-namespaces") from error
        raise Retryable(said) from error
    try:
        click.echo(_log_of(json.loads(found.stdout)).read_text(), nl=False)
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
