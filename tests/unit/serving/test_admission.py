"""Load shedding, on a clock of its own."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, ExitStack

import pytest
from fovea_serving.gateway.admission import Admission
from fovea_serving.upstreams import Overloaded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def served(admission: Admission, clock: Clock, images: int, seconds: float, at_once: int) -> None:
    """Images of which one is finished every so many seconds, with `at_once` at work at any time."""
    with ExitStack() as stack:
        running: deque[AbstractContextManager[None]] = deque()
        for _ in range(images):
            while len(running) < at_once:
                running.append(admission.admit(1))
                running[-1].__enter__()
            clock.now += seconds
            running.popleft().__exit__(None, None, None)
        for each in running:
            stack.push(each)


def test_what_would_wait_too_long_is_refused_and_told_when_to_come_back() -> None:
    clock = Clock()
    admission = Admission(max_wait=1.0, always=4, most=1000, clock=clock)
    served(admission, clock, 100, 0.1, at_once=4)
    with ExitStack() as stack:
        for _ in range(11):
            stack.enter_context(admission.admit(1))
        assert admission.expected_wait == pytest.approx(1.1, rel=0.05)
        with pytest.raises(Overloaded) as refused, admission.admit(1):
            pass
        assert 1 <= refused.value.retry_after < 1.5
    with admission.admit(1):
        pass


def test_parallel_work_counts_as_fast_as_it_is_finished() -> None:
    clock = Clock()
    admission = Admission(max_wait=1, always=4, most=1000, clock=clock)
    served(admission, clock, 50, 0.01, at_once=8)
    with admission.admit(50):
        assert admission.expected_wait == pytest.approx(0.5, rel=0.15)


def test_what_runs_at_the_same_time_anyway_is_never_refused_nor_is_anything_before_the_first_measurement() -> None:
    clock = Clock()
    admission = Admission(max_wait=1, always=4, most=100, clock=clock)
    with admission.admit(90):
        pass
    served(admission, clock, 50, 10, at_once=4)
    with admission.admit(3), admission.admit(1):
        with pytest.raises(Overloaded), admission.admit(1):
            pass
        assert admission.at_work == 4


def test_the_speed_of_one_after_the_other_says_nothing_about_a_full_house() -> None:
    clock = Clock()
    admission = Admission(max_wait=1, always=4, most=100, clock=clock)
    served(admission, clock, 100, 0.5, at_once=1)
    with admission.admit(50), admission.admit(1):
        pass


def test_memory_bounds_whatever_the_speed_but_one_request_alone_always_fits() -> None:
    admission = Admission(max_wait=1, always=4, most=8, clock=Clock())
    with admission.admit(8), pytest.raises(Overloaded), admission.admit(1):
        pass
    with admission.admit(20):
        pass


def test_idle_time_is_no_work_and_failures_are_no_answers() -> None:
    clock = Clock()
    admission = Admission(max_wait=1, always=4, most=1000, clock=clock)
    for _ in range(20):
        served(admission, clock, 20, 0.1, at_once=4)
        clock.now += 60
    for _ in range(100):
        with pytest.raises(ValueError, match="bad"), admission.admit(5):
            raise ValueError("bad")
    with admission.admit(5):
        assert admission.expected_wait == pytest.approx(0.5, rel=0.15)
