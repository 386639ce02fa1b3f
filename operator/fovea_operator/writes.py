"""What is to be written, as values. Planners make them from snapshots; `apply` alone carries them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fovea_operator.objects import JsonObject, Key


@dataclass(frozen=True, slots=True)
class Create:
    """An object that is made once and never changed by us, with its controller (None: it belongs to the namespace)."""

    key: Key
    manifest: JsonObject
    controller: Key | None


@dataclass(frozen=True, slots=True)
class Apply:
    """An object that is kept as its manifest says: applied when it is new or differs, by server-side apply.

    A field that others have set (an autoscaler, Kueue) is left to them; leave out of the manifest what is theirs.
    """

    key: Key
    manifest: JsonObject
    controller: Key


@dataclass(frozen=True, slots=True)
class Promote:
    """A TrainingJob that is made or updated for others: it belongs to nobody, and its label names the sweep that it is
    promoted from. One without that label is never touched; a field that others have set is left to them.
    """

    key: Key
    manifest: JsonObject


@dataclass(frozen=True, slots=True)
class Delete:
    """An object that must go: exactly the one with this uid."""

    key: Key
    uid: str


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Our whole part of an object's status."""

    key: Key
    status: JsonObject


@dataclass(frozen=True, slots=True)
class Emit:
    """A Kubernetes event, reported once: the same `once` about the same object is never reported again."""

    regarding: Key
    type: Literal["Normal", "Warning"]
    reason: str
    note: str
    once: str


@dataclass(frozen=True, slots=True)
class Count:
    """Something that a metric counts; planned right after the status that records it, so it is counted once."""

    metric: str
    labels: tuple[str, ...] = ()
    amount: float = 1


Write = Create | Apply | Promote | Delete | SetStatus | Emit | Count


@dataclass(frozen=True, slots=True)
class Plan:
    """Writes in their order, and the seconds after which to look again."""

    writes: tuple[Write, ...] = ()
    requeue_after: float | None = None
