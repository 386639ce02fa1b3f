"""After training: export, prove, measure, and store the bundle."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml
from fovea_api.bundle import MANIFEST, BundleFormat, BundleManifest, BundleMetrics, Lineage
from fovea_api.criteria import evaluate_criteria
from fovea_api.errors import FoveaError
from fovea_api.profile import PROFILE
from fovea_api.run import Progress, RunResult, StageName, TrainingSummary
from fovea_api.trainingjob import Recipe
from fovea_serving.bundle import MODEL, MODEL_WITH_NMS, MODELS, REPORT, bundle_digest, parse_manifest
from fovea_serving.pipeline.golden import ANSWERS, golden_image, golden_numbers
from fovea_store import StorePath

from fovea_trainer.export import check_nms, exporter, write_metadata, write_nms
from fovea_trainer.models.complexity import complexity
from fovea_trainer.models.description import NetworkDescription
from fovea_trainer.report.training import TrainingReport, write_report
from fovea_trainer.training.comparison import SPLIT, Comparison, compare
from fovea_trainer.training.context import Listener
from fovea_trainer.training.fitting import total_epochs
from fovea_trainer.training.formats import PARITY_IMAGES, export, measure_formats
from fovea_trainer.training.loop import NO_VALIDATION
from fovea_trainer.training.manifest import describe_bundle, describe_lineage
from fovea_trainer.training.preflight import check_version
from fovea_trainer.training.preview import augmented_images
from fovea_trainer.training.profile import reference_profile
from fovea_trainer.training.progress import TRAINING_PERCENT, best_of, latest_metrics
from fovea_trainer.training.quantize import quantize
from fovea_trainer.training.selection import monitored_metric
from fovea_trainer.training.state import State
from fovea_trainer.training.trained import Delivered, Measured, Trained, restore, restore_unpruned
from fovea_trainer.training.training_run import TrainingRun

NO_TEST = "There is no test split: all metrics are of images that had a say in the training or in its choices."

log = logging.getLogger(__name__)


def check_supported(recipe: Recipe) -> None:
    """Refuses, before any work, formats that cannot be written here. Raises NotSupported, MissingExtra."""
    for name in recipe.export.formats:
        exporter(name).libraries()


def finish(run: TrainingRun, state: State, report: Listener) -> RunResult:
    """Exports the best weights, evaluates what was exported and stores the bundle.

    Raises:
        ParityError: the exported model does not compute what the trained one does.
    """
    trained = restore(run, state)
    folder = run.environment.work_dir / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "evaluation").mkdir(parents=True)
    summary = _summary_of(run, trained, state)
    metrics = latest_metrics(state)
    epochs = total_epochs(trained.recipe, state.pruned_after)
    stage = _Stages(report, Progress(epoch=state.epoch, epochs=epochs, metrics=metrics, best=summary.best))
    unpruned, before = restore_unpruned(run, state), None
    if unpruned is not None:
        stage("Compressing", TRAINING_PERCENT)
        before = _measure_unpruned(unpruned, run.environment.work_dir / "unpruned")
    stage("Exporting", TRAINING_PERCENT + 2)
    log.info("the weights of epoch %d are exported", state.best_epoch)
    exported = export(trained, folder)
    stage("Evaluating", TRAINING_PERCENT + 3)
    delivered = _evaluate(trained, folder, stage, before)
    formats = measure_formats(exported, delivered)
    where = delivered.served.latency_measured_on
    summary = summary.model_copy(update={"compression": delivered.table, "latency_measured_on": where})
    known = delivered.served.trained
    for model in {folder / MODEL, delivered.served.model}:
        write_metadata(model, known.version.manifest.classes, known.preprocess, known.postprocess)
    if known.recipe.export.nms:
        _write_nms(delivered.served, folder / MODEL_WITH_NMS)
    comparison = _compare(run, delivered)
    stage("Reporting", TRAINING_PERCENT + 7)
    bundle = _describe(run, state, delivered, formats, summary, folder, comparison)
    stage("Storing", TRAINING_PERCENT + 9)
    (folder / MANIFEST).write_text(yaml.safe_dump(bundle.to_dict(), sort_keys=False))
    digest = bundle_digest(bundle)
    target = run.bundles / digest
    target.upload_tree(folder, last=MANIFEST)
    log.info("bundle with model and report: %s", target)
    stage("Done", 100)
    return RunResult(
        completed_at=datetime.now(UTC),
        artifact=str(target),
        digest=digest,
        report=str(target / REPORT),
        metrics={**bundle.metrics.exported, **(comparison.metrics if comparison is not None else {})},
        training=summary,
    )


def measure(trained: Trained, folder: Path, *, splits: bool) -> dict[str, float]:
    """Exports a network as `finish` does and gives its metrics, without a bundle.

    Args:
        trained: The network.
        folder: An empty folder for what is exported.
        splits: Whether it is evaluated on the splits, too; else latency, size and complexity alone.
    """
    (folder / "evaluation").mkdir(parents=True)
    export(trained, folder)
    if not splits:
        return dict(trained.measured(folder / MODEL, {}).metrics)
    return dict(_evaluate(trained, folder, lambda stage, percent: None).served.metrics)


def _measure_unpruned(trained: Trained, folder: Path) -> Measured:
    """The model before it was pruned, exported and measured for comparison; it is not delivered."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    exporter("ONNX").write(trained.exportable, folder / MODEL)
    return _measure(trained, folder)


def _evaluate(
    trained: Trained, folder: Path, stage: Callable[[str, int], None], unpruned: Measured | None = None
) -> Delivered:
    """The exported model measured on the splits, and the 8-bit one in its place if it is asked for and as good.

    Args:
        trained: What was exported.
        folder: Where it lies.
        stage: Told what is done.
        unpruned: The model before it was pruned. None: it was not.
    """
    full = _measure(trained, folder)
    stages: dict[StageName, Measured] = {"Trained": full} if unpruned is None else {"Trained": unpruned, "Pruned": full}
    notes: tuple[str, ...] = ()
    if trained.recipe.compression.quantization is not None:
        stage("Compressing", TRAINING_PERCENT + 5)
        quantized = quantize(full, folder.with_name("quantization-aware"))
        if quantized.measured is not None:
            stages["Quantized"] = quantized.measured
        notes = (quantized.reason,)
        log.info(quantized.reason)
    delivered = Delivered(stages, notes)
    for split, evaluation in delivered.served.evaluations.items():
        log.info("on the %d images of the %s split: %s", evaluation.images, split, _line(evaluation.metrics))
        (folder / "evaluation" / f"{split}.json").write_text(json.dumps(evaluation.to_dict()))
    return delivered


def _measure(trained: Trained, folder: Path) -> Measured:
    """The exported model in floating point, measured on the splits of the recipe."""
    model, splits = folder / MODEL, [split for split in trained.recipe.evaluation.splits if len(trained.samples(split))]
    trained = trained.with_threshold(model)
    return trained.measured(model, {split: trained.evaluate(model, split) for split in splits})


def _write_nms(served: Measured, target: Path) -> None:
    """The delivered model with suppression in its graph, held against the pipeline on real images."""
    trained = served.trained
    write_nms(served.model, trained.version.manifest.classes, trained.preprocess, trained.postprocess, target)
    batch = trained.batch("train", 0, PARITY_IMAGES)
    agreement = check_nms(served.model, target, trained.postprocess, batch)
    log.info("the objects of %s on %d images have F1 %.3f with the pipeline's", target.name, len(batch), agreement)


def _compare(run: TrainingRun, delivered: Delivered) -> Comparison | None:
    """The delivered model beside the one that is served. None: nobody serves one."""
    champion, served = run.spec.inputs.champion, delivered.served
    if champion is None:
        return None
    trained, challenger = served.trained, served.evaluations.get(SPLIT)
    if challenger is None and trained.samples(SPLIT):
        challenger = trained.evaluate(served.model, SPLIT)
    comparison = compare(champion, challenger, trained.version, run.environment.work_dir / "champion")
    log.info(comparison.note)
    return comparison


def _describe(
    run: TrainingRun,
    state: State,
    delivered: Delivered,
    formats: Sequence[BundleFormat],
    summary: TrainingSummary,
    folder: Path,
    comparison: Comparison | None,
) -> BundleManifest:
    """Writes the report; gives the manifest."""
    served = delivered.served
    trained, metrics = served.trained, served.metrics
    criteria = evaluate_criteria(run.spec.success_criteria, metrics)
    for criterion in criteria:
        log.info("success criterion %s: %s", "met" if criterion.met else "missed", criterion)
    lineage = describe_lineage(run, trained, state)
    parent = _parent(state)
    write_report(
        folder / REPORT,
        TrainingReport(
            name=run.spec.owner.name,
            version=trained.version.manifest,
            lineage=lineage,
            training=summary,
            history=state.history,
            evaluations=tuple(served.evaluations.values()),
            metrics=metrics,
            before=delivered.before,
            criteria=criteria,
            formats=formats,
            predictor=trained.predictor(served.model),
            samples={split: trained.version.split(split) for split in {"train", *served.evaluations}},
            notes=[*_notes(delivered), *([comparison.note] if comparison else _about_parent(parent, lineage))],
            champion=comparison.champion if comparison is not None else {},
            parent={} if parent is None or comparison is not None else parent.metrics.exported,
            complexity=complexity(trained.network, *trained.size),
            augmented=augmented_images(trained.recipe, trained.version),
        ),
    )
    _state_golden_answers(trained, folder)
    profile = reference_profile(trained, served.model)
    (folder / PROFILE).write_text(profile.model_dump_json(by_alias=True, exclude_none=True))
    where = served.latency_measured_on
    both = BundleMetrics(before_compression=delivered.before, exported=metrics, latency_measured_on=where)
    return describe_bundle(trained, lineage, folder, both, formats, "Quantized" in delivered.stages)


def _state_golden_answers(trained: Trained, folder: Path) -> None:
    """Writes what each exported model says of the golden image, so that whoever serves it can tell that it sees."""
    models = {precision: folder / file for precision, file in MODELS.items() if (folder / file).exists()}
    answers = {
        precision: golden_numbers(trained.predictor(model).predict([golden_image()], candidates=True)[0]).tolist()
        for precision, model in models.items()
    }
    (folder / ANSWERS).write_text(json.dumps(answers))


def _parent(state: State) -> BundleManifest | None:
    """The bundle that training started from, where it can still be read."""
    if not state.base_run:
        return None
    file = StorePath.parse(state.base_uri) / MANIFEST
    try:
        return parse_manifest(file.read_bytes(), file.uri)
    except FoveaError as error:
        log.info("the report has no comparison with the parent run: %s", error)
        return None


def _about_parent(parent: BundleManifest | None, lineage: Lineage) -> list[str]:
    if parent is None or parent.lineage.dataset.version == lineage.dataset.version:
        return []
    return ["The parent run was measured on another dataset version: its metrics are of other images."]


def _notes(delivered: Delivered) -> list[str]:
    """What a reader of the report must know beside the figures."""
    trained, needed = delivered.served.trained, {"validation": NO_VALIDATION, "test": NO_TEST}
    missing = [words for split, words in needed.items() if not trained.samples(split)]
    for words in missing:
        log.warning(words)
    described = NetworkDescription.from_json(trained.description).notes
    return [*described, *missing, *check_version(trained.version, trained.recipe), *delivered.notes]


def _summary_of(run: TrainingRun, trained: Trained, state: State) -> TrainingSummary:
    return TrainingSummary(
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        input_size=f"{trained.preprocess.width}x{trained.preprocess.height}",
        seconds=state.seconds,
        cpu_hours=state.cpu_seconds / 3600,
        best=best_of(state, monitored_metric(trained.recipe, trained.network.task)),
        architecture=trained.recipe.model.architecture,
        candidates=run.candidates,
    )


def _line(metrics: Mapping[str, float]) -> str:
    """The metrics of a whole split in a line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name.count("/") == 1)


class _Stages:
    def __init__(self, report: Listener, figures: Progress) -> None:
        self._report, self._figures = report, figures

    def __call__(self, stage: str, percent: int) -> None:
        self._report(self._figures.model_copy(update={"stage": stage, "percent": percent}))
