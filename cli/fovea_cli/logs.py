"""`fovea logs`: what a finished run printed, from the store."""

from __future__ import annotations

import json
import re
import subprocess

import click
from fovea_api.errors import InvalidInput, Retryable

_FINAL = re.compile(r"\((NotFound|Forbidden|Unauthorized|BadRequest)\)|doesn't have a resource type")
"""In kubectl's words: what trying again does not change."""


@click.command("logs")
@click.argument("run")
@click.option("--namespace", "-n", help="Namespace of the run; absent: kubectl's own.")
def command(run: str, namespace: str | None) -> None:
    """Prints the log of a finished RUN (its name, r-…; see `kubectl get runs`).

    The log of a run that is going on: `kubectl logs -f -l fovea.dev/run=RUN`.
    """
    from fovea_trainer.store import place

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
    uri = json.loads(found.stdout).get("status", {}).get("result", {}).get("logs")
    if uri is None:
        raise InvalidInput(
            f"the run {run} has stored no log yet",
            None,
            f"kubectl logs -l fovea.dev/run={run} --all-containers",
        )
    click.echo(place(uri).read_text(), nl=False)
