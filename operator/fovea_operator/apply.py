"""The one place that writes to the cluster."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from fovea_api import names
from fovea_api.errors import FoveaError

from fovea_operator.cache import Cache
from fovea_operator.client import Api, ApiError, Conflict, NotFound
from fovea_operator.metrics import Metrics
from fovea_operator.objects import (
    EVENT,
    RUN,
    JsonObject,
    Key,
    View,
    items,
    mapping,
    text,
    uid_of,
)
from fovea_operator.ownership import differs, to_apply
from fovea_operator.prerequisites import missing
from fovea_operator.writes import Apply, Count, Create, Delete, Emit, Plan, Promote, SetStatus, Write

logger = logging.getLogger(__name__)

_REASON_BYTES = 128
_NOTE_BYTES = 1024
"""The API server refuses an event with more; it counts the bytes of UTF-8."""


_IDENTITY = ("apiVersion", "kind", "metadata")


class NotOurs(FoveaError):
    """An object of a name that we need exists and belongs to somebody else; it is never overwritten."""


class Leftover(FoveaError):
    """An object of a name that we need is left of an object that was deleted and made again; it goes by itself."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Carries out plans. Each write is harmless when repeated, so a plan may be cut off anywhere."""

    api: Api
    cache: Cache
    metrics: Metrics
    identity: str
    """Name of this replica, for events."""

    async def write(self, plan: Plan) -> None:
        """Writes in the order of the plan. Raises FoveaError at the first that fails; events may be lost."""
        for write in plan.writes:
            await self._write_one(write)

    async def _write_one(self, write: Write) -> None:
        match write:
            case Create(controller=None):
                await self._share(write)
            case Create():
                await self._create(write)
            case Apply():
                await self._apply(write)
            case Promote():
                await self._promote(write)
            case Delete():
                await self.api.delete(write.key, write.uid)
                self.cache.mark_deleting(write.key)
            case SetStatus():
                await self._set_status(write)
            case Emit():
                await self._emit(write)
            case Count():
                self.metrics.count(write.metric, write.labels, write.amount)

    async def _set_status(self, write: SetStatus) -> None:
        """Applies the status with what a newer version has put beside it: left out it would be deleted."""
        known = self.cache.registry.status_fields(write.key.kind)
        status = mapping(self.cache.get(write.key) or {}, "status")
        newer = {name: part for name, part in status.items() if name not in known}
        self._learn(write.key, await self.api.apply_status(write.key, newer | write.status))

    async def _share(self, write: Create) -> None:
        """Makes an object that belongs to the namespace, unless one that says the same is there.

        By apply, without force: the right to create may be limited to one name only there, for a POST does not name it.
        """
        live = await self.api.get(write.key)
        if live is None:
            try:
                live = await self.api.apply(write.key, write.manifest, force=False)
            except Conflict:
                live = await self.api.get(write.key) or {}
        content = {name: part for name, part in write.manifest.items() if name not in _IDENTITY}
        if other := [name for name, part in content.items() if live.get(name) != part]:
            raise NotOurs(
                f"{write.key} exists with another {' and another '.join(other)} than Fovea would give it",
                None,
                "delete it; Fovea then makes it anew",
            )

    async def _create(self, write: Create) -> None:
        assert write.controller is not None
        owner, manifest = self._owned(write.controller, write.manifest)
        try:
            made = await self.api.create(write.key.kind, manifest)
        except Conflict:
            made = await self._existing(write, owner)
        except NotFound as error:
            raise missing(write.key.kind) or error from error
        self._learn(write.key, made)

    async def _apply(self, write: Apply) -> None:
        """Writes where something differs, and first what all managers agree on: a conflict names what others set."""
        key = write.key
        owner, manifest = self._owned(write.controller, write.manifest)
        live = self.cache.get(key) or await self.api.get(key)
        if live is not None:
            self._check_ours(key, live, write.manifest, owner)
            if not differs(live, manifest):
                return
        self._learn(key, await self._apply_shared(key, manifest, names.FIELD_MANAGER))

    async def _promote(self, write: Promote) -> None:
        key, label = write.key, names.LABEL_PROMOTED_FROM
        live = await self.api.get(key)
        origin = text(mapping(write.manifest, "metadata", "labels"), label)
        if live is not None and text(mapping(live, "metadata", "labels"), label) != origin:
            raise NotOurs(
                f"{key} exists and was not promoted from {origin}",
                None,
                f"choose another name, or label it {label}={origin}",
            )
        self._learn(key, await self._apply_shared(key, write.manifest, names.PROMOTION_FIELD_MANAGER))

    async def _apply_shared(self, key: Key, manifest: JsonObject, manager: str) -> JsonObject:
        """Applies an object without the fields that others have set."""
        try:
            return await self.api.apply(key, to_apply(manifest), force=False, manager=manager)
        except Conflict as error:
            if not error.fields:
                raise
            return await self.api.apply(key, to_apply(manifest, error.fields), force=False, manager=manager)
        except NotFound as error:
            raise missing(key.kind) or error from error

    def _owned(self, controller: Key, manifest: JsonObject) -> tuple[View, JsonObject]:
        """The controller, and the manifest as its child."""
        owner = self.cache.get(controller)
        if owner is None:
            raise NotFound(f"{controller} is deleted")
        metadata = dict(mapping(manifest, "metadata")) | {"ownerReferences": [_reference(controller, owner)]}
        return owner, manifest | {"metadata": metadata}

    async def _existing(self, write: Create, owner: View) -> JsonObject:
        """What is there of that name, if it is the one that we made and forgot."""
        live = await self.api.get(write.key)
        if live is None:
            raise Conflict(f"{write.key} came and went")
        self._check_ours(write.key, live, write.manifest, owner)
        return live

    def _check_ours(self, key: Key, live: View, manifest: View, owner: View) -> None:
        """Raises Leftover or NotOurs unless the object belongs to the owner."""
        if any(text(each, "uid") == uid_of(owner) for each in items(live, "metadata", "ownerReferences")):
            return
        owned_by = self.cache.registry.owner_of
        if owned_by(live) is not None and owned_by(live) == owned_by(manifest):
            raise Leftover("left of an object that was deleted", str(key), "it goes by itself")
        raise NotOurs(
            f"{key} exists and does not belong to {text(owner, 'kind')} {text(owner, 'metadata', 'name')}",
            None,
            "delete or rename it",
        )

    def _learn(self, key: Key, value: JsonObject) -> None:
        if key.kind in self.cache.registry.watched:
            self.cache.put(key.kind, value)

    async def _emit(self, write: Emit) -> None:
        """An event whose name is made of what it reports, so that the API server refuses it a second time."""
        regarding = self.cache.get(write.regarding) or {}
        uid = uid_of(regarding)
        digest = hashlib.sha256(f"{uid}/{write.reason}/{write.once}".encode()).hexdigest()[:16]
        key = write.regarding
        event: JsonObject = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {"name": f"{key.name}.{digest}", "namespace": key.namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": f"{names.GROUP}/operator",
            "reportingInstance": self.identity[:128],
            "action": "Reconcile",
            "reason": _cut(write.reason, _REASON_BYTES),
            "note": _cut(write.note, _NOTE_BYTES),
            "type": write.type,
            "regarding": {
                "apiVersion": key.kind.api_version,
                "kind": key.kind.name,
                "name": key.name,
                "namespace": key.namespace,
                "uid": uid,
            },
        }
        try:
            await self.api.create(EVENT, event)
        except Conflict:
            return
        except ApiError as error:  # an event is news; what is true stands in the status, which must be written
            logger.warning("the event %s about %s was not recorded: %s", write.reason, key, error)


def _cut(text: str, size: int) -> str:
    """The first bytes of a text, in whole characters."""
    return text.encode()[:size].decode(errors="ignore")


def _reference(key: Key, owner: View) -> JsonObject:
    return {
        "apiVersion": key.kind.api_version,
        "kind": key.kind.name,
        "name": key.name,
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": key.kind == RUN,
    }
