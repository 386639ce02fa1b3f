"""Reads what gateways measure: from Prometheus where its address is configured, else from the pods themselves.

An observer asks here and gets what the last looks came to; each look wakes those whose answer has changed. Samples are
kept in memory for one window, so an operator that has just started knows nothing until its second look.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import aiohttp

from fovea_operator.measurement import (
    DRIFT,
    NOTHING,
    REQUESTS,
    SECONDS,
    Measured,
    Sample,
    Series,
    increases,
    read_sample,
    summarize,
)
from fovea_operator.objects import Key, View, text
from fovea_operator.settings import Settings
from fovea_operator.workloads.deployment import GATEWAY_METRICS_PORT
from fovea_operator.workloads.serving import GATEWAY, is_ready, of_component

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5.0
_AT_ONCE = 32
"""Pods that are asked at the same time."""


def gateways_of(pods: Iterable[View]) -> tuple[str, ...]:
    """Addresses of the gateway pods that answer."""
    found = (text(pod, "status", "podIP") for pod in of_component(list(pods), GATEWAY) if is_ready(pod))
    return tuple(sorted(filter(None, found)))


@dataclass(slots=True)
class _Window:
    """Images that were counted since its start, in all pods together. What a pod had counted before it was first seen
    is of no known time, and left out."""

    since: datetime
    counts: dict[Series, float] = field(default_factory=dict)

    def add(self, before: Sequence[Sample], sample: Sample) -> None:
        """With the newest sample of a pod, and the one before it, if there is one."""
        for series, count in increases([*before, sample]).items():
            if series.name in DRIFT:  # also where nothing came: a histogram has all of its edges, or says nothing
                self.counts[series] = self.counts.get(series, 0.0) + count


@dataclass(slots=True)
class Scraper:
    """Knows what gateways measure, for all who ask."""

    wake: Callable[[Key], None] = lambda key: None
    _targets: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    """Addresses of the gateway pods of each deployment."""
    _samples: dict[Key, dict[str, list[Sample]]] = field(default_factory=dict)
    _measured: dict[Key, Measured] = field(default_factory=dict)
    _windows: dict[Key, _Window] = field(default_factory=dict)

    def ask(self, key: Key, targets: Sequence[str], since: datetime | None = None) -> Measured:
        """What the gateways of a deployment come to, as of the last look.

        Args:
            key: The deployment.
            targets: Addresses of its gateway pods.
            since: Start of the window in which images are counted; another one begins another count. None: none are.
        """
        self._targets[key] = tuple(targets)
        if since is None:
            self._windows.pop(key, None)
        elif key not in self._windows or self._windows[key].since != since:
            self._windows[key] = _Window(since)
        measured = self._measured.get(key, NOTHING)
        return replace(measured, images=dict(self._windows[key].counts)) if since is not None else measured

    def forget(self, key: Key) -> None:
        """The deployment is deleted."""
        for known in (self._targets, self._samples, self._measured, self._windows):
            known.pop(key, None)

    async def run(self, settings: Settings) -> None:
        """Looks again and again until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)) as session:
            while True:
                await asyncio.sleep(settings.metrics_seconds)
                await self.look(session, settings)

    async def look(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        """One look at everything that is asked for."""
        limit = asyncio.Semaphore(_AT_ONCE)
        for key, targets in list(self._targets.items()):
            pages = await asyncio.gather(*(_scrape(session, limit, target) for target in targets))
            found = {target: sample for target, sample in zip(targets, pages, strict=True) if sample is not None}
            kept = self._samples.get(key, {})
            since = time.time() - settings.metrics_window_seconds
            self._samples[key] = {
                target: [
                    *(each for each in kept.get(target, ()) if each.at >= since),
                    *([found[target]] if target in found else ()),
                ]
                for target in targets
            }  # one that is silent now keeps its earlier ones: what it counts meanwhile is read later
            if (window := self._windows.get(key)) is not None:
                for target, sample in found.items():
                    window.add(kept.get(target, [])[-1:], sample)
            measured = summarize(self._samples[key], len(targets) - len(found))
            if settings.prometheus:
                measured = await _query(session, settings, key, measured)
            if key in self._targets:
                before, self._measured[key] = self._measured.get(key, NOTHING), measured
                if measured != before:  # the samples alone are no news, and are known all the same
                    self.wake(key)


async def _scrape(session: aiohttp.ClientSession, limit: asyncio.Semaphore, target: str) -> Sample | None:
    host = f"[{target}]" if ":" in target else target
    try:
        async with limit, session.get(f"http://{host}:{GATEWAY_METRICS_PORT}/metrics") as answer:
            answer.raise_for_status()
            return read_sample(await answer.text(), time.time())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        logger.debug("no metrics from %s: %s", target, error)
        return None


async def _query(session: aiohttp.ClientSession, settings: Settings, key: Key, seen: Measured) -> Measured:
    """Rates from Prometheus, where it answers; what tests a candidate stays as the pods say it."""
    window = int(settings.metrics_window_seconds)
    selector = f'{{namespace="{key.namespace}",deployment="{key.name}",role!="shadow"}}[{window}s]'
    try:
        requests = await _sums(session, settings.prometheus, "code", f"{REQUESTS}{selector}")
        buckets = await _sums(session, settings.prometheus, "le", f"{SECONDS}{selector}")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("Prometheus at %s gives no answer: %s", settings.prometheus, error)
        requests = buckets = {}
    return replace(
        seen,
        seconds=float(window) if requests else 0.0,
        requests=requests,
        buckets={float(edge): count for edge, count in buckets.items()},
    )


async def _sums(session: aiohttp.ClientSession, address: str, label: str, series: str) -> Mapping[str, float]:
    query = {"query": f"sum by ({label}) (increase({series}))"}
    async with session.get(f"{address.rstrip('/')}/api/v1/query", params=query) as answer:
        answer.raise_for_status()
        found = (await answer.json())["data"]["result"]
    return {str(each["metric"][label]): float(each["value"][1]) for each in found}
