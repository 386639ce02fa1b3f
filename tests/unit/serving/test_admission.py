"""Load shedding, on a clock of its own."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from fovea_serving.gateway.admission import Admission
from fovea_serving.upstreams import Overloaded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def served(admission: Admission, clock: Clock, images: int, seconds: float, at_once: int = 1) -> None:
    """Images that are finished one after the other, `at_once` at work at any time."""
    for _ in range(images):
        with ExitStack() as stack:
            for _ in range(at_once):
                stack.enter_context(admission.admit(1))
            clock.now += seconds * at_once


def test_what_would_wait_too_long_is_refused_and_told_when_to_come_back() -> None:
    clock = Clock()
    admission = Admission(max_wait=1.05, always=4, most=1000, clock=clock)
    served(admission, clock, 200, 0.1)
    with ExitStack() as stack:
        for _ in range(11):
            stack.enter_context(admission.admit(1))
        assert admission.expected_wait == pytest.approx(1.1, rel=0.01)
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
        assert admission.expected_wait == pytest.approx(0.5, rel=0.1)


def test_what_runs_at_the_same_time_anyway_is_never_refused_nor_is_anything_before_the_first_answer() -> None:
    clock = Clock()
    admission = Admission(max_wait=1, always=4, most=100, clock=clock)
    with admission.admit(90):
        pass
    served(admission, clock, 50, 10)
    with admission.admit(3), admission.admit(1):
        with pytest.raises(Overloaded), admission.admit(1):
            pass
        assert admission.at_work == 4


def test_memory_bounds_whatever_the_speed_but_one_request_alone_always_fits() -> None:
    admission = Admission(max_wait=1, always=4, most=8, clock=Clock())
    with admission.admit(8), pytest.raises(Overloaded), admission.admit(1):
        pass
    with admission.admit(20):
        pass


def test_idle_time_is_no_work_and_failures_are_no_answers() -> None:
    clock = Clock()
    admission = Admission(max_wait=1, always=4, most=1000, clock=clock)
    for _ in range(100):
        with admission.admit(1):
            clock.now += 0.1
        clock.now += 60
    for _ in range(100):
        with pytest.raises(ValueError, match="bad"), admission.admit(1):
            raise ValueError("bad")
    with admission.admit(5):
        assert admission.expected_wait == pytest.approx(0.5, rel=0.05)
