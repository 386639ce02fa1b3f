"""The poller: one look for all who wait, and only for what somebody waits for. The API server is a stand-in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from fovea_operator.client import Api, Refused, Unreachable
from fovea_operator.objects import (
    CLAIM,
    EVENT,
    POD,
    RAY_JOB,
    SECRET,
    TRAINING_JOB,
    WORKLOAD,
    JsonObject,
    Key,
    Kind,
    items,
    text,
)
from fovea_operator.polling import Poller, about_admission, about_events
from fovea_operator.settings import Settings

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
CHILD, THEIRS = Key(RAY_JOB, "ns", "r-1-1"), Key(TRAINING_JOB, "ns", "job")
SECRET_KEY = Key(SECRET, "ns", "keys")


@dataclass
class Server:
    """Lists and gets what it is given, and counts how often it is asked."""

    listed: dict[tuple[Kind, str], list[JsonObject]] = field(default_factory=dict)
    existing: dict[Key, JsonObject] = field(default_factory=dict)
    asked: Counter[Any] = field(default_factory=Counter)
    error: Exception | None = None

    async def list(self, kind: Kind, namespace: str, selector: str) -> tuple[list[JsonObject], int]:
        self.asked[kind.name, namespace, selector] += 1
        if self.error is not None:
            raise self.error
        return self.listed.get((kind, namespace), []), 1

    async def get(self, key: Key, metadata_only: bool = False) -> JsonObject | None:
        assert metadata_only
        self.asked[key] += 1
        if self.error is not None:
            raise self.error
        return self.existing.get(key)


class World:
    def __init__(self) -> None:
        self.server = Server()
        self.woken: list[str] = []
        self.poller = Poller(
            cast(Api, self.server), Settings(reference_poll_seconds=60), lambda key: self.woken.append(key.name)
        )

    def event(self, version: int, about: Key = CHILD, type: str = "Warning", note: str = "quota") -> None:
        event: JsonObject = {
            "metadata": {"resourceVersion": str(version)},
            "regarding": {"kind": about.kind.name, "name": about.name},
            "type": type,
            "note": note,
        }
        self.server.listed.setdefault((EVENT, about.namespace), []).insert(0, event)

    def note(self, key: Key = CHILD, warning: bool = False, since: datetime = LONG_AGO) -> Any:
        """What is known about an object now, asked by its owner."""
        return self.poller.ask(about_events(key, warning), THEIRS, since).get("note")


@pytest.fixture
def world() -> World:
    return World()


async def test_a_thousand_that_wait_cost_one_listing_and_only_news_wakes(world: World) -> None:
    for number in range(1000):
        world.poller.ask(
            about_events(Key(RAY_JOB, "ns", f"r-{number}-1")), Key(TRAINING_JOB, "ns", f"job-{number}"), LONG_AGO
        )
    world.event(7, Key(RAY_JOB, "ns", "r-5-1"))
    await world.poller.look()
    assert world.server.asked == {("Event", "ns", ""): 1}
    assert world.woken == ["job-5"]
    await world.poller.look()
    assert world.woken == ["job-5"]
    world.event(8, Key(RAY_JOB, "ns", "r-5-1"), note="more")
    await world.poller.look()
    assert world.woken == ["job-5"] * 2


async def test_the_newest_event_answers_and_the_newest_warning_where_that_is_asked(world: World) -> None:
    world.event(9, note="second")
    world.event(11, type="Normal", note="third")
    world.event(3, note="first")
    world.event(12, Key(POD, "ns", "r-1-1"), note="of a pod")
    assert (world.note(), world.note(warning=True)) == (None, None)
    await world.poller.look()
    assert (world.note(), world.note(warning=True)) == ("third", "second")


async def test_where_nobody_waits_nothing_is_asked(world: World) -> None:
    await world.poller.look()
    world.note()
    world.poller.forget(THEIRS)
    world.poller.forget(THEIRS)
    await world.poller.look()
    assert not world.server.asked


async def test_others_still_wait_when_one_is_forgotten(world: World) -> None:
    world.note()
    world.poller.ask(about_events(CHILD), Key(TRAINING_JOB, "ns", "other"), LONG_AGO)
    world.poller.forget(THEIRS)
    world.event(5)
    await world.poller.look()
    assert world.woken == ["other"]


async def test_an_answer_counts_only_from_its_time_on(world: World) -> None:
    world.event(5)
    assert world.note(since=datetime.now(UTC) + timedelta(hours=1)) is None
    await world.poller.look()
    assert not world.server.asked
    assert world.note() is None
    await world.poller.look()
    assert world.woken == ["job"]
    assert world.note(since=datetime.now(UTC) + timedelta(hours=1)) is None


def slice_of(uid: str, name: str, version: int, minute: int) -> JsonObject:
    labels = {"kueue.x-k8s.io/job-uid": uid}
    created = f"2026-11-24T20:{minute:02}:00Z"
    return {"metadata": {"name": name, "resourceVersion": str(version), "labels": labels, "creationTimestamp": created}}


async def test_the_workloads_of_a_job_are_found_by_its_uid_the_oldest_first_and_news_of_each_wakes(
    world: World,
) -> None:
    first, second, other = slice_of("uid-1", "z", 3, 0), slice_of("uid-1", "a", 4, 1), slice_of("uid-3", "b", 9, 2)
    world.server.listed[WORKLOAD, "ns"] = [second, other, first]
    question = about_admission(CHILD, "uid-1")

    def known() -> list[str]:
        return [text(each, "metadata", "name") for each in items(world.poller.ask(question, THEIRS, LONG_AGO), "items")]

    assert known() == []
    world.poller.ask(about_admission(CHILD, "uid-2"), Key(TRAINING_JOB, "ns", "other"), LONG_AGO)
    await world.poller.look()
    assert known() == ["z", "a"]
    assert world.woken == ["job"]
    assert world.server.asked == {("Workload", "ns", "kueue.x-k8s.io/job-uid"): 1}
    await world.poller.look()
    assert world.woken == ["job"]
    world.server.listed[WORKLOAD, "ns"] = [second, slice_of("uid-1", "z", 5, 0)]
    await world.poller.look()
    assert world.woken == ["job"] * 2


async def test_what_is_missing_is_looked_for_once_for_all_and_wakes_them_when_it_appears(world: World) -> None:
    jobs = [Key(TRAINING_JOB, "ns", f"job-{number}") for number in range(3)]
    assert [await world.poller.exists(SECRET_KEY, job) for job in jobs] == [False] * 3
    await world.poller.look()
    assert (world.server.asked[SECRET_KEY], world.woken) == (2, [])
    world.server.existing[SECRET_KEY] = {"metadata": {"resourceVersion": "4"}}
    await world.poller.look()
    assert world.woken == ["job-0", "job-1", "job-2"]
    assert await world.poller.exists(SECRET_KEY, jobs[0])
    assert world.server.asked[SECRET_KEY] == 3


async def test_what_exists_is_not_waited_for_and_looked_at_again_in_time(world: World) -> None:
    world.server.existing[SECRET_KEY] = {"metadata": {"resourceVersion": "4"}}
    assert await world.poller.exists(SECRET_KEY, THEIRS)
    assert await world.poller.exists(SECRET_KEY, THEIRS)
    await world.poller.look()
    assert world.server.asked[SECRET_KEY] == 1
    del world.server.existing[SECRET_KEY]
    assert not await world.poller.exists(SECRET_KEY, THEIRS)


async def test_what_may_not_be_looked_at_is_taken_to_exist(world: World) -> None:
    world.server.error = Refused("no", "Forbidden")
    assert await world.poller.exists(Key(CLAIM, "ns", "data"), THEIRS)


async def test_a_listing_that_fails_leaves_the_answers(world: World) -> None:
    world.note()
    world.event(5)
    await world.poller.look()
    world.server.error = Unreachable("down")
    await world.poller.look()
    assert world.note() == "quota"
    assert world.woken == ["job"]
