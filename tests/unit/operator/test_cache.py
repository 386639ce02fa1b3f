"""The cache: newest wins, deleted stays deleted."""

from __future__ import annotations

from typing import Any

from fovea_operator.cache import Cache
from fovea_operator.kinds import builtin
from fovea_operator.objects import RUN, TRAINING_JOB, Key

KEY = Key(RUN, "ns", "r-1")
OWNER = Key(TRAINING_JOB, "ns", "job")


def run(version: int, name: str = "r-1") -> dict[str, Any]:
    labels = {"fovea.dev/kind": "TrainingJob", "fovea.dev/name": "job"}
    metadata = {"name": name, "namespace": "ns", "resourceVersion": str(version), "labels": labels}
    return {"kind": "Run", "metadata": metadata, "spec": {"number": version}}


def test_an_older_version_never_replaces_a_newer_one() -> None:
    cache = Cache(builtin())
    assert cache.put(RUN, run(5))
    assert not cache.put(RUN, run(4))
    assert not cache.put(RUN, run(5))
    assert cache.get(KEY)["spec"] == {"number": 5}  # type: ignore[index]


def test_a_late_event_does_not_bring_back_what_is_deleted() -> None:
    cache = Cache(builtin())
    cache.put(RUN, run(5))
    assert cache.remove(RUN, run(7))
    assert not cache.put(RUN, run(6))
    assert cache.get(KEY) is None
    assert cache.put(RUN, run(8))  # made anew


def test_a_late_deletion_does_not_take_what_was_made_anew() -> None:
    cache = Cache(builtin())
    cache.put(RUN, run(9))
    assert not cache.remove(RUN, run(7))
    assert cache.get(KEY) is not None


async def test_a_listing_prunes_what_is_older_than_itself_only() -> None:
    changed: list[str] = []
    cache = Cache(builtin(), lambda kind, values, referred: changed.extend(each["metadata"]["name"] for each in values))  # type: ignore[index,call-overload,misc]
    cache.put(RUN, run(5))
    cache.put(RUN, run(20, "r-2"))
    changed.clear()
    await cache.replace(RUN, [], 10)
    assert cache.get(KEY) is None
    assert cache.get(Key(RUN, "ns", "r-2")) is not None
    assert changed == ["r-1"]


def job(version: int, policy: str) -> dict[str, Any]:
    metadata = {"name": "job", "namespace": "ns", "resourceVersion": str(version)}
    return {"kind": "TrainingJob", "metadata": metadata, "spec": {"deletionPolicy": policy}}


async def test_how_an_object_was_in_the_end_is_known_as_long_as_anything_works_for_it() -> None:
    cache = Cache(builtin())
    cache.put(RUN, run(5))
    cache.put(TRAINING_JOB, job(6, "Delete"))
    assert cache.last(OWNER) is None
    cache.remove(TRAINING_JOB, job(8, "Retain"))  # nobody reported the edit
    assert cache.last(OWNER)["spec"] == {"deletionPolicy": "Retain"}  # type: ignore[index]
    cache.put(TRAINING_JOB, job(9, "Delete"))
    assert cache.last(OWNER) is None
    await cache.replace(TRAINING_JOB, [], 10)
    assert cache.last(OWNER)["spec"] == {"deletionPolicy": "Delete"}  # type: ignore[index]
    cache.remove(RUN, run(11))
    assert cache.last(OWNER) is None


def test_runs_are_found_by_their_owner() -> None:
    cache = Cache(builtin())
    cache.put(RUN, run(5))
    cache.put(RUN, run(6, "r-0"))
    assert [each["metadata"]["name"] for each in cache.owned(OWNER, RUN)] == ["r-0", "r-1"]  # type: ignore[index]
    cache.forget(KEY)
    assert len(list(cache.owned(OWNER, RUN))) == 1


async def test_a_listing_of_one_namespace_prunes_no_other() -> None:
    cache = Cache(builtin())
    cache.put(RUN, run(5))
    elsewhere = run(6)
    elsewhere["metadata"]["namespace"] = "other"
    cache.put(RUN, elsewhere)
    await cache.replace(RUN, [], 10, lambda key: key.namespace == "ns")
    assert cache.keys(RUN) == [Key(RUN, "other", "r-1")]
