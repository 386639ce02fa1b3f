"""Which image goes to which split: permanent, whole groups, near duplicates together, classes spread evenly.

Precedence: the split once given (or the source's, for FromSource), the group, the near duplicates, the classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from fovea_api.dataset import Ratios, Splits
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray

from fovea_trainer.data.near_duplicates import clusters

SPLITS = ("train", "validation", "test")
STRENGTH = {"train": 0, "validation": 1, "test": 2}
"""Where a unit was given several splits, newcomers go to the strongest."""


@dataclass(frozen=True, slots=True)
class Item:
    """An image to be assigned."""

    digest: str
    group: str = ""
    """Empty: it belongs to no group."""
    hint: str | None = None
    """The split that its source puts it in."""
    classes: tuple[int, ...] = ()
    """Classes that it shows, each once."""
    predicted: bool = False
    """Whether a model says so; such an image goes to train or nowhere."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Assignments of the parent version."""

    splits: Mapping[str, str] = field(default_factory=dict)
    """Split by image digest."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Split by group."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The outcome, by position of the item."""

    splits: tuple[str, ...]
    clusters: tuple[str, ...]
    """Smallest digest of the cluster of near duplicates that the image is one of."""
    leaked: tuple[tuple[int, int], ...]
    """Near duplicates (train, test); the train image must leave."""
    across: tuple[tuple[int, int], ...]
    """All near duplicates that are in different splits."""
    deviation: float
    """Largest difference between a split's share of the images, or of a class's images, and its due; 0 to 1."""


def assign(items: Sequence[Item], pairs: NDArray[np.int64], splits: Splits, kept: Kept) -> Assignment:
    """Assigns every item.

    With `stratify` the splits are filled to their shares class by class, rarest first, counting what is
    already there; permanence comes from `kept`. Without it an image's split depends on a hash of its unit and
    the seed alone, so adding images moves none even without a parent.

    Args:
        items: Sorted by digest, digests unique.
        pairs: [M, 2] positions of items that are near duplicates.
        splits: The recipe.
        kept: Assignments of the parent.
    """
    alike = clusters(len(items), pairs)
    units = _units(items, alike if splits.keep_near_duplicates_together else None)
    result: list[str] = [""] * len(items)
    open_units: list[tuple[str, list[int]]] = []
    for members in units:
        fixed = {index: split for index in members if (split := _fixed(items[index], splits, kept))}
        given = set(fixed.values()) | {
            kept.groups[items[index].group] for index in members if items[index].group in kept.groups
        }
        if given:
            newcomers = max(given, key=STRENGTH.__getitem__)
            for index in members:
                result[index] = fixed.get(index, newcomers)
        else:
            open_units.append((_key(items, members, splits.seed), members))
    if splits.stratify:
        _stratify(items, open_units, result, splits)
    else:
        for key, members in open_units:
            split = _by_hash(key, splits)
            for index in members:
                result[index] = split
    across = [(int(a), int(b)) for a, b in pairs if result[a] != result[b]]
    leaked = [
        (a, b) if result[a] == "train" else (b, a) for a, b in across if {result[a], result[b]} == {"train", "test"}
    ]
    return Assignment(
        tuple(result),
        tuple(items[int(first)].digest for first in alike),
        tuple(leaked) if splits.keep_near_duplicates_together else (),
        tuple(across),
        deviation(items, result, splits),
    )


def assign_predicted(items: Sequence[Item], pairs: NDArray[np.int64], splits: Splits, kept: Kept) -> Assignment:
    """Assigns every item where a model has labelled some, so that these change no split of the others.

    The others are assigned as if they were alone. What a model has labelled follows its group and its near duplicates,
    and goes to train where it is bound to nothing; what is bound to another split is there by its assignment, and is
    for the caller to leave out.
    """
    others = [position for position, item in enumerate(items) if not item.predicted]
    place = {position: number for number, position in enumerate(others)}
    inside = [(place[a], place[b]) for a, b in pairs.tolist() if {a, b} <= place.keys()]
    alone = assign([items[position] for position in others], np.array(inside, np.int64).reshape(-1, 2), splits, kept)
    given = {items[position].digest: split for position, split in zip(others, alone.splits, strict=True)}
    follow = {"ratios": Ratios(train=1, validation=0, test=0), "keep_assignments": True}
    every = assign(items, pairs, splits.model_copy(update=follow), Kept({**kept.splits, **given}, kept.groups))
    return replace(every, deviation=alone.deviation)


def deviation(items: Sequence[Item], result: Sequence[str], splits: Splits) -> float:
    """Largest |share in a split - the split's due|, over the splits, of all images and of those of each class.

    A split's due is its ratio; for FromSource, which asks for none, its share of all images.
    """
    sizes = Counter(result)
    due = shares(splits)
    if splits.method == "FromSource":
        due = {split: sizes[split] / max(1, len(items)) for split in SPLITS}
    counted: dict[int | None, Counter[str]] = defaultdict(Counter)
    for item, split in zip(items, result, strict=True):
        for label in (None, *item.classes):
            counted[label][split] += 1
    return max(
        (abs(counts[split] / counts.total() - due[split]) for counts in counted.values() for split in SPLITS),
        default=0.0,
    )


def shares(splits: Splits) -> dict[str, float]:
    """The share of each split, by its name."""
    return {"train": splits.ratios.train, "validation": splits.ratios.validation, "test": splits.ratios.test}


def refuse_empty_splits(
    items: Sequence[Item], assignment: Assignment, leaving: Iterable[int], splits: Splits, kept: Kept
) -> None:
    """Raises InvalidInput, which says why and what to do, where a split that was to have images has none.

    Args:
        items: What was assigned.
        assignment: The outcome.
        leaving: Positions of items that are left out.
        splits: The recipe.
        kept: Assignments of the parent.
    """
    gone = set(leaving)
    sizes = Counter(split for position, split in enumerate(assignment.splits) if position not in gone)
    due = set(assignment.splits)
    if splits.method == "Ratio":
        due |= {split for split, share in shares(splits).items() if share > 0}
    empty = [split for split in SPLITS if split in due and not sizes[split]]
    if empty:
        why, remedy = _why_empty(items, assignment, empty, len(due), splits, kept)
        raise InvalidInput(f"no image is in {' and none in '.join(empty)}: {why}", "spec.splits", remedy)


def _why_empty(
    items: Sequence[Item], assignment: Assignment, empty: Sequence[str], due: int, splits: Splits, kept: Kept
) -> tuple[str, str]:
    """Why splits are empty, and what to do."""
    if (people := sum(not item.predicted for item in items)) < min(due, len(items)):
        why = f"people have labelled {people} images, and what a model has labelled is in train alone"
        return why, "label more images, or set prelabel.use: AfterReview"
    if lost := sum(split in empty for split in assignment.splits):
        why = f"all {lost} of them are near duplicates of images elsewhere"
        return why, "add images that are no copies, or set quality.nearDuplicates: Ignore if these are none"
    positions = {item.digest: position for position, item in enumerate(items)}
    alike = np.array([positions[digest] for digest in assignment.clusters], np.int64)
    units = _units(items, alike if splits.keep_near_duplicates_together else None)
    if len(units) == len(items) < due:
        why = "there is only one image" if len(items) == 1 else f"there are only {len(items)} images"
        return why, "add images, or set the ratio of a split to 0"
    held = sum(item.digest in kept.splits for item in items)
    if held == len(items):
        return "all images keep the splits of earlier versions", "add images, or set splits.keepAssignments: false"
    if len(units) >= due and not splits.stratify:
        why = f"{len(items)} images in {len(units)} groups were shared out by chance"
        return why, "set splits.stratify: true, or add images"
    largest = max(units, key=len)
    group = next((items[position].group for position in largest if items[position].group), "")
    if group:
        why = f"{len(largest)} of {len(items)} images belong together by the group {group!r}"
        return why, "make splits.groupBy finer, add groups, or set the ratio of a split to 0"
    why = f"{len(largest)} of {len(items)} images are near duplicates of each other"
    return why, "add other images, set splits.keepNearDuplicatesTogether: false, or set the ratio of a split to 0"


def _fixed(item: Item, splits: Splits, kept: Kept) -> str | None:
    if splits.keep_assignments and item.digest in kept.splits:
        return kept.splits[item.digest]
    return item.hint if splits.method == "FromSource" else None


def _units(items: Sequence[Item], alike: NDArray[np.int64] | None) -> list[list[int]]:
    """Positions that must stay together: of one group, or of one cluster of near duplicates."""
    links: list[tuple[int, int]] = []
    first_of: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.group:
            links.append((first_of.setdefault(item.group, index), index))
        if alike is not None and alike[index] != index:
            links.append((int(alike[index]), index))
    units: dict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(_components(len(items), links)):
        units[root].append(index)
    return list(units.values())


def _components(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest member of each row's connected component [count] (union-find with path halving)."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for link in links:
        first, second = root(link[0]), root(link[1])
        if first != second:
            parent[max(first, second)] = min(first, second)
    return [root(node) for node in range(count)]


def _key(items: Sequence[Item], members: Sequence[int], seed: int) -> str:
    """Hash of a unit: of its group, or of its first digest. Growing groups keep theirs."""
    names = [f"group {items[index].group}" for index in members if items[index].group]
    name = min(names) if names else items[members[0]].digest
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _by_hash(key: str, splits: Splits) -> str:
    value = int(key[:16], 16) / 2.0**64
    if value < splits.ratios.test:
        return "test"
    return "validation" if value < splits.ratios.test + splits.ratios.validation else "train"


def _stratify(items: Sequence[Item], units: list[tuple[str, list[int]]], result: list[str], splits: Splits) -> None:
    """Iterative stratification over whole units (after Sechidis et al., 2011), in an order set by hash."""
    due = shares(splits)
    totals: Counter[int] = Counter(label for item in items for label in item.classes)
    have: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    size: Counter[str] = Counter()
    units_of: dict[str, list[list[int]]] = {split: [] for split in SPLITS}
    for item, split in zip(items, result, strict=True):
        if split:
            have[split].update(item.classes)
            size[split] += 1
    rarest = [
        min((totals[label] for index in members for label in items[index].classes), default=len(items) + 1)
        for _, members in units
    ]
    for position in sorted(range(len(units)), key=lambda position: (rarest[position], units[position][0])):
        members = units[position][1]
        shown = Counter(label for index in members for label in items[index].classes)
        # What a split lacks, relative to its share: of this unit's rarest class first, then of images at all.
        rare = sorted(shown, key=lambda label: (totals[label], label))[:1]

        def lack(split: str, rare: list[int] = rare) -> tuple[bool, float, float, float]:
            share = due[split]
            of_class = sum((totals[label] * share - have[split][label]) / share for label in rare)
            return (
                size[split] < round(len(items) * share),
                of_class,
                (len(items) * share - size[split]) / share,
                share,
            )

        best = max((split for split in SPLITS if due[split] > 0), key=lack)
        for index in members:
            result[index] = best
        have[best].update(shown)
        size[best] += len(members)
        units_of[best].append(members)
    for split in reversed(SPLITS):
        # Where an image or two are too few for a share, each split gets a unit as long as there are enough.
        donor = max(SPLITS, key=lambda split: len(units_of[split]))
        if due[split] > 0 and not size[split] and len(units_of[donor]) > 1:
            members = min(units_of[donor], key=len)
            units_of[donor].remove(members)
            units_of[split].append(members)
            for index in members:
                result[index] = split
