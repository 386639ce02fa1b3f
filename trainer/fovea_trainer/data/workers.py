"""The processes that read images: as many as the recipe's compute says."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fovea_api.errors import Retryable

AHEAD = 3
"""Chunks for each worker that wait or are done: enough to keep it busy, few enough to bound memory."""

_R = TypeVar("_R")


class Workers:
    """Worker processes, or this process for one. Results come in order, a bounded number ahead."""

    def __init__(self, workers: int) -> None:
        self.count = workers
        self.pool = (
            ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) if workers > 1 else None
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[..., _R], arguments: Iterable[tuple[object, ...]]) -> Iterator[_R]:
        if self.pool is None:
            for values in arguments:
                yield work(*values)
            return
        waiting: list[Future[_R]] = []
        try:
            for values in arguments:
                waiting.append(self.pool.submit(work, *values))
                if len(waiting) >= AHEAD * self.count:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        except BrokenProcessPool as error:
            raise Retryable("a worker process died", None, "it may lack memory: raise compute.resources") from error
