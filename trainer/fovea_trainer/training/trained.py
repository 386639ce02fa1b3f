"""The trained network with the weights of its best epoch, and how it is measured."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from fovea_api.latency import MeasuredOn
from fovea_api.run import CompressionStage, StageName
from fovea_api.trainingjob import Recipe
from fovea_serving.bundle import MODEL
from fovea_serving.pipeline import Postprocess, Preprocess, decode
from fovea_serving.predictor import Predictor
from torch import Tensor

from fovea_trainer.data.version import OpenVersion, Sample
from fovea_trainer.evaluation.evaluate import choose_threshold, evaluate
from fovea_trainer.evaluation.latency import Artefact, Stopwatch, size_megabytes
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.export import Exportable, exporter
from fovea_trainer.models.complexity import complexity
from fovea_trainer.models.description import NetworkDescription, assemble
from fovea_trainer.models.network import AnyNetwork
from fovea_trainer.models.pruning import prune
from fovea_trainer.models.registry import architecture_of
from fovea_trainer.training.dataset import preprocessing
from fovea_trainer.training.fitting import fitted
from fovea_trainer.training.network import make_network
from fovea_trainer.training.state import State
from fovea_trainer.training.training_run import TrainingRun

CHOICE_IMAGES = 1000
"""Images that decide between two exported models, and on a threshold, where their split is not evaluated anyway."""
LATENCY_IMAGES = 32
"""Different images that the latency is measured on."""
NAME_LENGTH, MOST_LAYERS = 128, 256
"""Of a layer, and layers, in the status of a run."""
CALIBRATION_BATCH = 8
"""Images that are calibrated on at once, where the exported model takes more than one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """The network with the weights of the best epoch, and what belongs to it."""

    network: AnyNetwork
    description: str
    preprocess: Preprocess
    postprocess: Postprocess
    version: OpenVersion
    recipe: Recipe
    stopwatch: Stopwatch

    @property
    def size(self) -> tuple[int, int]:
        return self.preprocess.width, self.preprocess.height

    def predictor(self, model: Path) -> Predictor:
        """The exported model as it will be served."""
        return Predictor(model, self.preprocess, self.postprocess)

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

    @property
    def exportable(self) -> Exportable:
        return Exportable.of(self.network, self.size, self.recipe.export.dynamic_batch)

    def batch(self, split: str, start: int, end: int) -> np.ndarray:
        """Normalized float32 [N, 3, H, W] of some images of a split."""
        samples = self.samples(split)[start:end]
        return self.preprocess.batch([decode(sample.image_bytes, sample.name) for sample in samples])[0]

    def calibration(self, count: int) -> Iterator[np.ndarray]:
        """The first train images in batches that the exported model takes."""
        size, end = CALIBRATION_BATCH if self.recipe.export.dynamic_batch else 1, min(count, len(self.samples("train")))
        for start in range(0, end, size):
            yield self.batch("train", start, min(start + size, end))

    def measured(
        self, model: Path, evaluations: Mapping[str, EvaluationResult], files: Sequence[Path] = ()
    ) -> Measured:
        """An exported model with all its metrics: of its splits, latency where the recipe says, size, and its network's
        complexity. `files`: all that it consists of; none: the one file."""
        metrics = {name: value for evaluation in evaluations.values() for name, value in evaluation.metrics.items()}
        samples = next(filter(len, map(self.samples, ("test", "validation", "train"))))
        images = [samples[index].image_bytes for index in range(min(LATENCY_IMAGES, len(samples)))]
        files = tuple(files) or (model,)
        timed = self.stopwatch(Artefact(model, files, self.preprocess, self.postprocess), images)
        log.info("the latency of %s was measured on %s", model.name, timed.on)
        size = complexity(self.network, *self.size)
        metrics |= {**timed.latency.metrics, **size_megabytes(*files), **size.metrics}
        return Measured(self, model, evaluations, metrics, timed.on)


@dataclass(frozen=True, slots=True)
class Measured:
    """An exported model and what it was measured to be.

    Args:
        trained: The network that was exported, with the threshold that suits the exported model.
        model: The file.
        evaluations: By split, in the order of the recipe.
        metrics: All of them, as `Trained.measured` gives them.
        latency_measured_on: Where its latency was measured.
        floating: Layers of an 8-bit model that stay in floating point.
    """

    trained: Trained
    model: Path
    evaluations: Mapping[str, EvaluationResult]
    metrics: Mapping[str, float]
    latency_measured_on: MeasuredOn
    floating: tuple[str, ...] = ()

    def stage(self, name: StageName) -> CompressionStage:
        """As a row of the table of compression; the last split's primary metric is the one that is shown."""
        *_, last = self.evaluations.values() if self.evaluations else (None,)
        metrics = self.metrics
        return CompressionStage(
            name=name,
            metric=None if last is None else f"{last.split}/{last.primary}",
            value=None if last is None else last.metric(last.primary),
            interval=None if last is None else last.intervals.get(last.primary),
            latency_milliseconds=metrics["latency/p50Milliseconds"],
            megabytes=metrics["size/megabytes"],
            giga_macs=metrics["complexity/gigaMacs"],
            mega_parameters=metrics["complexity/megaParameters"],
            floating_layers=tuple(layer[-NAME_LENGTH:] for layer in self.floating[:MOST_LAYERS]),
        )


@dataclass(frozen=True, slots=True)
class Delivered:
    """The model that is served, after the stages of compression.

    Args:
        stages: The exported model after each stage by its name, in their order: Trained, Pruned, Quantized. The last
            one is served.
        notes: Sentences about what was decided, for the report.
    """

    stages: Mapping[StageName, Measured]
    notes: tuple[str, ...]

    @property
    def served(self) -> Measured:
        """The one after the last stage."""
        *_, last = self.stages.values()
        return last

    @property
    def floating(self) -> Measured:
        """The last one in floating point, which is in every bundle."""
        *_, last = (measured for name, measured in self.stages.items() if name != "Quantized")
        return last

    @property
    def before(self) -> Mapping[str, float]:
        """Metrics of the trained model as it was; empty where nothing was compressed."""
        first, *later = self.stages.values()
        return first.metrics if later else {}

    @property
    def table(self) -> tuple[CompressionStage, ...]:
        """The stages as rows; none where nothing was compressed."""
        rows = tuple(measured.stage(name) for name, measured in self.stages.items())
        return rows if len(rows) > 1 else ()


def restore(run: TrainingRun, state: State) -> Trained:
    """The network of a training's best epoch; where it was pruned, what was left and fine-tuned."""
    return _with_weights(run, state, state.best_weights)


def restore_unpruned(run: TrainingRun, state: State) -> Trained | None:
    """The network of the best epoch before it was pruned. None: it was not."""
    return _with_weights(run, state, state.unpruned) if state.pruned_after else None


def measured_untrained(run: TrainingRun) -> Mapping[str, float]:
    """Latency, size and complexity that the model of a run will have, in floating point: of its network before training
    (and after pruning, where the recipe prunes), exported as it will be served."""
    version = run.open()
    recipe = fitted(run.recipe, version)
    network, pruning = make_network(recipe, version, published=False), recipe.compression.pruning
    weights = network.state_dict() if pruning is None else prune(network, pruning.sparsity)
    untrained = _of(run, network.description, weights, version)
    with tempfile.TemporaryDirectory(prefix="fovea-untrained-") as folder:
        model = Path(folder) / MODEL
        exporter("ONNX").write(untrained.exportable, model)
        return untrained.measured(model, {}).metrics


def _with_weights(run: TrainingRun, state: State, weights: Mapping[str, Tensor]) -> Trained:
    return _of(run, state.description, weights, run.open())


def _of(run: TrainingRun, description: str, weights: Mapping[str, Tensor], version: OpenVersion) -> Trained:
    recipe = fitted(run.recipe, version)
    network = assemble(NetworkDescription.from_json(description), weights, "the last checkpoint")
    preprocess = preprocessing(architecture_of(recipe.model), recipe.input)
    return Trained(network, description, preprocess, network.postprocess, version, recipe, run.stopwatch)
