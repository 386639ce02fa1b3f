from __future__ import annotations

import numpy as np
import pytest
from fovea_trainer.training.order import (
    MAX_REPEATS,
    POOL,
    WINDOW_SHARDS,
    Draw,
    Order,
    WorkerBatches,
    mix,
    repeat_factors,
)


def order(images: int = 23, batch: int = 4) -> Order:
    return Order(np.ones(images), batch, seed=7)


def test_an_epoch_shows_every_image_and_each_epoch_another_order() -> None:
    first, second = order().epoch(0), order().epoch(1)
    assert set(first.ravel()) == set(range(23)) == set(second.ravel())
    assert first.shape == (6, 4)
    assert (first != second).any()
    assert (first == order().epoch(0)).all()


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_the_workers_together_take_exactly_the_batches_of_one(workers: int) -> None:
    one = list(WorkerBatches(order(), 2, 0, 0, 1))
    several = [list(WorkerBatches(order(), 2, 0, rank, workers)) for rank in range(workers)]
    for step, batch in enumerate(one):
        taken = [draw for worker in several for draw in worker[step]]
        assert sorted(taken, key=lambda draw: draw.seed) == sorted(batch, key=lambda draw: draw.seed)


def test_a_position_can_be_found_again() -> None:
    assert list(WorkerBatches(order(), 1, 3, 0, 2)) == list(WorkerBatches(order(), 1, 0, 0, 2))[3:]


def test_oversampling_evens_out_classes() -> None:
    classes = [[0]] * 80 + [[1]] * 20
    shown = Order(repeat_factors(classes, "Oversample"), 8, 0).epoch(0)
    rare = sum(1 for index in shown.ravel() if index >= 80)
    assert shown.size == 160
    assert rare == pytest.approx(80, abs=4)


def test_undersampling_shows_no_more_of_a_class_than_of_the_rarest() -> None:
    classes = [[0]] * 80 + [[1]] * 20
    shown = Order(repeat_factors(classes, "Undersample"), 8, 0).epoch(0)
    assert shown.size == 40


def test_repeats_are_bounded() -> None:
    assert repeat_factors([[0]] * 1000 + [[1]], "Oversample").max() == MAX_REPEATS


def test_a_fraction_of_a_repeat_is_drawn_for_each_image_by_itself() -> None:
    shown = Order(np.full(400, 1.5), 8, 0).epoch(0)
    twice = sum(np.bincount(shown.ravel(), minlength=400) == 2)
    assert twice == pytest.approx(200, abs=50)  # five standard deviations


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_accumulated_batches_are_the_images_of_one_step(workers: int) -> None:
    whole, parts = Order(np.ones(24), 8, 7), Order(np.ones(24), 4, 7, accumulated=2)
    assert (parts.epoch(1) == whole.epoch(1)).all()
    ranks = [list(WorkerBatches(parts, 1, 1, rank, workers)) for rank in range(workers)]
    assert {len(batches) for batches in ranks} == {len(WorkerBatches(parts, 1, 1, 0, workers))} == {4}
    drawn = {draw for batches in ranks for batch in batches for draw in batch}
    assert drawn == {draw for batch in WorkerBatches(whole, 1, 1, 0, 1) for draw in batch}


def test_the_order_and_the_seeds_are_those_of_earlier_versions() -> None:
    """Or a training that goes on after an upgrade shows some images twice and others never."""
    assert Order(np.ones(5), 2, seed=7).epoch(3).tolist() == [[4, 2], [0, 1], [3, 4]]
    assert mix(7, 0, 1, 2) == 5020255682690021425
    ((draw,),) = WorkerBatches(Order(np.ones(5), 2, seed=7), 3, 2, 1, 2)
    assert draw == Draw(4, mix(7, 3, 2, 1), 3, mix(7, 3, 2), draw.pool)


def test_the_last_step_is_filled_up_from_the_start_of_the_epoch() -> None:
    shown = Order(np.ones(5), 4, 0).epoch(0).ravel()
    assert shown[5:].tolist() == shown[:3].tolist()
    assert Order(np.ones(3), 8, 0).steps_per_epoch == 1
    assert Order(np.ones(17), 4, 0, accumulated=2).steps_per_epoch == 3
    assert Order(np.ones(17), 4, 0, accumulated=2).images_per_step == 8
    assert Order(np.full(2, 0.01), 2, 3).epoch(0).tolist() == [[0, 1]], "an epoch in which no image was drawn"


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("Oversample", [1, 1, 1, 4 / 3, 4, 4 / 3, 1]),
        ("RepeatFactors", [1, 1, 1, (4 / 3) ** 0.5, 2, (4 / 3) ** 0.5, 1]),
        ("Undersample", [1 / 4, 1 / 4, 1 / 4, 1 / 3, 1, 1 / 3, 1]),
        ("None", [1] * 7),
    ],
)
def test_factors_are_ratios_of_the_numbers_of_images_of_the_classes(balance: str, expected: list[float]) -> None:
    """Class 0 is in four images, 1 in one, 3 in three; an image counts once for a class, and by its rarest one."""
    classes: list[list[int]] = [[0, 0], [0], [0], [0, 3], [1, 3], [3, 3], []]
    assert repeat_factors(classes, balance).tolist() == pytest.approx(expected)
    assert repeat_factors([[], []], balance).tolist() == [1, 1]


def test_images_of_many_shards_are_mixed_in_windows_of_shards() -> None:
    shards = (5, 4, 6, 3, 5, 4, 6, 7, 5, 3)
    order = Order(np.ones(sum(shards)), 7, seed=1, shards=shards)
    shard_of = np.repeat(np.arange(len(shards)), shards)
    first, second = order.epoch(0), order.epoch(1)
    assert not np.array_equal(first, second)
    for epoch in (first, second):
        flat = epoch.ravel()
        assert set(flat.tolist()) == set(range(sum(shards)))
        assert len(set(epoch[-1].tolist())) == 7, "the last step has no image twice"
        uses = [np.flatnonzero(shard_of[flat[: sum(shards)]] == shard) for shard in range(len(shards))]
        begun = [sum(use.min() <= place <= use.max() for use in uses) for place in range(sum(shards))]
        assert max(begun) <= WINDOW_SHARDS
        assert max(begun) > 1
    short = Order(np.full(sum(shards), 0.5), 4, seed=3, shards=shards)  # an epoch draws about half of the images
    for epoch in range(20):
        drawn = short.epoch(epoch).ravel()
        uses = [np.flatnonzero(shard_of[drawn] == shard) for shard in range(len(shards))]
        begun = [sum(len(use) and use.min() <= place <= use.max() for use in uses) for place in range(len(drawn))]
        assert max(begun) <= WINDOW_SHARDS
    few = Order(np.ones(20), 7, seed=1, shards=(5,) * WINDOW_SHARDS)
    assert np.array_equal(few.epoch(0), Order(np.ones(20), 7, seed=1).epoch(0)), "few shards are one window"


def test_an_image_is_combined_with_those_of_its_step_and_around_it() -> None:
    """The same for every worker, and within the images whose shards are at hand."""
    order = Order(np.ones(100), 5, seed=1, accumulated=2)
    images = order.epoch(0)
    first, last = order.pool(images, 0), order.pool(images, 9)
    assert first.tolist() == images.ravel()[:POOL].tolist()
    assert last.tolist() == images.ravel()[-POOL:].tolist()
    assert set(images[6]) < set(order.pool(images, 6))
    assert len(order.pool(images, 6)) == POOL
    assert order.pool(images, 6)[-1] == images[6, -1]
    large = Order(np.ones(100), 50, seed=1)
    assert large.pool(large.epoch(0), 1).tolist() == large.epoch(0)[1].tolist()
    assert Order(np.ones(3), 2, seed=1).pool(Order(np.ones(3), 2, seed=1).epoch(0), 0).size == 4
    batches = WorkerBatches(order, 0, 3, 1, 3)
    for positions, draws in zip(batches.positions(True), batches, strict=True):
        assert {draw.index for draw in draws} | set(draws[0].pool) == set(positions.tolist())
    for positions, draws in zip(batches.positions(False), batches, strict=True):
        assert [draw.index for draw in draws] == positions.tolist()
