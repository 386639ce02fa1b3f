"""Where objects and runs have their folders in the store, and the results that runs leave there."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from fovea_api import bundle, version
from fovea_api.run import RunOwner, RunResult, RunSpec

from fovea_trainer.store import NotFound, StorePath

RESULT, LOG = "result.json", "log.txt"

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
    """A complete result in the store, and the identity of the run that made it."""

    identity: str
    result: RunResult


def find_result(spec: RunSpec, name: str) -> RunResult | None:
    """The complete result of the same identity in the store, if there is one."""
    made = read_result(folder_of(spec, name))
    return made.result if made is not None and made.identity == spec.identity else None


def read_result(folder: StorePath) -> Made | None:
    """The result in a run's folder; None where there is none, or what it made is no longer there."""
    try:
        content = json.loads((folder / RESULT).read_text())
        made = Made(content["identity"], RunResult.model_validate(content["result"]))
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
    return any((StorePath.parse(result.artifact) / commit).is_file() for commit in (version.MANIFEST, bundle.MANIFEST))


def write_result(spec: RunSpec, name: str, result: RunResult) -> None:
    """Leaves a run's complete result in its folder, for an equal run to adopt."""
    content = {"identity": spec.identity, "result": result.to_dict()}
    (folder_of(spec, name) / RESULT).write_text(json.dumps(content, indent=1))
