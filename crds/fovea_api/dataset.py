"""Dataset: labelled images, checked, split and kept as immutable versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
    RunName,
    RunPolicy,
    Set,
    Sha256,
    Status,
    Task,
    Text,
    TimeZone,
    Uri,
    not_downloaded,
)
from fovea_api.errors import NotSupported
from fovea_api.run import Progress, Usage
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


SUPPORTED_FORMATS: Mapping[Task, tuple[Format, ...]] = {
    Task.CLASSIFICATION: (Format.IMAGE_FOLDER, Format.IDX, Format.COCO, Format.PASCAL_VOC, Format.YOLO),
    Task.DETECTION: (Format.PASCAL_VOC, Format.COCO, Format.YOLO),
    Task.SEMANTIC_SEGMENTATION: (Format.MASKS, Format.COCO),
}
"""The tasks that a version can be built for, and the formats that its sources can be read from."""

_READABLE = sorted({name for formats in SUPPORTED_FORMATS.values() for name in formats})
_UNREADABLE = sorted(set(Format) - set(_READABLE))


class Problem(Model):
    """The problem in words (stage 1); printed on every report made from this data."""

    statement: Text = ""
    """What is to be predicted, in one sentence."""
    rationale: Text = ""
    """Why it is worth doing."""
    outcome: Text = ""
    """What counts as success for those who asked."""

    def stated(self) -> StatedProblem:
        """As versions, bundles and reports keep it."""
        return StatedProblem(statement=self.statement, rationale=self.rationale, outcome=self.outcome)


class Video(Model):
    """Frames of a video or a camera, unlabelled."""

    uri: Annotated[str, Field(max_length=2048, pattern=r"^((file|pvc|s3|gs)://[^\r\n]+|(https|rtsp)://[^ \r\n]+)$")]
    """A video file, a folder of them, or a camera's rtsp:// stream."""
    every_seconds: Annotated[Number, Field(gt=0, le=86400)] = 1
    """Seconds between two frames that are taken."""
    max_frames: Annotated[Int, Field(ge=1, le=10_000_000)] = 10_000
    """Frames taken at most."""
    drop_blurred: Bool = False
    """Leaves out blurred frames."""


class Generator(Model):
    """A program that writes a dataset: a simulator, a scraper, an API client."""

    image: Annotated[str, Field(min_length=1, max_length=512)]
    """Container image of the program."""
    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=128)] = ()
    """Arguments of the program; it writes into the folder that $FOVEA_OUTPUT names."""
    format: Format
    """Format that the program writes."""


class Labels(Model):
    """Where labels of images lie."""

    uri: Uri
    """Folder or file of the labels."""
    format: Format
    """Format of the labels."""


class Captures(Model):
    """Images that a deployment captured, once somebody labelled them."""

    model_deployment_ref: Ref
    """The ModelDeployment that captures. One that does not exist yet is an empty source."""
    labels: Labels
    """Where the labels appear."""


MaskValues = Annotated[Mapping[ClassName, Annotated[Int, Field(ge=0, le=255)]], Field(max_length=255)]
NameInSource = Annotated[str, Field(min_length=1, max_length=1024)]
"""A class's name as a source has it: free text, which can be longer than that of a class."""
ClassMap = Annotated[Mapping[NameInSource, Annotated[str, Field(max_length=MAX_CLASS_NAME)]], Field(max_length=10_000)]


MaskColors = Annotated[
    Mapping[ClassName, Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$", max_length=7)]], Field(max_length=255)
]
PairPattern = Annotated[str, Field(max_length=512, pattern="^[^{}]*([{][a-z]+[}][^{}]*)+$")]
_PLACEHOLDER = "[{][a-z]+[}]"


def placeholders(pattern: str | None) -> frozenset[str]:
    """The names in braces of a pattern of paths."""
    return frozenset(re.findall(_PLACEHOLDER, pattern or ""))


class Source(Model):
    """One place that images come from."""

    name: Label
    """Name of the source; appears in reports and as an evaluation slice."""
    uri: Uri | None = None
    """Folder or archive: pvc://claim/path, s3://, gs://, or https:// (with sha256). Archives are unpacked."""
    format: Format | None = None
    """Format of the files under uri."""
    sha256: Sha256 | None = None
    """SHA-256 of the file under uri, in hexadecimal; required for https://."""
    mask_values: MaskValues = {}
    """For Masks: the pixel value of each class. Absent: the value is the index of the class."""
    mask_colors: MaskColors = {}
    """For Masks in colours: the colour of each class, as #RRGGBB. Pixels of other colours are ignored and reported."""
    image_pattern: PairPattern | None = None
    """For Masks in other folders than images/ and masks/: the paths of the images below uri. {name}, {city} and others
    stand for any part of a path without '/', {split} for the name of a split, * for anything that is no part of the
    pair's name, ** for any folders. Cityscapes: leftImg8bit/{split}/{city}/{name}_leftImg8bit.png"""
    mask_pattern: PairPattern | None = None
    """The paths of the masks; a mask belongs to the image for which all {…} and ** stand for the same.
    Cityscapes: gtFine/{split}/{city}/{name}_gtFine_labelIds.png"""
    secret_ref: Ref | None = None
    """Secret with the credentials of an s3:// source (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …)."""
    video: Video | None = None
    """Frames of a video or a camera."""
    generator: Generator | None = None
    """A program that writes a dataset."""
    captures: Captures | None = None
    """Images that a deployment captured."""

    exactly_one: ClassVar = ("uri", "video", "generator", "captures")
    rules: ClassVar = (
        Rule(
            "has(self.uri) == has(self.format)",
            "format belongs to uri: give both or neither",
            lambda obj: (obj.uri is None) == (obj.format is None),
            ".format",
        ),
        Rule(
            f"!has(self.format) || !(self.format in {[str(name) for name in _UNREADABLE]})",
            f"this format cannot be read yet; use one of {', '.join(_READABLE)}",
            lambda obj: obj.format is None or obj.format in _READABLE,
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
            "size(self.maskValues) == 0 || (has(self.format) && self.format == 'Masks')",
            "maskValues belongs to format Masks; remove it or change the format",
            lambda obj: not obj.mask_values or obj.format == Format.MASKS,
            ".maskValues",
        ),
        Rule(
            "size(self.maskColors) == 0 || (has(self.format) && self.format == 'Masks' && size(self.maskValues) == 0)",
            "maskColors belongs to format Masks, and goes without maskValues; remove one or change the format",
            lambda obj: not obj.mask_colors or (obj.format == Format.MASKS and not obj.mask_values),
            ".maskColors",
        ),
        Rule(
            "has(self.imagePattern) == has(self.maskPattern)",
            "imagePattern and maskPattern make pairs together; give both or neither",
            lambda obj: (obj.image_pattern is None) == (obj.mask_pattern is None),
            ".maskPattern",
        ),
        Rule(
            "!has(self.imagePattern) || (has(self.format) && self.format == 'Masks')",
            "imagePattern belongs to format Masks; remove it or change the format",
            lambda obj: obj.image_pattern is None or obj.format == Format.MASKS,
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
            "!has(self.secretRef) || (has(self.uri) && self.uri.startsWith('s3://'))",
            "secretRef has an effect for s3:// only; remove it (for https:// give a signed address)",
            lambda obj: obj.secret_ref is None or (obj.uri is not None and obj.uri.startswith("s3://")),
            ".secretRef",
        ),
        Rule(
            "!has(self.uri) || !(self.uri.startsWith('file://') || self.uri.startsWith('.'))",
            "file:// and ./ work in local runs only; on a cluster use pvc://, s3://, gs:// or https://",
            field=".uri",
        ),
    )


class Export(Model):
    """Where images go for review."""

    uri: Uri
    """Folder that is written."""
    format: Literal[Format.CVAT, Format.LABEL_STUDIO, Format.COCO]
    """Format of the labelling tool."""


class Prelabel(Model):
    """Automated labelling of unlabelled images by a served model."""

    model_deployment_ref: Ref
    """The ModelDeployment that labels. One that has no model yet labels nothing."""
    min_confidence: Fraction = 0.8
    """Predictions below this confidence, 0 to 1, are left out."""
    export: Export | None = None
    """Where the images go for review."""
    use: Literal["AfterReview", "Immediately"] = "AfterReview"
    """Whether predicted labels are used only after a person's review."""

    rules: ClassVar = (
        Rule(
            "self.use == 'Immediately' || has(self.export)",
            "use AfterReview needs export: nobody can review what is not exported",
            lambda obj: obj.use == "Immediately" or obj.export is not None,
            ".export",
        ),
    )


class Ratios(Model):
    """Shares of the images in each split; they sum to 1."""

    train: Annotated[Number, Field(gt=0, le=1)]
    """Share of the train split."""
    validation: Fraction
    """Share of the validation split."""
    test: Fraction
    """Share of the test split."""

    rules: ClassVar = (
        Rule(
            "self.train + self.validation + self.test > 0.999 && self.train + self.validation + self.test < 1.001",
            "train, validation and test must sum to 1",
            lambda obj: 0.999 < obj.train + obj.validation + obj.test < 1.001,
        ),
    )


class GroupBy(Model):
    """What belongs together: a patient, a slide, a scene."""

    pattern: Annotated[str, Field(min_length=1, max_length=512)]
    """Regular expression over the image's name (RE2 and Python); its named group `group` is the group."""

    rules: ClassVar = (
        Rule(
            "self.pattern.contains('(?P<group>')",
            "the pattern needs a named group: (?P<group>…)",
            lambda obj: "(?P<group>" in obj.pattern,
            ".pattern",
        ),
    )


class Splits(Model):
    """How images are shared out to train, validation and test."""

    method: Literal["Ratio", "FromSource"] = "Ratio"
    """Ratio: by the shares below. FromSource: as the sources say (image sets, folders, data.yaml)."""
    ratios: Ratios = Ratios(train=0.8, validation=0.1, test=0.1)
    """Shares of the images; for FromSource, of those that the source puts nowhere."""
    validation_from_train: Annotated[Number, Field(ge=0, le=0.5)] = 0
    """For FromSource: the share of the source's train images that become validation; for sources without one."""
    group_by: GroupBy | None = None
    """Images of one group never straddle two splits."""
    keep_near_duplicates_together: Bool = True
    """Near duplicates never straddle two splits."""
    stratify: Bool = True
    """Keeps the classes' shares alike in all splits, as far as the rest allows; the deviation is reported."""
    seed: Annotated[Int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of the assignment."""
    keep_assignments: Bool = True
    """An image keeps the split it was once given, in every later version."""

    rules: ClassVar = (
        Rule(
            "self.validationFromTrain == 0.0 || self.method == 'FromSource'",
            "validationFromTrain has an effect for FromSource only; remove it, or set ratios",
            lambda obj: obj.validation_from_train == 0 or obj.method == "FromSource",
            ".validationFromTrain",
        ),
    )


class Quality(Model):
    """What happens to images and labels that are not right. Everything found is reported."""

    on_corrupt_image: Literal["Drop", "Fail"] = "Drop"
    """For images that cannot be decoded."""
    on_invalid_label: Literal["Drop", "Fail"] = "Drop"
    """For labels that are degenerate, outside of the image or of an unknown class."""
    near_duplicates: Literal["Ignore", "Report", "Drop"] = "Report"
    """For copies of one picture: flipped, turned, cropped a little, compressed, resized or relit. Drop keeps one."""
    max_faulty_images: Fraction = 0.1
    """The build fails when a larger share of the images is faulty: unreadable or missing, or with labels that cannot be
    read; up to it they are reported. A single image fails no build, unless this is 0; 1 lets every share pass."""
    min_images_per_class: Annotated[Int, Field(ge=0, le=1_000_000)] = 0
    """The build fails when a class has fewer images."""


class Exclude(Model):
    """Images that must never appear (a patient's objection)."""

    uri: Uri
    """Text file in a store, one SHA-256 digest or name a line."""

    rules: ClassVar = not_downloaded("uri")


class Refresh(Model):
    """When the sources are read again; a new version appears only if something changed."""

    schedule: Cron
    """Cron expression of five fields: minute, hour, day of month, month, day of week."""
    time_zone: TimeZone = "UTC"
    """Time zone of the schedule, such as Europe/Berlin."""


class BuildCompute(Model):
    """What a dataset build runs on."""

    workers: Annotated[Int, Field(ge=1, le=64)] = 1
    """Processes that read and check images, in one pod."""
    resources: Resources = Resources()
    """Resources of the pod."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Container image. Absent: the installation's trainer image."""
    pod_template: PodTemplate = PodTemplate()
    """Where and how the pod runs."""


class Recipe(Model):
    """The part of a Dataset that determines its versions."""

    task: Task
    """What is predicted. Immutable."""
    problem: Problem = Problem()
    """The problem in words. An edit builds nothing anew; the report of the next training has it."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1, max_length=64), ListMap(("name",))]
    """Where images come from."""
    prelabel: Prelabel | None = None
    """Automated labelling of unlabelled images."""
    classes: Annotated[tuple[ClassName, ...], Field(max_length=10_000), Set()] = ()
    """The classes; the order fixes the class index. Absent: the sorted names found in the sources."""
    class_map: ClassMap = {}
    """Renames or merges classes found in the sources; mapped to "" they are dropped."""
    splits: Splits = Splits()
    """How images are shared out to train, validation and test."""
    quality: Quality = Quality()
    """What happens to what is not right."""
    exclude: Exclude | None = None
    """Images that must never appear."""

    incidental: ClassVar = ("problem",)


def _readable(task: Task, formats: tuple[Format, ...]) -> Rule:
    names = ", ".join(formats)
    return Rule(
        f"self.task != '{task}' || "
        f"self.sources.all(it, !has(it.format) || it.format in {[str(name) for name in formats]})",
        f"sources for {task} can be read from {names}; convert the others or change the task",
        lambda obj: obj.task != task or all(source.format in (None, *formats) for source in obj.sources),
        ".sources",
    )


class DatasetSpec(Recipe):
    """The labelled images to build a dataset from, and how they are checked and split."""

    refresh: Refresh | None = None
    """When the sources are read again."""
    retain_versions: Annotated[Int, Field(ge=1, le=1000)] = 5
    """Versions kept in the store; those in use or pinned are kept beyond that."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """What happens to the data in the store when this object goes."""
    compute: BuildCompute = BuildCompute()
    """What a build runs on."""
    run_policy: RunPolicy = RunPolicy()
    """How builds are started, repeated, limited and kept."""

    rules: ClassVar = (
        Rule(
            "self.task == oldSelf.task",
            "task is immutable; make a Dataset of another name for another task",
            field=".task",
        ),
        Rule(
            f"self.task in {[str(task) for task in SUPPORTED_FORMATS]}",
            f"this task is not available in this version; use one of {', '.join(SUPPORTED_FORMATS)}",
            lambda obj: obj.task in SUPPORTED_FORMATS,
            ".task",
        ),
        *(_readable(task, formats) for task, formats in SUPPORTED_FORMATS.items()),
    )

    def recipe(self) -> Recipe:
        """The part that determines the versions."""
        return Recipe.model_validate({name: getattr(self, name) for name in Recipe.model_fields})


class DatasetStatus(Status):
    """What has been built."""

    phase: Literal["Pending", "Queued", "Building", "Ready", "Failed", "Suspended"] | None = None
    """Summary in a word."""
    run: RunName | None = None
    """The current or last run."""
    run_generation: Annotated[Int, Field(ge=0)] | None = None
    """Generation of the spec that the run answers. While it is that of the object, no upgrade reads anything else out
    of the spec."""
    progress: Progress | None = None
    """How far the current run is."""
    version: Digest | None = None
    """Digest of the newest version."""
    artifact: Annotated[str, Field(max_length=2048)] | None = None
    """Where the newest version lies in the store."""
    images: Annotated[Int, Field(ge=0)] | None = None
    """Images in the newest version."""
    annotations: Annotated[Int, Field(ge=0)] | None = None
    """Annotations in the newest version."""
    splits: SplitCounts = {}
    """Images in each split of the newest version."""
    classes: Annotated[tuple[ClassSummary, ...], Field(max_length=10_000)] = ()
    """The classes of the newest version, in the order of their index."""
    quality: QualitySummary | None = None
    """What the checks of the newest version found."""
    findings: Findings = ()
    """What is not right in the newest version, by kind, the worst first."""
    report: Annotated[str, Field(max_length=2048)] | None = None
    """Where the quality report of the newest version lies."""
    next_refresh: Annotated[str, Field(max_length=64)] | None = None
    """When the sources are read again."""
    usage: Usage | None = None
    """What all runs together have used."""
    history: Annotated[tuple[RunName, ...], Field(max_length=100)] = ()
    """Names of the Runs, newest first."""


class Dataset(Resource):
    """Labelled images from anywhere, checked, split once and for all, and kept as immutable versions."""

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
    """What a recipe asks for that the API knows and this version cannot do, each with its field and the remedy."""
    tasks = ", ".join(SUPPORTED_FORMATS)
    wishes = [(recipe.task not in SUPPORTED_FORMATS, "spec.task", recipe.task.value, f"use one of {tasks}")]
    for index, source in enumerate(recipe.sources):
        video, generator = f"spec.sources[{index}].video", f"spec.sources[{index}].generator"
        wishes += [
            (source.video is not None, video, "reading videos", "store its frames and give uri and format"),
            (source.generator is not None, generator, "running programs", "store its output and give uri and format"),
        ]
    return tuple(
        NotSupported(f"{what} is not available in this version", place, remedy)
        for asked, place, what, remedy in wishes
        if asked
    )


def empty_sources(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Sources that give nothing because no deployment has a model in this version: name, and why in words."""
    for source in recipe.sources:
        if source.captures is not None:
            yield source.name, _no_model(source.captures.model_deployment_ref, "there are no captures")
    if recipe.prelabel is not None:
        yield "prelabel", _no_model(recipe.prelabel.model_deployment_ref, "nothing is labelled")


def _no_model(deployment: Ref, so: str) -> str:
    return f"ModelDeployment {deployment.name!r} has no model, so {so}"


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
