"""What /healthz says: what only a new start can mend, and nothing else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fovea_operator.main import Operator
from fovea_operator.settings import Settings
from kubernetes.aio.client import Configuration


def operator(**parts: Any) -> Operator:
    """An operator whose parts are in the states given."""
    made = Operator(Settings(resync_seconds=100, stuck_seconds=50, lease_seconds=15), type.__call__(Configuration))
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def reconciling(seconds: float) -> Any:
    return SimpleNamespace(oldest=lambda: ("Dataset ns/cells", seconds))


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({}, ""),
        ({"election": SimpleNamespace(left=lambda: 4.0)}, ""),
        ({"election": SimpleNamespace(left=lambda: -14.0)}, ""),
        ({"election": SimpleNamespace(left=lambda: -16.0)}, "the Lease was lost 16 s ago and the work has not ended"),
        ({"queue": SimpleNamespace(oldest=lambda: None)}, ""),
        ({"queue": reconciling(49)}, ""),
        ({"queue": reconciling(51)}, "Dataset ns/cells has been reconciled for 51 s"),
        ({"watcher": SimpleNamespace(since_resync=lambda: 249.0)}, ""),
        (
            {"watcher": SimpleNamespace(since_resync=lambda: 251.0)},
            "the last attempt to list the cluster ended 251 s ago",
        ),
    ],
)
async def test_what_is_wrong_with_an_operator(parts: dict[str, Any], problem: str) -> None:
    assert operator(**parts)._sick() == problem


async def test_an_operator_that_waits_for_its_first_listing_is_not_sick() -> None:
    made = operator()
    made.unread = "pods cannot be listed"
    await asyncio.sleep(0)
    assert made._sick() == ""
    assert made._unready() == ""
    made.leading.set()
    assert made._unready() == "the watch has not started yet; pods cannot be listed"
