"""After training: export, prove, measure, and store the bundle."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np
import yaml
from fovea_api.bundle import (
    MANIFEST,
    BundleFile,
    BundleManifest,
    BundleMetrics,
    DatasetLineage,
    Lineage,
    Postprocessing,
    Preprocessing,
)
from fovea_api.criteria import judge
from fovea_api.errors import NotSupported
from fovea_api.metrics import PRIMARY
from fovea_api.run import Progress, RunResult, TrainingSummary
from fovea_api.trainingjob import Recipe, Size, unsupported
from fovea_serving.bundle import MODEL, REPORT, WEIGHTS, bundle_digest, file_digest
from fovea_serving.pipeline import Postprocess, Preprocess, decode
from fovea_serving.predictor import Predictor

from fovea_trainer.data.version import OpenVersion, Sample
from fovea_trainer.evaluation.evaluate import choose_threshold, evaluate
from fovea_trainer.evaluation.latency import measure_latency, size_megabytes
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.export import (
    check_parity,
    choose_quantized,
    export_onnx,
    quantize_static,
    save_exported_program,
    save_state_dict,
    save_weights,
)
from fovea_trainer.models.description import KEY, NetworkDescription, assemble
from fovea_trainer.models.network import AnyNetwork, Inference
from fovea_trainer.models.registry import registry
from fovea_trainer.report.training import TrainingReport, write_report
from fovea_trainer.training.context import Listener
from fovea_trainer.training.dataset import preprocessing
from fovea_trainer.training.loop import NO_VALIDATION
from fovea_trainer.training.preflight import check_version
from fovea_trainer.training.progress import TRAINING_PERCENT, best_of, latest_metrics
from fovea_trainer.training.selection import monitored_metric
from fovea_trainer.training.state import State
from fovea_trainer.training.training_run import TrainingRun

PARITY_IMAGES = 8
"""Real images on which PyTorch and ONNX must agree."""
CALIBRATION_BATCH = 8
"""Images that are calibrated on at once, where the exported model takes more than one."""
LATENCY_IMAGES = 32
"""Different images that the latency is measured on."""
CHOICE_IMAGES = 1000
"""Images that decide between two exported models, where their split is not evaluated anyway."""
NO_TEST = "There is no test split: all metrics are of images that had a say in the training or in its choices."
LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "ray", "fovea")

log = logging.getLogger(__name__)


def check_supported(recipe: Recipe) -> None:
    """Refuses, before any work, what this version cannot do. Raises NotSupported."""
    if problems := unsupported(recipe):
        raise NotSupported("; ".join(map(str, problems)))


@dataclass(frozen=True, slots=True)
class Trained:
    """The network with the weights of the best epoch, and what belongs to it."""

    network: AnyNetwork
    preprocess: Preprocess
    postprocess: Postprocess
    version: OpenVersion
    recipe: Recipe

    @property
    def size(self) -> tuple[int, int]:
        return self.preprocess.width, self.preprocess.height

    def predictor(self, model: Path, threads: int = 0) -> Predictor:
        return Predictor(model, self.preprocess, self.postprocess, threads=threads)

    def samples(self, split: str) -> Sequence[Sample]:
        return self.version.split(split) if self.version.manifest.splits.get(split) else []

    def evaluate(self, model: Path, split: str, most: int | None = None) -> EvaluationResult:
        predictor, recipe = self.predictor(model), self.recipe
        everything = self.version.split(split)
        classes, samples = self.version.manifest.classes, everything if most is None else everything[:most]
        slices, primary = recipe.evaluation.slices, recipe.evaluation.primary_metric
        return evaluate(predictor, samples, classes, split=split, slices=slices, primary=primary)

    def with_threshold(self, model: Path) -> Trained:
        """With the confidence threshold that suits the exported model on the validation split, or on train images where
        there is none; never on the test split."""
        samples = (self.samples("validation") or self.samples("train"))[:CHOICE_IMAGES]
        threshold = choose_threshold(self.predictor(model), samples)
        if threshold is None:
            return self
        return replace(self, postprocess=replace(self.postprocess, confidence_threshold=threshold))


def finish(run: TrainingRun, state: State, report: Listener) -> RunResult:
    """Exports the best weights, evaluates what was exported and stores the bundle.

    Raises:
        ParityError: the exported model does not compute what the trained one does.
    """
    trained = _restore(run, state)
    recipe, folder = trained.recipe, run.environment.work_dir / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "evaluation").mkdir(parents=True)
    best = best_of(state, monitored_metric(recipe, trained.network.task))
    figures = Progress(epoch=state.epoch, epochs=recipe.training.epochs, metrics=latest_metrics(state), best=best)
    stage = _Stages(report, figures)

    stage("Exporting", TRAINING_PERCENT)
    task, dynamic_batch = trained.network.task, recipe.export.dynamic_batch
    inference = Inference(trained.network)
    model = export_onnx(inference, folder / MODEL, trained.size, task=task, dynamic_batch=dynamic_batch)
    images = trained.preprocess.batch(_decoded(trained.samples("train")[:PARITY_IMAGES]))[0]
    parity = check_parity(inference, model, images, task=task)
    log.info("exported the weights of epoch %d; %s", state.best_epoch, parity)
    save_weights(trained.network, folder / WEIGHTS, {KEY: state.description})
    if "StateDict" in recipe.export.formats:
        save_state_dict(trained.network, folder / "model.pth")
    if "ExportedProgram" in recipe.export.formats:
        save_exported_program(inference, folder / "model.pt2", trained.size, dynamic_batch=dynamic_batch)

    stage("Evaluating", TRAINING_PERCENT + 3)
    trained = trained.with_threshold(model)
    splits = [split for split in recipe.evaluation.splits if len(trained.samples(split))]
    evaluations: dict[str, EvaluationResult] = {split: trained.evaluate(model, split) for split in splits}
    needed = {"validation": NO_VALIDATION, "test": NO_TEST}
    missing = [words for split, words in needed.items() if not trained.samples(split)]
    for words in missing:
        log.warning(words)
    before, described = dict[str, float](), NetworkDescription.from_json(state.description)
    notes = [*described.notes, *missing, *check_version(trained.version, recipe)]
    if recipe.compression.quantization is not None:
        stage("Compressing", TRAINING_PERCENT + 5)
        trained, evaluations, before, reason = _quantize(trained, model, evaluations)
        log.info(reason)
        notes.append(reason)
    for split, evaluation in evaluations.items():
        log.info("on the %d images of the %s split: %s", evaluation.images, split, _summary(evaluation.metrics))
        (folder / "evaluation" / f"{split}.json").write_text(json.dumps(evaluation.to_dict()))
    metrics = _metrics(trained, model, evaluations)
    criteria = judge(run.spec.success_criteria, metrics)
    for criterion in criteria:
        log.info("success criterion %s: %s", "met" if criterion.met else "missed", criterion)

    stage("Reporting", TRAINING_PERCENT + 7)
    summary = TrainingSummary(
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        seconds=state.seconds,
        cpu_hours=state.cpu_seconds / 3600,
        best=best,
    )
    lineage = _lineage(run, trained, state)
    write_report(
        folder / REPORT,
        TrainingReport(
            name=run.spec.owner.name,
            version=trained.version.manifest,
            lineage=lineage,
            training=summary,
            history=state.history,
            evaluations=tuple(evaluations.values()),
            metrics=metrics,
            before=before,
            criteria=criteria,
            predictor=trained.predictor(model),
            samples={split: trained.version.split(split) for split in {"train", *evaluations}},
            notes=notes,
        ),
    )

    stage("Storing", TRAINING_PERCENT + 9)
    manifest = _manifest(trained, lineage, folder, BundleMetrics(before_compression=before, exported=metrics))
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest.to_dict(), sort_keys=False))
    digest = bundle_digest(manifest)
    target = run.bundles / digest
    target.upload_tree(folder, last=MANIFEST)
    log.info("bundle with model and report: %s", target)
    stage("Done", 100)
    return RunResult(
        completed_at=datetime.now(UTC),
        artifact=str(target),
        digest=digest,
        report=str(target / REPORT),
        metrics=metrics,
        training=summary,
    )


class _Stages:
    def __init__(self, report: Listener, figures: Progress) -> None:
        self._report, self._figures = report, figures

    def __call__(self, stage: str, percent: int) -> None:
        self._report(self._figures.model_copy(update={"stage": stage, "percent": percent}))


def _restore(run: TrainingRun, state: State) -> Trained:
    recipe, version = run.recipe, run.open()
    network = assemble(NetworkDescription.from_json(state.description), state.best_weights, "the last checkpoint")
    preprocess = preprocessing(registry()[recipe.model.architecture].architecture, recipe.input)
    return Trained(network, preprocess, network.postprocess, version, recipe)


def _decoded(samples: Sequence[Sample]) -> list[np.ndarray]:
    return [decode(sample.image_bytes, sample.name) for sample in samples]


def _summary(metrics: Mapping[str, float]) -> str:
    """The metrics of a whole split in a line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name.count("/") == 1)


def _quantize(
    trained: Trained, model: Path, evaluations: dict[str, EvaluationResult]
) -> tuple[Trained, dict[str, EvaluationResult], dict[str, float], str]:
    """What is delivered and its evaluations, the metrics before if that is the 8-bit model, and why in words.

    The choice is made on the validation split, or on train images where there is none; never on the test split.
    """
    wish = trained.recipe.compression.quantization
    assert wish is not None
    small = model.with_name("model.int8.onnx")
    quantize_static(model, small, _calibration(trained, wish.calibration_images))
    judged_on = "validation" if trained.samples("validation") else "train"
    metric = trained.recipe.evaluation.primary_metric or PRIMARY[trained.network.task]
    full = evaluations.get(judged_on) or trained.evaluate(model, judged_on, CHOICE_IMAGES)
    tried = trained.evaluate(small, judged_on, None if judged_on in evaluations else CHOICE_IMAGES)
    was, now = full.metric(metric) or 0.0, tried.metric(metric) or 0.0
    choice = choose_quantized(f"{judged_on}/{metric}", was, now, wish.max_metric_drop)
    if not choice.quantized:
        small.unlink()
        return trained, evaluations, {}, choice.reason
    before = _metrics(trained, model, evaluations)
    os.replace(small, model)
    trained = trained.with_threshold(model)
    return trained, {split: trained.evaluate(model, split) for split in evaluations}, before, choice.reason


def _calibration(trained: Trained, count: int) -> Iterator[np.ndarray]:
    """The first train images in batches that the exported model takes."""
    size = CALIBRATION_BATCH if trained.recipe.export.dynamic_batch else 1
    samples = trained.samples("train")[:count]
    for start in range(0, len(samples), size):
        yield trained.preprocess.batch(_decoded(samples[start : start + size]))[0]


def _metrics(trained: Trained, model: Path, evaluations: Mapping[str, EvaluationResult]) -> dict[str, float]:
    """All metrics of an exported model: of its splits, latency and size."""
    metrics = {name: value for evaluation in evaluations.values() for name, value in evaluation.metrics.items()}
    return {**metrics, **_latency(trained, model), **size_megabytes(model)}


def _latency(trained: Trained, model: Path) -> dict[str, float]:
    samples = next(filter(len, map(trained.samples, ("test", "validation", "train"))))
    files = [samples[index].image_bytes for index in range(min(LATENCY_IMAGES, len(samples)))]
    return dict(measure_latency(trained.predictor(model, threads=1), files).metrics)


def _lineage(run: TrainingRun, trained: Trained, state: State) -> Lineage:
    dataset = run.spec.inputs.dataset
    assert dataset is not None
    return Lineage(
        dataset=DatasetLineage(name=dataset.name, version=dataset.version),
        recipe=trained.recipe.to_dict(),
        identity=run.spec.identity,
        run=run.environment.name,
        job=run.spec.owner.name,
        base_weights=state.base_digest or trained.recipe.model.pretrained.weights or "None",
        base_uri=state.base_uri or None,
        parent_run=state.base_run or None,
        precision=state.precision or None,
        best_epoch=state.best_epoch,
        image=run.spec.image,
        versions={"python": platform.python_version(), **{name: package_version(name) for name in LIBRARIES}},
    )


def _manifest(trained: Trained, lineage: Lineage, folder: Path, metrics: BundleMetrics) -> BundleManifest:
    preprocess, postprocess = trained.preprocess, trained.postprocess
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return BundleManifest(
        task=trained.network.task,
        architecture=trained.recipe.model.architecture,
        classes=trained.version.manifest.classes,
        preprocessing=Preprocessing(
            size=Size(width=preprocess.width, height=preprocess.height),
            resize=preprocess.resize,
            mean=preprocess.mean,
            std=preprocess.std,
            pad_value=preprocess.pad_value,
        ),
        postprocessing=Postprocessing(
            score_threshold=postprocess.score_threshold,
            nms_iou=postprocess.nms_iou,
            max_detections=postprocess.max_detections,
            confidence_threshold=postprocess.confidence_threshold,
        ),
        metrics=metrics,
        problem=trained.version.manifest.problem,
        lineage=lineage,
        files=tuple(
            BundleFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_digest(path))
            for path in files
        ),
        created_at=datetime.now(UTC),
    )
