"""Dataset: labelled images, checked, split and kept as immutable versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fovea_api.common import (
    MAX_CLASS_NAME,
    Bool,
    ClassName,
    Column,
    Cron,
    Definition,
    DeletionPolicy,
    Digest,
    Duration,
    Fraction,
    Int,
    Label,
    ListMap,
    Model,
    Number,
    ObjectName,
    PodTemplate,
    Ref,
    Reference,
    Resource,
    Resources,
    Rule,
    RunPolicy,
    Set,
    Sha256,
    Task,
    Text,
    TimeZone,
    Uri,
    not_downloaded,
    parse_duration,
)
from fovea_api.errors import NotSupported
from fovea_api.names import GENERATOR_CONTAINER
from fovea_api.run import RunOwnerStatus
from fovea_api.version import ClassSummary, DatasetSummary, Findings, QualitySummary, SplitCounts, StatedProblem


class Format(StrEnum):
    """How images and labels are laid out in files."""

    COCO = "COCO"
    YOLO = "YOLO"
    PASCAL_VOC = "PascalVOC"
    CVAT = "CVAT"
    LABEL_ME = "LabelMe"
    LABEL_STUDIO = "LabelStudio"
    CREATE_ML = "CreateML"
    IMAGE_FOLDER = "ImageFolder"
    MASKS = "Masks"
    IDX = "IDX"
    CSV = "CSV"
    VIDEO = "Video"
    CAPTURES = "Captures"


SUPPORTED_FORMATS: Mapping[Task, tuple[Format, ...]] = {
    Task.CLASSIFICATION: (
        Format.IMAGE_FOLDER,
        Format.IDX,
        Format.COCO,
        Format.PASCAL_VOC,
        Format.YOLO,
        *(Format.CVAT, Format.LABEL_STUDIO, Format.LABEL_ME, Format.CREATE_ML, Format.CSV),
        Format.CAPTURES,
    ),
    Task.DETECTION: (
        *(Format.PASCAL_VOC, Format.COCO, Format.YOLO),
        *(Format.CVAT, Format.LABEL_STUDIO, Format.LABEL_ME, Format.CREATE_ML, Format.CSV),
        Format.CAPTURES,
    ),
    Task.SEMANTIC_SEGMENTATION: (
        *(Format.MASKS, Format.COCO),
        *(Format.CVAT, Format.LABEL_STUDIO, Format.LABEL_ME),
        Format.CAPTURES,
    ),
    Task.INSTANCE_SEGMENTATION: (
        *(Format.COCO, Format.YOLO, Format.PASCAL_VOC),
        *(Format.CVAT, Format.LABEL_STUDIO, Format.LABEL_ME),
        Format.CAPTURES,
    ),
}
"""The tasks that a version can be built for, and the formats that its sources can be read from."""

_MASKED = (Task.SEMANTIC_SEGMENTATION, Task.INSTANCE_SEGMENTATION)


class Problem(Model):
    """Problem statement; printed on every report built from this data."""

    statement: Text = ""
    """What the model has to predict, in one sentence."""
    rationale: Text = ""
    """Business value of the prediction."""
    outcome: Text = ""
    """What the stakeholders count as success."""

    def stated(self) -> StatedProblem:
        """As versions, bundles and reports keep it."""
        return StatedProblem(statement=self.statement, rationale=self.rationale, outcome=self.outcome)


VideoUri = Annotated[
    str,
    Field(
        max_length=2048,
        pattern=r"^(((file|pvc|s3|gs)://|[.][.]?/)[^\r\n]+|https://[^ \r\n]+|rtsp://[^ /?#\r\n][^ \r\n]*)$",
    ),
]
"""As a Uri, or rtsp://host/path."""
STREAM = "rtsp://"
"""How the address of a live stream begins."""
DEFAULT_RECORD_DURATION = "10m"
MAX_RECORD_DURATION = "24h"


class Video(Model):
    """Unlabelled frames of recorded videos, or of a live stream."""

    uri: VideoUri
    """Video file, or folder of video files: pvc://claim/path, s3:// or gs://. Or a live stream: rtsp://host/path,
    without user and password (see secretRef). Each build records frames of it into the Dataset's folder in the store,
    until there are maxFrames, and reads all that were recorded."""
    every_seconds: Annotated[Number, Field(gt=0, le=86400)] = 1
    """Interval between sampled frames, in seconds of the video."""
    max_frames: Annotated[Int, Field(ge=1, le=10_000_000)] = 10_000
    """Maximum number of sampled frames of the source, in the order of the paths; blurred ones count. Of a stream: those
    of all builds together."""
    drop_blurred: Bool = False
    """Skips frames that are much less sharp than the others of their video."""
    record_duration: Duration | None = None
    """For rtsp://: maximum duration for which one build records, at most 24h. Default: 10m."""

    rules: ClassVar = (
        Rule(
            f"!self.uri.matches('^{STREAM}[^/]*@')",
            "user and password belong in the Secret of secretRef (RTSP_USERNAME, RTSP_PASSWORD); remove them here",
            lambda obj: re.match(f"{STREAM}[^/]*@", obj.uri) is None,
            ".uri",
        ),
        Rule(
            f"!has(self.recordDuration) || self.uri.startsWith('{STREAM}')",
            f"recordDuration has an effect for {STREAM} only; remove it",
            lambda obj: obj.record_duration is None or obj.live,
            ".recordDuration",
        ),
        Rule(
            "!has(self.recordDuration) || (duration(self.recordDuration) >= duration('1s') && "
            f"duration(self.recordDuration) <= duration('{MAX_RECORD_DURATION}'))",
            f"recordDuration is from 1s to {MAX_RECORD_DURATION}; what refresh builds later records more",
            lambda obj: timedelta(seconds=1) <= obj.recorded_at_once <= parse_duration(MAX_RECORD_DURATION),
            ".recordDuration",
        ),
        *not_downloaded("uri"),
    )

    @property
    def live(self) -> bool:
        """Whether it is a stream, of which builds record frames."""
        return self.uri.startswith(STREAM)

    @property
    def recorded_at_once(self) -> timedelta:
        """For how long one build records at most."""
        return parse_duration(self.record_duration or DEFAULT_RECORD_DURATION)


class Generator(Model):
    """Program that writes a dataset, such as a simulator, a scraper or an API client."""

    image: Annotated[str, Field(min_length=1, max_length=512)]
    """Container image of the program. It runs before each build, as the user and with the resources of the build."""
    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=128)] = ()
    """Arguments of the program, which writes to the folder named by $FOVEA_OUTPUT; in an argument, $(FOVEA_OUTPUT)."""
    format: Format
    """Format of the program's output."""

    rules: ClassVar = (
        Rule(
            f"!(self.format in ['{Format.VIDEO}', '{Format.CAPTURES}'])",
            "a program writes images with their labels; give one of the formats of labels",
            lambda obj: obj.format not in (Format.VIDEO, Format.CAPTURES),
            ".format",
        ),
    )


class Labels(Model):
    """Location of labels."""

    uri: Uri
    """Folder or file with the labels."""
    format: Format
    """Format of the labels."""


class Captures(Model):
    """Images captured by a deployment, by its name. Superseded by uri with the format Captures; gives no images."""

    model_deployment_ref: Ref
    """ModelDeployment that captures the images."""
    labels: Labels
    """Location of the labels."""


MOST_MASK_CLASSES = 255
"""A pixel of a mask is a byte, of which one value means that it has no class."""
MaskValues = Annotated[Mapping[ClassName, Annotated[Int, Field(ge=0, le=255)]], Field(max_length=MOST_MASK_CLASSES)]
NameInSource = Annotated[str, Field(min_length=1, max_length=1024)]
"""A class's name as a source has it: free text, which can be longer than that of a class."""
ClassMap = Annotated[Mapping[NameInSource, Annotated[str, Field(max_length=MAX_CLASS_NAME)]], Field(max_length=10_000)]


MaskColors = Annotated[
    Mapping[ClassName, Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$", max_length=7)]],
    Field(max_length=MOST_MASK_CLASSES),
]
PairPattern = Annotated[str, Field(max_length=512, pattern="^[^{}]*([{][a-z]+[}][^{}]*)+$")]
_PLACEHOLDER = "[{][a-z]+[}]"


def placeholders(pattern: str | None) -> frozenset[str]:
    """The names in braces of a pattern of paths."""
    return frozenset(re.findall(_PLACEHOLDER, pattern or ""))


_LONGEST_OF_GENERATORS = 63 - len(GENERATOR_CONTAINER)
"""Letters of a source's name, of which Kubernetes takes 63 in the name of a container."""
_OF_MASKS = (
    f"((has(self.format) && self.format == '{Format.MASKS}') || "
    f"(has(self.generator) && self.generator.format == '{Format.MASKS}'))"
)


class Source(Model):
    """Source of images."""

    name: Label
    """Name of the source, used in reports and as an evaluation slice."""
    uri: Uri | None = None
    """Folder or archive: pvc://claim/path, s3://, gs:// or https:// (requires sha256). Archives are unpacked."""
    format: Format | None = None
    """Format of the files at uri. Captures: folder in which a ModelDeployment keeps its requests
    (spec.monitoring.captures.uri); the labelled ones are read, those of a burst in one split."""
    sha256: Sha256 | None = None
    """SHA-256 digest of the file at uri, in hexadecimal; required for https://."""
    mask_values: MaskValues = {}
    """For Masks: pixel value of each class. Default: the index of the class."""
    mask_colors: MaskColors = {}
    """For Masks in colour: colour of each class, as #RRGGBB. Pixels of any other colour are ignored and reported."""
    image_pattern: PairPattern | None = None
    """For Masks in folders other than images/ and masks/: pattern of the image paths below uri. {name}, {city} and the
    like match any text without '/', {split} matches a split name, * matches text that does not identify the pair, **
    matches any number of folders. Cityscapes: leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"""
    mask_pattern: PairPattern | None = None
    """Pattern of the mask paths. A mask belongs to the image whose {…} and ** match the same text. Cityscapes:
    gtFine/{split}/{city}/{name}_gtFine_labelIds.png"""
    secret_ref: Ref | None = None
    """Secret with the credentials for an s3:// source or video (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …), or for a
    stream (RTSP_USERNAME, RTSP_PASSWORD)."""
    video: Video | None = None
    """Frames of recorded videos or of a live stream. They have no labels: another source gives these, with the same
    image files."""
    generator: Generator | None = None
    """Program that writes a dataset."""
    captures: Captures | None = None
    """Superseded: name the folder of the captures in uri, with the format Captures. This source is empty."""

    exactly_one: ClassVar = ("uri", "video", "generator", "captures")
    rules: ClassVar = (
        Rule(
            "has(self.uri) == has(self.format)",
            "format belongs to uri: give both or neither",
            lambda obj: (obj.uri is None) == (obj.format is None),
            ".format",
        ),
        Rule(
            f"!has(self.format) || self.format != '{Format.VIDEO}'",
            "videos have no labels; give them as video: {uri: …}, in place of uri and format",
            lambda obj: obj.format != Format.VIDEO,
            ".format",
        ),
        Rule(
            "!has(self.uri) || !self.uri.startsWith('https://') || has(self.sha256)",
            "an https:// source needs the sha256 of its file, so that it cannot change unseen",
            lambda obj: obj.uri is None or not obj.uri.startswith("https://") or obj.sha256 is not None,
            ".sha256",
        ),
        Rule(
            "!has(self.sha256) || has(self.uri)",
            "sha256 belongs to uri; remove it",
            lambda obj: obj.sha256 is None or obj.uri is not None,
            ".sha256",
        ),
        Rule(
            f"size(self.maskValues) == 0 || {_OF_MASKS}",
            "maskValues belongs to format Masks; remove it or change the format",
            lambda obj: not obj.mask_values or obj.layout == Format.MASKS,
            ".maskValues",
        ),
        Rule(
            f"size(self.maskColors) == 0 || ({_OF_MASKS} && size(self.maskValues) == 0)",
            "maskColors belongs to format Masks, and goes without maskValues; remove one or change the format",
            lambda obj: not obj.mask_colors or (obj.layout == Format.MASKS and not obj.mask_values),
            ".maskColors",
        ),
        Rule(
            "has(self.imagePattern) == has(self.maskPattern)",
            "imagePattern and maskPattern make pairs together; give both or neither",
            lambda obj: (obj.image_pattern is None) == (obj.mask_pattern is None),
            ".maskPattern",
        ),
        Rule(
            f"!has(self.imagePattern) || {_OF_MASKS}",
            "imagePattern belongs to format Masks; remove it or change the format",
            lambda obj: obj.image_pattern is None or obj.layout == Format.MASKS,
            ".imagePattern",
        ),
        Rule(
            "!has(self.imagePattern) || !has(self.maskPattern) || "
            f"(self.imagePattern.findAll('{_PLACEHOLDER}').all(part, self.maskPattern.contains(part)) && "
            f"self.maskPattern.findAll('{_PLACEHOLDER}').all(part, self.imagePattern.contains(part)))",
            "imagePattern and maskPattern need the same {…}: by them a mask is found for an image",
            lambda obj: placeholders(obj.image_pattern) == placeholders(obj.mask_pattern),
            ".maskPattern",
        ),
        Rule(
            "!has(self.secretRef) || (has(self.uri) && self.uri.startsWith('s3://')) || "
            f"(has(self.video) && (self.video.uri.startsWith('s3://') || self.video.uri.startsWith('{STREAM}')))",
            f"secretRef has an effect for s3:// and {STREAM} only; remove it (for https:// give a signed address)",
            lambda obj: obj.secret_ref is None or (obj.location or "").startswith(("s3://", STREAM)),
            ".secretRef",
        ),
        Rule(
            "!has(self.uri) || !(self.uri.startsWith('file://') || self.uri.startsWith('.'))",
            "file:// and ./ work in local runs only; on a cluster use pvc://, s3://, gs:// or https://",
            field=".uri",
        ),
        Rule(
            f"!has(self.generator) || size(self.name) <= {_LONGEST_OF_GENERATORS}",
            f"a program's container is called by its source, whose name has at most {_LONGEST_OF_GENERATORS} letters",
            lambda obj: obj.generator is None or len(obj.name) <= _LONGEST_OF_GENERATORS,
            ".name",
        ),
    )

    @property
    def location(self) -> str | None:
        """Where its files lie, or its stream's address; None: a program has yet to write them, or there are none."""
        return self.video.uri if self.video is not None else self.uri

    @property
    def live(self) -> bool:
        """Whether it is a stream, of which builds record frames."""
        return self.video is not None and self.video.live

    @property
    def layout(self) -> Format | None:
        """Format of its files, wherever they lie; None: it has no labels."""
        return self.generator.format if self.generator is not None else self.format

    def at(self, location: str) -> Source:
        """The same source with its files elsewhere; what a program has written is read as a folder."""
        if self.video is not None:
            return self.model_copy(update={"video": self.video.model_copy(update={"uri": location})})
        return self.model_copy(update={"uri": location, "format": self.layout, "generator": None})


class Export(Model):
    """Destination of images for review."""

    uri: Uri
    """Folder that receives the images, each batch in a folder of its own."""
    format: Literal[Format.CVAT, Format.LABEL_STUDIO, Format.COCO]
    """Import format of the labelling tool."""

    rules: ClassVar = tuple(replace(rule, check=None) for rule in not_downloaded("uri"))


class Prelabel(Model):
    """Pre-labelling of unlabelled images by a served model."""

    model_deployment_ref: Ref
    """ModelDeployment that predicts the labels, by the model that it serves when a build starts. Until it has a model,
    nothing is labelled."""
    min_confidence: Fraction = 0.8
    """Minimum confidence of a prediction, 0 to 1; others are dropped. With Immediately, less certain objects of a
    labelled image count as difficult. SemanticSegmentation has no confidence."""
    export: Export | None = None
    """Destination of the images for review."""
    use: Literal["AfterReview", "Immediately"] = "AfterReview"
    """AfterReview: predicted labels are no part of a version; reviewed ones come back as a source. Immediately: they
    are, in the train split only."""

    rules: ClassVar = (
        Rule(
            "self.use == 'Immediately' || has(self.export)",
            "use AfterReview needs export: nobody can review what is not exported",
            lambda obj: obj.use == "Immediately" or obj.export is not None,
            ".export",
        ),
    )


class Ratios(Model):
    """Fraction of the images in each split; the fractions sum to 1."""

    train: Annotated[Number, Field(gt=0, le=1)]
    """Fraction in the train split."""
    validation: Fraction
    """Fraction in the validation split."""
    test: Fraction
    """Fraction in the test split."""

    rules: ClassVar = (
        Rule(
            "self.train + self.validation + self.test > 0.999 && self.train + self.validation + self.test < 1.001",
            "train, validation and test must sum to 1",
            lambda obj: 0.999 < obj.train + obj.validation + obj.test < 1.001,
        ),
    )


class GroupBy(Model):
    """Grouping of images that belong together: by patient, slide or scene."""

    pattern: Annotated[str, Field(min_length=1, max_length=512)]
    """Regular expression on the image name (valid in RE2 and Python); its named group `group` is the group key."""

    rules: ClassVar = (
        Rule(
            "self.pattern.contains('(?P<group>')",
            "the pattern needs a named group: (?P<group>…)",
            lambda obj: "(?P<group>" in obj.pattern,
            ".pattern",
        ),
    )


class Splits(Model):
    """Assignment of images to the train, validation and test splits."""

    method: Literal["Ratio", "FromSource"] = "Ratio"
    """Ratio: by `ratios`. FromSource: as defined by the sources (image sets, folders, data.yaml)."""
    ratios: Ratios = Ratios(train=0.8, validation=0.1, test=0.1)
    """Split fractions. With FromSource they apply to images that the source assigns to no split."""
    validation_from_train: Annotated[Number, Field(ge=0, le=0.5)] = 0
    """For FromSource: fraction of the train images moved to validation, for sources without a validation split."""
    group_by: GroupBy | None = None
    """Keeps all images of a group in the same split."""
    keep_near_duplicates_together: Bool = True
    """Keeps near duplicates in the same split."""
    stratify: Bool = True
    """Keeps class frequencies similar across splits where the other constraints permit; the deviation is reported."""
    seed: Annotated[Int, Field(ge=0, le=2**31 - 1)] = 0
    """Random seed of the assignment."""
    keep_assignments: Bool = True
    """Keeps every image in its split across versions."""

    rules: ClassVar = (
        Rule(
            "self.validationFromTrain == 0.0 || self.method == 'FromSource'",
            "validationFromTrain has an effect for FromSource only; remove it, or set ratios",
            lambda obj: obj.validation_from_train == 0 or obj.method == "FromSource",
            ".validationFromTrain",
        ),
    )


class Quality(Model):
    """Handling of faulty images and labels. All findings are reported."""

    on_corrupt_image: Literal["Drop", "Fail"] = "Drop"
    """Handling of images that cannot be decoded."""
    on_invalid_label: Literal["Drop", "Fail"] = "Drop"
    """Handling of labels that are degenerate, outside the image or of an unknown class."""
    near_duplicates: Literal["Ignore", "Report", "Drop"] = "Report"
    """Handling of near duplicates: copies that are flipped, rotated, slightly cropped, recompressed, resized or relit.
    Drop keeps one."""
    max_faulty_images: Fraction = 0.1
    """Maximum fraction of faulty images: unreadable, missing or with unreadable labels. A larger fraction fails the
    build; a single faulty image does so only if this is 0. 1: no limit."""
    min_images_per_class: Annotated[Int, Field(ge=0, le=1_000_000)] = 0
    """Minimum number of images per class; fewer fail the build."""


class Exclude(Model):
    """Images to exclude from every version, for example after a patient's objection."""

    uri: Uri
    """Text file in a store with one SHA-256 digest or image name per line."""

    rules: ClassVar = not_downloaded("uri")


def excluded(text: str) -> frozenset[str]:
    """The digests and names that the file of an Exclude lists; after `#` is a remark."""
    words = (line.split("#")[0].strip() for line in text.splitlines())
    return frozenset(word.removeprefix("sha256-").removeprefix("sha256:") for word in words if word)


class Refresh(Model):
    """Schedule for rereading the sources. A new version is built only if they have changed."""

    schedule: Cron
    """Cron expression with five fields: minute, hour, day of month, month, day of week."""
    time_zone: TimeZone = "UTC"
    """Time zone of the schedule, such as Europe/Berlin."""


class BuildCompute(Model):
    """Compute resources of a dataset build."""

    workers: Annotated[Int, Field(ge=1, le=64)] = 1
    """Number of processes that read and check images, all in one pod."""
    resources: Resources = Resources()
    """Resources of the pod."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Container image. Default: the trainer image of the installation."""
    pod_template: PodTemplate = PodTemplate()
    """Scheduling and environment of the pod."""


class Recipe(Model):
    """Part of a Dataset that determines its versions."""

    task: Task
    """Computer-vision task. Immutable."""
    problem: Problem = Problem()
    """Problem statement. An edit starts no build; the report of the next training shows it."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1, max_length=64), ListMap(("name",))]
    """Sources of the images."""
    prelabel: Prelabel | None = None
    """Pre-labelling of unlabelled images."""
    classes: Annotated[tuple[ClassName, ...], Field(max_length=10_000), Set()] = ()
    """Classes, in the order of their indices. Default: the class names in the sources, sorted."""
    class_map: ClassMap = {}
    """Renames or merges classes of the sources; a class mapped to "" is dropped."""
    splits: Splits = Splits()
    """Assignment of images to the train, validation and test splits."""
    quality: Quality = Quality()
    """Handling of faulty images and labels."""
    exclude: Exclude | None = None
    """Images to exclude from every version."""

    incidental: ClassVar = ("problem",)


def _readable(task: Task, formats: tuple[Format, ...]) -> Rule:
    names = ", ".join(formats)
    return Rule(
        f"self.task != '{task}' || "
        f"self.sources.all(it, (!has(it.format) || it.format in {[str(name) for name in formats]}) && "
        f"(!has(it.generator) || it.generator.format in {[str(name) for name in formats]}))",
        f"sources for {task} can be read from {names}; convert the others or change the task",
        lambda obj: obj.task != task or all(source.layout in (None, *formats) for source in obj.sources),
        ".sources",
    )


class DatasetSpec(Recipe):
    """Sources of the labelled images, and how they are checked and split."""

    refresh: Refresh | None = None
    """Schedule for rereading the sources."""
    retain_versions: Annotated[Int, Field(ge=1, le=1000)] = 5
    """Number of versions to keep in the store, in addition to those in use or pinned."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """What happens to the data in the store when this object is deleted."""
    compute: BuildCompute = BuildCompute()
    """Compute resources of a build."""
    run_policy: RunPolicy = RunPolicy()
    """Suspension, retries, limits and history of builds."""

    rules: ClassVar = (
        Rule(
            "self.task == oldSelf.task",
            "task is immutable; make a Dataset of another name for another task",
            field=".task",
        ),
        Rule(
            f"self.task != '{Task.SEMANTIC_SEGMENTATION}' || !has(self.classes) || "
            f"size(self.classes) <= {MOST_MASK_CLASSES}",
            f"masks hold {MOST_MASK_CLASSES} classes; merge some by classMap",
            lambda obj: obj.task != Task.SEMANTIC_SEGMENTATION or len(obj.classes) <= MOST_MASK_CLASSES,
            ".classes",
        ),
        Rule(
            f"!has(self.prelabel) || !has(self.prelabel.export) || self.prelabel.export.format == '{Format.COCO}' || "
            f"!(self.task in {[str(task) for task in _MASKED]})",
            "masks go to labelling tools as COCO alone",
            field=".prelabel.export.format",
        ),
        Rule(
            f"!has(self.prelabel) || self.task != '{Task.SEMANTIC_SEGMENTATION}' || self.prelabel.use != 'Immediately'",
            "a class for each pixel has no confidence that could be asked for; use AfterReview",
            field=".prelabel.use",
        ),
        *(_readable(task, formats) for task, formats in SUPPORTED_FORMATS.items()),
    )

    def recipe(self) -> Recipe:
        """The part that determines the versions."""
        return Recipe.model_validate({name: getattr(self, name) for name in Recipe.model_fields})


class DatasetStatus(RunOwnerStatus):
    """Observed state of a Dataset."""

    phase: Literal["Pending", "Queued", "Building", "Ready", "Failed", "Suspended"] | None = None
    """One-word summary."""
    version: Digest | None = None
    """Digest of the newest version."""
    artifact: Annotated[str, Field(max_length=2048)] | None = None
    """Location of the newest version in the store."""
    images: Annotated[Int, Field(ge=0)] | None = None
    """Number of images in the newest version."""
    annotations: Annotated[Int, Field(ge=0)] | None = None
    """Number of annotations in the newest version."""
    splits: SplitCounts = {}
    """Number of images per split of the newest version."""
    classes: Annotated[tuple[ClassSummary, ...], Field(max_length=10_000)] = ()
    """Classes of the newest version, in the order of their indices."""
    quality: QualitySummary | None = None
    """Results of the quality checks of the newest version."""
    findings: Findings = ()
    """Findings in the newest version by kind, most severe first."""
    report: Annotated[str, Field(max_length=2048)] | None = None
    """Location of the quality report of the newest version."""
    next_refresh: Annotated[str, Field(max_length=64)] | None = None
    """Time of the next scheduled reading of the sources."""


class Dataset(Resource):
    """Labelled images from any source, checked, split and stored as immutable versions."""

    definition: ClassVar = Definition(
        plural="datasets",
        short_names=("dset",),
        columns=(
            Column("Task", ".spec.task"),
            Column("Phase", ".status.phase"),
            Column("Images", ".status.images", "integer"),
            Column("Annotations", ".status.annotations", "integer"),
            Column("Progress", ".status.progress.percent", "integer", "Per cent of the current run"),
            Column("ETA", ".status.progress.eta"),
            Column("Run", ".status.run", wide=True),
            Column("Version", ".status.version", wide=True),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    kind: Literal["Dataset"] = "Dataset"
    """Kind of the object."""
    spec: DatasetSpec
    """Desired state."""
    status: DatasetStatus | None = None
    """Observed state."""


def references(spec: DatasetSpec) -> Iterator[Reference]:
    """The objects that a Dataset refers to. Deployments are optional: a missing one is an empty source."""
    for index, source in enumerate(spec.sources):
        if source.secret_ref is not None:
            yield Reference("Secret", source.secret_ref.name, f"spec.sources[{index}].secretRef")
        if source.captures is not None:
            name = source.captures.model_deployment_ref.name
            yield Reference("ModelDeployment", name, f"spec.sources[{index}].captures.modelDeploymentRef")
    if spec.prelabel is not None:
        name = spec.prelabel.model_deployment_ref.name
        yield Reference("ModelDeployment", name, "spec.prelabel.modelDeploymentRef")


def unsupported(recipe: Recipe) -> tuple[NotSupported, ...]:
    """What a recipe asks for that the API knows and this version cannot do, each with its field and the remedy.

    What is refused at apply, and was accepted by earlier versions, is here for the objects that are stored.
    """
    wishes = list[tuple[bool, str, str, str]]()
    if recipe.prelabel is not None:
        place, export = "spec.prelabel", recipe.prelabel.export
        semantic = recipe.task == Task.SEMANTIC_SEGMENTATION
        masks = recipe.task in _MASKED and export is not None and export.format != Format.COCO
        web = export is not None and export.uri.startswith("https://")
        unsure = semantic and recipe.prelabel.use == "Immediately"
        wishes += [
            (masks, f"{place}.export.format", "exporting masks in this format", "use COCO"),
            (web, f"{place}.export.uri", "exporting to a web server", "give pvc://, s3:// or gs://"),
            (unsure, f"{place}.use", "taking a class for each pixel without review", "use AfterReview"),
        ]
    return tuple(
        NotSupported(f"{what} is not available in this version", place, remedy)
        for asked, place, what, remedy in wishes
        if asked
    )


def empty_sources(recipe: Recipe, *, has_model: bool) -> Iterator[tuple[str, str]]:
    """Sources that give nothing: name, and why in words.

    Args:
        recipe: The recipe.
        has_model: Whether there is a model that labels beforehand.
    """
    for source in recipe.sources:
        if source.captures is not None:
            yield source.name, "captures are read from their folder: name it in uri, with the format Captures"
    if recipe.prelabel is not None and not has_model:
        name = recipe.prelabel.model_deployment_ref.name
        yield "prelabel", f"ModelDeployment {name!r} has no model, so nothing is labelled"


__all__ = [
    "SUPPORTED_FORMATS",
    "Dataset",
    "DatasetSpec",
    "DatasetStatus",
    "DatasetSummary",
    "Format",
    "ObjectName",
    "Recipe",
    "empty_sources",
    "references",
    "unsupported",
]
