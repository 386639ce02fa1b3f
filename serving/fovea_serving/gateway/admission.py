"""Load shedding: a request that would wait for too long is refused at once, while the others stay fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fovea_serving.upstreams import Overloaded

MEMORY = 0.98
"""Weight of the past at each finished image: the estimate follows the last 50."""


class Admission:
    """Counts images at work, and estimates how long one more would wait.

    With `n` images at work and one finished every `s` seconds, a new one waits about `n * s` (Little's law). `s` is
    measured while more is at work than runs at the same time, for below that it says nothing about what could be done;
    so it holds for any number of replicas and any size of batches.

    Args:
        max_wait: Seconds that a request may be expected to wait.
        always: Images at work up to which nothing is refused: what runs at the same time anyway.
        most: Images at work at most: what memory bears.
        clock: Monotonic seconds.
    """

    def __init__(self, max_wait: float, always: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_wait = max_wait
        self._always = always
        self._most = most
        self._clock = clock
        self.at_work = 0
        self._finished = 0.0
        self._busy = 0.0
        self._since = 0.0

    @property
    def expected_wait(self) -> float:
        """Seconds that a request which came now would wait."""
        return self.at_work * self._busy / self._finished if self._finished else 0.0

    def has_room(self, images: int) -> bool:
        """Whether a request of so many images would be admitted now."""
        after = self.at_work + images
        slow = after > self._always and self.expected_wait > self.max_wait
        return not self.at_work or (after <= self._most and not slow)

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """While the images of a request are at work. Raises Overloaded where they would wait for too long."""
        wait = self.expected_wait
        if not self.has_room(images):
            raise Overloaded(f"{self.at_work} images are at work, a wait of about {wait:.1f} s", max(1.0, wait))
        self._pass_time()
        self.at_work += images
        try:
            yield
        except BaseException:
            self._pass_time()
            self.at_work -= images
            raise
        self._pass_time()
        if self.at_work >= self._always:
            fading = MEMORY**images
            self._finished = (self._finished + images) * fading
            self._busy *= fading
        self.at_work -= images

    def _pass_time(self) -> None:
        now = self._clock()
        if self.at_work >= self._always:
            self._busy += now - self._since
        self._since = now
