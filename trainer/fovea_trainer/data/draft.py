"""The second stage of a build: which images the version has, in which splits, and what that amounts to."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from fovea_api.dataset import Format, Ratios, Recipe, Source, Splits
from fovea_api.errors import InvalidInput
from fovea_api.run import digest_of
from fovea_api.version import FindingSummary, QualitySummary, SourceProvenance
from numpy.typing import NDArray

from fovea_trainer.data import report
from fovea_trainer.data.duplicate_search import near_duplicate_pairs
from fovea_trainer.data.findings import LOST_IMAGE, LOST_LABEL, Finding, FindingKind, Tally
from fovea_trainer.data.index import Index, rows
from fovea_trainer.data.learnable import class_findings, refuse_unlearnable, split_findings
from fovea_trainer.data.read import OpenSource
from fovea_trainer.data.sources import without_secrets
from fovea_trainer.data.splits import SPLITS, Assignment, Item, Kept, assign, assign_predicted, refuse_empty_splits
from fovea_trainer.data.statistics import Statistics
from fovea_trainer.data.version import ASSIGNMENT_SCHEMA
from fovea_trainer.data.workers import Workers


@dataclass(frozen=True)
class Draft:
    """A version before it is written."""

    classes: tuple[str, ...]
    digest: str
    assignments: pa.Table
    statistics: Statistics
    quality: QualitySummary
    findings: tuple[Tally, ...]
    provenance: tuple[SourceProvenance, ...]
    deviation: float
    alike: tuple[tuple[str, str], ...] = field(default=())
    """Digests of near duplicates, those in different splits first."""
    across: int = 0

    def splits(self) -> dict[str, int]:
        """Number of images of each split that has any."""
        return {split: self.statistics.splits[split] for split in SPLITS if self.statistics.splits[split]}

    def summaries(self) -> tuple[FindingSummary, ...]:
        """The findings as results keep them."""
        return tuple(tally.summary() for tally in self.findings)


@dataclass(frozen=True)
class _Selection:
    """Which images the version has, and in which splits.

    Args:
        ids: Of the different images, in the index.
        items: The same images, sorted by digest.
        pairs: int64 [M, 2] positions of near duplicates.
        assignment: The splits.
        leaving: Positions of images that the version does not have.
    """

    ids: Sequence[int]
    items: Sequence[Item]
    pairs: NDArray[np.int64]
    assignment: Assignment
    leaving: Set[int]

    @property
    def alike(self) -> list[tuple[str, str]]:
        """Digests of the first near duplicates, those in different splits first."""
        across = set(self.assignment.across)
        ordered = sorted(((int(a), int(b)) for a, b in self.pairs), key=lambda pair: (pair not in across, pair))
        return [(self.items[a].digest, self.items[b].digest) for a, b in ordered[: report.SHOWN_PAIRS]]


def draft_version(
    recipe: Recipe,
    classes: tuple[str, ...],
    sources: Sequence[OpenSource],
    index: Index,
    pool: Workers,
    kept: Kept,
    kept_rows: list[dict[str, str]],
) -> Draft:
    """Chooses images and splits. Raises InvalidInput where a class is too rare, or the recipe does not fit."""
    index.leave_out_unlabelled_splits(sources)
    selection = _select(recipe, classes, sources, index, pool, kept)
    _store(selection, index, sources)
    assignments = _assignments(selection.items, selection.assignment, kept_rows)
    statistics, digest, provenance = _summarize(recipe, classes, sources, index, assignments)
    _note_predicted(provenance, statistics, index)
    _check(recipe, statistics, index)
    return Draft(
        classes,
        digest,
        assignments,
        statistics,
        _quality(selection, index),
        index.tallies(recipe.quality.max_faulty_images),
        provenance,
        selection.assignment.deviation,
        tuple(selection.alike),
        len(selection.assignment.across),
    )


def _select(
    recipe: Recipe,
    classes: Sequence[str],
    sources: Sequence[OpenSource],
    index: Index,
    pool: Workers,
    kept: Kept,
) -> _Selection:
    """The different images, their near duplicates and their splits. Raises InvalidInput where a split stays empty."""
    ids, items = _unique(recipe, index, {name: number for number, name in enumerate(classes)})
    pairs = np.empty((0, 2), np.int64)
    if recipe.quality.near_duplicates != "Ignore":
        pairs = near_duplicate_pairs(index, ids, sources, pool)
    if recipe.splits.method == "FromSource":
        items = _from_source(recipe.splits, sources, index, items, pairs, kept)
    by_model = {position for position, item in enumerate(items) if item.predicted}
    assignment = (assign_predicted if by_model else assign)(items, pairs, recipe.splits, kept)
    leaving = {first for first, _ in assignment.leaked}
    leaving |= {position for position in by_model if assignment.splits[position] != "train"}  # no model judges itself
    if recipe.quality.near_duplicates == "Drop":
        leaving |= _superfluous(assignment, pairs, kept, items)
    refuse_empty_splits(items, assignment, leaving, recipe.splits, kept)
    return _Selection(ids, items, pairs, assignment, leaving)


def _store(selection: _Selection, index: Index, sources: Sequence[OpenSource]) -> None:
    """Writes the splits into the index, and what leaves train because it is in test, too."""
    for first, second in dict(selection.assignment.leaked).items():
        here, there = (index.name_of(selection.ids[position], sources) for position in (first, second))
        message = f"the train image is a near duplicate of the test image {there}; it leaves train"
        index.add_finding(Finding(FindingKind.SPLIT_LEAKAGE, here, message))
    for position in sorted(selection.leaving):
        if selection.items[position].predicted:
            index.images[FindingKind.WAITS_FOR_LABEL] += 1
            here = index.name_of(selection.ids[position], sources)
            message = "its video, its group or a copy is not in train, where alone a model's labels are used"
            index.add_finding(Finding(FindingKind.WAITS_FOR_LABEL, here, message))
    index.db.executemany(
        "UPDATE items SET split = ?, grp = ? WHERE id = ?",
        (
            (split, item.group, number)
            for position, (number, item, split) in enumerate(
                zip(selection.ids, selection.items, selection.assignment.splits, strict=True)
            )
            if position not in selection.leaving
        ),
    )
    index.db.commit()


def _note_predicted(provenance: Sequence[SourceProvenance], statistics: Statistics, index: Index) -> None:
    """Adds a finding for each source some of whose labels are a model's."""
    for source in provenance:
        if source.predicted:
            share = f"{source.predicted / statistics.images:.1%} of the version's {statistics.images:,}"
            message = f"a model has predicted the labels of {source.predicted:,} images, {share}; all are in train"
            index.images[FindingKind.PREDICTED_LABELS] += source.predicted
            remedy = "Review them, and set prelabel.use: AfterReview."
            index.add_finding(Finding(FindingKind.PREDICTED_LABELS, source.name, message, remedy))


def _check(recipe: Recipe, statistics: Statistics, index: Index) -> None:
    """Raises InvalidInput where the images are too few of a class, or teach nothing; notes what is missing."""
    _refuse_rare(recipe, statistics)
    likely = (FindingKind.UNUSED_FILES, *LOST_LABEL, *LOST_IMAGE, FindingKind.NO_LABEL_FILE)
    causes = [finding for kind in likely for finding in index.findings((kind,))]
    refuse_unlearnable(recipe, statistics, index.subjects[FindingKind.UNKNOWN_CLASS], causes)
    for finding in (*class_findings(recipe, statistics), *split_findings(recipe, statistics)):
        index.add_finding(finding)


def _quality(selection: _Selection, index: Index) -> QualitySummary:
    return QualitySummary(
        corrupt=sum(index.counts[kind] for kind in LOST_IMAGE),
        invalid_labels=sum(index.counts[kind] for kind in LOST_LABEL),
        exact_duplicates=index.counts[FindingKind.EXACT_DUPLICATE],
        near_duplicates=len(np.unique(selection.pairs)),
        split_leakage=len({first for first, _ in selection.assignment.leaked}),
    )


def _unique(recipe: Recipe, index: Index, numbers: Mapping[str, int]) -> tuple[list[int], list[Item]]:
    """Id and item of each different image, sorted by digest; of equal images the first name."""
    pattern = recipe.splits.group_by and _compiled(recipe.splits.group_by.pattern)
    ids: list[int] = []
    items: list[Item] = []
    last_content, last_name = "", ""
    # A labelled copy of a video's frame is of that video, too, whatever the labelling tool has made of its name.
    query = (
        "SELECT id, digest, name, hint, classes, content, predicted, COALESCE(NULLIF(grp, ''),"
        " (SELECT MAX(w.grp) FROM waiting w WHERE w.digest = items.digest),"
        " (SELECT grp FROM bound WHERE digest = items.digest), '')"
        " FROM items ORDER BY digest, source, name"
    )
    for number, digest, name, hint, names, content, predicted, given in index.db.execute(query):
        if items and items[-1].digest == digest:
            message = f"the image has the same bytes as {last_name}"
            index.add_finding(Finding(FindingKind.EXACT_DUPLICATE, name, message))
            if content != last_content:
                message = f"the same image has other labels than {last_name}, which are taken"
                index.add_finding(Finding(FindingKind.CONFLICTING_LABELS, name, message))
            if hint and hint != items[-1].hint and recipe.splits.method == "FromSource":
                strongest = "test" if "test" in (hint, items[-1].hint) else items[-1].hint or hint
                message = f"the same image is in {hint} and {items[-1].hint}; it goes to {strongest}"
                index.add_finding(Finding(FindingKind.SPLIT_LEAKAGE, name, message))
                items[-1] = replace(items[-1], hint=strongest)
            continue
        match = pattern.search(name) if pattern else None
        group = (match["group"] if match else None) or given
        ids.append(number)
        labels = tuple(numbers[label] for label in json.loads(names))
        items.append(Item(digest, group, hint, labels, bool(predicted)))
        last_content, last_name = content, name
    return ids, items


def _from_source(
    splits: Splits,
    sources: Sequence[OpenSource],
    index: Index,
    items: Sequence[Item],
    pairs: NDArray[np.int64],
    kept: Kept,
) -> list[Item]:
    """The items with the splits that their sources give them; raises InvalidInput where none is given."""
    if not any(item.hint for item in items):
        raise InvalidInput(
            "no source says which split an image belongs to",
            "spec.splits.method",
            "name folders, image sets or data.yaml's lists train, val and test, or share out by Ratio",
        )
    if not any(item.hint in ("train", None) for item in items):
        given = ", ".join(sorted({item.hint for item in items if item.hint}))
        raise InvalidInput(
            f"all {len(items)} images are in {given}, and none is in train",
            "spec.splits.method",
            "name the train images in the source, or share out by Ratio",
        )
    query = (
        "SELECT source, COUNT(*), SUM(hint IS NULL), MIN(CASE WHEN hint IS NULL THEN name END) FROM items"
        " WHERE NOT predicted GROUP BY 1"
    )
    for source, count, without, example in index.db.execute(query).fetchall():
        if without:
            message = f"{without} of {count} images are in no split, such as {example}"
            index.add_finding(Finding(FindingKind.SPLIT_NOT_GIVEN, sources[source].name, message))
    if not splits.validation_from_train:
        return list(items)
    train = [position for position, item in enumerate(items) if item.hint == "train"]
    share = splits.validation_from_train
    ratios = Ratios(train=1 - share, validation=share, test=0)
    carving = splits.model_copy(update={"method": "Ratio", "ratios": ratios})
    place = {position: number for number, position in enumerate(train)}
    inside = [(place[first], place[second]) for first, second in pairs.tolist() if {first, second} <= place.keys()]
    train_pairs = np.array(inside, np.int64).reshape(-1, 2)
    chosen = assign([items[position] for position in train], train_pairs, carving, kept).splits
    carved = list(items)
    for position, split in zip(train, chosen, strict=True):
        carved[position] = replace(items[position], hint=split)
    return carved


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidInput(f"the pattern is broken: {error}", "spec.splits.groupBy.pattern") from None


def _superfluous(result: Assignment, pairs: NDArray[np.int64], kept: Kept, items: Sequence[Item]) -> set[int]:
    """Positions to drop, each a near duplicate of one that stays: of a kept one, else of one of a stronger split."""
    near: dict[int, list[int]] = {}
    for first, second in pairs.tolist():
        near.setdefault(first, []).append(second)
        near.setdefault(second, []).append(first)

    def rank(position: int) -> tuple[bool, int, str]:
        item = items[position]
        return item.digest not in kept.splits, -SPLITS.index(result.splits[position]), item.digest

    dropped: set[int] = set()
    for position in sorted(near, key=rank):
        if position not in dropped:
            dropped.update(other for other in near[position] if rank(other) > rank(position))
    return dropped


def _assignments(items: Sequence[Item], result: Assignment, kept_rows: list[dict[str, str]]) -> pa.Table:
    """All assignments ever made, sorted by digest: an image that comes back finds its split again."""
    now = {
        item.digest: {"digest": item.digest, "split": split, "group": item.group, "cluster": cluster}
        for item, split, cluster in zip(items, result.splits, result.clusters, strict=True)
    }
    rows = {row["digest"]: row for row in kept_rows} | now
    return pa.Table.from_pylist([rows[digest] for digest in sorted(rows)], ASSIGNMENT_SCHEMA)


def _summarize(
    recipe: Recipe,
    classes: tuple[str, ...],
    sources: Sequence[OpenSource],
    index: Index,
    assignments: pa.Table,
) -> tuple[Statistics, str, tuple[SourceProvenance, ...]]:
    """Statistics, the version's digest, and what each source gave."""
    statistics = Statistics(classes)
    content = hashlib.sha256()
    by_source = [hashlib.sha256() for _ in sources]
    predicted: Counter[str] = Counter()
    for row in rows(index.db):
        source = sources[row.source].name
        fingerprint = row.fingerprint(classes, source)
        for digest in (content, by_source[row.source]):
            digest.update(fingerprint + b"\n")
        predicted[source] += row.predicted
        pixels = dict(row.content.pixels) if row.content.mask is not None else None
        statistics.add(row.split, source, (row.width, row.height), row.labels(classes), row.boxes(), pixels)
    kept = hashlib.sha256()
    for column in ("digest", "split", "group"):
        for chunk in assignments.column(column).chunks:
            for value in chunk:
                kept.update(value.as_py().encode() + b"\n")
    version = digest_of(
        {
            "schemaVersion": 1,
            "task": recipe.task.value,
            "classes": list(classes),
            "content": content.hexdigest(),
            "assignments": kept.hexdigest(),
        }
    )
    given = {source.name: source for source in recipe.sources}
    provenance = tuple(
        SourceProvenance(
            name=source.name,
            uri=_origin(given[source.name]),
            format=given[source.name].layout or Format.VIDEO,
            images=statistics.sources[source.name],
            predicted=predicted[source.name],
            digest=f"sha256-{digest.hexdigest()}",
        )
        for source, digest in zip(sources, by_source, strict=True)
    )
    return statistics, version, provenance


def _origin(source: Source) -> str:
    """Where the images of a source are from, as reports show it."""
    return source.generator.image if source.generator is not None else without_secrets(source.location or "")


def _refuse_rare(recipe: Recipe, statistics: Statistics) -> None:
    least = recipe.quality.min_images_per_class
    rare = [f"{summary.name} ({summary.images})" for summary in statistics.class_summaries() if summary.images < least]
    if rare:
        raise InvalidInput(
            f"classes with fewer than {least} images: {', '.join(rare[:20])}",
            "spec.quality.minImagesPerClass",
            "add images, merge classes by classMap, or lower the bound",
        )
