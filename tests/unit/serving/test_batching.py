"""Images of different requests go through the network together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fovea_serving.batching import Batcher

LONGEST_SECONDS = 120.0
"""For what will happen; it only ends a hang, and is less than a batch may wait."""


class Network:
    """Doubles its input, and notes the sizes of its batches; waits while its gate is closed."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.sizes.append(len(batch))
        self.gate.wait()
        if batch.min() < 0:
            raise ValueError("negative")
        return {"doubled": 2 * batch}


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def batcher(network: Network) -> Iterator[Batcher]:
    batcher = Batcher(network, max_size=4, max_delay=600)
    yield batcher
    network.gate.set()
    batcher.close()


def image(value: float) -> np.ndarray:
    return np.full((3, 2, 2), value, np.float32)


def test_each_gets_its_own_output_whatever_ran_with_it(batcher: Batcher) -> None:
    with ThreadPoolExecutor(16) as threads:
        futures = list(threads.map(lambda value: batcher.submit(image(value)), range(200)))
    for value, future in enumerate(futures):
        assert (future.result().outputs["doubled"] == 2 * image(value)[None]).all()
        assert 1 <= future.result().batch_size <= 4


def test_what_waited_meanwhile_runs_together_and_no_more_than_fits(batcher: Batcher, network: Network) -> None:
    network.gate.clear()
    futures = [batcher.submit(image(0))]
    while not network.sizes:
        pass
    futures += [batcher.submit(image(value)) for value in range(1, 7)]
    network.gate.set()
    assert [future.result().batch_size for future in futures] == [1, 4, 4, 4, 4, 2, 2]
    assert network.sizes == [1, 4, 2]


def test_a_batch_waits_for_an_image_on_its_way_and_for_nothing_else(batcher: Batcher) -> None:
    assert batcher.submit(image(1)).result(LONGEST_SECONDS).batch_size == 1, "nobody else announced: not 600 s"
    with batcher.announce():
        first = batcher.submit(image(1))
        with pytest.raises(TimeoutError):
            first.result(0.05)
        second = batcher.submit(image(2))
    assert (first.result(LONGEST_SECONDS).batch_size, second.result(LONGEST_SECONDS).batch_size) == (2, 2)


def test_it_waits_no_longer_than_allowed(network: Network) -> None:
    batcher = Batcher(network, max_size=4, max_delay=0.05)
    with batcher.announce():
        assert batcher.submit(image(1)).result(LONGEST_SECONDS).batch_size == 1
    batcher.close()


def test_a_failure_reaches_those_of_its_batch_and_the_next_one_runs(batcher: Batcher) -> None:
    failing = batcher.submit(image(-1))
    with pytest.raises(ValueError, match="negative"):
        failing.result(LONGEST_SECONDS)
    assert batcher.submit(image(1)).result(LONGEST_SECONDS).batch_size == 1


def test_what_was_given_up_is_not_run(batcher: Batcher, network: Network) -> None:
    network.gate.clear()
    running = batcher.submit(image(0))
    while not network.sizes:
        pass
    assert batcher.submit(image(1)).cancel()
    network.gate.set()
    running.result(LONGEST_SECONDS)
    batcher.submit(image(2)).result(LONGEST_SECONDS)
    assert network.sizes == [1, 1]


def test_closing_answers_what_waits_and_takes_nothing_more(network: Network) -> None:
    batcher = Batcher(network, max_size=2, max_delay=600)
    futures = [batcher.submit(image(value)) for value in range(5)]
    batcher.close()
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        batcher.submit(image(0))
