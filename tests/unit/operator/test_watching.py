"""The watcher: what a listing and a change put on the queue, and how little work that is.

The API server is a stand-in that lists what it is given: thousands of objects, and kinds that come and go.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from fovea_operator.cache import Cache
from fovea_operator.client import Refused
from fovea_operator.kinds import builtin
from fovea_operator.metrics import Metrics
from fovea_operator.objects import DATASET, JOB, NAMESPACE, POD, RAY_JOB, RUN, TRAINING_JOB, Key, Kind
from fovea_operator.queue import KeyedQueue
from fovea_operator.settings import Settings
from fovea_operator.watching import KindAppeared, Watcher


@dataclass
class Listing:
    """The API server's side."""

    objects: dict[Kind, list[dict[str, Any]]]
    lacking: set[Kind] = field(default_factory=set)
    forbidden: set[Kind] = field(default_factory=set)

    async def list(self, kind: Kind, namespace: str = "", selector: str = "") -> tuple[list[dict[str, Any]], int]:
        if kind in self.forbidden:
            raise Refused(f'cannot list resource "{kind.plural}"', "Forbidden")
        if kind in self.lacking:
            return [], 0
        found = [dict(each) for each in self.objects.get(kind, ())]
        return [each for each in found if namespace in ("", each["metadata"]["namespace"])], 10**6


def watcher(objects: dict[Kind, list[dict[str, Any]]]) -> Watcher:
    async def work(key: Key) -> None: ...

    settings, metrics = Settings(), Metrics()
    queue: KeyedQueue[Key] = KeyedQueue(work, settings, metrics, lambda key: key.kind.name)
    return Watcher(Listing(objects), Cache(builtin()), queue, settings, metrics)  # type: ignore[arg-type]


async def queued(watcher: Watcher) -> list[str]:
    """What the queue is to reconcile, which it then has done."""
    seen: list[str] = []

    async def work(key: Key) -> None:
        seen.append(str(key))

    watcher.queue.work = work
    task = asyncio.create_task(watcher.queue.run())
    while len(watcher.queue):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return sorted(seen)


def thing(name: str, version: int = 1, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", "resourceVersion": str(version), "labels": labels or {}}
    return {"metadata": metadata, "spec": spec}


def job(name: str, dataset: str, version: int = 1, namespace: str = "ns", **spec: Any) -> dict[str, Any]:
    spec = {"datasetRef": {"name": dataset}, "model": {"architecture": "resnet18"}} | spec
    found = thing(name, version, **spec)
    return found | {"metadata": found["metadata"] | {"namespace": namespace}}


def many(jobs: int) -> dict[Kind, list[dict[str, Any]]]:
    def labels(number: int) -> dict[str, str]:
        return {"fovea.dev/kind": "TrainingJob", "fovea.dev/name": f"job-{number % jobs}"}

    return {
        TRAINING_JOB: [job(f"job-{number}", "cells") for number in range(jobs)],
        RUN: [thing(f"r-{number}", labels=labels(number)) for number in range(5 * jobs)],
    }


async def calls(act: Callable[[], Awaitable[None]]) -> int:
    """Python functions that are called meanwhile."""
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        await act()
    finally:
        sys.setprofile(None)
    return count


async def test_after_the_first_listing_every_owner_is_looked_at_deleted_ones_too() -> None:
    of_deleted = {"fovea.dev/kind": "Dataset", "fovea.dev/name": "deleted"}
    started = watcher({DATASET: [thing("cells")], TRAINING_JOB: [thing("job")], RUN: [thing("r-1", labels=of_deleted)]})
    await started.fill()
    assert await queued(started) == ["Dataset ns/cells", "Dataset ns/deleted", "TrainingJob ns/job"]


async def test_a_change_concerns_what_refers_to_the_object_and_what_it_refers_to() -> None:
    jobs = [
        job("plain", "cells"),
        job("after", "other", model={"architecture": "resnet18", "pretrained": {"trainingJobRef": {"name": "plain"}}}),
        job("pupil", "other", compression={"distillation": {"teacherRef": {"name": "plain"}}}),
        job("elsewhere", "cells", namespace="b"),
    ]
    started = watcher({DATASET: [thing("cells")], TRAINING_JOB: jobs})
    await started.fill()
    await queued(started)
    started.take(DATASET, "MODIFIED", thing("cells", 2))
    assert await queued(started) == ["Dataset ns/cells", "TrainingJob ns/plain"]
    started.take(TRAINING_JOB, "MODIFIED", job("plain", "cells", 3))
    both = ["TrainingJob ns/after", "TrainingJob ns/plain", "TrainingJob ns/pupil"]
    assert await queued(started) == ["Dataset ns/cells", *both]
    started.take(TRAINING_JOB, "MODIFIED", job("plain", "other", 4))
    assert await queued(started) == ["Dataset ns/cells", "Dataset ns/other", *both]
    namespace = {"metadata": {"name": "ns", "resourceVersion": "5"}}
    started.take(NAMESPACE, "MODIFIED", namespace)
    assert len(await queued(started)) == 4


async def test_the_work_of_a_listing_grows_with_the_objects_and_not_with_their_square() -> None:
    few, more = [await calls(watcher(many(jobs)).fill) for jobs in (100, 400)]
    assert more < 5 * few


async def test_listing_again_what_has_changed_grows_likewise() -> None:
    async def listed_again(jobs: int) -> int:
        started = watcher(many(jobs))
        await started.fill()
        for changed in started.api.objects[TRAINING_JOB]:  # type: ignore[attr-defined]
            changed["metadata"] = changed["metadata"] | {"resourceVersion": "2"}
        return await calls(lambda: started._resync(TRAINING_JOB))

    few, more = [await listed_again(jobs) for jobs in (100, 400)]
    assert more < 5 * few


async def test_a_change_of_one_job_looks_at_no_other() -> None:
    started = watcher(many(1000))
    await started.fill()

    async def change() -> None:
        started.take(TRAINING_JOB, "MODIFIED", thing("job-0", 2))

    assert await calls(change) < 1000


async def test_a_long_listing_lets_others_run() -> None:
    turns = 0

    async def probe() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    started = watcher(many(1000))
    task = asyncio.create_task(probe())
    await started.fill()
    task.cancel()
    assert turns >= 6000 // 500


async def test_a_kind_that_appears_between_two_tries_to_list_everything_is_simply_listed() -> None:
    started = watcher({})
    listing: Any = started.api
    listing.lacking, listing.forbidden = {RAY_JOB}, {POD}
    with pytest.raises(Refused, match=r"list .*pods.*; grant .* get, list and watch on pods of the core API group"):
        await started.fill()
    listing.lacking, listing.forbidden = set(), set()
    await started.fill()


async def test_a_kind_that_appears_after_everything_was_listed_calls_for_a_new_start() -> None:
    started = watcher({})
    listing: Any = started.api
    listing.lacking = {RAY_JOB}
    await started.fill()
    listing.lacking = set()
    with pytest.raises(KindAppeared):
        await started._resync(RAY_JOB)


async def test_an_empty_listing_by_the_watch_prunes_what_went_meanwhile() -> None:
    started = watcher({DATASET: [thing("cells")]})
    started.settings = Settings(relist_delay_seconds=0.01)
    await started.fill()
    await queued(started)
    started.api.objects.clear()  # type: ignore[attr-defined]
    for path in ("/version", "/apis/fovea.dev/v1alpha1/other", "/clusters/a/apis/fovea.dev/v1alpha1/datasets"):
        started.listed(path)
    await asyncio.sleep(0.05)
    assert started.cache.keys(DATASET) == []
    assert await queued(started) == ["Dataset ns/cells"]


async def test_what_the_watch_lists_while_we_list_is_listed_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server's answer is on its way when an object is deleted, of which the watch has missed the event."""
    started = watcher({DATASET: [thing("cells")]})
    started.settings = Settings(relist_delay_seconds=0.0)
    await started.fill()
    arriving, arrives, list_ = asyncio.Event(), asyncio.Event(), started.api.list

    async def slow(*what: Any) -> Any:
        found = await list_(*what)
        if not arriving.is_set():
            arriving.set()
            await arrives.wait()
        return found

    monkeypatch.setattr(started.api, "list", slow)
    started.listed("/apis/fovea.dev/v1alpha1/datasets")
    await arriving.wait()
    started.api.objects.clear()  # type: ignore[attr-defined]
    started.listed("/apis/fovea.dev/v1alpha1/datasets")
    await asyncio.sleep(0.01)
    arrives.set()
    await asyncio.gather(*started._tasks)
    assert started.cache.keys(DATASET) == []


async def test_a_listing_of_one_of_the_namespaces_leads_to_one_of_the_kind() -> None:
    started = watcher({})
    started.settings = Settings(namespaces="a,b", relist_delay_seconds=60)
    started.listed("/apis/fovea.dev/v1alpha1/namespaces/b/trainingjobs")
    started.listed("/apis/fovea.dev/v1alpha1/namespaces/c/datasets")
    started.listed("/apis/ray.io/v1/namespaces/a/rayjobs")
    started.listed("/apis/batch/v1/namespaces/a/jobs")
    assert started._relisted == {TRAINING_JOB, RAY_JOB, JOB}
    for task in started._tasks:
        task.cancel()


async def test_of_several_namespaces_the_listing_of_one_prunes_no_other() -> None:
    def cells(namespace: str) -> dict[str, Any]:
        return {"metadata": thing("cells")["metadata"] | {"namespace": namespace}, "spec": {}}

    started = watcher({DATASET: [cells("a"), cells("b"), cells("c")]})
    started.settings = Settings(namespaces="a, b")
    await started.fill()
    assert sorted(key.namespace for key in started.cache.keys(DATASET)) == ["a", "b"]
    started.api.objects[DATASET] = [cells("b")]  # type: ignore[attr-defined]
    await started._resync(DATASET)
    assert [key.namespace for key in started.cache.keys(DATASET)] == ["b"]
