"""What is not watched is asked for from time to time: once for all who wait for it, and only while somebody does.

Events, Kueue's Workloads, Secrets and claims are many, belong to others, or may not be listed. An observer asks its
question here and gets the answer of the last look; when a later look has another answer, the objects that asked are
reconciled. So a thousand jobs that wait cost one listing now and then, and no reconcile until there is news.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fovea_operator.client import Api, ApiError, Refused
from fovea_operator.objects import EVENT, WORKLOAD, JsonObject, Key, Kind, View, mapping, text
from fovea_operator.settings import Settings

logger = logging.getLogger(__name__)

LABEL_WORKLOAD_OF = "kueue.x-k8s.io/job-uid"
_LOAD = 0.02
"""Share of its time that the poller spends with looking at most: a look that takes longer is repeated less often."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to look for."""

    kind: Kind
    namespace: str
    about: str
    """Of an Event what it is about, `<kind>/<name>`; of a Workload the uid of its job; else a name."""
    warning: bool = False
    """Whether only warnings answer it."""


def about_events(key: Key, warning: bool = False) -> Question:
    """The newest event about an object."""
    return Question(EVENT, key.namespace, f"{key.kind.name}/{key.name}", warning)


def about_admission(key: Key, uid: str) -> Question:
    """A list of the Workloads with which Kueue admits a job, the oldest first: an elastic one has several."""
    return Question(WORKLOAD, key.namespace, uid)


def about_existence(key: Key) -> Question:
    """The metadata of an object that must exist."""
    return Question(key.kind, key.namespace, key.name)


@dataclass(slots=True)
class Poller:
    """Asks the API server for what observers wait for."""

    api: Api
    settings: Settings
    wake: Callable[[Key], None]
    """Called with each object whose question has another answer now."""
    _asking: dict[Question, dict[Key, datetime]] = field(default_factory=dict)
    """Who waits for an answer, and from when on."""
    _asked: dict[Key, set[Question]] = field(default_factory=dict)
    _answers: dict[Question, View | None] = field(default_factory=dict)
    _looked: dict[Question, float] = field(default_factory=dict)
    """When an existence was last looked at, in seconds of the loop's clock."""

    def forget(self, asker: Key) -> None:
        """The object waits for nothing any more; its next reconcile asks anew."""
        for question in self._asked.pop(asker, ()):
            others = self._asking[question]
            del others[asker]
            if not others:
                del self._asking[question]

    def ask(self, question: Question, asker: Key, since: datetime) -> View:
        """The newest answer; empty where there is none yet. `since`: the answer does not count before."""
        self._asking.setdefault(question, {})[asker] = since
        self._asked.setdefault(asker, set()).add(question)
        return self._answers.get(question) or {} if since <= datetime.now(UTC) else {}

    async def exists(self, key: Key, asker: Key) -> bool:
        """Whether an object exists, as of the last `reference_poll_seconds`. Where it does not, it is waited for."""
        question, now = about_existence(key), asyncio.get_running_loop().time()
        if now >= self._looked.get(question, -math.inf) + self.settings.reference_poll_seconds:
            await self._look_for(question)
        if self._answers.get(question) is not None:
            return True
        self.ask(question, asker, datetime.fromtimestamp(0, UTC))
        return False

    async def run(self) -> None:
        """Looks again and again until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await self.look()
            pause = max(self.settings.reference_poll_seconds, (loop.time() - began) / _LOAD)
            await asyncio.sleep(pause * (1 + self.settings.backoff_jitter * random.random()))

    async def look(self) -> None:
        """One look at everything that is waited for."""
        now = datetime.now(UTC)
        self._answers = {question: answer for question, answer in self._answers.items() if question in self._asking}
        self._looked = {question: at for question, at in self._looked.items() if question in self._asking}
        listings: dict[tuple[Kind, str], list[Question]] = {}
        for question, askers in list(self._asking.items()):
            if min(askers.values()) > now:
                continue
            if question.kind in _LISTED:
                listings.setdefault((question.kind, question.namespace), []).append(question)
            else:
                await self._look_for(question)
        for (kind, namespace), questions in listings.items():
            await self._list(kind, namespace, questions)

    async def _list(self, kind: Kind, namespace: str, questions: Iterable[Question]) -> None:
        selector, index = _LISTED[kind]
        try:
            listed, _ = await self.api.list(kind, namespace, selector)
        except ApiError as error:
            logger.debug("%s cannot be listed: %s", kind.plural, error)
            return
        answers = index(namespace, listed)
        for question in questions:
            self._answer(question, answers.get(question))

    async def _look_for(self, question: Question) -> None:
        key = Key(question.kind, question.namespace, question.about)
        try:
            live = await self.api.get(key, metadata_only=True)
        except Refused:  # not allowed to look: the pod will say it
            live = {}
        self._looked[question] = asyncio.get_running_loop().time()
        self._answer(question, live)

    def _answer(self, question: Question, answer: View | None) -> None:
        before = self._answers.get(question)
        self._answers[question] = answer
        if _version(before) != _version(answer):
            for asker in list(self._asking.get(question, ())):
                self.wake(asker)


def _version(value: View | None) -> str | None:
    return text(value, "metadata", "resourceVersion") if value is not None else None


def _events(namespace: str, listed: Iterable[JsonObject]) -> Mapping[Question, View]:
    """The newest event, and the newest warning, about each object."""
    newest: dict[Question, JsonObject] = {}
    for event in sorted(listed, key=lambda event: int(text(event, "metadata", "resourceVersion") or 0)):
        about = f"{text(event, 'regarding', 'kind')}/{text(event, 'regarding', 'name')}"
        newest[Question(EVENT, namespace, about)] = event
        if text(event, "type") == "Warning":
            newest[Question(EVENT, namespace, about, True)] = event
    return newest


def _workloads(namespace: str, listed: Iterable[JsonObject]) -> Mapping[Question, View]:
    by_uid: dict[str, list[JsonObject]] = {}
    for workload in listed:
        by_uid.setdefault(text(mapping(workload, "metadata", "labels"), LABEL_WORKLOAD_OF), []).append(workload)
    return {Question(WORKLOAD, namespace, uid): _list_of(workloads) for uid, workloads in by_uid.items()}


def _list_of(objects: Iterable[JsonObject]) -> View:
    """Objects as one, the oldest first, whose version changes with that of each."""
    oldest_first = sorted(objects, key=lambda each: text(each, "metadata", "creationTimestamp"))
    versions = (text(each, "metadata", "resourceVersion") for each in oldest_first)
    return {"items": [*oldest_first], "metadata": {"resourceVersion": " ".join(versions)}}


_LISTED: Mapping[Kind, tuple[str, Callable[[str, Iterable[JsonObject]], Mapping[Question, View]]]] = {
    EVENT: ("", _events),
    WORKLOAD: (LABEL_WORKLOAD_OF, _workloads),
}
"""Kinds of which one listing a namespace answers all: its label selector, and how the answers are found in it."""
