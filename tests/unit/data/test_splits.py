from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fovea_api.dataset import Splits
from fovea_api.errors import InvalidInput
from fovea_trainer.data.splits import Item, Kept, assign, assign_predicted, deviation, refuse_empty_splits

NO_PAIRS = np.empty((0, 2), np.int64)
NOTHING_KEPT = Kept()


def items(count: int, classes: int = 3, group_of: int = 0, seed: int = 0) -> list[Item]:
    random.seed(seed)
    digests = sorted(hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(count))
    shown = [tuple(sorted(random.sample(range(classes), random.randint(1, classes)))) for _ in digests]
    groups = [f"g{int(digest[:8], 16) % (count // group_of)}" if group_of else "" for digest in digests]
    return [Item(digest, group, None, labels) for digest, group, labels in zip(digests, groups, shown, strict=True)]


def by_digest(
    given: list[Item], splits: Splits, pairs: np.ndarray = NO_PAIRS, kept: Kept = NOTHING_KEPT
) -> dict[str, str]:
    return dict(zip((item.digest for item in given), assign(given, pairs, splits, kept).splits, strict=True))


def test_shares_are_kept_and_classes_spread() -> None:
    given = items(1000, classes=5)
    result = assign(given, NO_PAIRS, Splits(), Kept())
    assert Counter(result.splits) == {"train": 800, "validation": 100, "test": 100}
    assert result.deviation < 0.02


def test_what_a_model_has_labelled_changes_no_split_and_goes_to_train_unless_it_is_bound() -> None:
    """Half of the groups have an image that people labelled, and are with it; one image of another is a copy of it."""
    given = items(1000, group_of=10)
    groups = sorted({item.group for item in given})
    given = [replace(item, predicted=item.group in groups[::2] or int(item.digest[-1], 16) > 3) for item in given]
    people = [item for item in given if not item.predicted]
    alone = by_digest(people, Splits())
    bound = {item.group: alone[item.digest] for item in people}
    copied = next(position for position, item in enumerate(given) if alone.get(item.digest) == "test")
    copy = next(position for position, item in enumerate(given) if item.group not in bound)
    result = assign_predicted(given, np.array([[copied, copy]]), Splits(), Kept())
    found = {item.digest: split for item, split in zip(given, result.splits, strict=True)}
    assert {digest: found[digest] for digest in alone} == alone
    bound[given[copy].group] = "test"
    assert all(found[item.digest] == bound.get(item.group, "train") for item in given if item.predicted)
    assert Counter(bound.values()).keys() == {"train", "validation", "test"}


def test_without_stratify_adding_images_moves_none() -> None:
    splits = Splits(stratify=False)
    few = by_digest(items(500), splits)
    many = by_digest(sorted(items(500) + items(500, seed=1), key=lambda item: item.digest), splits)
    assert few.items() <= many.items()
    assert abs(Counter(many.values())["train"] - 800) < 60


@pytest.mark.parametrize("stratify", [True, False])
def test_assignments_of_the_parent_are_permanent(stratify: bool) -> None:
    splits = Splits(stratify=stratify, seed=3)
    few = by_digest(items(300), splits)
    # Another seed would assign all anew: what is kept wins.
    grown = sorted(items(300) + items(300, seed=1), key=lambda item: item.digest)
    many = by_digest(grown, Splits(stratify=stratify, seed=4), kept=Kept(few))
    assert few.items() <= many.items()
    free = by_digest(grown, Splits(stratify=stratify, seed=4, keep_assignments=False), kept=Kept(few))
    assert not few.items() <= free.items()


@pytest.mark.parametrize("stratify", [True, False])
def test_groups_never_straddle(stratify: bool) -> None:
    given = items(600, group_of=6)
    result = by_digest(given, Splits(stratify=stratify))
    of_group: dict[str, set[str]] = {}
    for item in given:
        of_group.setdefault(item.group, set()).add(result[item.digest])
    assert len(of_group) == 100
    assert all(len(splits) == 1 for splits in of_group.values())


def test_newcomers_follow_their_group() -> None:
    given = [Item(f"{number:02}", "g") for number in range(10)]
    result = by_digest(given, Splits(), kept=Kept({"03": "validation"}, {"g": "validation"}))
    assert set(result.values()) == {"validation"}


def test_near_duplicates_stay_together() -> None:
    given = items(300)
    pairs = np.array([[0, number] for number in range(1, 41)])
    result = assign(given, pairs, Splits(), Kept())
    assert len(set(result.splits[:41])) == 1
    assert len(set(result.clusters[:41])) == 1
    assert not result.leaked
    assert not result.across


def test_a_chain_of_near_duplicates_is_no_single_cluster() -> None:
    given = items(300)
    pairs = np.array([[number, number + 1] for number in range(299)])
    result = assign(given, pairs, Splits(), Kept())
    assert {split for split, count in Counter(result.splits).items() if count > 20} == {"train", "validation", "test"}
    assert max(Counter(result.clusters).values()) <= 5
    assert len(result.across) < 60  # told, as they cannot be avoided


def test_the_deviation_is_that_from_the_ratios() -> None:
    given = items(400)
    one_cluster = np.array([[0, number] for number in range(1, 400)])
    result = assign(given, one_cluster, Splits(), Kept())
    assert set(result.splits) == {"train"}
    assert result.deviation == pytest.approx(0.2)
    # A class of two images, both in train, is 0.2 off as well, however well the others are spread.
    spread = [Item(f"{number:02}", classes=(0,)) for number in range(10)]
    splits = ["train"] * 8 + ["validation", "test"]
    assert deviation(spread, splits, Splits()) == pytest.approx(0)
    spread[:2] = [Item("00", classes=(1,)), Item("01", classes=(1,))]
    assert deviation(spread, splits, Splits()) == pytest.approx(0.2)
    assert deviation(spread, splits, Splits(method="FromSource")) == pytest.approx(0.2)


GROUPED = [Item(f"{number:02}", "scene") for number in range(10)]
ALIKE = [Item(f"{number:02}") for number in range(10)]
STAR = np.array([[0, number] for number in range(1, 10)])


@pytest.mark.parametrize(
    ("given", "pairs", "splits", "kept", "why", "remedy"),
    [
        (ALIKE, STAR, Splits(), Kept(), "10 of 10 images are near duplicates", "keepNearDuplicatesTogether: false"),
        (GROUPED, NO_PAIRS, Splits(), Kept(), "10 of 10 images belong together by the group 'scene'", "groupBy"),
        (ALIKE[:2], NO_PAIRS, Splits(), Kept(), "there are only 2 images", "add images"),
        (
            ALIKE,
            NO_PAIRS,
            Splits(),
            Kept({item.digest: "train" for item in ALIKE}),
            "keep the splits",
            "keepAssignments",
        ),
        (ALIKE[:4], NO_PAIRS, Splits(stratify=False, seed=1), Kept(), "shared out by chance", "stratify: true"),
    ],
    ids=["near duplicates", "group", "few", "kept", "chance"],
)
def test_a_split_that_ends_empty_is_refused_with_reason_and_remedy(
    given: list[Item], pairs: np.ndarray, splits: Splits, kept: Kept, why: str, remedy: str
) -> None:
    result = assign(given, pairs, splits, kept)
    with pytest.raises(InvalidInput) as refused:
        refuse_empty_splits(given, result, set(), splits, kept)
    assert refused.value.message.startswith("no image is in ")
    assert why in refused.value.message
    assert remedy in (refused.value.remedy or "")


def test_where_too_few_images_are_labelled_by_people_no_protection_is_to_be_given_up() -> None:
    given = [Item(f"{number:02}", group="video", predicted=number > 1) for number in range(40)]
    result = assign_predicted(given, NO_PAIRS, Splits(), Kept())
    with pytest.raises(InvalidInput, match="people have labelled 2 images") as refused:
        refuse_empty_splits(given, result, set(), Splits(), Kept())
    assert refused.value.remedy == "label more images, or set prelabel.use: AfterReview"


def test_a_split_of_the_source_that_loses_all_its_images_is_refused() -> None:
    splits = Splits(method="FromSource")
    given = [Item("0", hint="train"), Item("1", hint="test")]
    result = assign(given, np.array([[0, 1]]), splits, Kept())
    with pytest.raises(InvalidInput, match="no image is in train: all 1 of them are near duplicates"):
        refuse_empty_splits(given, result, {first for first, _ in result.leaked}, splits, Kept())
    refuse_empty_splits(given, result, set(), splits, Kept())  # a source without a validation split asks for none


def test_each_split_with_a_share_gets_an_image_where_there_are_enough() -> None:
    for count in range(3, 30):
        given = [Item(f"{number:02}") for number in range(count)]
        assert set(by_digest(given, Splits()).values()) == {"train", "validation", "test"}, count


def test_a_train_image_that_looks_like_a_test_image_leaves() -> None:
    given = [
        Item("0", hint="train"),
        Item("1", hint="test"),
        Item("2", hint="train"),
        Item("3", hint="validation"),
    ]
    result = assign(given, np.array([[0, 1], [2, 3]]), Splits(method="FromSource"), Kept())
    assert result.splits == ("train", "test", "train", "validation")
    assert result.leaked == ((0, 1),)
    assert result.across == ((0, 1), (2, 3))


def test_kept_beats_group_beats_look_alikes() -> None:
    given = [Item("0", "g"), Item("1", "g"), Item("2"), Item("3")]
    kept = Kept({"0": "train", "2": "validation"})
    result = assign(given, np.array([[1, 2], [2, 3]]), Splits(), kept)
    assert (result.splits[0], result.splits[2]) == ("train", "validation")
    assert result.splits[1] == result.splits[3] == "validation"


def test_splits_without_a_share_stay_empty() -> None:
    splits = Splits.model_validate({"ratios": {"train": 0.8, "validation": 0.0, "test": 0.2}})
    assert Counter(by_digest(items(30), splits).values()) == {"train": 24, "test": 6}
