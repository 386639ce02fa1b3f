"""Sections of the training report on where the model comes from: learning, data, recipe, lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from fovea_api.bundle import Lineage
from fovea_api.common import format_duration
from fovea_api.run import TrainingSummary
from fovea_api.version import DatasetVersion
from markupsafe import Markup
from pydantic import JsonValue

from fovea_trainer.data.version import Sample
from fovea_trainer.report import base
from fovea_trainer.report.base import Section
from fovea_trainer.tasks import TaskDefinition

TRAIN_PICTURES = 4
"""Pictures of the train split."""


def learning(history: Sequence[Mapping[str, float]], training: TrainingSummary) -> Section:
    """Losses with their parts, validation metrics and the learning rate over the epochs."""
    parts = sorted({name for epoch in history for name in epoch if name.startswith("train/loss/")})
    losses = [name for name in ("train/loss", "validation/loss", *parts) if _series(history, name)]
    rates = [name for name in ("train/learningRate",) if _series(history, name)]
    qualities = [
        name
        for name in sorted({name for epoch in history for name in epoch if name.startswith("validation/")})
        if name.count("/") == 1 and name != "validation/loss"
    ]
    charts = [
        _chart(history, training, names, label)
        for names, label in ((losses, "Loss"), (qualities, "Validation metric"), (rates, "Learning rate"))
        if names
    ]
    took = format_duration(timedelta(seconds=training.seconds))
    kept = f"epoch {training.best_epoch}" if training.best is not None else "the last epoch"
    lead = f"{base.count(training.epochs, 'epoch', 'epochs')} in {took}; the weights of {kept} are kept."
    return Section("Learning", base.columns(*charts) if charts else Markup(""), lead)


def _chart(
    history: Sequence[Mapping[str, float]], training: TrainingSummary, names: Sequence[str], label: str
) -> Markup:
    from matplotlib.ticker import MaxNLocator

    figure, axes = base.new_figure(5.0, 2.9)
    longest = 1
    for index, name in enumerate(names):
        points = _series(history, name)
        longest = max(longest, *(epoch for epoch, _ in points))
        axes.plot(*zip(*points, strict=True), color=base.color(index), label=name, linewidth=1.8, marker="o", ms=3)
    axes.axvline(training.best_epoch, color=base.MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set(xlabel="Epoch", ylabel=label, xlim=(0.8, longest + 0.2))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return base.embed_figure(figure)


def _series(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[int, float]]:
    return [(epoch, metrics[name]) for epoch, metrics in enumerate(history, 1) if name in metrics]


def data(version: DatasetVersion, task: TaskDefinition, samples: Sequence[Sample]) -> Section:
    """Splits, classes and some pictures of the train split."""
    splits = base.table(["Split", "Images"], [(name, count) for name, count in version.splits.items()])
    classes = base.table(
        ["Class", "Images", "Annotations"],
        [(summary.name, summary.images, summary.annotations) for summary in version.class_summaries],
    )
    step = max(1, len(samples) // TRAIN_PICTURES)
    chosen = [samples[index] for index in range(0, len(samples), step)][:TRAIN_PICTURES]
    pictures = [base.picture(task.draw_labels(sample, version.classes), sample.name) for sample in chosen]
    body = base.join(base.columns(splits, classes), base.gallery(pictures))
    return Section("Data", body, "Pictures of the train split with their labels.")


def augmented(image: base.Image | None) -> list[Section]:
    """What the training saw."""
    if image is None:
        return []
    lead = "The first images of the first epoch as the network gets them, with their labels."
    return [Section("Augmented images", base.gallery([base.picture(image, width=900)]), lead)]


def recipe(fields: Mapping[str, JsonValue]) -> Section:
    """All fields of the recipe."""
    rows = [
        (Markup("<code>{}</code>").format(path), Markup("<code>{}</code>").format(_words(value)))
        for path, value in flatten(fields)
        if value not in ([], "")
    ]
    return Section("Recipe", base.table(["Field", "Value"], rows), "Defaults spelled out.")


def flatten(value: JsonValue | Mapping[str, JsonValue], path: str = "") -> Iterable[tuple[str, JsonValue]]:
    """Leaves with their paths, as `training.optimizer.name`."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flatten(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}[{index}]")
    else:
        yield path, value


def _words(value: JsonValue) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def lineage(origin: Lineage) -> Section:
    """Everything that the model came from."""
    rows: list[tuple[str, str | Markup]] = [
        ("Run", origin.run),
        ("Identity", Markup("<code>{}</code>").format(origin.identity)),
        ("Dataset", origin.dataset.name),
        ("Dataset version", Markup("<code>{}</code>").format(origin.dataset.version)),
        ("Base weights", origin.base_weights),
        ("Base weights from", origin.base_uri or ""),
        ("Precision of training", origin.precision or ""),
        ("Parent run", origin.parent_run or ""),
        ("Teacher", origin.teacher or ""),
        ("Image", origin.image),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in origin.versions.items())),
    ]
    lead = "Everything that the model came from."
    return Section("Lineage", base.table(["", ""], [(name, text) for name, text in rows if text]), lead)
