"""A dataset version: an immutable directory in the store, described by its `manifest.json`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from fovea_api.common import ClassName, Digest, Int, Model, Sha256, Task, Text, Word

MANIFEST = "manifest.json"
"""Written last: a version without it does not exist."""


class ClassSummary(Model):
    """Frequency of a class."""

    name: ClassName
    """Name of the class."""
    images: Annotated[Int, Field(ge=0)]
    """Number of images with the class."""
    annotations: Annotated[Int, Field(ge=0)]
    """Number of annotations of the class: boxes, masks or image labels."""


class QualitySummary(Model):
    """Results of the quality checks."""

    corrupt: Annotated[Int, Field(ge=0)] = 0
    """Number of images that cannot be decoded."""
    invalid_labels: Annotated[Int, Field(ge=0)] = 0
    """Number of labels that are degenerate, outside the image or of an unknown class."""
    exact_duplicates: Annotated[Int, Field(ge=0)] = 0
    """Number of images with an exact duplicate."""
    near_duplicates: Annotated[Int, Field(ge=0)] = 0
    """Number of images with a near duplicate."""
    split_leakage: Annotated[Int, Field(ge=0)] = 0
    """Number of train images that are near duplicates of a test image."""


class Severity(StrEnum):
    """Severity of a finding."""

    NOTE = "Note"
    WARNING = "Warning"
    SERIOUS = "Serious"


class FindingSummary(Model):
    """Findings of one kind."""

    kind: Word
    """Kind of the finding, such as MissingImage; the quality report explains what each kind means for training."""
    severity: Severity
    """Note: no data are lost. Warning: data are skipped or doubtful. Serious: a model trained on them learns something
    wrong, or nothing."""
    count: Annotated[Int, Field(ge=1)]
    """Number of findings."""
    message: Text
    """First finding, with its location."""


Findings = Annotated[tuple[FindingSummary, ...], Field(max_length=64)]
SplitCounts = Annotated[Mapping[Word, Annotated[Int, Field(ge=0)]], Field(max_length=8)]


class DatasetSummary(Model):
    """Summary of a dataset version, as reported by a build and shown in the status of the Dataset."""

    version: Digest
    """Digest of the content."""
    images: Annotated[Int, Field(ge=0)]
    """Number of images."""
    annotations: Annotated[Int, Field(ge=0)]
    """Number of annotations."""
    splits: SplitCounts
    """Number of images in each split."""
    classes: Annotated[tuple[ClassSummary, ...], Field(max_length=10_000)]
    """Classes in the order of their indices."""
    quality: QualitySummary = QualitySummary()
    """Results of the quality checks."""
    findings: Findings = ()
    """Findings by kind, most severe first."""


Facts = Mapping[str, JsonValue]


class Shard(Model):
    """One Parquet file of a version."""

    path: Annotated[str, Field(max_length=512)]
    """Path below the version's directory."""
    split: Word
    """Split of its images."""
    rows: Annotated[Int, Field(ge=0)]
    """Number of images."""
    digest: Sha256
    """SHA-256 of the file, in hexadecimal."""


class SourceProvenance(Model):
    """Images and labels read from one source."""

    name: Word
    """Name of the source."""
    uri: Text = ""
    """Location of the source; of a program, its image."""
    format: Word
    """Format of the source."""
    images: Annotated[Int, Field(ge=0)]
    """Number of images read."""
    predicted: Annotated[Int, Field(ge=0)] = 0
    """Number of those whose labels a model predicted; all are in train."""
    digest: Digest
    """Digest of the images and labels read."""


class StatedProblem(Model):
    """Problem statement of the Dataset."""

    statement: Text = ""
    """What the model has to predict."""
    rationale: Text = ""
    """Business value of the prediction."""
    outcome: Text = ""
    """What counts as success."""


class DatasetVersion(Model):
    """Content of `manifest.json`. The digest is that of all else that determines training."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    task: Task
    """Computer-vision task."""
    classes: tuple[ClassName, ...]
    """Classes in the order of their indices."""
    splits: SplitCounts
    """Number of images in each split."""
    images: Annotated[Int, Field(ge=0)]
    """Number of images."""
    annotations: Annotated[Int, Field(ge=0)]
    """Number of annotations."""
    shards: tuple[Shard, ...]
    """The Parquet files."""
    problem: StatedProblem = StatedProblem()
    """Problem statement."""
    provenance: tuple[SourceProvenance, ...] = ()
    """Images and labels read from each source."""
    parent: Digest | None = None
    """Version whose split assignments were kept."""
    quality: QualitySummary = QualitySummary()
    """Results of the quality checks."""
    findings: Findings = ()
    """Findings by kind, most severe first."""
    class_summaries: tuple[ClassSummary, ...] = ()
    """Frequency of each class, in the order of the class indices."""
    metadata: Facts = {}
    """Library versions and other facts that do not determine training; not part of the digest."""
    digest: Digest
    """Digest of the content: the version."""

    def summary(self) -> DatasetSummary:
        """Summary of the version."""
        return DatasetSummary(
            version=self.digest,
            images=self.images,
            annotations=self.annotations,
            splits=self.splits,
            classes=self.class_summaries,
            quality=self.quality,
            findings=self.findings,
        )
