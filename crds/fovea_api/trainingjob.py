"""TrainingJob: a model trained by this recipe on that dataset exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

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
    Status,
    Time,
    Uri,
    Word,
    not_downloaded,
)
from fovea_api.criteria import Criterion, CriterionResult, MetricName, evaluate_criteria
from fovea_api.errors import NotSupported
from fovea_api.metrics import SPLITS
from fovea_api.run import Progress, RequestedRuns, Usage

Seed = Annotated[Int, Field(ge=0, le=2**31 - 1)]


class DatasetRef(Model):
    """A dataset, at its newest or at a given version."""

    name: ObjectName
    """Name of the Dataset, in the same namespace."""
    version: Digest | None = None
    """Version that is pinned. Absent: the newest at the start of each run."""


# --- Model ----------------------------------------------------------------------------------------------


class Pretrained(Model):
    """Where the weights come from that training starts with."""

    weights: Literal["None", "ImageNet", "COCO"] | None = None
    """Published weights of the architecture; None: random weights."""
    uri: Uri | None = None
    """A model bundle, or a safetensors or state-dict file, in a store: pvc://, s3:// or gs://."""
    training_job_ref: Ref | None = None
    """The newest eligible bundle of another TrainingJob."""
    from_: Literal["Current"] | None = Field(default=None, alias="from")
    """Current: the model being served, when a deployment retrains; else the job's own newest bundle."""

    exactly_one: ClassVar = ("weights", "uri", "training_job_ref", "from_")
    rules: ClassVar = not_downloaded("uri")


Options = Annotated[Mapping[str, AnyValue], Field(max_length=64)]


class ModelChoice(Model):
    """The network and the weights it starts with."""

    architecture: Annotated[str, Field(max_length=128, pattern="^[a-z0-9]([-._a-z0-9]*[a-z0-9])?$")]
    """Name of an architecture in the registry; `fovea models` lists them."""
    options: Options = {}
    """Options of the architecture (layers, width, anchors, …), checked against its registry entry."""
    pretrained: Pretrained = Pretrained(weights="ImageNet")
    """Where the weights come from that training starts with."""
    freeze: Literal["None", "Backbone", "BackboneExceptNorm"] = "None"
    """What is not trained."""


# --- Input ----------------------------------------------------------------------------------------------

Pixels = Annotated[Int, Field(ge=16, le=8192)]


class Size(Model):
    """Size of the network's input."""

    width: Pixels
    """Width in pixels."""
    height: Pixels
    """Height in pixels."""


ChannelMean = Annotated[tuple[Annotated[Number, Field(ge=-1, le=1)], ...], Field(min_length=3, max_length=3)]
ChannelStd = Annotated[tuple[Annotated[Number, Field(gt=0, le=10)], ...], Field(min_length=3, max_length=3)]


class Normalize(Model):
    """Normalization of pixel values scaled to 0 to 1: (value - mean) / std; channels R, G, B."""

    mean: ChannelMean
    """Means of the three channels."""
    std: ChannelStd
    """Standard deviations of the three channels."""


class Flip(Model):
    """Mirrors the image."""

    probability: Fraction = 0.5
    """How often, 0 to 1."""


class Rotate(Model):
    """Rotates by a random angle; boxes and masks follow."""

    degrees: Annotated[Number, Field(gt=0, le=180)]
    """Largest angle in either direction, in degrees."""
    probability: Fraction = 1.0
    """How often, 0 to 1."""


class ColorJitter(Model):
    """Changes the colours by random amounts."""

    brightness: Fraction = 0.0
    """Largest relative change of the brightness."""
    contrast: Fraction = 0.0
    """Largest relative change of the contrast."""
    saturation: Fraction = 0.0
    """Largest relative change of the saturation."""
    hue: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Largest change of the hue, as a share of the colour circle."""
    probability: Fraction = 1.0
    """How often, 0 to 1."""


class RandomScale(Model):
    """Enlarges or shrinks about a random point; boxes and masks follow."""

    min: Annotated[Number, Field(gt=0, le=10)] = 0.8
    """Smallest factor."""
    max: Annotated[Number, Field(gt=0, le=10)] = 1.25
    """Largest factor."""
    probability: Fraction = 1.0
    """How often, 0 to 1."""

    rules: ClassVar = (Rule("self.min <= self.max", "min must not exceed max", lambda obj: obj.min <= obj.max, ".min"),)


class RandomCrop(Model):
    """Trains on random windows of the image at its own resolution; boxes and masks follow."""

    width: Pixels
    """Width of the window in pixels."""
    height: Pixels
    """Height of the window in pixels."""


class Blur(Model):
    """Blurs by a random amount."""

    sigma: Annotated[Number, Field(gt=0, le=20)] = 1.0
    """Largest standard deviation of the Gaussian, in pixels."""
    probability: Fraction = 0.1
    """How often, 0 to 1."""


class Augmentation(Model):
    """One random change of the training images."""

    horizontal_flip: Flip | None = None
    """Mirrors left and right."""
    vertical_flip: Flip | None = None
    """Mirrors top and bottom."""
    rotate: Rotate | None = None
    """Rotates by a random angle."""
    color_jitter: ColorJitter | None = None
    """Changes the colours."""
    random_scale: RandomScale | None = None
    """Enlarges or shrinks."""
    random_crop: RandomCrop | None = None
    """Takes random windows."""
    blur: Blur | None = None
    """Blurs."""

    exactly_one: ClassVar = (
        "horizontal_flip",
        "vertical_flip",
        "rotate",
        "color_jitter",
        "random_scale",
        "random_crop",
        "blur",
    )


class Resize(StrEnum):
    """How an image is fitted to the input size."""

    LETTERBOX = "Letterbox"
    STRETCH = "Stretch"
    CENTER_CROP = "CenterCrop"


class Sizing(Model):
    """How the size of the input follows from the images of the train split: it has their mean aspect ratio."""

    longer_side: Pixels
    """Longer side of the input in pixels."""
    enlarge: Annotated[Number, Field(ge=1, le=16)] = 1.0
    """Images are enlarged this much at most: the input is smaller where the images are."""
    smallest: Pixels = 64
    """Longer side of the input in pixels, however small the images are."""
    object_pixels: Annotated[Number, Field(ge=0, le=1024)] = 0.0
    """Detection: the longer side grows until three quarters of the objects are of this size in the input, in pixels.
    0: it does not."""
    largest: Pixels = 640
    """How far it grows, in pixels."""


class Input(PresetModel):
    """Preprocessing (also stored in the bundle and used by serving), augmentation and class balance."""

    size: Size | None = None
    """Size of the network's input. Absent: by sizing."""
    sizing: Annotated[Sizing | None, ByPreset()] = None
    """How the size follows from the dataset where it is not given. Absent: the architecture's preset."""
    resize: Resize = Resize.LETTERBOX
    """How images are fitted: Letterbox pads, Stretch distorts, CenterCrop cuts off the longer side."""
    normalize: Normalize | None = None
    """Normalization. Absent: that of the architecture's published weights."""
    augmentations: Annotated[tuple[Augmentation, ...], Field(max_length=32), ByPreset()] = ()
    """Random changes of the training images, in this order; []: none. Absent: the architecture's preset."""
    balance: Literal["None", "Oversample", "Undersample", "ClassWeights", "FocalLoss"] = "None"
    """What is done about rare classes."""


# --- Training -------------------------------------------------------------------------------------------


class Optimizer(PresetModel):
    """The optimizer and its rate."""

    name: Annotated[Literal["SGD", "Adam", "AdamW", "Lion"], ByPreset()] = "AdamW"
    """The method. Lion wants a learning rate 3 to 10 times lower than AdamW, and as many times the weight decay.
    Absent: the architecture's preset."""
    learning_rate: Annotated[Number, Field(gt=0, le=10), ByPreset()] = 1e-3
    """Learning rate at its peak. Absent: the architecture's preset, scaled to the optimizer and to the images of a step
    (by their square root; for SGD in proportion)."""
    weight_decay: Annotated[Number, Field(ge=0, le=1), ByPreset()] = 1e-4
    """Weight decay; biases and norms have none. Absent: the architecture's preset."""
    backbone_rate: Annotated[Number, Field(gt=0, le=1), ByPreset()] = 1.0
    """Share of the learning rate that the backbone learns at. Absent: the architecture's preset where training starts
    with weights, otherwise 1."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: Bool = False
    """Nesterov's momentum, for SGD."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Layer-wise learning-rate decay: each layer of the backbone learns at the rate of the layer after it times this.
    1: all layers learn at the same rate."""

    rules: ClassVar = (
        Rule(
            "!self.nesterov || (has(self.name) && self.name == 'SGD' && self.momentum > 0.0)",
            "nesterov needs SGD with a momentum; remove it or use SGD",
            lambda obj: not obj.nesterov or (obj.name == "SGD" and obj.momentum > 0),
            ".nesterov",
        ),
    )


class Schedule(PresetModel):
    """How the learning rate moves."""

    name: Annotated[Literal["OneCycle", "Cosine", "Step", "Constant"], ByPreset()] = "OneCycle"
    """OneCycle: the rate rises and falls in two half waves, to almost nothing, and the momentum does the opposite.
    Cosine: after a linear warm-up it falls in a half wave. Step: it is divided at each step. Constant: it stays.
    Absent: the architecture's preset."""
    warmup_epochs: Annotated[Number, Field(ge=0, le=1000), ByPreset()] = 1
    """Epochs, also in part, in which the rate rises to its peak. OneCycle is meant to rise for up to a third of all.
    Absent: by warmupShare."""
    warmup_share: Annotated[Fraction | None, ByPreset()] = None
    """Share of the training in which the rate rises, where warmupEpochs is not given. Absent: the architecture's
    preset."""
    step_epochs: Annotated[Int, Field(ge=1, le=100_000)] | None = None
    """For Step: epochs between two steps."""
    step_factor: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    """For Step: what the rate is multiplied by."""

    rules: ClassVar = (
        Rule(
            "(has(self.name) && self.name == 'Step') == has(self.stepEpochs)",
            "stepEpochs belongs to schedule Step: give it there and nowhere else",
            lambda obj: (obj.name == "Step") == (obj.step_epochs is not None),
            ".stepEpochs",
        ),
    )


class EarlyStopping(Model):
    """Ends training when nothing gets better."""

    metric: MetricName
    """Metric that is monitored, on the validation split: validation/mAP, validation/loss, …"""
    patience: Annotated[Int, Field(ge=1, le=10_000)] = 5
    """Epochs without improvement after which training ends."""
    min_delta: Annotated[Number, Field(ge=0)] = 0.0
    """What counts as improvement, in the metric's unit."""

    rules: ClassVar = (
        Rule(
            "self.metric.startsWith('validation/')",
            "monitor a metric of the validation split, such as validation/mAP; the test split must stay unseen",
            lambda obj: obj.metric.startswith("validation/"),
            ".metric",
        ),
    )


class Ema(Model):
    """Exponential moving average of the weights; it is what gets evaluated and exported."""

    decay: Annotated[Number, Field(ge=0, lt=1)] = 0.999
    """Share of the average that stays at each step, at most: it rises with the steps, as 1 - (1 + step)^(-2/3).
    0: no average is taken."""


class Loss(StrEnum):
    """A named loss. Default: that of the architecture."""

    DEFAULT = "Default"
    CROSS_ENTROPY = "CrossEntropy"
    FOCAL = "Focal"
    DICE = "Dice"
    DICE_CROSS_ENTROPY = "DiceCrossEntropy"
    GIOU = "GIoU"
    SMOOTH_L1 = "SmoothL1"


class Training(PresetModel):
    """How the weights are fitted. What is absent is up to the preset of the architecture: `{}` is a good start."""

    epochs: Annotated[Int, Field(ge=1, le=100_000), ByPreset()] = 10
    """Passes over the train split. Absent: the architecture's preset, and as many more as minSteps takes."""
    min_steps: Annotated[Int, Field(ge=0, le=100_000_000), ByPreset()] = 0
    """Steps that training has at least: a small train split is passed more often than epochs says. Absent: the
    architecture's preset; 0 where epochs is given."""
    batch_size: Annotated[Int, Field(ge=1, le=65_536), ByPreset()] = 8
    """Images in a batch, over all workers. Absent: the architecture's preset."""
    gradient_accumulation_steps: Annotated[Int, Field(ge=1, le=1024)] = 1
    """Batches whose gradients are added up before the weights change: training as with a batch of batchSize times
    this, in the memory of one of batchSize."""
    loss: Loss = Loss.DEFAULT
    """Default, or a named loss of the task."""
    optimizer: Optimizer = Optimizer()
    """The optimizer and its rate."""
    schedule: Schedule = Schedule()
    """How the learning rate moves."""
    early_stopping: EarlyStopping | None = None
    """Ends training when nothing gets better. Absent: all epochs are trained."""
    ema: Annotated[Ema | None, ByPreset()] = None
    """Averages the weights; decay 0: the weights as they are. Absent: the architecture's preset."""
    gradient_clip_norm: Annotated[Annotated[Number, Field(ge=0)] | None, ByPreset()] = None
    """Largest norm of the gradient; 0: not clipped. Absent: the architecture's preset."""
    precision: Literal["Auto", "FP32", "BF16", "FP16"] = "Auto"
    """Arithmetic of the forward pass. Auto: BF16 on a GPU that has it, FP16 on other GPUs, FP32 on a CPU."""
    sync_batch_norm: Literal["Auto", "Always", "Never"] = "Auto"
    """Whether batch norm goes by the images of all workers together. Auto: where a worker has fewer than 16 images of a
    batch, too few for statistics of its own."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes; with a loss that contains CrossEntropy only."""
    seed: Seed = 0
    """Seed of everything random."""

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
    )


# --- Evaluation, compression, export --------------------------------------------------------------------


class Latency(Model):
    """Where latency is measured: in this version where the run is, on one core; other values end as NotSupported."""

    resources: Resources = Resources(requests={"cpu": "1"})
    """Resources of the measurement."""
    node_selector: LabelMap = {}
    """Labels of the node that it runs on. Empty: wherever the run is."""


class Evaluation(Model):
    """What is measured on the exported artefact."""

    primary_metric: Annotated[str, Field(max_length=64, pattern="^[A-Za-z][A-Za-z0-9]*$")] | None = None
    """Metric that picks the best epoch: mAP, accuracy, dice, … Absent: the task's usual one."""
    splits: Annotated[tuple[Literal["train", "validation", "test"], ...], Field(min_length=1, max_length=3), Set()] = (
        "validation",
        "test",
    )
    """Splits that are evaluated."""
    slices: Annotated[tuple[Literal["class", "objectSize", "source", "group"], ...], Field(max_length=4), Set()] = (
        "class",
        "objectSize",
    )
    """What the primary metric is broken down by: objectSize (detection), source, group. The metrics of each class are
    always given, so class changes nothing."""
    latency: Latency = Latency()
    """Where latency criteria are measured."""


class Pruning(Model):
    """Removes channels that matter least."""

    sparsity: Annotated[Number, Field(gt=0, lt=1)]
    """Share of the channels that goes."""
    fine_tune_epochs: Annotated[Int, Field(ge=0, le=10_000)] = 2
    """Epochs of training afterwards."""


class Distillation(Model):
    """Learns also from the outputs of a larger model."""

    teacher_ref: Ref
    """TrainingJob whose newest eligible bundle teaches."""
    weight: Fraction = 0.5
    """Share of the teacher in the loss."""
    temperature: Annotated[Number, Field(gt=0, le=100)] = 4.0
    """Softens the teacher's probabilities."""


class Quantization(Model):
    """Calculates with 8-bit integers."""

    mode: Literal["Static", "Dynamic"] = "Static"
    """Static: ranges measured on calibration images. Dynamic: found while running."""
    calibration_images: Annotated[Int, Field(ge=1, le=100_000)] = 128
    """Train images that the ranges are measured on."""
    max_metric_drop: Fraction = 0.01
    """Falls back to FP32, and says so, when the primary metric drops by more than this."""


class Compression(Model):
    """Makes the model smaller or faster."""

    pruning: Pruning | None = None
    """Removes channels."""
    distillation: Distillation | None = None
    """Learns also from a larger model."""
    quantization: Quantization | None = None
    """Calculates with 8-bit integers."""


class Export(Model):
    """The forms in which the model is delivered."""

    formats: Annotated[
        tuple[Literal["ONNX", "TFLite", "ExportedProgram", "StateDict"], ...],
        Field(min_length=1, max_length=4),
        Set(),
    ] = ("ONNX",)
    """Formats in the bundle; ONNX is what is evaluated and served, so it is always among them."""
    deferred: Annotated[tuple[Literal["TensorRT"], ...], Field(max_length=1), Set()] = ()
    """Formats built later by a Job on the target node; never part of a run's success."""
    dynamic_batch: Bool = True
    """Whether the exported model takes batches of any size."""

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
    """The Ray head; it does not train."""

    resources: Resources = Resources(requests={"cpu": "1", "memory": "2Gi"})
    """Resources of the head's pod."""


WorkerCount = Annotated[Int, Field(ge=1, le=1024)]


class Elastic(Model):
    """Lets training go on with fewer or more workers."""

    min_workers: WorkerCount
    """Smallest number of workers."""
    max_workers: WorkerCount
    """Largest number of workers."""

    rules: ClassVar = (
        Rule(
            "self.minWorkers <= self.maxWorkers",
            "minWorkers must not exceed maxWorkers",
            lambda obj: obj.min_workers <= obj.max_workers,
            ".minWorkers",
        ),
    )


class Compute(Model):
    """What training runs on. An edit starts no run; it holds from the next attempt on."""

    head: Head = Head()
    """The Ray head."""
    workers: WorkerCount = 1
    """Number of training workers."""
    elastic: Elastic | None = None
    """Lets training go on with fewer or more workers. Absent: always all workers."""
    resources: Resources = Resources(requests={"cpu": "2", "memory": "4Gi"})
    """Resources of each worker; a GPU is asked for by limits."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Container image. Absent: the installation's trainer image."""
    pod_template: PodTemplate = PodTemplate()
    """Where and how the pods run."""

    rules: ClassVar = (
        Rule(
            "!has(self.elastic) || "
            "(self.elastic.minWorkers <= self.workers && self.workers <= self.elastic.maxWorkers)",
            "workers must lie between elastic.minWorkers and elastic.maxWorkers",
            lambda obj: obj.elastic is None or obj.elastic.min_workers <= obj.workers <= obj.elastic.max_workers,
            ".workers",
        ),
    )


class Checkpoint(Model):
    """When the state of training is saved."""

    every_epochs: Annotated[Int, Field(ge=1, le=10_000)] = 1
    """Epochs between two checkpoints; where these take longer than five minutes, there are more within them."""
    keep: Annotated[Int, Field(ge=1, le=100)] = 2
    """Newest checkpoints that are kept; the best is kept beyond that."""


class TrainingRunPolicy(RunPolicy):
    """How runs are started, repeated, limited and kept."""

    on_change: Literal["NewRun", "Ignore"] = "NewRun"
    """What a changed recipe does."""
    on_new_dataset_version: Literal["NewRun", "Ignore"] = "Ignore"
    """What a new dataset version does; a run that has not ended ends first, and versions in between are left out."""


class Recipe(Model):
    """The part of a TrainingJob that determines the result."""

    model: ModelChoice
    """The network and the weights it starts with."""
    input: Input = Input()
    """Preprocessing, augmentation and class balance."""
    training: Training = Training()
    """How the weights are fitted."""
    evaluation: Evaluation = Evaluation()
    """What is measured on the exported artefact."""
    compression: Compression = Compression()
    """Makes the model smaller or faster."""
    export: Export = Export()
    """The forms in which the model is delivered."""


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
    """The model to train: dataset, recipe, criteria, compute."""

    dataset_ref: DatasetRef
    """The dataset that is trained on."""
    success_criteria: Annotated[tuple[Criterion, ...], Field(max_length=64), ListMap(("metric",))] = ()
    """Bounds that the exported artefact must keep; Ready only if all hold. An edit trains nothing again."""
    compute: Compute = Compute()
    """What training runs on."""
    checkpoint: Checkpoint = Checkpoint()
    """When the state of training is saved."""
    run_policy: TrainingRunPolicy = TrainingRunPolicy()
    """How runs are started, repeated, limited and kept."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """What happens to runs and bundles in the store when this object goes."""

    rules: ClassVar = (
        *(_evaluated(split) for split in SPLITS),
        Rule(
            "!has(self.training.batchSize) || self.training.batchSize >= self.compute.workers",
            "a batch must have an image for each worker at least; raise batchSize or lower compute.workers",
            lambda obj: "batch_size" in obj.training.silent() or obj.training.batch_size >= obj.compute.workers,
            ".training.batchSize",
        ),
    )

    def recipe(self) -> Recipe:
        """The part that determines the result."""
        return Recipe.model_validate({name: getattr(self, name) for name in Recipe.model_fields})


# --- Status ---------------------------------------------------------------------------------------------


class TrainingResult(Model):
    """What the newest finished run has made."""

    run: RunName
    """The run."""
    completed_at: Time
    """When it ended."""
    bundle: Annotated[str, Field(max_length=2048)]
    """Where the model bundle lies."""
    digest: Digest
    """Digest of the bundle."""
    report: Annotated[str, Field(max_length=2048)] | None = None
    """The HTML report."""
    metrics: Metrics = {}
    """Metrics measured on the exported artefact, `<split>/<metric>`."""
    headline: Annotated[str, Field(max_length=160)] | None = None
    """The task's metric on the test split, or on validation where there is no test split: `test/mAP 0.612`."""
    success_criteria: Annotated[tuple[CriterionResult, ...], Field(max_length=64), ListMap(("metric",))] = ()
    """Each criterion: required, measured, met."""
    eligible: Bool
    """Whether the model's quality was measured on a validation or test split and all criteria are met, so that the
    bundle may be served."""


class TrainingJobStatus(Status):
    """What has been trained."""

    phase: Literal["Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"] | None = None
    """Summary in a word."""
    run: RunName | None = None
    """The current or last run."""
    run_generation: Annotated[Int, Field(ge=0)] | None = None
    """Generation of the spec that the run answers. While it is that of the object, no upgrade reads anything else out
    of the spec."""
    dataset_version: Digest | None = None
    """The dataset version that the current or last run trains on."""
    progress: Progress | None = None
    """How far the current run is."""
    result: TrainingResult | None = None
    """What the newest finished run has made."""
    usage: Usage | None = None
    """What all runs together have used."""
    history: Annotated[tuple[RunName, ...], Field(max_length=100)] = ()
    """Names of the Runs, newest first."""
    requested_runs: RequestedRuns = ()
    """Runs that other objects asked for, and what became of them; each stays as long as it is asked for."""


class TrainingJob(Resource):
    """A model trained by this recipe on that dataset exists. A changed recipe trains again."""

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


def unsupported(recipe: Recipe) -> tuple[NotSupported, ...]:
    """What a recipe asks for that the API knows and this version cannot do, each with its field and the remedy."""
    compression, export, latency = recipe.compression, recipe.export, recipe.evaluation.latency
    quantization = compression.quantization
    wishes = (
        (compression.pruning is not None, "spec.compression.pruning", "pruning", "remove it"),
        (compression.distillation is not None, "spec.compression.distillation", "distillation", "remove it"),
        (
            quantization is not None and quantization.mode == "Dynamic",
            "spec.compression.quantization.mode",
            "Dynamic quantization",
            "use Static",
        ),
        (
            latency.resources != Latency().resources,
            "spec.evaluation.latency.resources",
            "measuring latency on other resources than one core",
            "remove it",
        ),
        (
            bool(latency.node_selector),
            "spec.evaluation.latency.nodeSelector",
            "measuring latency on another node than the run's",
            "remove it; compute.podTemplate.nodeSelector places the run",
        ),
        ("TFLite" in export.formats, "spec.export.formats", "TFLite", "remove it; ONNX is always delivered"),
        ("TensorRT" in export.deferred, "spec.export.deferred", "TensorRT", "remove it; ONNX is always delivered"),
    )
    return tuple(
        NotSupported(f"{what} is not available in this version", place, remedy)
        for asked, place, what, remedy in wishes
        if asked
    )


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
    "unsupported",
]
