"""The same by hand: Dataset and TrainingJob of one file, built and trained on this machine.

What a cluster's pods do, by the same code; only the Run objects, which nobody keeps here, are made in passing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from fovea_api.choice import AUTO
from fovea_api.common import Model, Task
from fovea_api.compatibility import incompatibilities
from fovea_api.criteria import Criterion, CriterionResult, eligible, evaluate_criteria
from fovea_api.dataset import Dataset, Format, Recipe, Source
from fovea_api.errors import InvalidInput, InvalidManifest, refuse
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.names import RAY_TRIAL
from fovea_api.run import (
    BundleInput,
    DatasetInput,
    Execution,
    RunInputs,
    RunOwner,
    RunResult,
    RunSpec,
    RunType,
    TrialsInput,
    VersionInput,
    digest_of,
    frozen_recipe,
    read_recipe,
    run_identity,
    run_name,
)
from fovea_api.search_space import impossibilities
from fovea_api.sweep import MANIFEST as SWEEP_MANIFEST
from fovea_api.trainingjob import Recipe as TrainingRecipe
from fovea_api.trainingjob import TrainingJob, TrainingJobSpec
from fovea_api.tuningsweep import TuningSweep, TuningSweepSpec
from fovea_store import BY_HAND, StorePath
from numpy.typing import NDArray
from pydantic import JsonValue, ValidationError

from fovea_trainer.data.build import CheckResult, check_dataset
from fovea_trainer.data.guess import given_splits, guess_format, guess_task, suited_splits
from fovea_trainer.data.recordings import is_recorded, recordings_of
from fovea_trainer.data.sources import is_download, open_source, source_path
from fovea_trainer.data.version import open_version
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.evaluation.latency import unmeasurable_here
from fovea_trainer.manifest import Manifest
from fovea_trainer.reporting import Reporter, TerminalReporter, log_to_terminal
from fovea_trainer.results import owner_folder, read_result, runs_of
from fovea_trainer.run import check_store, execute

DEFAULT_STORE = "fovea-store"
TEACHER, LATENCY = "spec.compression.distillation.teacherRef", "spec.evaluation.latency"
MOST_AT_ONCE = 1000.0
"""Trials of a sweep on several workers each that may work at once: its `trials.parallel` is what limits them."""


class NoEligibleBundle(InvalidInput):
    """No bundle of a TrainingJob in a store is eligible."""


def train_manifest(
    path: Path,
    store: str = DEFAULT_STORE,
    *,
    ray: bool = False,
    name: str | None = None,
    sources: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    reporter: Reporter | None = None,
    adopt: str = "",
) -> RunResult:
    """Builds the dataset version and trains the model of a manifest; gives the training's result.

    What is already in the store is adopted, an interrupted training goes on from its checkpoint.

    Args:
        path: YAML with a TrainingJob and the Dataset that it refers to.
        store: Folder or URI of the store.
        ray: Trains on Ray (of this machine, or of RAY_ADDRESS) instead of in this process.
        name: The TrainingJob, where the file has several.
        sources: Where sources lie, by their name; goes before the Dataset's annotations.
        settings: Fields of the TrainingJob that are not as the file has them, such as `training.epochs=20`.
        reporter: Hears how far the work is; absent: the terminal.
        adopt: Id of the owner whose store is taken over; see `claim_store`.

    Raises:
        InvalidManifest: with file and field; InvalidInput, Retryable: from the work.
    """
    manifest = Manifest.read(path, TrainingJob, settings, name)
    job = manifest.find(TrainingJob, name)
    dataset = manifest.find(Dataset, job.spec.dataset_ref.name)
    refuse([*incompatibilities(job.spec, dataset.spec), *unmeasurable_here(job.spec.evaluation.latency, LATENCY)])
    built = _built(manifest, dataset, store, sources, reporter, adopt)
    return _run(_training_spec(job, dataset, built, store, manifest), store, ray, reporter, adopt)


def tune_manifest(
    path: Path,
    store: str = DEFAULT_STORE,
    *,
    ray: bool = False,
    name: str | None = None,
    sources: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    reporter: Reporter | None = None,
    adopt: str = "",
) -> RunResult:
    """Builds the dataset version and makes the trials of a manifest's TuningSweep; see `train_manifest`.

    Trials that the store has stay as they are; an interrupted sweep goes on with them.
    """
    manifest = Manifest.read(path, TuningSweep, settings, name)
    sweep = manifest.find(TuningSweep, name)
    dataset = manifest.find(Dataset, sweep.spec.template.spec.dataset_ref.name)
    template, place = sweep.spec.template.spec, LATENCY.replace("spec", "spec.template.spec", 1)
    problems = impossibilities(sweep.spec, dataset.spec)
    refuse([*problems, *unmeasurable_here(template.evaluation.latency, place)])
    built = _built(manifest, dataset, store, sources, reporter, adopt)
    return _run(_sweep_spec(sweep, dataset, built, store, manifest), store, ray, reporter, adopt)


def preview_manifest(
    path: Path,
    store: str = DEFAULT_STORE,
    *,
    name: str | None = None,
    sources: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    adopt: str = "",
) -> NDArray[np.uint8]:
    """Builds the dataset version of a manifest and draws what its training would see first; see `train_manifest`.

    Gives RGB uint8 [H, W, 3]: augmented images of the first epoch with their labels.
    """
    from fovea_trainer.training.preview import augmented_images

    manifest = Manifest.read(path, TrainingJob, settings, name)
    job = manifest.find(TrainingJob, name)
    dataset = manifest.find(Dataset, job.spec.dataset_ref.name)
    refuse(incompatibilities(job.spec, dataset.spec))
    if job.spec.model.architecture == AUTO:
        words, remedy = "what is trained is not chosen yet", "name one of the candidates, as with --set"
        raise InvalidInput(words, "spec.model.architecture", remedy)
    built = _built(manifest, dataset, store, sources, None, adopt)
    assert built.artifact is not None
    with tempfile.TemporaryDirectory(prefix="fovea-preview-") as work:
        recipe = read_recipe(RunType.TRAINING, frozen_recipe(job.spec.recipe()), TrainingRecipe)
        return augmented_images(recipe, open_version(built.artifact, work))


def criteria_of(
    path: Path, name: str | None, result: RunResult, settings: Sequence[str] = ()
) -> tuple[CriterionResult, ...]:
    """Whether a training's result meets each success criterion of its manifest."""
    job = Manifest.read(path, TrainingJob, settings, name).find(TrainingJob, name)
    return evaluate_criteria(job.spec.success_criteria, result.metrics)


def build_manifest(
    path: Path,
    store: str = DEFAULT_STORE,
    *,
    name: str | None = None,
    sources: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    reporter: Reporter | None = None,
    adopt: str = "",
) -> RunResult:
    """Builds the version of a manifest's Dataset; see `train_manifest`."""
    manifest = Manifest.read(path, Dataset, settings, name)
    return _built(manifest, manifest.find(Dataset, name), store, sources, reporter, adopt)


def check_folder(
    folder: Path,
    format_: str | None = None,
    task: str | None = None,
    classes: Sequence[str] = (),
    workers: int = 1,
) -> tuple[Recipe, CheckResult]:
    """Checks a folder or archive as a Dataset of one source would, and builds nothing; what it was read as, and how.

    Its splits are those of the source where it has some, else the default ratios share out.

    Args:
        folder: The folder or archive.
        format_: Name of a format; absent: the one that the files look like.
        task: Name of a task; absent: what the format is mostly used for.
        classes: The classes; absent: those that the labels name.
        workers: Processes that read images.

    Raises:
        InvalidInput: there is no such format or task, or the folder cannot be opened as that.
    """
    with tempfile.TemporaryDirectory(prefix="fovea-check-") as work:
        recipe = folder_recipe(folder, format_, task, classes, Path(work))
        with suppress(InvalidInput):  # the check says why
            given = given_splits(recipe, Path(work) / "splits")
            recipe = recipe.model_copy(update={"splits": suited_splits(given)})
        return recipe, check_dataset(recipe, work_dir=work, workers=workers)


def folder_recipe(folder: Path, format_: str | None, task: str | None, classes: Sequence[str], work: Path) -> Recipe:
    """The recipe of a Dataset whose one source is a folder or archive; see `check_folder`.

    `work` is a local folder for what must be unpacked to see the format.
    """
    uri = f"file://{folder.absolute()}"
    if format_ is None or task is None:
        tree = open_source(Source.model_construct(name="check", uri=uri), work / "look")
        format_ = format_ or guess_format(tree)
        task = task or str(guess_task(Format(format_), tree) if format_ in list(Format) else Task.DETECTION)
    content: dict[str, JsonValue] = {
        "task": task,
        "sources": [{"name": "folder", "uri": "pvc://check/folder", "format": format_}],
        "classes": list(classes),
    }
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise InvalidManifest.from_validation(error, "--format, --task, --class") from error
    (source,) = recipe.sources
    return recipe.model_copy(update={"sources": (source.model_copy(update={"uri": uri}),)})


def check_manifest(path: Path, workers: int = 1) -> tuple[Recipe, CheckResult]:
    """Checks the sources of a manifest's Dataset, and builds nothing; the recipe, and the findings."""
    manifest = Manifest.read(path)
    recipe = manifest.local(manifest.find(Dataset, None), {}).spec.recipe()
    with tempfile.TemporaryDirectory(prefix="fovea-check-") as work:
        return recipe, check_dataset(recipe, work_dir=work, workers=workers)


def _built(
    manifest: Manifest,
    dataset: Dataset,
    store: str,
    sources: Mapping[str, str] | None,
    reporter: Reporter | None,
    adopt: str,
) -> RunResult:
    """The version of a manifest's Dataset, built or adopted."""
    model = _prelabelling(dataset, store, manifest)
    return _run(_build_spec(manifest.local(dataset, sources or {}), store, model), store, False, reporter, adopt)


def _run(spec: RunSpec, store: str, ray: bool, reporter: Reporter | None, adopt: str) -> RunResult:
    name = run_name(spec.identity)
    work = StorePath.parse(store)
    local = work.local_path() if work.is_local else Path(DEFAULT_STORE).absolute()
    environment = RunEnvironment(name, attempt=1, work_dir=local / ".work" / name, ray=ray, owner=BY_HAND, adopt=adopt)
    check_store(spec, environment)
    environment.work_dir.mkdir(parents=True, exist_ok=True)
    terminal = TerminalReporter() if reporter is None else nullcontext(reporter)
    with terminal as listener, log_to_terminal(), _ray(ray):
        result = execute(spec, environment, listener)
        listener.finish(result)
    shutil.rmtree(environment.work_dir, ignore_errors=True)  # all that is of use is in the store
    with suppress(OSError):  # other runs are at work
        environment.work_dir.parent.rmdir()
    return result


@contextmanager
def _ray(used: bool) -> Iterator[None]:
    """A Ray of this machine (or that of RAY_ADDRESS) for the time of a run."""
    if not used:
        yield
        return
    import ray

    # The resources of a Ray that is connected to are its own.
    started_here = os.environ.get("RAY_ADDRESS", "local") in ("", "local")
    try:
        ray.init(ignore_reinit_error=True, resources={RAY_TRIAL: MOST_AT_ONCE} if started_here else None)
    except ValueError:  # `ray start` was called on this machine before, and that is connected to
        ray.init()
    try:
        yield
    finally:
        ray.shutdown()


def _build_spec(dataset: Dataset, store: str, model: BundleInput | None) -> RunSpec:
    recipe, owner = dataset.spec.recipe(), RunOwner(kind="Dataset", name=dataset.metadata.name)
    nonce = _state_of(recipe, owner_folder(store, owner))
    parent = _parent(owner, recipe, nonce, store, model) if recipe.splits.keep_assignments else None
    execution = Execution(workers=dataset.spec.compute.workers)
    return _spec(
        RunType.DATASET_BUILD, owner, recipe, RunInputs(parent=parent, prelabel=model), execution, store, nonce
    )


def _state_of(recipe: Recipe, dataset: StorePath) -> str:
    """Digest of the state of all files that a build reads, so that a written file makes another run, as does a stream
    of which frames are missing. `dataset`: the Dataset's folder in the store.

    On a cluster it is the schedule that makes one. Downloads are left out: the recipe has their digests.
    """
    live = [source for source in recipe.sources if source.live]
    if not all(is_recorded(source, dataset) for source in live):
        return digest_of({"now": datetime.now(UTC).isoformat()})
    stored = [each for each in recipe.sources if each.captures is None and not is_download(each) and not each.live]
    read = [*map(source_path, stored), *(recordings_of(dataset, source) for source in live)]
    if recipe.exclude is not None:
        read.append(StorePath.parse(recipe.exclude.uri))
    return digest_of({each.uri: each.stamp() for each in read})


def _parent(owner: RunOwner, recipe: Recipe, nonce: str, store: str, model: BundleInput | None) -> VersionInput | None:
    """The newest version in the store; but where its run had the very spec that is given now, that run's parent.

    So the identity of a spec that was carried out last is the same again, and its result adopted.
    """
    runs = runs_of(store, owner)
    made = [made for name in runs.folders() if (made := read_result(runs / name)) is not None]
    made.sort(key=lambda run: run.result.completed_at, reverse=True)
    versions = [_version(run.result) for run in made]
    for parent in (None, *versions) if made else ():
        inputs = RunInputs(parent=parent, prelabel=model)
        if run_identity(RunType.DATASET_BUILD, owner, recipe, inputs, nonce) == made[0].identity:
            return parent
    return versions[0] if versions else None


def _version(built: RunResult) -> VersionInput:
    assert built.digest is not None
    assert built.artifact is not None
    return VersionInput(version=built.digest, artifact=built.artifact)


def _training_spec(job: TrainingJob, source: Dataset, built: RunResult, store: str, manifest: Manifest) -> RunSpec:
    spec = job.spec
    dataset = _dataset_input(spec, source, built)
    elastic = spec.compute.elastic
    execution = Execution(
        workers=spec.compute.workers,
        min_workers=None if elastic is None else elastic.min_workers,
        max_workers=None if elastic is None else elastic.max_workers,
        resources=spec.compute.resources,
        checkpoint_every_epochs=spec.checkpoint.every_epochs,
        checkpoints_kept=spec.checkpoint.keep,
    )
    return _spec(RunType.TRAINING, RunOwner(kind="TrainingJob", name=job.metadata.name), spec.recipe(),
                 RunInputs(dataset=dataset, teacher=_teacher(spec, store, manifest)), execution, store,
                 criteria=spec.success_criteria)  # fmt: skip


def _dataset_input(spec: TrainingJobSpec, source: Dataset, built: RunResult) -> DatasetInput:
    """The version that was built, as what is trained on. Raises InvalidInput."""
    pinned, current = spec.dataset_ref.version, _version(built)
    if pinned is not None and pinned != current.version:
        raise InvalidInput(
            f"the sources give version {current.version}, not {pinned}",
            "spec.datasetRef.version",
            "remove it, or bring back the sources as they were",
        )
    _refuse_references(spec)
    problem = source.spec.problem.stated()
    return DatasetInput(name=source.metadata.name, version=current.version, artifact=current.artifact, problem=problem)


def _sweep_spec(sweep: TuningSweep, source: Dataset, built: RunResult, store: str, manifest: Manifest) -> RunSpec:
    spec, template = sweep.spec, sweep.spec.template.spec
    compute = spec.compute or template.compute
    execution = Execution(
        workers=compute.workers,
        resources=compute.resources,
        checkpoint_every_epochs=template.checkpoint.every_epochs,
        checkpoints_kept=1,
        parallel_trials=spec.trials.parallel,
    )
    inputs = RunInputs(
        dataset=_dataset_input(template, source, built),
        teacher=_teacher(template, store, manifest),
        earlier_trials=_earlier_trials(spec, store),
    )
    owner = RunOwner(kind="TuningSweep", name=sweep.metadata.name)
    return _spec(RunType.TUNING_SWEEP, owner, spec.recipe(), inputs, execution, store)


def _earlier_trials(spec: TuningSweepSpec, store: str) -> TrialsInput | None:
    """The result of the sweep that this one starts from: in this store, where it is named."""
    from fovea_trainer.tuning.manifest import newest_sweep

    given = spec.search.warm_start
    if given is None:
        return None
    place = "spec.search.warmStart"
    if given.uri is not None:
        folder = StorePath.parse(given.uri)
        if not (folder / SWEEP_MANIFEST).is_file():
            raise InvalidInput("there is no sweep", f"{place}.uri", "give the folder with sweep.yaml")
    else:
        assert given.tuning_sweep_ref is not None
        folder = newest_sweep(given.tuning_sweep_ref.name, store)
    digest = hashlib.sha256((folder / SWEEP_MANIFEST).read_bytes()).hexdigest()
    return TrialsInput(digest=f"sha256-{digest}", artifact=str(folder))


def _teacher(spec: TrainingJobSpec, store: str, manifest: Manifest) -> BundleInput | None:
    """The newest eligible bundle of the job that is distilled from: in this store. Raises InvalidInput."""
    distillation = spec.compression.distillation
    if distillation is None:
        return None
    return _newest_eligible(distillation.teacher_ref.name, store, manifest)


def _prelabelling(dataset: Dataset, store: str, manifest: Manifest) -> BundleInput | None:
    """What the deployment of a Dataset's `prelabel` would serve, as the file has it: the newest eligible bundle of its
    job in this store, or the one at its URI. None: there is none yet, or the file has no such deployment."""
    if dataset.spec.prelabel is None:
        return None
    name = dataset.spec.prelabel.model_deployment_ref.name
    found = [each.spec.model for each in manifest.of(ModelDeployment) if each.metadata.name == name]
    if not found:
        return None
    if found[0].uri is not None:
        return BundleInput.at(str(StorePath.parse(manifest.beside(found[0].uri))))
    if found[0].training_job_ref is None:
        return None
    try:
        return _newest_eligible(found[0].training_job_ref.name, store, manifest)
    except NoEligibleBundle:
        return None


def _newest_eligible(name: str, store: str, manifest: Manifest) -> BundleInput:
    """The newest eligible bundle of a TrainingJob in a store. Raises NoEligibleBundle.

    The success criteria are those of the job as the manifest has it, or else those that it was trained under.
    """
    runs = runs_of(store, RunOwner(kind="TrainingJob", name=name))
    results = [made for each in runs.folders() if (made := read_result(runs / each)) is not None]
    if not results:
        raise NoEligibleBundle(
            f"there is no bundle of TrainingJob {name!r} in this store", TEACHER, "train it first, into the same store"
        )
    stated = {job.metadata.name: job.spec.success_criteria for job in manifest.of(TrainingJob)}
    reasons = []
    for made in sorted(results, key=lambda made: made.result.completed_at, reverse=True):
        metrics = made.result.metrics
        criteria = evaluate_criteria(stated.get(name, made.criteria), metrics)
        if eligible(criteria, metrics):
            assert made.result.digest is not None
            assert made.result.artifact is not None
            return BundleInput(digest=made.result.digest, artifact=made.result.artifact)
        missed = [str(criterion) for criterion in criteria if not criterion.met]
        reasons.append("; ".join(missed) or "its quality was not measured")
    raise NoEligibleBundle(
        f"no bundle of TrainingJob {name!r} in this store is eligible; of the newest, {reasons[0]}",
        TEACHER,
        "train a better teacher, or correct its successCriteria",
    )


def _refuse_references(spec: TrainingJobSpec) -> None:
    pretrained = spec.model.pretrained
    if pretrained.training_job_ref is not None or pretrained.from_ is not None:
        raise InvalidInput(
            "other jobs and deployments are known on a cluster only", "spec.model.pretrained", "give uri: the bundle"
        )


def _spec(
    kind: RunType,
    owner: RunOwner,
    recipe: Model,
    inputs: RunInputs,
    execution: Execution,
    store: str,
    nonce: str = "",
    criteria: Sequence[Criterion] = (),
) -> RunSpec:
    return RunSpec(
        type=kind,
        owner=owner,
        identity=run_identity(kind, owner, recipe, inputs, nonce, criteria),
        nonce=nonce,
        recipe=frozen_recipe(recipe),
        success_criteria=tuple(criteria),
        inputs=inputs,
        execution=execution,
        store=str(StorePath.parse(store)),
    )
