"""The drift report: what images and answers were like when the model was made, and what they are like now."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from fovea_api.effects import Counts, EffectSize, cliffs_delta, cohens_h, ranks
from fovea_api.estimates import Confidences, average_thresholded_confidence, difference_of_confidences
from fovea_api.modeldeployment import DriftStatus
from fovea_api.profile import FEATURES, Feature, ReferenceProfile
from fovea_serving.captures.live import LiveProfile, MeasuredPicture
from fovea_serving.pipeline import decode
from markupsafe import Markup

from fovea_trainer.report import base
from fovea_trainer.report.base import Fact, Section, Tone

CLASSES = "classes"
"""The feature of predicted classes."""
SHOWN = 12
"""Images of the present that are shown, as many as the profile has of the reference."""
PICTURE_WIDTH = 150
"""Width of a picture in CSS pixels; those of the reference have few pixels themselves."""
PICTURE_PIXELS = 300
ODD_SHARE = 0.01
"""Share of the reference beyond which a feature of an image is named below it."""
_TONES: Mapping[str, Tone] = {"moved": "bad", "perhaps": "warn", "as before": "good"}


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """An image of the present: `rgb` is uint8 [H, W, 3]."""

    measured: MeasuredPicture
    rgb: base.Image


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What the report is made of.

    Args:
        name: Of the deployment, or of the run that made the model.
        reference: The bundle's profile.
        live: What was captured.
        pictures: The most different of the captured images.
        status: What the operator says of the deployment; None: nobody asked it.
    """

    name: str
    reference: ReferenceProfile
    live: LiveProfile
    pictures: Sequence[ShownPicture]
    status: DriftStatus | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A feature with its two histograms in the same bins, and its effect."""

    name: str
    description: str
    reference: Counts
    live: Counts
    effect: EffectSize
    bins: Sequence[str]
    """What each bin holds, in words."""

    @property
    def word(self) -> str:
        """Whether it moved by more than a small effect."""
        if self.effect.is_certain:
            return "moved"
        return "as before" if self.effect.name is None else "perhaps"


def moved(reference: ReferenceProfile, live: ReferenceProfile) -> list[Moved]:
    """All features that both have, the largest effect of its kind first."""
    found = []
    for name, feature in FEATURES.items():
        before, now = reference.features.get(name, ()), live.features.get(name, ())
        if len(before) == len(now) == feature.bins and any(before) and any(now):
            effect = cliffs_delta(before, now)
            found.append(Moved(name, feature.description, before, now, effect, _bins(feature)))
    names = sorted({*reference.classes, *live.classes}, key=lambda each: -reference.classes.get(each, 0.0))
    if sum(reference.classes.values()) and sum(live.classes.values()):
        shares = [[profile.classes.get(name, 0.0) for name in names] for profile in (reference, live)]
        words = "Predicted class of an image."
        found.append(Moved(CLASSES, words, shares[0], shares[1], cohens_h(shares[0], shares[1]), names))
    return sorted(found, key=lambda each: -abs(each.effect.value) / each.effect.limits[0][1])


def render_drift_report(report: DriftReport) -> str:
    """The report as HTML."""
    found = moved(report.reference, report.live.profile)
    sections = [
        Section("Features", _features(found), _lead(report)),
        *_accuracy(report),
        Section("Then and now", _pictures(report), "Some images of the reference, and the captures furthest from it."),
        Section("Histograms", _histograms(found), "Share of the images in each bin; the largest change first."),
        Section("Method", _method(report)),
    ]
    span = f"{report.live.first:%Y-%m-%d %H:%M} to {report.live.last:%Y-%m-%d %H:%M} UTC"
    words = f"Images captured from {span}, against {_origin(report.reference)}."
    return base.render(report.name, sections, kind="Drift report", subtitle=words, facts=_facts(report, found))


def _facts(report: DriftReport, found: Sequence[Moved]) -> list[Fact]:
    certain = [each for each in found if each.word == "moved"]
    facts = [Fact(f"{len(certain)} of {len(found)}", "features moved", "bad" if certain else "good")]
    if certain:
        facts.append(Fact(f"{certain[0].name} {certain[0].effect.value:+.2f}", "largest effect", "bad"))
    facts += [
        Fact(f"{report.live.profile.items:,}", "images now", "neutral" if report.live.is_uniform else "warn"),
        Fact(f"{report.reference.items:,}", "images of the reference"),
    ]
    if report.status is not None:
        tones: Mapping[str, Tone] = {"None": "good", "Suspected": "warn", "Detected": "bad"}
        facts.insert(0, Fact(report.status.state, "says the operator", tones.get(report.status.state, "neutral")))
    return facts


def _origin(reference: ReferenceProfile) -> str:
    return f"the {' and '.join(reference.splits) or 'reference'} images that the model was measured on"


def _lead(report: DriftReport) -> str:
    if report.live.is_uniform:
        return "Effects of captured images of the uniform sample, with intervals of 95 %."
    return (
        "There are hardly any images of the uniform sample, so those are counted that were captured for being edge "
        "cases: they differ from the rest for that reason alone. Raise spec.monitoring.captures.sampleRate."
    )


def _features(found: Sequence[Moved]) -> Markup:
    rows = [
        (
            base.badge(each.word, _TONES[each.word]),
            each.name,
            f"{each.effect.value:+.2f} ± {1.96 * each.effect.error:.2f}",
            each.effect.name or "none",
            _middle(each, each.reference),
            _middle(each, each.live),
            each.description,
        )
        for each in found
    ]
    return base.table(["", "Feature", "Effect", "Size", "Then", "Now", "What it is"], rows)


def _middle(each: Moved, counts: Counts) -> str:
    """The bin of the median; of classes the most frequent one."""
    if each.name == CLASSES:
        return each.bins[int(np.argmax(counts))]
    half = sum(counts) / 2
    return each.bins[next(index for index, until in enumerate(accumulate(counts)) if until >= half)]


def _accuracy(report: DriftReport) -> list[Section]:
    reference, live = report.reference, report.live
    if reference.accuracy is None:
        return []
    rows: list[tuple[object, ...]] = [("Of the reference", f"{reference.accuracy:.1%}", f"{reference.items:,} images")]
    confidences = [_confidences(profile) for profile in (reference, live.profile)]
    if confidences[0] is not None and confidences[1] is not None:
        for name, method in (
            ("Now, by the difference of confidences (DoC)", difference_of_confidences),
            ("Now, by average thresholded confidence (ATC)", average_thresholded_confidence),
        ):
            estimate = method(confidences[0], reference.accuracy, confidences[1])
            if estimate is not None:
                rows.append((name, f"{estimate.accuracy:.1%}", f"± {1.96 * estimate.error:.1%} by sampling"))
    if live.profile.accuracy is not None:
        rows.append(("Now, of labelled images", f"{live.profile.accuracy:.1%}", f"{live.labelled:,} images"))
    lead = (
        "Estimates presume that confidence means the same as before, which a new class or a new kind of image breaks: "
        "they are a sign, and labels are a measurement."
    )
    return [Section("Accuracy", base.table(["", "Share answered rightly", ""], rows), lead)]


def _confidences(profile: ReferenceProfile) -> Confidences | None:
    counts = profile.features.get("confidence")
    if not counts or not sum(counts):
        return None
    # nothing is above the last edge, which is 1
    return Confidences((0.0, *FEATURES["confidence"].edges), tuple(map(float, counts[:-1])))


def _pictures(report: DriftReport) -> Markup:
    then = [
        base.picture(decode(base64.b64decode(each), "a thumbnail of the profile"), width=PICTURE_WIDTH)
        for each in report.reference.thumbnails[:SHOWN]
    ]
    now = [
        base.picture(
            base.fit(each.rgb, PICTURE_PIXELS)[0], _caption(each.measured, report.reference), width=PICTURE_WIDTH
        )
        for each in report.pictures[:SHOWN]
    ]
    first = base.gallery(then) if then else base.paragraph("The bundle has no pictures.")
    return base.columns(
        base.join(Markup("<h3>Then</h3>"), first),
        base.join(Markup("<h3>Now</h3>"), base.gallery(now)),
    )


def _caption(each: MeasuredPicture, reference: ReferenceProfile) -> str:
    capture = each.picture.found.capture
    head = f"{capture.time:%m-%d %H:%M} {capture.id}"
    odd: list[tuple[float, str]] = []
    for name, value in each.features.items():
        counts = reference.features.get(name, ())
        if len(counts) == FEATURES[name].bins and any(counts):
            index = int(np.searchsorted(FEATURES[name].edges, value))
            rank = ranks(counts)[index]
            if min(rank, 1 - rank) < ODD_SHARE:
                odd.append((min(rank, 1 - rank), f"{name} {value:.3g} ({'high' if rank > 0.5 else 'low'})"))
    return ": ".join((head, ", ".join(text for _, text in sorted(odd)[:3]))) if odd else head


def _histograms(found: Sequence[Moved]) -> Markup:
    return Markup('<div class="columns">{}</div>').format(
        Markup("").join(Markup("<div>{}</div>").format(_histogram(each)) for each in found)
    )


def _histogram(each: Moved) -> Markup:
    figure, axes = base.new_figure(5.2, 2.4)
    used = [index for index, pair in enumerate(zip(each.reference, each.live, strict=True)) if any(pair)]
    first, last = (0, min(used[-1], base.CLASSES_IN_FIGURES)) if each.name == CLASSES else (used[0], used[-1])
    places = np.arange(first, last + 1)
    for counts, colour, label, shift in (
        (each.reference, base.MUTED, "then", -0.2),
        (each.live, base.color(1), "now", 0.2),
    ):
        shares = np.asarray(counts, float)[first : last + 1] / sum(counts)
        axes.bar(places + shift, shares, 0.4, color=colour, label=label)
    step = max(1, (last - first + 1) // 8)
    axes.set_xticks(places[::step], [each.bins[index].replace("$", r"\$")[:16] for index in places[::step]])
    axes.tick_params(axis="x", labelrotation=30)
    axes.set_title(
        f"{each.name} ({each.effect.value:+.2f})".replace("$", r"\$"), fontsize=9, loc="left", color=base.INK
    )
    axes.legend(frameon=False, fontsize=8)
    return base.embed_figure(figure)


def _bins(feature: Feature) -> list[str]:
    return [*(f"≤ {edge:g}" for edge in feature.edges), f"> {feature.edges[-1]:g}"]


def _method(report: DriftReport) -> Markup:
    status = report.status
    since = f" since {status.since:%Y-%m-%d %H:%M} UTC" if status is not None and status.since is not None else ""
    items = [f"The operator says{since}: {status.message}"] if status is not None and status.message else []
    items += [
        "Effects are Cliff's delta (small from 0.147, medium 0.33, large 0.474) and, of classes, Cohen's h (0.2, 0.5, "
        "0.8). A feature moved if its effect is at least a small one with a confidence of 97.5 %.",
        "Several features are compared here, and whoever looks often sees more: this is a look, not a test. The budget "
        "of false alarms is kept by the operator's detectors, which see all images and not those captured alone.",
        "Embeddings are two principal components of a 16x16 thumbnail and what they leave, in standard deviations of "
        "the train images; pictures are ordered by their distance from the centre.",
    ]
    return base.bullets(items)
