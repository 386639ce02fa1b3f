"""Shards are fetched in the order in which an epoch needs them, while it is trained on those before."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from fovea_store.errors import StoreFull
from numpy.typing import NDArray

from fovea_trainer.data.version import Split
from fovea_trainer.training.order import WINDOW_SHARDS

FETCHERS = 2
"""Shards that are fetched at once."""


class ReadAhead:
    """The shards of one pass over a split. It is this process that fetches; those of the loader find the shards here.

    A shard stays from its first image until the last batch with one of its images has arrived. Beyond those that are
    needed, WINDOW_SHARDS are fetched ahead, where there is room.

    Args:
        split: The split.
        batches: Positions of the images of each batch, in the order in which the loader is given them.
    """

    def __init__(self, split: Split, batches: Sequence[NDArray[np.int64]]) -> None:
        self._split, self._count = split, len(batches)
        first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        for number, positions in enumerate(batches):
            for shard in np.unique(split.shards_of(positions)).tolist():
                first.setdefault(shard, number)
                self._last[shard] = number
        self._first = first
        self._order = sorted(first, key=lambda shard: (first[shard], shard))
        self._fetching: dict[int, Future[Path]] = {}
        self._arrived = 0
        self._pool = ThreadPoolExecutor(FETCHERS)

    def before(self, number: int) -> None:
        """Waits until the shards of a batch are here. Raises what ShardCache.fetch does."""
        needed = [shard for shard in self._order if self._first[shard] <= number <= self._last[shard]]
        ahead = [shard for shard in self._order if self._first[shard] > number][:WINDOW_SHARDS]
        for shard in (*needed, *ahead):
            if shard not in self._fetching:
                self._fetching[shard] = self._pool.submit(self._fetch, shard, self._count)
        for shard in needed:
            if self._first[shard] == number:  # else another batch has waited for it
                with suppress(StoreFull):  # there was no room for it when it was fetched ahead
                    self._fetching[shard].result()
                self._fetch(shard, number)

    def after(self, number: int) -> None:
        """A batch has arrived: the shards whose last one it is may go."""
        self._arrived = number + 1

    def close(self) -> None:
        """Begins nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, shard: int, until: int) -> Path:
        """Brings a shard, beside those of batches on their way, and of batches up to a number that are ahead."""
        keep = [
            self._split.shards[other]
            for other in list(self._fetching)
            if self._last[other] >= self._arrived and self._first[other] <= until
        ]
        return self._split.cache.fetch(self._split.shards[shard], keep)
