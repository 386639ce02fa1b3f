"""The next step of a run in each situation, as a whole: attempts and their words, notes, deletions, when to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from fovea_operator.runs.lifecycle import Step, advance, supersede
from fovea_operator.workloads.pods import Disruption
from fovea_operator.workloads.workload import ChildState

from tests.unit.operator.recorded import Records, of_step
from tests.unit.operator.test_lifecycle import (
    NOW,
    SITUATIONS,
    START,
    attempt,
    child,
    error,
    given,
    outside,
    status,
)

FURTHER: dict[str, Callable[[], Step]] = {
    "its spec changed before its work began": lambda: advance(
        replace(
            given(status(attempt(podsDigest="one"), phase="Pending"), child(state=ChildState.STARTING)),
            pods_digest="two",
        )
    ),
    "a pod is taken from a training that goes on": lambda: advance(
        given(
            status(attempt(), phase="Running"),
            child(disruption=Disruption(NOW - timedelta(seconds=9), "pod p: preempted")),
        )
    ),
    "an error that has to end": lambda: advance(
        given(status(attempt(), phase="Running", **error("StoreUnavailable", retryable=True)), child())
    ),
    "an error that hangs": lambda: advance(
        given(
            status(
                attempt(endTime=NOW - timedelta(seconds=120)),
                phase="Running",
                **error("X", retryable=True, at=NOW - timedelta(seconds=120)),
            ),
            child(),
        )
    ),
    "a fault outside of a run that may adopt": lambda: advance(
        given(status(attempt(), phase="Running", **outside()), child(state=ChildState.FAILED), adopt="c/n", retry="x")
    ),
    "a final error of an attempt with pods of another digest": lambda: advance(
        replace(given(status(attempt(podsDigest="one"), **error("BadImage")), child()), pods_digest="two")
    ),
    "superseded while it runs": lambda: supersede(status(attempt(), phase="Running"), (child(),), "r-new", NOW),
    "superseded in its queue": lambda: supersede(
        status(attempt(workedSeconds=7), phase="Queued"), (child(state=ChildState.QUEUED),), "r-new", NOW
    ),
    "superseded after its end": lambda: supersede(
        status(attempt(outcome="Failed", reason="X"), phase="Failed"), (child(deleting=True),), "r-new", NOW
    ),
    "a child that is in no status, of a run that is superseded": lambda: supersede(
        status(), (child(pods_digest="one"),), "r-new", NOW
    ),
    "two attempts are open": lambda: advance(
        given(status(attempt(1), attempt(2, startTime=START + timedelta(minutes=30))), child(2))
    ),
}


def rendered(made: Callable[[], Step]) -> Callable[[], Any]:
    return lambda: of_step(made())


RECORDS = Records(
    "runs",
    {name: rendered(partial(advance, situation)) for name, (situation, _) in SITUATIONS.items()}
    | {name: rendered(made) for name, made in FURTHER.items()},
)


@pytest.mark.parametrize("name", [*SITUATIONS, *FURTHER])
def test_step(name: str) -> None:
    RECORDS.check(name)
