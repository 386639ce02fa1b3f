"""Model bundle: the one artefact that moves between stages, described by its `bundle.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from fovea_api.choice import Candidate
from fovea_api.common import (
    ClassName,
    Digest,
    Fraction,
    Int,
    Metrics,
    Model,
    Number,
    Sha256,
    Task,
    Time,
    Word,
)
from fovea_api.latency import MeasuredOn
from fovea_api.trainingjob import Resize, Size
from fovea_api.version import StatedProblem

MANIFEST = "bundle.yaml"
"""Written last: a bundle without it does not exist."""


class Preprocessing(Model):
    """What turns a decoded RGB image into the network's input."""

    size: Size
    """Size of the network's input."""
    resize: Resize
    """How the image is fitted to it."""
    mean: tuple[Number, Number, Number]
    """Means of R, G, B for values scaled to 0 to 1."""
    std: tuple[Number, Number, Number]
    """Standard deviations of R, G, B for values scaled to 0 to 1."""
    pad_value: Annotated[Int, Field(ge=0, le=255)] = 114
    """Grey value of the border that Letterbox adds."""


class Postprocessing(Model):
    """What turns the network's output into predictions."""

    top_k: Annotated[Int, Field(ge=1)] = 5
    """Classification: number of classes returned."""
    score_threshold: Fraction = 0.05
    """Detection: predictions below are dropped before non-maximum suppression; average precision needs the rest."""
    confidence_threshold: Fraction = 0.5
    """Detection: score from which an object is reported: where F1 is best on the validation split (on train images,
    where there is none)."""
    nms_iou: Fraction = 0.5
    """Detection: of two boxes of a class that overlap more, the weaker is dropped."""
    max_detections: Annotated[Int, Field(ge=1)] = 300
    """Detection: boxes returned at most."""


class BundleFile(Model):
    """One file of the bundle."""

    path: Annotated[str, Field(max_length=512, pattern=r"^[^/.][^\\]*$")]
    """Path below the bundle's directory."""
    bytes: Annotated[Int, Field(ge=0)]
    """Size in bytes."""
    sha256: Sha256
    """SHA-256, in hexadecimal."""


class BundleFormat(Model):
    """The model in one of the formats that were asked for."""

    format: Word
    """As in `spec.export.formats`."""
    file: Annotated[str, Field(max_length=512)]
    """Path of the file below the bundle's directory; of several, the one that is opened."""
    difference: Metrics | None = None
    """The largest difference from the trained network on real images, by output. Absent: nothing runs the format."""
    metrics: Metrics = {}
    """Of the whole last evaluated split, latency and size, as measured on this file. Empty: nothing runs the format."""


class BundleMetrics(Model):
    """Metrics before and after compression."""

    before_compression: Metrics = {}
    """Of the trained model as it was."""
    exported: Metrics
    """Of the exported artefact, on which the criteria are checked."""
    latency_measured_on: MeasuredOn | None = None
    """Where all `latency/…` were measured. Absent: by an older trainer."""


Versions = Mapping[str, str]


class DatasetLineage(Model):
    """The data that the model was trained on."""

    name: Word
    """Name of the Dataset."""
    version: Digest
    """Digest of the version."""


class Lineage(Model):
    """Everything that the model came from."""

    dataset: DatasetLineage
    """The data."""
    recipe: Mapping[str, JsonValue]
    """The TrainingJob's recipe, defaults spelled out."""
    identity: Digest
    """Identity of the run."""
    run: Word
    """Name of the run."""
    job: Word
    """Name of the TrainingJob."""
    base_weights: Word = "None"
    """Published weights by name, or the digest of the bundle, or of the file, that training started from."""
    base_uri: Annotated[str, Field(max_length=2048)] | None = None
    """Where that bundle or file lay, without credentials."""
    parent_run: Word | None = None
    """Run of the bundle that training started from."""
    teacher: Digest | None = None
    """Bundle that was distilled from."""
    candidates: tuple[Candidate, ...] | None = None
    """The architectures that were compared. Absent: the TrainingJob named the architecture."""
    precision: Word | None = None
    """Arithmetic of the forward pass in training; what Auto came to."""
    best_epoch: Annotated[Int, Field(ge=1)]
    """The epoch whose weights these are, from 1."""
    image: str = ""
    """Container image of the trainer."""
    versions: Versions = {}
    """Versions of the libraries, by name."""


class BundleManifest(Model):
    """Content of `bundle.yaml`. The bundle's digest is that of this manifest without `createdAt`."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    task: Task
    """What is predicted."""
    architecture: Word
    """Name of the architecture."""
    classes: tuple[ClassName, ...]
    """The classes in the order of their index."""
    preprocessing: Preprocessing
    """What turns an image into the network's input."""
    postprocessing: Postprocessing = Postprocessing()
    """What turns the network's output into predictions."""
    precision: Literal["FP32", "INT8"] | None = None
    """Arithmetic of the model that is served unless a deployment asks for another. Absent: FP32, which is in all."""
    metrics: BundleMetrics
    """Metrics before and after compression."""
    formats: tuple[BundleFormat, ...] | None = None
    """The formats that were asked for, where there is another than ONNX."""
    problem: StatedProblem = StatedProblem()
    """The problem in words."""
    lineage: Lineage
    """Everything that the model came from."""
    files: tuple[BundleFile, ...]
    """All files but this one."""
    created_at: Time
    """When the bundle was written."""
