"""`fovea sweep`: what a sweep has found, as a change for Git."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import yaml
from fovea_api.errors import InvalidInput, InvalidManifest
from fovea_api.tuningsweep import TuningSweep
from pydantic import JsonValue, ValidationError

from fovea_cli.kubectl import get_object
from fovea_cli.output import output_option, print_json

if TYPE_CHECKING:
    from fovea_trainer.tuning.patch import Found


@click.group("sweep")
def command() -> None:
    """What a sweep has found."""


@command.command("patch")
@click.argument("sweep")
@click.option("--trial", default=None, help="The trial: best, knee or a name such as t-11; absent: as promote says.")
@click.option("--store", default="fovea-store", show_default=True, help="Store of a sweep by hand, for its name.")
@click.option("--namespace", "-n", help="Namespace of the TuningSweep; absent: kubectl's own.")
@output_option
def patch(sweep: str, trial: str | None, store: str, namespace: str | None, output: str) -> None:
    """Prints the values of a SWEEP's chosen trial as a part of a TrainingJob's manifest, to be merged into it in Git.

    SWEEP is a TuningSweep's name (of the store, or of the cluster: tuningsweep/NAME) or the folder with sweep.yaml.
    """
    from fovea_trainer.tuning.patch import find_sweep, recipe_patch

    if sweep.startswith("tuningsweep/"):
        part = _of_cluster(sweep.removeprefix("tuningsweep/"), namespace, trial)
    else:
        found: Found = find_sweep(sweep, store)
        part = recipe_patch(found.trial(trial or "best"))
    if output == "json":
        print_json(part)
    else:
        click.echo(yaml.safe_dump(part, sort_keys=False), nl=False)


def _of_cluster(name: str, namespace: str | None, trial: str | None) -> dict[str, JsonValue]:
    """The patch of what the status says: the store of a cluster may be out of reach."""
    from fovea_trainer.tuning.patch import recipe_patch

    given = get_object("tuningsweeps.fovea.dev", name, namespace, "kubectl get tuningsweeps --all-namespaces")
    try:
        sweep = TuningSweep.model_validate(given)
    except ValidationError as error:
        raise InvalidManifest.from_validation(error, "the TuningSweep, as this version reads it") from error
    status, promote = sweep.status, sweep.spec.promote
    wanted = trial or ("knee" if promote is not None and promote.trial == "Knee" else "best")
    known = {} if status is None else {each.trial: each for each in status.pareto}
    if status is not None:
        known |= {"best": status.best, "knee": status.knee or status.best}  # type: ignore[dict-item]
    chosen = known.get(wanted)
    if chosen is None:
        why = f"kubectl describe tuningsweep {name} says how far it is"
        raise InvalidInput(f"the status of TuningSweep {name} has no trial {wanted!r}", None, why)
    return recipe_patch(chosen)
