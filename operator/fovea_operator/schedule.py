"""Cron schedules in their time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from fovea_api.errors import InvalidInput

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}


class InvalidSchedule(InvalidInput):
    """A cron expression or time zone that means nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """The fields of a spec that a schedule stands in, for errors."""

    schedule: str = "spec.refresh.schedule"
    zone: str = "spec.refresh.timeZone"


REFRESH = Place()


def next_time(schedule: str, zone: str, after: datetime, place: Place = REFRESH) -> datetime:
    """The first time after `after`, in UTC. Raises InvalidSchedule. Daylight saving as Debian's cron has it."""
    return _walk(schedule, zone, after, False, place)


def last_time(schedule: str, zone: str, before: datetime, place: Place = REFRESH) -> datetime:
    """The last time before or at `before`, in UTC. Raises InvalidSchedule."""
    return _walk(schedule, zone, before, True, place)


def _walk(schedule: str, zone: str, start: datetime, reverse: bool, place: Place) -> datetime:
    try:
        local = start.astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        raise InvalidSchedule(f"there is no time zone {zone!r}", place.zone, "such as Europe/Berlin") from None
    try:
        return next(CronSim(_NAMED.get(schedule, schedule), local, reverse=reverse)).astimezone(UTC)
    except (CronSimError, StopIteration):
        raise InvalidSchedule(
            f"{schedule!r} is no time", place.schedule, "such as '0 3 * * *': every day at three"
        ) from None
