"""What is known of an object that was deleted and whose data are to follow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fovea_api.common import Reference

from fovea_operator.runs.snapshot import RunView
from fovea_operator.store import StoreConfig


@dataclass(frozen=True, slots=True)
class DeletedSnapshot:
    """What is known of an object that was deleted and whose data are to follow."""

    cleanup: RunView
    users: tuple[str, ...]
    """What works for the object still or refers to it, in words."""
    store: StoreConfig
    missing: tuple[Reference, ...]
    now: datetime
    retained: bool = False
    """Whether its last version that was seen had the policy Retain."""
    shared: str = ""
    """Another namespace whose store is the same, or lies in it or around it; empty: there is none."""
