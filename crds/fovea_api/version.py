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
    """How often a class occurs."""

    name: ClassName
    """The class."""
    images: Annotated[Int, Field(ge=0)]
    """Images that show it."""
    annotations: Annotated[Int, Field(ge=0)]
    """Its annotations: boxes, masks or image labels."""


class QualitySummary(Model):
    """What the checks found."""

    corrupt: Annotated[Int, Field(ge=0)] = 0
    """Images that cannot be decoded."""
    invalid_labels: Annotated[Int, Field(ge=0)] = 0
    """Labels that are degenerate, outside of the image or of an unknown class."""
    exact_duplicates: Annotated[Int, Field(ge=0)] = 0
    """Images whose bytes occur more than once."""
    near_duplicates: Annotated[Int, Field(ge=0)] = 0
    """Images that look like another one."""
    split_leakage: Annotated[Int, Field(ge=0)] = 0
    """Train images that look like a test image."""


class Severity(StrEnum):
    """How bad a finding is."""

    NOTE = "Note"
    WARNING = "Warning"
    SERIOUS = "Serious"


class FindingSummary(Model):
    """All findings of one kind in a build, in a line."""

    kind: Word
    """What was found, such as MissingImage; the quality report says what each kind means for training."""
    severity: Severity
    """Note: nothing is lost. Warning: something is left out or doubtful. Serious: a model trained on it learns
    something wrong, or nothing."""
    count: Annotated[Int, Field(ge=1)]
    """How often."""
    message: Text
    """The first of them: where, and what."""


Findings = Annotated[tuple[FindingSummary, ...], Field(max_length=64)]
SplitCounts = Annotated[Mapping[Word, Annotated[Int, Field(ge=0)]], Field(max_length=8)]


class DatasetSummary(Model):
    """A dataset version in figures: what a build reports and the Dataset's status shows."""

    version: Digest
    """Digest of the version's content."""
    images: Annotated[Int, Field(ge=0)]
    """Number of images."""
    annotations: Annotated[Int, Field(ge=0)]
    """Number of annotations."""
    splits: SplitCounts
    """Number of images in each split."""
    classes: Annotated[tuple[ClassSummary, ...], Field(max_length=10_000)]
    """The classes in the order of their index."""
    quality: QualitySummary = QualitySummary()
    """What the checks found."""
    findings: Findings = ()
    """What is not right, by kind, the worst first."""


Facts = Mapping[str, JsonValue]


class Shard(Model):
    """One Parquet file of a version."""

    path: Annotated[str, Field(max_length=512)]
    """Path below the version's directory."""
    split: Word
    """The split whose images it holds."""
    rows: Annotated[Int, Field(ge=0)]
    """Number of images."""
    digest: Sha256
    """SHA-256 of the file, in hexadecimal."""


class SourceProvenance(Model):
    """What one source gave."""

    name: Word
    """Name of the source."""
    uri: Text = ""
    """Where it was read from."""
    format: Word
    """Format that was read."""
    images: Annotated[Int, Field(ge=0)]
    """Images taken."""
    digest: Digest
    """Digest over the images and labels taken."""


class StatedProblem(Model):
    """The problem in words, as the Dataset stated it."""

    statement: Text = ""
    """What is to be predicted."""
    rationale: Text = ""
    """Why it is worth doing."""
    outcome: Text = ""
    """What counts as success."""


class DatasetVersion(Model):
    """Content of `manifest.json`. The digest is that of all else that determines training."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    task: Task
    """What is predicted."""
    classes: tuple[ClassName, ...]
    """The classes in the order of their index."""
    splits: SplitCounts
    """Number of images in each split."""
    images: Annotated[Int, Field(ge=0)]
    """Number of images."""
    annotations: Annotated[Int, Field(ge=0)]
    """Number of annotations."""
    shards: tuple[Shard, ...]
    """The Parquet files."""
    problem: StatedProblem = StatedProblem()
    """The problem in words."""
    provenance: tuple[SourceProvenance, ...] = ()
    """What each source gave."""
    parent: Digest | None = None
    """The version whose split assignments were kept."""
    quality: QualitySummary = QualitySummary()
    """What the checks found."""
    findings: Findings = ()
    """What is not right, by kind, the worst first."""
    class_summaries: tuple[ClassSummary, ...] = ()
    """How often each class occurs, in the order of the class index."""
    metadata: Facts = {}
    """Library versions and other facts that do not determine training; not part of the digest."""
    digest: Digest
    """Digest of the content: the version."""

    def summary(self) -> DatasetSummary:
        """The version in figures."""
        return DatasetSummary(
            version=self.digest,
            images=self.images,
            annotations=self.annotations,
            splits=self.splits,
            classes=self.class_summaries,
            quality=self.quality,
            findings=self.findings,
        )
