"""The names of all metrics: what is measured after an epoch, and on the exported artefact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fovea_api.common import Task

SPLITS = ("train", "validation", "test")
_OBJECTS = ("mAP", "mAP50", "mAP75", "precision", "recall", "f1", "meanMatchIoU", "scoreThreshold")
"""Of what finds objects; how much two overlap is decided by boxes in detection, by masks in instance segmentation."""
_SIZES = ("mAPSmall", "mAPMedium", "mAPLarge")
PRIMARY: Mapping[Task, str] = {
    Task.CLASSIFICATION: "accuracy",
    Task.DETECTION: "mAP",
    Task.INSTANCE_SEGMENTATION: "mAP",
    Task.SEMANTIC_SEGMENTATION: "dice",
}
"""The metric that picks the best epoch, unless the recipe names another."""
MEASURED: Mapping[Task, tuple[str, ...]] = {
    Task.CLASSIFICATION: ("accuracy", "f1", "loss"),
    Task.DETECTION: ("mAP", "mAP50", "precision", "recall", "loss"),
    Task.INSTANCE_SEGMENTATION: ("mAP", "mAP50", "precision", "recall", "loss"),
    Task.SEMANTIC_SEGMENTATION: ("dice", "iou", "loss"),
}
"""The metrics of the validation split that there are after an epoch."""
EVALUATED: Mapping[Task, tuple[str, ...]] = {
    Task.CLASSIFICATION: ("accuracy", "precision", "recall", "f1", "ece"),
    Task.DETECTION: _OBJECTS,
    Task.INSTANCE_SEGMENTATION: _OBJECTS,
    Task.SEMANTIC_SEGMENTATION: ("dice", "iou", "pixelAccuracy"),
}
"""The metrics of a whole split, measured on the exported artefact."""
BY_SIZE: Mapping[Task, tuple[str, ...]] = {Task.DETECTION: _SIZES, Task.INSTANCE_SEGMENTATION: _SIZES}
"""Those that the slice objectSize adds."""
BY_CLASS: Mapping[Task, tuple[str, ...]] = {
    Task.CLASSIFICATION: ("precision", "recall", "f1"),
    Task.DETECTION: ("AP", "AP50"),
    Task.INSTANCE_SEGMENTATION: ("AP", "AP50"),
    Task.SEMANTIC_SEGMENTATION: ("dice", "iou"),
}
"""The metrics of each class, `<split>/<metric>/<class>`."""
OF_THE_MODEL = (
    "latency/p50Milliseconds",
    "latency/p95Milliseconds",
    "size/megabytes",
    "complexity/gigaMacs",
    "complexity/megaParameters",
)
"""The metrics that belong to no split; complexity is that of one image."""

COMPARED: Mapping[Task, str] = {
    Task.CLASSIFICATION: "accuracy",
    Task.DETECTION: "mAP50",
    Task.INSTANCE_SEGMENTATION: "mAP50",
    Task.SEMANTIC_SEGMENTATION: "dice",
}
"""The metric by which a retrained model is compared with the served one: one whose error the bootstrap gives."""
CHAMPION = "champion"
DIFFERENCE, DIFFERENCE_ERROR = f"{CHAMPION}/difference", f"{CHAMPION}/differenceError"
"""Of a retraining: by how much its model is better on the test split than the served one, whose own value is
`champion/<metric>`, and the standard error of that, both on the same images."""


def headline(metrics: Mapping[str, float]) -> str | None:
    """A model's quality: its task's metric on the test split, else on validation, such as `test/mAP 0.612`."""
    names = (f"{split}/{metric}" for split in ("test", "validation") for metric in PRIMARY.values())
    return next((f"{name} {metrics[name]:.3f}" for name in names if name in metrics), None)


def monitorable(task: Task) -> tuple[str, ...]:
    """The metrics that can be monitored after each epoch."""
    return tuple(f"validation/{name}" for name in MEASURED.get(task, ()))


def evaluated(task: Task, splits: Sequence[str], slices: Sequence[str]) -> Iterator[str]:
    """The metrics that an evaluation of these splits gives, but for those of a class."""
    names = (*EVALUATED.get(task, ()), *(BY_SIZE.get(task, ()) if "objectSize" in slices else ()))
    yield from (f"{split}/{name}" for split in splits for name in names)
    yield from OF_THE_MODEL
