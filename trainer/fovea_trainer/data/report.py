"""The quality report of a dataset version: one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from fovea_api.version import DatasetVersion
from fovea_serving.pipeline import decode, decode_mask, run_lengths
from markupsafe import Markup

from fovea_trainer.data.findings import Tally
from fovea_trainer.data.statistics import SHARE_BINS, Statistics
from fovea_trainer.report import base
from fovea_trainer.report.base import Fact, Section

SHOWN_SAMPLES = 12
SHOWN_PAIRS = 8
SHOWN_FINDINGS = 40
"""Findings of a kind that are listed; all are counted."""
PAIR_WIDTH = 200
"""Width of a near duplicate in CSS pixels: two fit side by side."""
PICTURE_SIDE = 480
"""Pixels of a picture's longer side."""
SHOWN_CLASSES = 40
"""Classes in a chart; the table has all."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image with what is to be drawn on it."""

    name: str
    split: str
    image: bytes
    label: str | None = None
    boxes: Sequence[Sequence[float]] = ()
    labels: Sequence[int] = ()
    mask: bytes | None = None
    masks: Sequence[bytes] = ()
    """Compressed run lengths of each box's pixels."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What the report shows beside the manifest and the statistics."""

    findings: Sequence[Tally] = ()
    samples: Sequence[Picture] = ()
    pairs: Sequence[tuple[Picture, Picture]] = ()
    across: int = 0
    """Near duplicates in different splits."""
    deviation: float = 0.0


def render_quality_report(name: str, version: DatasetVersion, statistics: Statistics, contents: Contents) -> str:
    """The report as HTML."""
    quality = version.quality
    broken = quality.corrupt + quality.invalid_labels
    facts = [
        Fact(f"{version.images:,}", "images"),
        Fact(f"{version.annotations:,}", "annotations"),
        Fact(f"{len(version.classes):,}", "classes"),
        Fact(f"{broken:,}", "left out as corrupt or invalid", "warn" if broken else "good"),
        Fact(f"{contents.across:,}", "near duplicates across splits", "bad" if contents.across else "good"),
    ]
    sections = [
        *_problem_statement(version),
        Section("Splits", _splits(version, statistics), _split_lead(contents)),
        Section("Classes", _classes(version, statistics)),
        Section("Sizes", _sizes(version, statistics)),
        Section("Findings", _findings(contents.findings), "What was not right, how bad it is, and what to do."),
        Section("Sample images", _samples(version, contents), "Chosen to show every class."),
        Section(
            "Near duplicates",
            _pairs(contents),
            "Copies of one picture: flipped, rotated, cropped, compressed, resized or relit.",
        ),
        Section("Origin", _origin(version)),
    ]
    return base.render(
        name,
        sections,
        kind="Dataset quality report",
        subtitle=version.problem.statement,
        facts=facts,
    )


def _problem_statement(version: DatasetVersion) -> list[Section]:
    words = (
        ("Task", str(version.task)),
        ("Why", version.problem.rationale),
        ("What counts as success", version.problem.outcome),
    )
    rows = [(name, text) for name, text in words if text]
    return [Section("Problem", base.table(["", ""], rows))]


def _split_lead(contents: Contents) -> str:
    return (
        "No split's share of the images, or of a class's images, differs from its due by more than "
        f"{contents.deviation:.1%}. "
        "An image keeps its split in later versions."
    )


def _splits(version: DatasetVersion, statistics: Statistics) -> Markup:
    head = ["Split", "Images", "Share", *version.classes[:8]]
    rows = [
        (
            *(split, count, f"{count / max(version.images, 1):.1%}"),
            *(statistics.class_images[split][index] for index in range(len(version.classes[:8]))),
        )
        for split, count in version.splits.items()
    ]
    return base.table(head, rows, "Images, and how many of them show a class")


def _classes(version: DatasetVersion, statistics: Statistics) -> Markup:
    summaries = statistics.class_summaries()
    shown = sorted(range(len(summaries)), key=lambda index: -summaries[index].annotations)[:SHOWN_CLASSES]
    figure, axes = base.new_figure(6.2, 0.9 + 0.26 * len(shown))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e6eaee", linewidth=0.7)
    values = [summaries[index].annotations for index in shown]
    bars = axes.barh(range(len(shown)), values, color=[base.color(index) for index in shown], height=0.66)
    axes.bar_label(bars, [f"{value:,}" for value in values], padding=4, fontsize=8, color=base.MUTED)
    axes.set_yticks(range(len(shown)), [_plain(summaries[index].name) for index in shown])
    axes.invert_yaxis()
    axes.set_xlabel("annotations")
    axes.margins(x=0.12)
    pixels = statistics.class_pixels.total()
    rows = [
        (index, item.name, item.images, item.annotations)
        + ((f"{statistics.class_pixels[index] / pixels:.1%}",) if pixels else ())
        for index, item in enumerate(summaries)
    ]
    head = ["Index", "Class", "Images", "Annotations", *(["Pixels"] if pixels else [])]
    counts = [item.annotations for item in summaries if item.annotations]
    ratio = max(counts) / min(counts) if counts else 1.0
    note = base.paragraph(f"The most frequent class has {ratio:.1f} times as many annotations as the rarest.")
    return base.join(base.columns(base.embed_figure(figure), base.table(head, rows)), note)


def _sizes(version: DatasetVersion, statistics: Statistics) -> Markup:
    common = statistics.sizes.most_common(8)
    rows = [(f"{width} × {height}", count) for (width, height), count in common]
    images = base.table(["Pixels, up to", "Images"], rows, "Image sizes, most frequent first")
    if not statistics.object_sizes:
        return images
    figure, axes = base.new_figure(6.2, 2.9)
    edges = (np.arange(SHARE_BINS) + 0.5) / SHARE_BINS
    bottom = np.zeros(SHARE_BINS)
    for index, name in enumerate(version.classes[:SHOWN_CLASSES]):
        values = np.array([statistics.object_shares[index][bin] for bin in range(SHARE_BINS)], float)
        axes.bar(edges, values, 0.9 / SHARE_BINS, bottom=bottom, color=base.color(index), label=_plain(name))
        bottom += values
    axes.set_xlabel("side of a box relative to the image's (square root of the area)")
    axes.set_ylabel("boxes")
    if len(version.classes) <= 12:
        axes.legend(frameon=False, fontsize=8)
    words = {"small": "small (under 32² pixels)", "medium": "medium", "large": "large (96² pixels and more)"}
    objects = base.table(
        ["Object size", "Boxes"], [(text, statistics.object_sizes[name]) for name, text in words.items()]
    )
    per_image = statistics.objects_per_image
    empty = base.paragraph(f"{per_image[0]:,} images show no object.")
    return base.columns(base.join(base.embed_figure(figure)), base.join(objects, empty, images))


def _findings(findings: Sequence[Tally]) -> Markup:
    """A table of all kinds, the worst first, then examples of each, where, and what to do."""
    if not findings:
        return base.paragraph("Nothing.")
    rows = [
        (tally.severity, tally.kind.heading, tally.count, tally.images or "", tally.kind.done, tally.kind.meaning)
        for tally in findings
    ]
    parts = [base.table(["Severity", "What", "How often", "Images", "Done", "What it means for training"], rows)]
    for tally in findings:
        shown = tally.examples[:SHOWN_FINDINGS]
        lines = [(Markup("<code>{}</code>").format(one.place), one.message, one.remedy) for one in shown]
        first = f", first {len(shown)}" if tally.count > len(shown) else ""
        caption = f"{tally.kind.heading}{first}. {tally.kind.remedy}"
        parts.append(base.table(["Where", "What", "What to do"], lines, caption))
    return base.join(*parts)


def _samples(version: DatasetVersion, contents: Contents) -> Markup:
    pictures = base.gallery([_picture(picture, version.classes) for picture in contents.samples])
    return base.join(base.legend(version.classes[:SHOWN_CLASSES]), pictures)


def _picture(picture: Picture, classes: Sequence[str], width: int | None = None) -> Markup:
    decoded = decode(picture.image)
    image, scale = base.fit(decoded, PICTURE_SIDE)
    if picture.masks:
        masks = (run_lengths.decode(counts, decoded.shape[1], decoded.shape[0]) for counts in picture.masks)
        image = base.draw_objects(image, masks, picture.labels)
    elif len(picture.boxes):
        # The legend names the colours; names on hundreds of boxes would hide the picture.
        boxes = np.asarray(picture.boxes, float) * scale
        image = base.draw_boxes(image, boxes, picture.labels, classes if len(boxes) <= 6 else [""] * len(classes))
    if picture.mask is not None:
        mask = decode_mask(picture.mask)
        rows = (np.arange(image.shape[0]) * mask.shape[0] // image.shape[0])[:, None]
        image = base.draw_mask(image, mask[rows, np.arange(image.shape[1]) * mask.shape[1] // image.shape[1]])
    what = f"{picture.label} · " if picture.label is not None else ""
    return base.picture(image, f"{what}{picture.name} · {picture.split}", width=width)


def _pairs(contents: Contents) -> Markup:
    if not contents.pairs:
        return base.paragraph("None.")
    head = base.paragraph(
        f"{contents.across:,} pairs are in different splits." if contents.across else "None is across splits."
    )
    pairs = [
        base.gallery([_picture(replace(one, label=None), (), PAIR_WIDTH) for one in (first, second)])
        for first, second in contents.pairs
    ]
    return base.join(head, base.columns(*pairs))


def _origin(version: DatasetVersion) -> Markup:
    rows = [(item.name, item.format, item.uri, item.images, item.predicted or "") for item in version.provenance]
    sources = base.table(["Source", "Format", "Read from", "Images", "Labelled by a model"], rows)
    facts = [("Version", Markup("<code>{}</code>").format(version.digest))]
    if version.parent:
        facts.append(("Splits kept from", Markup("<code>{}</code>").format(version.parent)))
    return base.join(sources, base.table(["", ""], facts))


def _plain(name: str) -> str:
    """A class name that matplotlib takes as it is; `$` would start a formula."""
    return name.replace("$", r"\$")
