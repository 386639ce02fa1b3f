"""Rates out of counters that are reset, missing or too few; read from pods as from Prometheus."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fovea_api.profile import LABELLED, LABELLED_PAIRS, REFERENCE, REFERENCE_CLASSES, REFERENCE_ITEMS
from fovea_operator import scraping
from fovea_operator.measurement import (
    DRIFT,
    LABELS,
    REQUESTS,
    SECONDS,
    TESTED,
    Measured,
    Sample,
    Series,
    increases,
    read_sample,
    summarize,
)
from fovea_operator.objects import MODEL_DEPLOYMENT, Key
from fovea_operator.scraping import Scraper
from fovea_operator.settings import Settings
from fovea_serving.gateway.metrics import Metrics
from prometheus_client import CollectorRegistry, Histogram, generate_latest

KEY = Key(MODEL_DEPLOYMENT, "ns", "cells")
SERIES = Series(REQUESTS, "r-1", "stable", "200")


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def samples(*values: float) -> list[Sample]:
    return [Sample(10.0 * step, {SERIES: value}) for step, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "grown"),
    [((5, 8, 20), 15), ((5, 8, 2, 4), 7), ((5,), 0), ((), 0)],
    ids=["growing", "began anew at zero in between", "one look", "none"],
)
def test_increase_of_a_counter(values: tuple[float, ...], grown: float) -> None:
    assert increases(samples(*values)).get(SERIES, 0) == grown


def test_a_series_that_appears_had_been_zero() -> None:
    first, second = Sample(0, {}), Sample(10, {SERIES: 4})
    assert increases([first, second])[SERIES] == 4


def test_quantiles_interpolate_as_promql_does() -> None:
    buckets = {0.05: 50.0, 0.1: 90.0, 0.2: 100.0, math.inf: 100.0}
    measured = Measured(60, {"200": 100}, buckets)
    assert measured.quantile(0.95) == pytest.approx(0.15)
    assert measured.quantile(0.25) == pytest.approx(0.025)
    assert measured.within(0.1) == pytest.approx(0.9)
    assert Measured(60, {}, {0.1: 5.0, math.inf: 19.0}).quantile(0.95) is None, "too few to say anything"
    assert Measured(60, {}, {0.1: 1.0, math.inf: 100.0}).quantile(0.95) == 0.1, "the last edge that is known"


def test_wrong_requests_and_those_that_were_shed_are_no_failures() -> None:
    measured = Measured(60, {"200": 80, "422": 10, "429": 5, "503": 5})
    assert measured.error_rate == pytest.approx(0.05)
    assert Measured(60, {"503": 3}).error_rate is None


def test_all_pods_must_have_followed_and_answered() -> None:
    assert Measured(revisions={"a": "new", "b": "new"}).follows("new", 2)
    assert not Measured(revisions={"a": "new", "b": "old"}).follows("new", 2)
    assert not Measured(revisions={"a": "new"}).follows("new", 2)
    assert not Measured(revisions={"a": "new", "b": "new"}, silent=1).follows("new", 2)
    assert not Measured().follows("", 0)


def test_the_gateways_own_series_are_read() -> None:
    """The names here are those there."""
    metrics = Metrics("ns", "cells")
    metrics.request(None, 200, "", 0.07)
    metrics.request(None, 503, "UpstreamUnavailable", 0.2)
    read = read_sample(generate_latest(metrics.registry).decode(), 0.0)
    assert read.values[Series(REQUESTS, label="503")] == 1
    assert {series.name for series in read.values} >= {REQUESTS, SECONDS}
    by_profile = {LABELLED, LABELLED_PAIRS, REFERENCE, REFERENCE_CLASSES, REFERENCE_ITEMS, *DRIFT}
    read_here = {name.removesuffix("_total").removesuffix("_bucket") for name in set(LABELS) - by_profile}
    assert read_here <= {family.name for family in metrics.registry.collect()}


def test_what_a_candidate_is_tested_by_is_counted_since_a_time_and_from_zero_where_a_gateway_began_anew() -> None:
    tested = Series(TESTED, "r-2", "candidate")

    def pod(*counts: tuple[float, float]) -> list[Sample]:
        return [Sample(at, {tested: count}) for at, count in counts]

    measured = summarize({"a": pod((10, 5), (20, 8), (30, 20)), "b": pod((9, 50), (19, 60), (29, 3))}, 0)
    assert measured.last == moment(30)
    assert measured.increase_since(moment(20))[tested] == 12 + 3
    assert measured.increase_since(moment(10))[tested] == 15 + 10 + 3
    assert not any(measured.increase_since(moment(30)).values()), "nothing is counted twice"
    seen_later = summarize({"a": pod((30, 500), (40, 510))}, 0)
    assert seen_later.increase_since(moment(20))[tested] == 10, (
        "what an operator before this one may have counted is left out"
    )
    assert Measured().last is None


@pytest.mark.parametrize("at", [1764148320.1234564, 1764148320.1234567, 1764148320.0])
def test_a_look_is_known_again_by_the_time_that_status_records_of_it(at: float) -> None:
    """A status has microseconds, and a clock has more: a look that seems later than itself is counted twice."""
    tested = Series(TESTED, "r-2", "candidate")
    measured = summarize({"a": [Sample(at - 10, {tested: 5}), Sample(at, {tested: 8})]}, 0)
    assert measured.last is not None
    recorded = datetime.fromisoformat(measured.last.isoformat())
    assert not any(measured.increase_since(recorded).values())


async def test_labels_that_come_without_a_request_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus' numbers stay as they are then."""
    labelled, counts = Series(LABELLED, "r-2", "candidate", "right"), [1.0, 4.0]

    async def scrape(*given: object) -> Sample:
        return Sample(10.0 * (3 - len(counts)), {labelled: counts.pop(0)})

    async def query(session: object, settings: object, key: object, seen: Measured) -> Measured:
        return replace(seen, seconds=300.0)

    monkeypatch.setattr(scraping, "_scrape", scrape)
    monkeypatch.setattr(scraping, "_query", query)
    monkeypatch.setattr(scraping.time, "time", lambda: 20.0)
    scraper = Scraper()
    scraper.ask(KEY, ["10.0.0.1"])
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            await scraper.look(session, Settings(prometheus="http://prometheus"))
    assert scraper.ask(KEY, ["10.0.0.1"]).increase_since(moment(10))[labelled] == 3


async def test_what_a_pod_counts_while_it_cannot_be_read_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[float | None] = [5, None, 20]

    async def scrape(*given: object) -> Sample | None:
        at, value = 10.0 * (3 - len(pages)), pages.pop(0)
        return Sample(at, {SERIES: value}) if value is not None else None

    monkeypatch.setattr(scraping, "_scrape", scrape)
    monkeypatch.setattr(scraping.time, "time", lambda: 20.0)
    scraper = Scraper()
    scraper.ask(KEY, ["10.0.0.1"])
    async with aiohttp.ClientSession() as session:
        for silent in (0, 1, 0):
            await scraper.look(session, Settings())
            assert scraper.ask(KEY, ["10.0.0.1"]).silent == silent
    assert scraper.ask(KEY, ["10.0.0.1"]).increase_since(moment(0))[SERIES] == 15


def test_copies_for_a_shadow_are_nobodys_requests() -> None:
    shadow = Series(REQUESTS, "r-2", "shadow", "503")
    assert summarize({"a": [Sample(0, {}), Sample(10, {SERIES: 4, shadow: 9})]}, 0).requests == {"200": 4}


def test_how_fast_stable_is_leaves_out_what_the_candidate_takes() -> None:
    def buckets(run: str, role: str, *counts: float) -> dict[Series, float]:
        edges = ("0.1", "0.2", "+Inf")
        return {Series(SECONDS, run, role, edge): count for edge, count in zip(edges, counts, strict=True)}

    last = buckets("r-1", "stable", 100, 100, 100) | buckets("r-2", "candidate", 0, 0, 900)
    measured = summarize({"a": [Sample(0, {}), Sample(10, last)]}, 0)
    assert measured.stable_quantile("r-1", 0.5) == pytest.approx(0.05)
    assert measured.quantile(0.5) == 0.2
    assert measured.stable_quantile("r-2", 0.5) is None


async def test_what_pods_say_and_what_prometheus_says_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page of metrics, asked by both ways; a pod that does not answer is silent, and nothing is made up."""
    registry = CollectorRegistry()
    name = SECONDS.removesuffix("_bucket")
    seconds = Histogram(name, "", ("run",), buckets=(0.1, 0.2), registry=registry)

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry))

    async def query(request: web.Request) -> web.Response:
        """As Prometheus answers for a counter that grew from zero to what it is."""
        asked = request.query["query"]
        assert 'namespace="ns",deployment="cells"' in asked
        label = "le" if SECONDS in asked else "code"
        found: dict[str, Any] = {"0.1": "30", "0.2": "40", "+Inf": "40"} if label == "le" else {}
        rows = [{"metric": {label: edge}, "value": [0, count]} for edge, count in found.items()]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": rows}})

    app = web.Application()
    app.router.add_get("/metrics", page)
    app.router.add_get("/api/v1/query", query)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    monkeypatch.setattr(scraping, "GATEWAY_METRICS_PORT", port)
    woken: list[Key] = []
    pods, prometheus = Scraper(woken.append), Scraper(woken.append)
    configured = Settings(prometheus=f"http://127.0.0.1:{port}")
    try:
        async with aiohttp.ClientSession() as session:
            for scraper in (pods, prometheus):
                assert scraper.ask(KEY, ["127.0.0.1", "127.0.0.2"]).quantile(0.5) is None
            await pods.look(session, Settings())
            for _ in range(30):
                seconds.labels("r-1").observe(0.05)
            for _ in range(10):
                seconds.labels("r-1").observe(0.15)
            await pods.look(session, Settings())
            await prometheus.look(session, configured)
        one, other = (scraper.ask(KEY, ["127.0.0.1"]) for scraper in (pods, prometheus))
        assert one.buckets == other.buckets
        assert one.quantile(0.95) == other.quantile(0.95) == pytest.approx(0.18)
        assert KEY in woken
        pods.forget(KEY)
        assert pods.ask(KEY, []).seconds == 0
    finally:
        await runner.cleanup()


def test_a_pod_that_comes_or_goes_takes_nothing_from_the_others() -> None:
    together = summarize({"a": samples(0, 10, 20), "b": samples(0, 5)}, silent=1)
    assert together.requests == {"200": 25}
    assert (together.seconds, together.silent) == (20, 1)


async def test_images_are_counted_from_the_start_of_the_window_that_is_asked_for() -> None:
    """A pod that is new, or has begun to count anew, adds what is known to be of the window, and nothing twice."""
    series = Series("fovea_serving_image_brightness_bucket", "r-1", "stable", "0.5")
    start, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    key, scraper = Key(MODEL_DEPLOYMENT, "ns", "cells"), Scraper()
    pages = {"a": [5.0, 9.0, 2.0, 3.0], "b": [None, 100.0, 101.0, 101.0]}

    async def look(number: int) -> None:
        async def scrape(session: object, limit: object, target: str) -> Sample | None:
            value = pages[target][number]
            return Sample(time.time(), {series: value}) if value is not None else None

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scraping, "_scrape", scrape)
            await scraper.look(None, Settings())  # type: ignore[arg-type]

    counted = []
    for number, since in enumerate((start, start, start, later)):
        scraper.ask(key, ("a", "b"), since)
        await look(number)
        counted.append(scraper.ask(key, ("a", "b"), since).images.get(series, 0.0))
    assert counted == [0.0, 4.0, 4.0 + 2.0 + 1.0, 1.0]
    scraper.ask(key, ("b",), start)
    await look(3)
    assert scraper.ask(key, ("b",), start).images == {series: 0.0}, "an edge below which nothing came is known as that"
    assert not scraper.ask(key, ("a", "b")).images
