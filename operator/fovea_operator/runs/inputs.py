"""What the runs of a recipe read: a dataset version, weights to start from, a teacher; or what they wait for."""

from __future__ import annotations

import difflib

from fovea_api.run import BundleInput, DatasetInput, RunInputs, RunSpec
from fovea_api.trainingjob import DatasetRef, TrainingJobSpec

from fovea_operator.conditions import Assessment, condition_of, progressing, stalled
from fovea_operator.objects import DATASET, TRAINING_JOB, Kind
from fovea_operator.runs.plan import CLEANING_UP
from fovea_operator.runs.snapshot import RecipeSnapshot


def inputs_of(
    snapshot: RecipeSnapshot, spec: TrainingJobSpec, own: BundleInput | None, path: str = "spec"
) -> RunInputs | Assessment:
    """The inputs of a new run, or why there can be none now.

    Args:
        snapshot: The objects that the spec refers to.
        spec: The recipe, with the dataset.
        own: The newest bundle of the object itself; None: it has none.
        path: Of the spec, in the object.
    """
    dataset = _dataset(snapshot, spec.dataset_ref, path)
    if isinstance(dataset, Assessment):
        return dataset
    pretrained, distillation = spec.model.pretrained, spec.compression.distillation
    base: BundleInput | Assessment | None = None
    if pretrained.training_job_ref is not None:
        base = _bundle(snapshot, pretrained.training_job_ref.name, f"{path}.model.pretrained.trainingJobRef")
    elif pretrained.from_ is not None:
        base = own or stalled(
            "NoCurrentModel", f"{path}.model.pretrained.from is Current, but there is no model yet; use weights"
        )
    teacher: BundleInput | Assessment | None = None
    if distillation is not None:
        teacher = _bundle(snapshot, distillation.teacher_ref.name, f"{path}.compression.distillation.teacherRef")
    if isinstance(base, Assessment):
        return base
    if isinstance(teacher, Assessment):
        return teacher
    return RunInputs(dataset=dataset, base_weights=base, teacher=teacher)


def has_moved(reference: DatasetRef, run: RunSpec) -> bool:
    """Whether a reference names another dataset, or pins another version, than a run reads."""
    used, pinned = run.inputs.dataset, reference.version
    other = used is None or used.name != reference.name
    return other or (pinned is not None and used is not None and pinned != used.version)


def unreadable(snapshot: RecipeSnapshot, kind: Kind, name: str) -> Assessment | None:
    """That an object exists and cannot be read; None: it is not so."""
    if not any((key.kind, key.name) == (kind, name) for key in snapshot.unreadable):
        return None
    words = f"this version of Fovea cannot read {kind} {name!r}, whose own conditions say why"
    return progressing(f"{kind}Unreadable", words)


def _dataset(snapshot: RecipeSnapshot, reference: DatasetRef, path: str) -> DatasetInput | Assessment:
    if snapshot.dataset is None:
        if (waits := unreadable(snapshot, DATASET, reference.name)) is not None:
            return waits
        near = difflib.get_close_matches(reference.name, snapshot.datasets, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; apply it, or correct {path}.datasetRef.name"
        return progressing("DatasetNotFound", f"there is no Dataset {reference.name!r} in this namespace{hint}")
    status = snapshot.dataset.status
    problem = snapshot.dataset.spec.problem.stated()
    if reference.version is not None:
        if snapshot.dataset_cleanup and (status is None or status.version != reference.version):
            what = f"run {snapshot.dataset_cleanup}, which deletes old versions of Dataset {reference.name!r}"
            return progressing(CLEANING_UP, f"waiting for {what}")
        artifact = f"{snapshot.store.uri}/dataset/{reference.name}/{reference.version}/"
        return DatasetInput(name=reference.name, version=reference.version, artifact=artifact, problem=problem)
    if status is None or status.version is None or status.artifact is None:
        why = condition_of(status, "Ready")
        words = f": {why.message}" if why is not None and why.message else ""
        return progressing("DatasetNotReady", f"Dataset {reference.name!r} has no version yet{words}")
    return DatasetInput(name=reference.name, version=status.version, artifact=status.artifact, problem=problem)


def _bundle(snapshot: RecipeSnapshot, name: str, path: str) -> BundleInput | Assessment:
    other = snapshot.jobs.get(name)
    if other is None:
        if (waits := unreadable(snapshot, TRAINING_JOB, name)) is not None:
            return waits
        return progressing(
            "TrainingJobNotFound", f"{path}: there is no TrainingJob {name!r} in this namespace; apply it"
        )
    result = other.status.result if other.status is not None else None
    if result is None or not result.eligible:
        return progressing("TrainingJobNotReady", f"{path}: TrainingJob {name!r} has no eligible model yet")
    return BundleInput(digest=result.digest, artifact=result.bundle)
