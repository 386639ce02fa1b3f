"""What a sweep leaves in the store: `sweep.yaml` with all trials, and the report; and how it is read again."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

import yaml
from fovea_api.errors import CorruptData, InvalidInput
from fovea_api.run import RunOwner, TrialsInput
from fovea_api.sweep import MANIFEST, SweepManifest, TrialRecord, TrialState
from fovea_store import NotFound, StorePath
from pydantic import ValidationError

from fovea_trainer.report.sweep import write_report
from fovea_trainer.results import owner_folder
from fovea_trainer.tuning.journal import Phase
from fovea_trainer.tuning.search import Known
from fovea_trainer.tuning.study import Study

REPORT, SWEEPS = "report.html", "sweeps"
LIBRARIES = ("fovea", "optuna", "torch", "ray")


@dataclass(frozen=True, slots=True)
class Left:
    """Where manifest and report of a sweep lie."""

    artifact: str
    digest: str
    report: str


def leave(study: Study, target: StorePath) -> Left:
    """Writes report and manifest of a sweep that has ended into a folder with the manifest's digest as its name."""
    manifest = describe(study)
    text = yaml.safe_dump(manifest.to_dict(), sort_keys=False)
    digest = f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"
    with tempfile.TemporaryDirectory(prefix="fovea-sweep-") as folder:
        (Path(folder) / MANIFEST).write_text(text)
        write_report(Path(folder) / REPORT, manifest, study.recipe)
        (target / digest).upload_tree(Path(folder), last=MANIFEST)
    return Left(str(target / digest), digest, str(target / digest / REPORT))


def describe(study: Study) -> SweepManifest:
    """The manifest of a sweep that has ended."""
    dataset = study.spec.inputs.dataset
    assert dataset is not None
    states = {Phase.SUCCEEDED: TrialState.SUCCEEDED, Phase.FAILED: TrialState.FAILED}
    trials = tuple(
        TrialRecord(
            trial=entry.name,
            parameters=entry.values,
            metrics=dict(entry.artefact),
            epochs=entry.epochs,
            state=states.get(entry.phase, TrialState.STOPPED_EARLY),
            reason=study.reason(entry),
            within_limits=study.within_limits(entry),
            recipe=entry.recipe,
            curve=entry.curve,
            seconds=entry.seconds,
            usage=entry.usage,
        )
        for entry in study.entries
    )
    return SweepManifest(
        name=study.spec.owner.name,
        dataset=dataset.name,
        dataset_version=dataset.version,
        recipe=study.recipe.to_dict(),
        summary=study.summary(),
        trials=trials,
        versions={"python": platform.python_version(), **{name: package_version(name) for name in LIBRARIES}},
        created_at=datetime.now(UTC),
    )


def read_sweep(folder: StorePath) -> SweepManifest:
    """The manifest of a sweep. Raises InvalidInput where there is none, CorruptData where it cannot be read."""
    file = folder / MANIFEST
    try:
        return SweepManifest.model_validate(yaml.safe_load(file.read_text()))
    except NotFound as error:
        raise InvalidInput("there is no sweep", str(file), "give the folder with sweep.yaml") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise CorruptData(f"the sweep cannot be read: {error}", str(file)) from error


def newest_sweep(name: str, store: str) -> StorePath:
    """The folder of the newest sweep of a TuningSweep in a store. Raises InvalidInput."""
    folder = owner_folder(store, RunOwner(kind="TuningSweep", name=name)) / SWEEPS
    made = {digest: read_sweep(folder / digest).created_at for digest in folder.folders()}
    if not made:
        raise InvalidInput(f"the store has no result of a sweep {name!r}", str(folder), "let it end first")
    return folder / max(made, key=lambda digest: made[digest])


def earlier_trials(given: TrialsInput | None) -> Sequence[Known]:
    """The measured trials of an earlier sweep."""
    if given is None:
        return ()
    manifest = read_sweep(StorePath.parse(given.artifact))
    return tuple(Known(trial.parameters, trial.metrics) for trial in manifest.trials
                 if trial.state is TrialState.SUCCEEDED)  # fmt: skip
