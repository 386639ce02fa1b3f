"""Cron schedules."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fovea_operator.schedule import InvalidSchedule, last_time, next_time


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "zone", "now", "last", "following"),
    [
        ("0 3 * * *", "UTC", "2026-11-24T12:00", "2026-11-24T03:00", "2026-11-25T03:00"),
        ("0 3 * * *", "Europe/Berlin", "2026-11-24T12:00", "2026-11-24T02:00", "2026-11-25T02:00"),
        ("0 3 * * *", "Europe/Berlin", "2026-07-01T12:00", "2026-07-01T01:00", "2026-07-02T01:00"),
        ("@weekly", "UTC", "2026-11-24T12:00", "2026-11-22T00:00", "2026-11-29T00:00"),
    ],
)
def test_last_and_next(schedule: str, zone: str, now: str, last: str, following: str) -> None:
    assert last_time(schedule, zone, at(now)) == at(last)
    assert next_time(schedule, zone, at(now)) == at(following)


@pytest.mark.parametrize(
    ("schedule", "zone", "words"),
    [("99 3 * * *", "UTC", "spec.refresh.schedule"), ("0 3 * * *", "Mars/Base", "spec.refresh.timeZone")],
)
def test_what_means_nothing_is_named(schedule: str, zone: str, words: str) -> None:
    with pytest.raises(InvalidSchedule, match=words):
        next_time(schedule, zone, at("2026-11-24T12:00"))
