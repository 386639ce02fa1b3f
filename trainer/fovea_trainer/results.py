"""Where objects and runs have their folders in the store, and the results that runs leave there."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from fovea_api import bundle, dataset, sweep, version
from fovea_api.criteria import Criterion
from fovea_api.run import RunInputs, RunOwner, RunResult, RunSpec, RunType, read_recipe, run_identity
from fovea_store import NotFound, StorePath

RESULT, LOG, INPUTS = "result.json", "log.txt", "inputs.json"

Fingerprints = Mapping[str, str]
"""Name of an input -> digest of its content; see `fovea_trainer.fingerprint`."""

log = logging.getLogger(__name__)


def owner_folder(store: str, owner: RunOwner) -> StorePath:
    """The folder of an object in the store: all that its runs have written."""
    return StorePath.parse(store) / owner.kind.lower() / owner.name


def folder_of(spec: RunSpec, name: str) -> StorePath:
    """The run's folder in the store."""
    return runs_of(spec.store, spec.owner) / name


def runs_of(store: str, owner: RunOwner) -> StorePath:
    """Where the runs of an object have their folders in the store."""
    return owner_folder(store, owner) / "runs"


@dataclass(frozen=True, slots=True)
class Made:
    """A complete result in the store, and what it was made from.

    Args:
        identity: That of the run that made it.
        recipe: The identity that the same recipe has without a parent and a nonce; empty: not known.
        fingerprints: Those of its inputs. None: it is not known what was read, so nobody adopts it.
        criteria: The success criteria that it was made under.
        result: What was made.
    """

    identity: str
    recipe: str
    fingerprints: Fingerprints | None
    criteria: tuple[Criterion, ...]
    result: RunResult


def find_result(spec: RunSpec, name: str, fingerprints: Fingerprints | None) -> RunResult | None:
    """A complete result in the store that is known to be what the run would make.

    It is of the same identity, and its inputs had the same content. A cluster that was made anew knows of no parent
    of a dataset version: there, the newest version of the same recipe and content is taken, with its assignments.
    """
    made = read_result(folder_of(spec, name))
    candidates = [made] if made is not None and made.identity == spec.identity else []
    if spec.type is RunType.DATASET_BUILD:
        runs = runs_of(spec.store, spec.owner)
        others = (other for each in runs.folders() if (other := read_result(runs / each)) is not None)
        equal = [other for other in others if other.recipe == spec.identity]
        candidates = sorted((*candidates, *equal), key=lambda made: made.result.completed_at, reverse=True)
    if fingerprints is not None:
        for candidate in candidates:
            if not fingerprints or candidate.fingerprints == fingerprints:  # without any, the identity has all inputs
                return candidate.result
    if candidates:
        log.info("the store has a result of this recipe, but not of what its inputs hold now: it is made anew")
    return None


def read_result(folder: StorePath) -> Made | None:
    """The result in a run's folder; None where there is none, or what it made is no longer there."""
    try:
        content = json.loads((folder / RESULT).read_text())
        result = RunResult.model_validate(content["result"], extra="ignore")  # another version may have written it
        criteria = tuple(Criterion.model_validate(each) for each in content.get("successCriteria", ()))
        made = Made(content["identity"], content.get("recipe", ""), content.get("fingerprints"), criteria, result)
    except NotFound:
        return None
    except (ValueError, KeyError) as error:
        log.warning("%s cannot be read and is made anew: %s", folder / RESULT, error)
        return None
    if not _is_whole(made.result):
        log.warning("%s is gone; it is made anew", made.result.artifact)
        return None
    return made


def _is_whole(result: RunResult) -> bool:
    """Whether what a run made is in the store, with the file that is written last."""
    if result.artifact is None:
        return False
    return any(
        (StorePath.parse(result.artifact) / commit).is_file()
        for commit in (version.MANIFEST, bundle.MANIFEST, sweep.MANIFEST)
    )


def write_result(spec: RunSpec, name: str, fingerprints: Fingerprints | None, result: RunResult) -> None:
    """Leaves a run's complete result in its folder, for an equal run to adopt."""
    content = {
        "identity": spec.identity,
        "recipe": _identity_of_recipe(spec),
        "fingerprints": fingerprints,
        "successCriteria": [criterion.to_dict() for criterion in spec.success_criteria],
        "result": result.to_dict(),
    }
    (folder_of(spec, name) / RESULT).write_text(json.dumps(content, indent=1))


def _identity_of_recipe(spec: RunSpec) -> str:
    """The identity without what is passed on from run to run: the parent of a dataset version."""
    if spec.type is not RunType.DATASET_BUILD:
        return spec.identity
    recipe = read_recipe(spec.type, spec.recipe, dataset.Recipe)
    return run_identity(spec.type, spec.owner, recipe, RunInputs(prelabel=spec.inputs.prelabel))


def forget_other_inputs(spec: RunSpec, name: str, fingerprints: Fingerprints | None) -> None:
    """Deletes what earlier attempts of a run left where they read something else: no checkpoint of it is taken up."""
    if fingerprints == {}:
        return
    folder = folder_of(spec, name)
    try:
        before = json.loads((folder / INPUTS).read_text())
    except NotFound:
        before = None
    except ValueError:
        before = {}
    if before is not None and before != fingerprints:
        log.info("what the run reads has changed since its last attempt: it starts anew")
        folder.delete()
    if before != fingerprints:
        (folder / INPUTS).write_text(json.dumps(fingerprints))
