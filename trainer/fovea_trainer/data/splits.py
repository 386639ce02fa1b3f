"""Which image goes to which split: permanent, whole groups, look-alikes together, classes spread evenly.

Precedence: the split once given (or the source's, for FromSource), the group, the look-alikes, the classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from fovea_api.dataset import Splits
from numpy.typing import NDArray

from fovea_trainer.data.checks import clusters

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
    """Smallest digest of the look-alikes that the image is one of."""
    leaked: tuple[tuple[int, int], ...]
    """Pairs (train, test) that look alike; the train image must leave."""
    across: tuple[tuple[int, int], ...]
    """All pairs that look alike and are in different splits."""
    deviation: float
    """Largest difference between a class's share of images in a split and the split's share; 0 to 1."""


def assign(items: Sequence[Item], pairs: NDArray[np.int64], splits: Splits, kept: Kept) -> Assignment:
    """Assigns every item.

    With `stratify` the splits are filled to their shares class by class, rarest first, counting what is
    already there; permanence comes from `kept`. Without it an image's split depends on a hash of its unit and
    the seed alone, so adding images moves none even without a parent.

    Args:
        items: Sorted by digest, digests unique.
        pairs: [M, 2] positions of items that look alike.
        splits: The recipe.
        kept: Assignments of the parent.
    """
    alike = clusters(len(items), pairs.tolist())
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
        deviation(items, result),
    )


def deviation(items: Sequence[Item], result: Sequence[str]) -> float:
    """Largest |share of a class's images in a split - share of all images in it|, over classes and splits."""
    sizes = Counter(result)
    by_class: dict[int, Counter[str]] = defaultdict(Counter)
    for item, split in zip(items, result, strict=True):
        for label in item.classes:
            by_class[label][split] += 1
    return max(
        (
            abs(counts[split] / counts.total() - size / len(items))
            for counts in by_class.values()
            for split, size in sizes.items()
        ),
        default=0.0,
    )


def _fixed(item: Item, splits: Splits, kept: Kept) -> str | None:
    if splits.keep_assignments and item.digest in kept.splits:
        return kept.splits[item.digest]
    return item.hint if splits.method == "FromSource" else None


def _units(items: Sequence[Item], alike: NDArray[np.int64] | None) -> list[list[int]]:
    """Positions that must stay together: of one group, or look-alikes."""
    links: list[tuple[int, int]] = []
    first_of: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.group:
            links.append((first_of.setdefault(item.group, index), index))
        if alike is not None and alike[index] != index:
            links.append((int(alike[index]), index))
    units: dict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(clusters(len(items), links)):
        units[int(root)].append(index)
    return list(units.values())


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
    shares = {
        "train": splits.ratios.train,
        "validation": splits.ratios.validation,
        "test": splits.ratios.test,
    }
    totals: Counter[int] = Counter(label for item in items for label in item.classes)
    have: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    size: Counter[str] = Counter()
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
            share = shares[split]
            of_class = sum((totals[label] * share - have[split][label]) / share for label in rare)
            return (
                size[split] < round(len(items) * share),
                of_class,
                (len(items) * share - size[split]) / share,
                share,
            )

        best = max((split for split in SPLITS if shares[split] > 0), key=lack)
        for index in members:
            result[index] = best
        have[best].update(shown)
        size[best] += len(members)
