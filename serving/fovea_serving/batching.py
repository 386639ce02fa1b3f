"""Dynamic batching: images of different requests go through the network together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]
Outputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class BatchedOutputs:
    """The network's outputs for one image, each with a first dimension of 1, and how many images ran with it.

    None: whoever ran it does not say.
    """

    outputs: Outputs
    batch_size: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    image: Tensor
    since: float
    future: Future[BatchedOutputs] = field(default_factory=Future)


class Batcher:
    """Runs images in batches, in a thread of its own. Any number of threads may submit.

    A batch is closed when it is full, when its first image has waited `max_delay`, or when no other image is on its
    way: waiting for what nobody announced would only cost time.

    Args:
        run: The network: outputs by name for `[N, 3, height, width]`. Called by one thread only.
        max_size: Images in a batch at most.
        max_delay: Seconds that the first image of a batch waits for others at most.
    """

    def __init__(self, run: Callable[[Tensor], Outputs], max_size: int, max_delay: float) -> None:
        self._run = run
        self._max_size = max_size
        self._max_delay = max_delay
        self._waiting: deque[_Waiting] = deque()
        self._announced = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @contextmanager
    def announce(self) -> Iterator[None]:
        """While an image is on its way (being decoded), a batch may wait for it; it is submitted before the end."""
        with self._changed:
            self._announced += 1
        try:
            yield
        finally:
            with self._changed:
                self._announced -= 1
                self._changed.notify()

    def submit(self, image: Tensor) -> Future[BatchedOutputs]:
        """The outputs of an image `[3, height, width]`, later; cancelled before its batch, it is not run.

        Raises RuntimeError after `close`.
        """
        waiting = _Waiting(image, time.monotonic())
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Runs what waits, then ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            batch = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                outputs = self._run(np.stack([waiting.image for waiting in batch]))
            except BaseException as error:  # whatever it is, those who wait must hear of it
                for waiting in batch:
                    waiting.future.set_exception(error)
            else:
                for index, waiting in enumerate(batch):
                    own = {name: output[index : index + 1] for name, output in outputs.items()}
                    waiting.future.set_result(BatchedOutputs(own, len(batch)))

    def _next(self) -> list[_Waiting]:
        """The next batch; empty when the batcher is closed and nothing waits."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting and len(self._waiting) < self._max_size and self._announced > 0 and not self._closed:
                rest = self._waiting[0].since + self._max_delay - time.monotonic()
                if rest <= 0:
                    break
                self._changed.wait(rest)
            return [self._waiting.popleft() for _ in range(min(self._max_size, len(self._waiting)))]
