"""TrainingJob: a model trained by this recipe on that dataset exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field
from pydantic.alias_generators import to_camel

from fovea_api.choice import AUTO, MAX_CANDIDATES, Candidate
from fovea_api.common import (
    AnyValue,
    Bool,
    ByPreset,
    Column,
    Definition,
    DeletionPolicy,
    Digest,
    Fraction,
    Int,
    LabelMap,
    ListMap,
    Metrics,
    Model,
    Number,
    ObjectName,
    PodTemplate,
    PresetModel,
    Ref,
    Reference,
    Resource,
    Resources,
    Rule,
    RunName,
    RunPolicy,
    Set,
    Time,
    Uri,
    Word,
    not_downloaded,
    parse_quantity,
)
from fovea_api.criteria import Criterion, CriterionResult, MetricName, evaluate_criteria
from fovea_api.engine import EngineSummary
from fovea_api.latency import MeasuredOn
from fovea_api.metrics import SPLITS
from fovea_api.run import CompressionStage, RequestedRuns, RunOwnerStatus

Seed = Annotated[Int, Field(ge=0, le=2**31 - 1)]


class DatasetRef(Model):
    """Reference to a Dataset, at its newest or at a pinned version."""

    name: ObjectName
    """Name of the Dataset, in the same namespace."""
    version: Digest | None = None
    """Pinned version. Default: the newest version when a run starts."""


# --- Model ----------------------------------------------------------------------------------------------


class Pretrained(Model):
    """Source of the initial weights."""

    weights: Literal["None", "ImageNet", "COCO"] | None = None
    """Published weights of the architecture: ImageNet of its backbone, COCO of a whole detector with the options that
    `fovea models` lists. None: random initialization."""
    uri: Uri | None = None
    """Model bundle, safetensors file or state dict in a store: pvc://, s3:// or gs://."""
    training_job_ref: Ref | None = None
    """TrainingJob whose newest eligible bundle is used."""
    from_: Literal["Current"] | None = Field(default=None, alias="from")
    """Current: the served model when a deployment retrains, otherwise the newest bundle of this TrainingJob."""

    exactly_one: ClassVar = ("weights", "uri", "training_job_ref", "from_")
    rules: ClassVar = not_downloaded("uri")


Options = Annotated[Mapping[str, AnyValue], Field(max_length=64)]
_NAME = "(timm/)?[a-z0-9]([-._a-z0-9]*[a-z0-9])?"


class ModelChoice(Model):
    """Network architecture and initial weights."""

    architecture: Annotated[str, Field(max_length=128, pattern=f"^({AUTO}|{_NAME})$")]
    """Name of a registered architecture, or timm/ and the name of a model of timm; `fovea models` lists them. Auto: a
    short comparison on the dataset chooses the best one that meets the success criteria on latency, size and
    complexity."""
    candidates: Annotated[
        tuple[Annotated[str, Field(max_length=128, pattern=f"^{_NAME}$")], ...],
        Field(max_length=MAX_CANDIDATES),
        Set(),
    ] = ()
    """For Auto: architectures to compare. Default: all registered ones of the task."""
    options: Options = {}
    """Options of the architecture (layers, width, anchors, …), validated against its registry entry."""
    pretrained: Pretrained = Pretrained(weights="ImageNet")
    """Source of the initial weights."""
    freeze: Literal["None", "Backbone", "BackboneExceptNorm"] = "None"
    """Part of the network to freeze. Fine-tuning after pruning trains all of it."""
    accept_licence: Word | None = None
    """Licence of the published weights that is accepted, where it restricts their use, such as CC-BY-NC-4.0."""

    rules: ClassVar = (
        Rule(
            f"self.architecture == '{AUTO}' || size(self.candidates) == 0",
            f"candidates belong to architecture {AUTO}; remove them, or set it",
            lambda obj: obj.architecture == AUTO or not obj.candidates,
            ".candidates",
        ),
        Rule(
            f"self.architecture != '{AUTO}' || !has(self.pretrained) || "
            "(!has(self.pretrained.uri) && !has(self.pretrained.trainingJobRef))",
            f"these weights are of one architecture: name it instead of {AUTO}, or use weights",
            lambda obj: (
                obj.architecture != AUTO or (obj.pretrained.uri is None and obj.pretrained.training_job_ref is None)
            ),
            ".pretrained",
        ),
    )


# --- Input ----------------------------------------------------------------------------------------------

Pixels = Annotated[Int, Field(ge=16, le=8192)]


class Size(Model):
    """Input size of the network."""

    width: Pixels
    """Width, in pixels."""
    height: Pixels
    """Height, in pixels."""


ChannelMean = Annotated[tuple[Annotated[Number, Field(ge=-1, le=1)], ...], Field(min_length=3, max_length=3)]
ChannelStd = Annotated[tuple[Annotated[Number, Field(gt=0, le=10)], ...], Field(min_length=3, max_length=3)]


class Normalize(Model):
    """Normalization of pixel values in 0 to 1: (value - mean) / std, per channel in the order R, G, B."""

    mean: ChannelMean
    """Mean of each channel."""
    std: ChannelStd
    """Standard deviation of each channel."""


class Flip(Model):
    """Random flip."""

    probability: Fraction = 0.5
    """Probability, 0 to 1."""


class Rotate(Model):
    """Random rotation of the image with its boxes and masks."""

    degrees: Annotated[Number, Field(gt=0, le=180)]
    """Maximum angle in either direction, in degrees."""
    probability: Fraction = 1.0
    """Probability, 0 to 1."""


class ColorJitter(Model):
    """Random changes of colour."""

    brightness: Fraction = 0.0
    """Maximum relative change of brightness."""
    contrast: Fraction = 0.0
    """Maximum relative change of contrast."""
    saturation: Fraction = 0.0
    """Maximum relative change of saturation."""
    hue: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Maximum change of hue, as a fraction of the colour circle."""
    probability: Fraction = 1.0
    """Probability, 0 to 1."""


class RandomScale(Model):
    """Random scaling about a random point, with boxes and masks."""

    min: Annotated[Number, Field(gt=0, le=10)] = 0.8
    """Minimum factor."""
    max: Annotated[Number, Field(gt=0, le=10)] = 1.25
    """Maximum factor."""
    probability: Fraction = 1.0
    """Probability, 0 to 1."""

    rules: ClassVar = (Rule("self.min <= self.max", "min must not exceed max", lambda obj: obj.min <= obj.max, ".min"),)


class RandomCrop(Model):
    """Random crop of the image at its native resolution, with boxes and masks."""

    width: Pixels
    """Width of the crop, in pixels."""
    height: Pixels
    """Height of the crop, in pixels."""


class Blur(Model):
    """Random Gaussian blur."""

    sigma: Annotated[Number, Field(gt=0, le=20)] = 1.0
    """Maximum standard deviation of the Gaussian, in pixels."""
    probability: Fraction = 0.1
    """Probability, 0 to 1."""


def _is_ordered(what: str, obj: Model) -> bool:
    return bool(getattr(obj, f"min_{what}") <= getattr(obj, f"max_{what}"))


Share = Annotated[Number, Field(gt=0, le=1)]
AspectRatio = Annotated[Number, Field(ge=0.01, le=100)]
Alpha = Annotated[Number, Field(gt=0, le=100)]
_AREAS_AND_RATIOS = tuple(
    Rule(
        f"self.min{what} <= self.max{what}",
        f"min{what} must not exceed max{what}",
        partial(_is_ordered, what.lower()),
        f".min{what}",
    )
    for what in ("Area", "Ratio")
)


class Mix(Model):
    """An augmentation that combines several images. The others are changed by the augmentations before it in the list,
    too."""

    probability: Fraction = 1.0
    """Probability, 0 to 1."""
    close_last_epochs: Annotated[Int, Field(ge=0, le=100_000)] | None = None
    """Number of epochs at the end without this augmentation. Default: a tenth of the epochs, rounded down."""


class RandomResizedCrop(Model):
    """Random part of the image, with boxes and masks, resized to the input size."""

    min_area: Share = 0.08
    """Minimum area of the part, as a fraction of the image."""
    max_area: Share = 1.0
    """Maximum area of the part, as a fraction of the image."""
    min_ratio: AspectRatio = 0.75
    """Minimum aspect ratio of the part, width over height."""
    max_ratio: AspectRatio = 1.3333
    """Maximum aspect ratio of the part, width over height."""

    rules: ClassVar = _AREAS_AND_RATIOS


class RandomErasing(Model):
    """Random rectangle filled with noise; the mask is ignored there, and objects that it hides are left out."""

    min_area: Share = 0.02
    """Minimum area of the rectangle, as a fraction of the image."""
    max_area: Share = 0.33
    """Maximum area of the rectangle, as a fraction of the image."""
    min_ratio: AspectRatio = 0.3
    """Minimum aspect ratio of the rectangle, width over height."""
    max_ratio: AspectRatio = 3.3
    """Maximum aspect ratio of the rectangle, width over height."""
    probability: Fraction = 0.25
    """Probability, 0 to 1."""

    rules: ClassVar = _AREAS_AND_RATIOS


class RandAugment(Model):
    """RandAugment: random operations of 14 (colours, shear, translation, rotation), all of one magnitude."""

    operations: Annotated[Int, Field(ge=1, le=14)] = 2
    """Number of operations per image, applied one after the other."""
    magnitude: Annotated[Int, Field(ge=0, le=30)] = 9
    """Magnitude of all operations, 0 to 30."""


class MixUp(Mix):
    """MixUp: a blend of two images, with the classes of both in the same proportion. For Classification."""

    alpha: Alpha = 0.2
    """Parameter of the Beta(alpha, alpha) distribution of the proportion: small values keep one of the two images."""


class CutMix(Mix):
    """CutMix: a rectangle is replaced by that of another image; the classes count by their area. For Classification."""

    alpha: Alpha = 1.0
    """Parameter of the Beta(alpha, alpha) distribution of the area; 1: all areas are equally likely."""


class Mosaic(Mix):
    """Mosaic: four images that meet at a random point, with boxes and masks. For Detection and segmentation."""

    min: Annotated[Number, Field(gt=0, le=10)] = 0.5
    """Minimum scale of the images; 1: as large as without a mosaic."""
    max: Annotated[Number, Field(gt=0, le=10)] = 1.5
    """Maximum scale of the images."""

    rules: ClassVar = (Rule("self.min <= self.max", "min must not exceed max", lambda obj: obj.min <= obj.max, ".min"),)


class CopyPaste(Mix):
    """Copy-paste: half of the objects of another image, chosen at random, are pasted with their masks; in
    SemanticSegmentation, half of its classes. For segmentation."""

    probability: Fraction = 0.5
    """Probability, 0 to 1."""


class MultiScale(Model):
    """Multi-scale training: the images of each step are resized by one random factor, with boxes and masks. It must be
    the last augmentation."""

    min: Annotated[Number, Field(gt=0, le=4)] = 0.75
    """Minimum factor on the input size."""
    max: Annotated[Number, Field(gt=0, le=4)] = 1.25
    """Maximum factor on the input size."""

    rules: ClassVar = (Rule("self.min <= self.max", "min must not exceed max", lambda obj: obj.min <= obj.max, ".min"),)


class Augmentation(Model):
    """One augmentation of the training images."""

    horizontal_flip: Flip | None = None
    """Horizontal flip."""
    vertical_flip: Flip | None = None
    """Vertical flip."""
    rotate: Rotate | None = None
    """Random rotation."""
    color_jitter: ColorJitter | None = None
    """Random changes of colour."""
    random_scale: RandomScale | None = None
    """Random scaling."""
    random_crop: RandomCrop | None = None
    """Random crop."""
    blur: Blur | None = None
    """Random Gaussian blur."""
    random_resized_crop: RandomResizedCrop | None = None
    """Random part of the image, resized to the input size."""
    random_erasing: RandomErasing | None = None
    """Random rectangle filled with noise."""
    rand_augment: RandAugment | None = None
    """Random operations of one magnitude."""
    mix_up: MixUp | None = None
    """Blend of two images and their classes."""
    cut_mix: CutMix | None = None
    """Rectangle of another image, with a part of its class."""
    mosaic: Mosaic | None = None
    """Mosaic of four images."""
    copy_paste: CopyPaste | None = None
    """Parts of another image, with their masks."""
    multi_scale: MultiScale | None = None
    """Random input size for each step."""

    exactly_one: ClassVar = (
        "horizontal_flip",
        "vertical_flip",
        "rotate",
        "color_jitter",
        "random_scale",
        "random_crop",
        "blur",
        "random_resized_crop",
        "random_erasing",
        "rand_augment",
        "mix_up",
        "cut_mix",
        "mosaic",
        "copy_paste",
        "multi_scale",
    )


class Resize(StrEnum):
    """How images are fitted to the input size."""

    LETTERBOX = "Letterbox"
    STRETCH = "Stretch"
    CENTER_CROP = "CenterCrop"


class Sizing(Model):
    """Derives the input size from the train split; it gets the mean aspect ratio of the images."""

    longer_side: Pixels
    """Longer side of the input, in pixels."""
    enlarge: Annotated[Number, Field(ge=1, le=16)] = 1.0
    """Maximum enlargement of an image; small images get a smaller input."""
    smallest: Pixels = 64
    """Minimum of the longer side of the input, in pixels."""
    object_pixels: Annotated[Number, Field(ge=0, le=1024)] = 0.0
    """For detection: the longer side grows until three quarters of the objects have at least this size in the input, in
    pixels. 0: no growth."""
    largest: Pixels = 640
    """Limit of that growth, in pixels."""


def _has_at_most_one(name: str, given: Input) -> bool:
    return sum(getattr(item, name) is not None for item in given.augmentations) <= 1


class Input(PresetModel):
    """Preprocessing (stored in the bundle and applied by serving), augmentation and class balancing."""

    size: Size | None = None
    """Input size of the network. Default: derived as `sizing` says."""
    sizing: Annotated[Sizing | None, ByPreset()] = None
    """Derivation of the input size from the dataset when size is absent. Default: the preset of the architecture."""
    resize: Resize = Resize.LETTERBOX
    """How images are fitted: Letterbox pads, Stretch distorts, CenterCrop crops the longer side."""
    normalize: Normalize | None = None
    """Normalization. Default: that of the published weights of the architecture."""
    augmentations: Annotated[tuple[Augmentation, ...], Field(max_length=32), ByPreset()] = ()
    """Augmentations, in order of application; []: none. Default: the preset of the architecture."""
    balance: Literal["None", "Oversample", "RepeatFactors", "Undersample", "ClassWeights", "FocalLoss"] = "None"
    """Handling of class imbalance. Oversample shows images of rare classes more often, until they are as frequent as
    the most frequent class; RepeatFactors by the square root of that; Undersample shows images of frequent classes less
    often. ClassWeights gives the images, objects or pixels of each class the same total weight in the loss of classes,
    which must be CrossEntropy, DiceCrossEntropy, BinaryCrossEntropy or Focal, or a detector's. FocalLoss: the loss is
    Focal."""

    rules: ClassVar = tuple(
        Rule(
            f"!has(self.augmentations) || self.augmentations.filter(item, has(item.{to_camel(name)})).size() <= 1",
            f"list {to_camel(name)} once: each further one would draw several times as many images",
            partial(_has_at_most_one, name),
            ".augmentations",
        )
        for name in ("mix_up", "cut_mix", "mosaic", "copy_paste")
    )


# --- Training -------------------------------------------------------------------------------------------


class Optimizer(PresetModel):
    """Optimizer and learning rate."""

    name: Annotated[Literal["SGD", "Adam", "AdamW", "Lion"], ByPreset()] = "AdamW"
    """Optimizer. Lion needs a learning rate 3 to 10 times lower than AdamW and a weight decay higher by the same
    factor. Default: the preset of the architecture."""
    learning_rate: Annotated[Number, Field(gt=0, le=10), ByPreset()] = 1e-3
    """Peak learning rate. Default: the preset of the architecture, scaled to the optimizer and to the effective batch
    size (by its square root; for SGD linearly)."""
    weight_decay: Annotated[Number, Field(ge=0, le=1), ByPreset()] = 1e-4
    """Weight decay; not applied to biases and normalization layers. Default: the preset of the architecture."""
    backbone_rate: Annotated[Number, Field(gt=0, le=1), ByPreset()] = 1.0
    """Factor on the learning rate of the backbone. Default: the preset of the architecture when training starts from
    weights, otherwise 1."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: Bool = False
    """Nesterov momentum, for SGD."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Layer-wise learning-rate decay: the rate of each backbone layer is that of the next layer times this factor. 1:
    no decay."""

    rules: ClassVar = (
        Rule(
            "!self.nesterov || (has(self.name) && self.name == 'SGD' && self.momentum > 0.0)",
            "nesterov needs SGD with a momentum; remove it or use SGD",
            lambda obj: not obj.nesterov or (obj.name == "SGD" and obj.momentum > 0),
            ".nesterov",
        ),
    )


class Schedule(PresetModel):
    """Learning-rate schedule."""

    name: Annotated[Literal["OneCycle", "Cosine", "Step", "Constant"], ByPreset()] = "OneCycle"
    """OneCycle: cosine rise to the peak and cosine fall to nearly 0, with the momentum cycled inversely. Cosine: linear
    warm-up, then cosine decay. Step: multiplied by stepFactor at each step. Constant: constant after the warm-up.
    Default: the preset of the architecture."""
    warmup_epochs: Annotated[Number, Field(ge=0, le=1000), ByPreset()] = 1
    """Length of the warm-up in epochs, also fractional. OneCycle usually takes up to a third of all epochs. Default:
    given by warmupShare."""
    warmup_share: Annotated[Fraction | None, ByPreset()] = None
    """Fraction of the training that is warm-up when warmupEpochs is absent. Default: the preset of the architecture."""
    step_epochs: Annotated[Int, Field(ge=1, le=100_000)] | None = None
    """For Step: number of epochs between steps."""
    step_factor: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """For Step: factor on the learning rate at each step."""

    rules: ClassVar = (
        Rule(
            "(has(self.name) && self.name == 'Step') == has(self.stepEpochs)",
            "stepEpochs belongs to schedule Step: give it there and nowhere else",
            lambda obj: (obj.name == "Step") == (obj.step_epochs is not None),
            ".stepEpochs",
        ),
    )


class EarlyStopping(Model):
    """Early stopping."""

    metric: MetricName
    """Monitored metric on the validation split: validation/mAP, validation/loss, …"""
    patience: Annotated[Int, Field(ge=1, le=10_000)] = 5
    """Number of epochs without improvement before training stops."""
    min_delta: Annotated[Number, Field(ge=0)] = 0.0
    """Minimum change that counts as an improvement, in the unit of the metric."""

    rules: ClassVar = (
        Rule(
            "self.metric.startsWith('validation/')",
            "monitor a metric of the validation split, such as validation/mAP; the test split must stay unseen",
            lambda obj: obj.metric.startswith("validation/"),
            ".metric",
        ),
    )


class Ema(Model):
    """Exponential moving average of the weights, which is evaluated and exported."""

    decay: Annotated[Number, Field(ge=0, lt=1)] = 0.999
    """Maximum decay per step; it ramps up as 1 - (1 + step)^(-2/3). 0: no averaging."""


class Loss(StrEnum):
    """Loss by name. Default: the loss of the architecture."""

    DEFAULT = "Default"
    CROSS_ENTROPY = "CrossEntropy"
    BINARY_CROSS_ENTROPY = "BinaryCrossEntropy"
    FOCAL = "Focal"
    DICE = "Dice"
    DICE_CROSS_ENTROPY = "DiceCrossEntropy"
    TVERSKY = "Tversky"
    LOVASZ = "Lovasz"
    IOU = "IoU"
    GIOU = "GIoU"
    DIOU = "DIoU"
    CIOU = "CIoU"
    SMOOTH_L1 = "SmoothL1"


class WeightedLoss(Model):
    """A term of a sum of losses."""

    name: Loss
    """Name of a loss of the task."""
    weight: Annotated[Number, Field(gt=0, le=1000)] = 1.0
    """Factor on the loss."""

    rules: ClassVar = (
        Rule("self.name != 'Default'", "a term needs the name of a loss", lambda obj: obj.name != "Default", ".name"),
    )


class Training(PresetModel):
    """Training hyperparameters. Absent fields follow the preset of the architecture; `{}` is a good start."""

    epochs: Annotated[Int, Field(ge=1, le=100_000), ByPreset()] = 10
    """Number of passes over the train split. Default: the preset of the architecture, increased to reach minSteps."""
    min_steps: Annotated[Int, Field(ge=0, le=100_000_000), ByPreset()] = 0
    """Minimum number of optimizer steps; a small train split gets more epochs. Default: the preset of the architecture;
    0 if epochs is set."""
    batch_size: Annotated[Int, Field(ge=1, le=65_536), ByPreset()] = 8
    """Number of images per batch, across all workers. Default: the preset of the architecture."""
    gradient_accumulation_steps: Annotated[Int, Field(ge=1, le=1024)] = 1
    """Number of batches whose gradients are accumulated per optimizer step: the effective batch size is batchSize times
    this, with the memory of one batch."""
    loss: Loss = Loss.DEFAULT
    """Default, or the name of a loss of the task."""
    losses: Annotated[tuple[WeightedLoss, ...], Field(max_length=8), ListMap(("name",))] = ()
    """Losses whose weighted sum is minimized, in place of `loss`; for a detector, those of its boxes."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and learning rate."""
    schedule: Schedule = Schedule()
    """Learning-rate schedule."""
    early_stopping: EarlyStopping | None = None
    """Early stopping. Absent: all epochs are trained."""
    ema: Annotated[Ema | None, ByPreset()] = None
    """Exponential moving average of the weights; decay 0 disables it. Default: the preset of the architecture."""
    gradient_clip_norm: Annotated[Annotated[Number, Field(ge=0)] | None, ByPreset()] = None
    """Maximum gradient norm; 0: no clipping. Default: the preset of the architecture."""
    precision: Literal["Auto", "FP32", "BF16", "FP16"] = "Auto"
    """Numeric precision of the forward pass. Auto: BF16 on GPUs that support it, FP16 on other GPUs, FP32 on CPUs."""
    sync_batch_norm: Literal["Auto", "Always", "Never"] = "Auto"
    """Synchronizes batch normalization across workers. Auto: if a worker gets fewer than 16 images per batch, too few
    for statistics of its own."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Label smoothing: fraction of the target spread over all classes. Only for losses that contain CrossEntropy."""
    seed: Seed = 0
    """Random seed."""

    rules: ClassVar = (
        Rule(
            "!has(self.epochs) || !has(self.schedule.warmupEpochs) || "
            "self.schedule.warmupEpochs <= double(self.epochs)",
            "warmupEpochs must not exceed epochs",
            lambda obj: (
                "epochs" in obj.silent()
                or "warmup_epochs" in obj.schedule.silent()
                or obj.schedule.warmup_epochs <= obj.epochs
            ),
            ".schedule.warmupEpochs",
        ),
        Rule(
            "self.loss == 'Default' || size(self.losses) == 0",
            "give loss or losses, not both",
            lambda obj: obj.loss == Loss.DEFAULT or not obj.losses,
            ".losses",
        ),
    )


# --- Evaluation, compression, export --------------------------------------------------------------------


class Latency(Model):
    """Where latency is measured. By default on one core of the run's own node; with any other value in a pod of its
    own, which the run holds from its start to its end."""

    resources: Resources = Resources(requests={"cpu": "1"})
    """Resources of the measurement. The model uses as many threads as whole CPUs are requested (or are the limit), and
    a GPU if the limits have one that its runtime can use."""
    node_selector: LabelMap = {}
    """Node labels for the measurement. Empty: a node that the run itself may use."""

    @property
    def elsewhere(self) -> bool:
        """Whether it is measured in a pod of its own."""
        return self != Latency()

    @property
    def cpus(self) -> int:
        """Threads of the model, at least one."""
        return max(1, int(parse_quantity(self.cpu)))

    @property
    def cpu(self) -> str:
        """The quantity of CPU that it may use: its limit, else its request."""
        return self.resources.limits.get("cpu") or self.resources.requests.get("cpu") or "1"

    @property
    def gpu(self) -> bool:
        """Whether it may use a GPU, or a slice of one."""
        return any(name.startswith("nvidia.com/") for name in self.resources.limits)

    def __str__(self) -> str:
        amounts = {"cpu": self.cpu, **self.resources.requests, **self.resources.limits}
        what = ", ".join(f"{amount} {name}" for name, amount in amounts.items())
        labels = ",".join(f"{name}={value}" for name, value in self.node_selector.items())
        return f"{what} on a node with {labels}" if labels else what


class Evaluation(Model):
    """Evaluation of the exported model."""

    primary_metric: Annotated[str, Field(max_length=64, pattern="^[A-Za-z][A-Za-z0-9]*$")] | None = None
    """Metric that selects the best epoch: mAP, accuracy, dice, … Default: the primary metric of the task."""
    splits: Annotated[tuple[Literal["train", "validation", "test"], ...], Field(min_length=1, max_length=3), Set()] = (
        "validation",
        "test",
    )
    """Splits to evaluate."""
    slices: Annotated[tuple[Literal["class", "objectSize", "source", "group"], ...], Field(max_length=4), Set()] = (
        "class",
        "objectSize",
    )
    """Slices of the primary metric: objectSize (detection), source, group. Per-class metrics are always reported, so
    class has no effect."""
    latency: Latency = Latency()
    """Where latency is measured, for the metrics `latency/…`."""


class Pruning(Model):
    """Removes the least important channels after training, then fine-tunes."""

    sparsity: Annotated[Number, Field(gt=0, lt=1)]
    """Fraction of the channels to remove from each layer; 0.3 leaves about half of the computation, 0.5 a quarter."""
    fine_tune_epochs: Annotated[Int, Field(ge=0, le=10_000)] = 2
    """Number of epochs of fine-tuning, in addition to training.epochs."""


class Distillation(Model):
    """Knowledge distillation from a larger model."""

    teacher_ref: Ref
    """TrainingJob whose newest eligible bundle is the teacher; it must have the same classes."""
    weight: Fraction = 0.5
    """Weight of the teacher in the loss; the loss on the labels has the rest."""
    temperature: Annotated[Number, Field(gt=0, le=100)] = 4.0
    """Temperature of the class probabilities, for Classification and SemanticSegmentation."""
    feature_weight: Annotated[Number, Field(ge=0, le=1000)] = 0.0
    """Weight of the difference between the feature maps of student and teacher, in addition. 0: not compared."""


class Quantization(Model):
    """Quantization to 8-bit integers."""

    mode: Literal["Static", "Dynamic"] = "Static"
    """Static: activation ranges are calibrated on images. Dynamic: they are computed at inference time, for matrix
    products with weights alone, which suits transformers; convolutions stay in floating point."""
    calibration_images: Annotated[Int, Field(ge=1, le=100_000)] = 128
    """Number of train images for calibration. For Static."""
    max_metric_drop: Fraction = 0.01
    """Maximum drop of the primary metric. With a larger drop, up to 40 % of the layers stay in floating point, those
    that quantization harms most; if that is not enough, the model stays in FP32. Both are reported."""
    fine_tune_epochs: Annotated[Int, Field(ge=0, le=10_000)] = 0
    """Number of epochs of quantization-aware fine-tuning before the model stays in FP32 for that reason. For Static."""

    rules: ClassVar = (
        Rule(
            "self.mode == 'Static' || self.fineTuneEpochs == 0",
            "fineTuneEpochs rounds to ranges that are calibrated; remove it or use mode: Static",
            lambda obj: obj.mode == "Static" or obj.fine_tune_epochs == 0,
            ".fineTuneEpochs",
        ),
    )


class Compression(Model):
    """Model compression."""

    pruning: Pruning | None = None
    """Structured pruning."""
    distillation: Distillation | None = None
    """Knowledge distillation from a larger model."""
    quantization: Quantization | None = None
    """Quantization to 8-bit integers."""


class Export(Model):
    """Export formats of the model."""

    formats: Annotated[
        tuple[Literal["ONNX", "OpenVINO", "TFLite", "ExportedProgram", "StateDict"], ...],
        Field(min_length=1, max_length=5),
        Set(),
    ] = ("ONNX",)
    """Formats in the bundle. ONNX is always included, because it is evaluated and served. Each that can be run is held
    against the trained network and evaluated like it."""
    deferred: Annotated[tuple[Literal["TensorRT"], ...], Field(max_length=1), Set()] = ()
    """Formats built later, from the model of an eligible bundle, by a Job on the target node: see deferredExport. They
    do not affect the outcome of the run. An edit starts a run only with quantization, because TensorRT reads 8-bit
    layers that are written in another way."""
    dynamic_batch: Bool = True
    """Exports a model that accepts batches of any size."""
    nms: Bool = False
    """Detection and InstanceSegmentation: also writes model.nms.onnx, the delivered ONNX model with non-maximum
    suppression and the confidence threshold in its graph: it returns the objects themselves."""

    rules: ClassVar = (
        Rule(
            "'ONNX' in self.formats",
            "formats must contain ONNX: it is what is evaluated and served",
            lambda obj: "ONNX" in obj.formats,
            ".formats",
        ),
    )


# --- Compute --------------------------------------------------------------------------------------------


class Head(Model):
    """Ray head, which does not train."""

    resources: Resources = Resources(requests={"cpu": "1", "memory": "2Gi"})
    """Resources of the head pod."""


WorkerCount = Annotated[Int, Field(ge=1, le=1024)]


class Elastic(Model):
    """Elastic number of workers."""

    min_workers: WorkerCount
    """Minimum number of workers."""
    max_workers: WorkerCount
    """Maximum number of workers."""

    rules: ClassVar = (
        Rule(
            "self.minWorkers <= self.maxWorkers",
            "minWorkers must not exceed maxWorkers",
            lambda obj: obj.min_workers <= obj.max_workers,
            ".minWorkers",
        ),
    )


class Compute(Model):
    """Compute resources of training. An edit starts no run; it applies from the next attempt on."""

    head: Head = Head()
    """Ray head."""
    workers: WorkerCount = 1
    """Number of training workers."""
    elastic: Elastic | None = None
    """Elastic number of workers. Absent: always `workers`."""
    resources: Resources = Resources(requests={"cpu": "2", "memory": "4Gi"})
    """Resources of each worker; request GPUs in limits. A worker has as many threads as whole cores by its limit of
    `cpu`, else by its request: a limit above the request lets it use cores that nobody else needs."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Container image. Default: the trainer image of the installation."""
    pod_template: PodTemplate = PodTemplate()
    """Scheduling and environment of the pods."""

    rules: ClassVar = (
        Rule(
            "!has(self.elastic) || "
            "(self.elastic.minWorkers <= self.workers && self.workers <= self.elastic.maxWorkers)",
            "workers must lie between elastic.minWorkers and elastic.maxWorkers",
            lambda obj: obj.elastic is None or obj.elastic.min_workers <= obj.workers <= obj.elastic.max_workers,
            ".workers",
        ),
    )


class DeferredExport(Model):
    """Job that builds the formats of export.deferred, where they are to run. An edit starts no training; it starts
    another build."""

    image: Annotated[str, Field(max_length=512)] = ""
    """Container image with TensorRT, of the version that will run the engine. Default: the image of the installation,
    if it has one."""
    resources: Resources = Resources(
        requests={"cpu": "2", "memory": "8Gi"}, limits={"memory": "16Gi", "nvidia.com/gpu": "1"}
    )
    """Resources of the pod, with one GPU."""
    pod_template: PodTemplate = PodTemplate()
    """Scheduling and environment of the pod; its nodeSelector names the type of node."""


class Checkpoint(Model):
    """Checkpointing."""

    every_epochs: Annotated[Int, Field(ge=1, le=10_000)] = 1
    """Number of epochs between checkpoints. If they take longer than five minutes, checkpoints are saved in between."""
    keep: Annotated[Int, Field(ge=1, le=100)] = 2
    """Number of newest checkpoints to keep, in addition to the best one."""


class TrainingRunPolicy(RunPolicy):
    """Suspension, retries, limits and history of runs."""

    on_change: Literal["NewRun", "Ignore"] = "NewRun"
    """What happens when the recipe changes."""
    on_new_dataset_version: Literal["NewRun", "Ignore"] = "Ignore"
    """What happens when the Dataset has a new version. A run in progress finishes first; versions in between are
    skipped."""


class Recipe(Model):
    """Part of a TrainingJob that determines the result."""

    model: ModelChoice
    """Network architecture and initial weights."""
    input: Input = Input()
    """Preprocessing, augmentation and class balancing."""
    training: Training = Training()
    """Training hyperparameters."""
    evaluation: Evaluation = Evaluation()
    """Evaluation of the exported model."""
    compression: Compression = Compression()
    """Model compression."""
    export: Export = Export()
    """Export formats of the model."""

    def effective(self) -> Self:
        """Formats that are built later change nothing but how 8-bit layers are written."""
        if self.compression.quantization is not None or not self.export.deferred:
            return self
        return self.model_copy(update={"export": self.export.model_copy(update={"deferred": ()})})


def _evaluated(split: str) -> Rule:
    return Rule(
        f"'{split}' in self.evaluation.splits || self.successCriteria.all(it, !it.metric.startsWith('{split}/'))",
        f"a criterion on the {split} split needs {split} in evaluation.splits; add it or choose another split",
        lambda obj: (
            split in obj.evaluation.splits
            or not any(criterion.metric.startswith(f"{split}/") for criterion in obj.success_criteria)
        ),
        ".successCriteria",
    )


class TrainingJobSpec(Recipe):
    """Dataset, recipe, success criteria and compute of a training."""

    dataset_ref: DatasetRef
    """Dataset to train on."""
    success_criteria: Annotated[tuple[Criterion, ...], Field(max_length=64), ListMap(("metric",))] = ()
    """Bounds on metrics of the exported model; the TrainingJob is Ready only if all are met. An edit starts no run."""
    compute: Compute = Compute()
    """Compute resources of training."""
    deferred_export: DeferredExport = DeferredExport()
    """Job that builds the formats of export.deferred."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpointing."""
    run_policy: TrainingRunPolicy = TrainingRunPolicy()
    """Suspension, retries, limits and history of runs."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """What happens to runs and bundles in the store when this object is deleted."""

    rules: ClassVar = (
        *(_evaluated(split) for split in SPLITS),
        Rule(
            "!has(self.training.batchSize) || self.training.batchSize >= self.compute.workers",
            "a batch must have an image for each worker at least; raise batchSize or lower compute.workers",
            lambda obj: "batch_size" in obj.training.silent() or obj.training.batch_size >= obj.compute.workers,
            ".training.batchSize",
        ),
        Rule(
            "!has(self.compression.quantization) || "
            "self.compression.quantization.mode == 'Static' || size(self.export.deferred) == 0",
            "TensorRT reads no ranges that are computed at inference time; use mode: Static or remove deferred",
            lambda obj: (
                obj.compression.quantization is None
                or obj.compression.quantization.mode == "Static"
                or not obj.export.deferred
            ),
            ".compression.quantization.mode",
        ),
    )

    def recipe(self) -> Recipe:
        """The part that determines the result."""
        return Recipe.model_validate({name: getattr(self, name) for name in Recipe.model_fields})


# --- Status ---------------------------------------------------------------------------------------------


class TrainingResult(Model):
    """Result of the newest finished run."""

    run: RunName
    """Name of the run."""
    completed_at: Time
    """Time when the run ended."""
    bundle: Annotated[str, Field(max_length=2048)]
    """Location of the model bundle."""
    digest: Digest
    """Digest of the bundle."""
    report: Annotated[str, Field(max_length=2048)] | None = None
    """Location of the HTML report."""
    metrics: Metrics = {}
    """Metrics of the exported model, as `<split>/<metric>`."""
    headline: Annotated[str, Field(max_length=160)] | None = None
    """Primary metric on the test split, or on validation if there is no test split, such as `test/mAP 0.612`."""
    success_criteria: Annotated[tuple[CriterionResult, ...], Field(max_length=64), ListMap(("metric",))] = ()
    """Success criteria: required and measured values, and whether they are met."""
    compression: Annotated[tuple[CompressionStage, ...], Field(max_length=3), ListMap(("name",))] = ()
    """Stages of compression in their order; the last one is the exported model. Absent: nothing was compressed."""
    architecture: Annotated[str, Field(max_length=128)] | None = None
    """Architecture of the model. Absent: reported by an older trainer."""
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=MAX_CANDIDATES), ListMap(("architecture",))] = ()
    """Architectures that were compared for `model.architecture: Auto`. Absent: none were."""
    latency_measured_on: MeasuredOn | None = None
    """Where the metrics `latency/…` were measured. Absent: reported by an older trainer."""
    eligible: Bool
    """Whether the bundle may be served: its quality was measured on a validation or test split, and all criteria are
    met."""


class BuiltEngine(EngineSummary):
    """TensorRT engine of the newest result."""

    run: RunName
    """Name of the EngineBuild run."""
    bundle: Digest
    """Digest of the bundle that the model is from."""
    engine: Annotated[str, Field(max_length=2048)]
    """Location of the engine."""


class TrainingJobStatus(RunOwnerStatus):
    """Observed state of a TrainingJob."""

    phase: Literal["Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"] | None = None
    """One-word summary."""
    dataset_version: Digest | None = None
    """Dataset version of the current or last run."""
    result: TrainingResult | None = None
    """Result of the newest finished run."""
    engine: BuiltEngine | None = None
    """TensorRT engine of that result, if export.deferred asks for one and it was built."""
    requested_runs: RequestedRuns = ()
    """Runs requested by other objects and their state; an entry stays as long as its request."""


class TrainingJob(Resource):
    """A model trained by a recipe on a Dataset. A changed recipe starts a new run."""

    definition: ClassVar = Definition(
        plural="trainingjobs",
        short_names=("tj",),
        columns=(
            Column("Phase", ".status.phase"),
            Column("Progress", ".status.progress.percent", "integer", "Per cent of the current run"),
            Column("Epoch", ".status.progress.epoch", "number"),
            Column("Metric", ".status.progress.best.name", description="The metric that picks the best epoch"),
            Column("Best", ".status.progress.best.value", "number", "Best value of that metric so far"),
            Column("ETA", ".status.progress.eta"),
            Column("Loss", ".status.progress.metrics.train/loss", "number", wide=True),
            Column("Result", ".status.result.headline", description="The task's metric on the test split"),
            Column(
                "Eligible",
                ".status.result.eligible",
                "boolean",
                "Whether it was measured and meets all criteria",
            ),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Run", ".status.run", wide=True),
            Column("Architecture", ".status.result.architecture", wide=True),
            Column("Engine", ".status.conditions[?(@.type=='EngineReady')].reason", wide=True),
            Column("Bundle", ".status.result.bundle", wide=True),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    kind: Literal["TrainingJob"] = "TrainingJob"
    """Kind of the object."""
    spec: TrainingJobSpec
    """Desired state."""
    status: TrainingJobStatus | None = None
    """Observed state."""


def references(spec: TrainingJobSpec) -> Iterator[Reference]:
    """The objects that a TrainingJob needs before it can start."""
    yield Reference("Dataset", spec.dataset_ref.name, "spec.datasetRef", spec.dataset_ref.version or "")
    if spec.model.pretrained.training_job_ref is not None:
        name = spec.model.pretrained.training_job_ref.name
        yield Reference("TrainingJob", name, "spec.model.pretrained.trainingJobRef")
    if spec.compression.distillation is not None:
        name = spec.compression.distillation.teacher_ref.name
        yield Reference("TrainingJob", name, "spec.compression.distillation.teacherRef")


__all__ = [
    "Criterion",
    "CriterionResult",
    "Recipe",
    "TrainingJob",
    "TrainingJobSpec",
    "TrainingJobStatus",
    "Word",
    "evaluate_criteria",
    "references",
]
