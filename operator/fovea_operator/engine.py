"""One reconcile: observe, plan, apply. And what becomes of an object when that fails."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from fovea_api.common import Status
from fovea_api.errors import FoveaError, InvalidManifest
from fovea_api.run import RunType

from fovea_operator.apply import Leftover, NotOurs, Writer
from fovea_operator.cleanups.observe import observe_deleted
from fovea_operator.cleanups.plan import plan_deleted
from fovea_operator.client import Invalid, Refused
from fovea_operator.conditions import Assessment, conditions, progressing, stalled, waiting_for_leftover
from fovea_operator.logs import about
from fovea_operator.objects import RUN, JsonObject, Key, View, key_of, mapping, number, parse, text
from fovea_operator.observe import Observer
from fovea_operator.prerequisites import KindMissing
from fovea_operator.settings import Settings
from fovea_operator.writes import Create, Emit, Plan, SetStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Engine:
    """Reconciles one object at a time; the queue sees to it that no object is worked on twice at once."""

    observer: Observer
    writer: Writer
    settings: Settings

    async def reconcile(self, key: Key) -> float | None:
        """Brings the object one step on. Returns the seconds until the next look, or None.

        Raises FoveaError when something outside failed, anything else for a fault of our own; what a person must
        know about it is in the status then.
        """
        with about(key):
            try:
                plan = await self._plan(key)
                await self._report_unreadable(key, plan)
                if plan is None:
                    return None
                await self.writer.write(plan)
            except Leftover as error:
                await self._report(key, waiting_for_leftover(error.location))
                return self.settings.deletion_poll_seconds
            except Invalid as error:
                await self._report(key, stalled(error.reason, str(error)))
                raise
            except Refused as error:
                await self._report(key, progressing(error.reason, str(error)))
                raise
            except (NotOurs, KindMissing, InvalidManifest) as error:
                await self._report(key, stalled(error.reason, str(error)))
                raise
            except FoveaError:
                raise
            except Exception as error:
                words = f"{type(error).__name__}: {error}; a fault of the operator, whose log says where it lies"
                with contextlib.suppress(Exception):  # the first error is the one to raise
                    await self._report(key, stalled("InternalError", words))
                raise
            for write in plan.writes:
                self._log(write)
            return plan.requeue_after

    async def _plan(self, key: Key) -> Plan | None:
        now = datetime.now(UTC).replace(microsecond=0)
        self.observer.poller.forget(key)
        entry = self.observer.registry.entry(key.kind)
        assert entry is not None, f"{key.kind} is no kind of this operator's"
        if (plan := await entry.reconcile(self.observer, key, now)) is not None:
            return plan
        deleted = await observe_deleted(self.observer, key, now)
        return plan_deleted(deleted, self.settings) if deleted is not None else None

    async def _report_unreadable(self, owner: Key, plan: Plan | None) -> None:
        """Says in a Run's own conditions that this version cannot read it; its owner goes on without it.

        Raises InvalidManifest where the owner's plan takes it for one that is not there.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        created = {write.key for write in plan.writes if isinstance(write, Create)} if plan is not None else set()
        for key, error in self.observer.unreadable.pop(owner, {}).items():
            if (value := self.observer.cache.get(key)) is not None:
                await self.writer.write(self._status_plan(key, value, stalled(error.reason, str(error)), now))
            if key in created:
                raise error

    async def _report(self, key: Key, assessment: Assessment) -> None:
        """Says in the object's conditions why nothing can be written; the rest of its status stays.

        Of an object that is deleted, the Run that cleans up after it says so.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        value = self.observer.cache.get(key)
        if value is not None:
            await self.writer.write(self._status_plan(key, value, assessment, now))
            return
        for run in list(self.observer.cache.owned(key, RUN)):
            if text(run, "spec", "type") == RunType.CLEANUP:
                await self.writer.write(self._status_plan(key_of(RUN, run), run, assessment, now))

    def _status_plan(self, key: Key, value: View, assessment: Assessment, now: datetime) -> Plan:
        raw = dict(mapping(value, "status"))
        if key.kind == RUN:  # its pods' part stays theirs
            raw = {name: part for name, part in raw.items() if name not in ("progress", "result")}
        own: JsonObject = {name: raw[name] for name in ("observedGeneration", "conditions") if name in raw}
        old = parse(Status, own)
        generation = number(value, "metadata", "generation")
        new = Status(observed_generation=generation, conditions=conditions(assessment, old.conditions, generation, now))
        return Plan((SetStatus(key, raw | new.to_dict()),)) if new != old else Plan()

    def _log(self, write: object) -> None:
        match write:
            case Emit():
                logger.info("%s: %s", write.reason, write.note, extra={"reason": write.reason, "once": write.once})
            case SetStatus() if text(write.status, "phase"):
                logger.debug("%s is %s", write.key, text(write.status, "phase"))
