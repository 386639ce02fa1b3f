"""Drift in the status of a ModelDeployment: windows, the first week, what is unknown."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from fovea_api import profile
from fovea_api.modeldeployment import Drift, DriftStatus
from fovea_api.profile import FEATURES
from fovea_operator.kinds.modeldeployment.drift import CLASSES, Observed, advance, assess, look_after, observed_of
from fovea_operator.measurement import Measured, Sample, Series, read_sample
from fovea_operator.scraping import _Window
from fovea_serving.gateway.drift_metrics import DriftMetrics
from prometheus_client import CollectorRegistry, generate_latest

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HOUR = timedelta(hours=1)


def brightness(mean: float, images: int, seed: int) -> tuple[float, ...]:
    values = np.clip(np.random.default_rng(seed).normal(mean, 0.1, images), 0, 1)
    edges = (-np.inf, *FEATURES["brightness"].edges, np.inf)
    return tuple(np.histogram(values, edges)[0].astype(float))


@dataclass
class World:
    """A deployment that gets a window's images each hour."""

    spec: Drift = field(default_factory=Drift)
    items: int = 3000
    status: DriftStatus | None = None
    now: datetime = NOW
    version: str = "r-1"
    seed: int = 0

    def step(self, images: int = 0, mean: float = 0.5, classes: tuple[float, float] = (0.5, 0.5)) -> DriftStatus:
        self.seed += 1
        window = {"brightness": brightness(mean, images, self.seed), CLASSES: tuple(images * x for x in classes)}
        reference = {"brightness": brightness(0.5, self.items, 0), CLASSES: (self.items / 2, self.items / 2)}
        seen = Observed(
            self.now, self.version, images, window if images else {}, self.items, reference if self.items else {}
        )
        status = advance(self.status, self.spec, seen)
        self.status = DriftStatus.model_validate(status.to_dict())  # what the next operator reads
        return self.status

    def hour(self, **seen: Any) -> DriftStatus:
        self.now += HOUR
        return self.step(**{"images": 200, **seen})


def test_nothing_is_known_before_the_first_window_and_nothing_wrong_afterwards() -> None:
    world = World()
    assert world.step().state == "Unknown"
    assert assess(world.status)[0] == "Unknown"  # type: ignore[arg-type]
    world.now += HOUR / 2
    assert world.step(images=500).windows == 0, "the window is not over"
    assert look_after(world.status, world.spec, world.now) == 1801
    states = {world.hour().state for _ in range(48)}
    assert states == {"None"}
    assert assess(world.status)[1].reason == "NoDrift"  # type: ignore[arg-type]


def test_a_large_change_is_found_in_the_first_week_and_a_moderate_one_after_it() -> None:
    world = World()
    world.step()
    for _ in range(10):
        world.hour()
    calm = world.status
    assert world.hour(mean=0.65).state == "Detected"
    assert world.status is not None
    assert {result.name: result.drifted for result in world.status.detectors} == {
        "ImageProperties": True,
        "LabelShift": False,
    }
    assert world.status.detectors[0].feature == "brightness"
    assert "brightness +0." in world.status.message
    world.status = calm
    assert {world.hour(mean=0.56).state for _ in range(8)} == {"None"}, "Cliff's delta 0.33"
    world.status = calm.model_copy(update={"started": NOW - timedelta(days=8)})  # type: ignore[union-attr]
    assert [world.hour(mean=0.56).state for _ in range(8)][-1] == "Detected"


def test_the_state_returns_when_the_change_ends() -> None:
    world = World()
    world.step()
    for _ in range(20):
        world.hour(mean=0.7)
    assert world.status is not None
    assert world.status.state == "Detected"
    assert world.status.since == NOW + HOUR, "it is one episode"
    states = [world.hour().state for _ in range(4)]
    assert states[-1] == "None"


def test_a_shift_of_classes_is_one_of_labels() -> None:
    world = World()
    world.step()
    world.hour(classes=(0.99, 0.01))
    assert world.status is not None
    assert [result.name for result in world.status.detectors if result.drifted] == ["LabelShift"]
    world = World(Drift(detectors=("ImageProperties",)))
    world.step()
    assert world.hour(classes=(0.99, 0.01)).state == "None"


def test_a_window_is_extended_until_it_has_its_images_and_unknown_when_they_stay_out() -> None:
    world = World()
    world.step()
    world.hour()
    before = world.status
    assert world.hour(images=100) == before
    world.now += HOUR
    assert world.step(images=250).windows == 2
    world.hour(images=0)
    world.hour(images=0)
    assert world.hour(images=5).state == "Unknown"
    assert world.status is not None
    assert "5 of 200 images" in world.status.message
    assert world.hour().state == "None"


def test_another_version_begins_anew_and_one_without_a_reference_is_unknown() -> None:
    world = World()
    world.step()
    world.hour(mean=0.7)
    world.version = "r-2"
    assert world.step().state == "Unknown"
    world.items = 0
    assert world.hour().state == "Unknown"
    assert world.status is not None
    assert "no reference profile" in world.status.message


def test_a_small_reference_is_named_with_the_budget_that_it_keeps() -> None:
    world = World(items=364)
    world.step()
    world.hour()
    assert world.status is not None
    assert assess(world.status)[1].reason == "ReferenceTooSmall"
    assert world.status.kept_budget is not None
    assert world.status.kept_budget >= 1
    assert "364 of 2000 images" in world.status.message


def test_windows_that_differ_by_themselves_widen_the_tolerance() -> None:
    """Day and night differ by 0.08, in the week in which that is learned; the same goes on afterwards."""
    world = World()
    world.step()
    means = [0.5 + 0.04 * (-1) ** (hour // 12) for hour in range(24 * 21)]
    states = [world.hour(mean=mean).state for mean in means]
    assert "Detected" not in states
    assert world.hour(mean=0.75).state == "Detected"


@pytest.mark.parametrize("first", [0.5, 0.54, 0.6], ids=["as ever", "a few changed", "many changed"])
def test_a_change_on_the_first_day_is_found_in_windows_too_small_for_a_finding_each(first: float) -> None:
    world = World(Drift(min_samples=30))
    world.step()
    world.hour(images=30)
    world.hour(images=30, mean=first)
    assert world.hour(images=30, mean=0.8).state != "Detected"
    states = [world.hour(images=30, mean=0.8).state for _ in range(3)]
    assert states[-1] == "Detected"


def test_daily_windows_are_learned_from_for_longer_than_a_week() -> None:
    world = World(Drift(window="24h"))
    world.step()
    for day in range(8):
        world.now += 23 * HOUR
        assert world.hour(mean=0.5 + 0.04 * (-1) ** day).state == "None"


def test_the_first_week_takes_the_references_place() -> None:
    world = World(Drift(reference="FirstWeek"), items=0)
    world.step()
    for _ in range(24 * 7):
        assert world.hour(mean=0.3).state == "Unknown"
    assert world.status is not None
    assert (world.status.reference_is_whole, world.status.reference_images) == (True, 200 * 24 * 7)
    assert world.hour(mean=0.3).state == "None"
    assert world.hour(mean=0.5).state == "Detected"


def test_a_feature_without_an_image_in_the_window_says_nothing() -> None:
    """Where a deployment has a threshold of its own no answer is counted, and all classes have zero images."""
    world = World()
    world.step()
    world.hour(classes=(0.99, 0.01))
    assert world.status is not None
    wealth = {name: value for name, value in world.status.wealth.items() if name.startswith(CLASSES)}
    world.hour(classes=(0.0, 0.0))
    assert [result.name for result in world.status.detectors] == ["ImageProperties"]
    assert {name: world.status.wealth[name] for name in wealth} == wealth


def test_classes_keep_their_index_when_another_one_appears() -> None:
    """Evidence is kept by the index of a class: `(none)`, which sorts first, must not move the others."""
    known = {Series(profile.REFERENCE_CLASSES, "r-1", "", name): 50.0 for name in ("RBC", "WBC")}

    def seen(**counts: float) -> Observed:
        images = {Series(profile.CLASSES, "r-1", "stable", name): count for name, count in counts.items()}
        return observed_of(Measured(images=images, samples={"a": (Sample(0.0, known),)}), "r-1", NOW)

    assert seen(RBC=6, WBC=4).window[CLASSES] == (6, 4, 0)
    assert seen(**{"(none)": 3, "RBC": 6, "WBC": 4, "x": 1}).window[CLASSES] == (6, 4, 4)
    assert seen(RBC=6).reference[CLASSES] == (50, 50, 0)


def test_whoever_changes_the_reference_gets_the_other_one() -> None:
    world = World()
    world.step()
    for _ in range(24 * 8):
        world.hour()
    world.spec = Drift(reference="FirstWeek")
    world.hour(mean=0.3)
    assert world.status is not None
    assert not world.status.reference_is_whole, "the week begins now, and not with the version"
    for _ in range(24 * 7):
        world.hour(mean=0.3)
    assert (world.status.reference_is_whole, world.status.reference_images) == (True, 200 * 24 * 7)
    world.spec = Drift()
    assert world.hour(mean=0.3).state == "Detected"


def test_the_series_of_gateways_become_histograms() -> None:
    edges = (*FEATURES["brightness"].edges, float("inf"))
    live = {
        Series("fovea_serving_image_brightness_bucket", "r-1", "stable", str(edge)): 2.0 * n
        for n, edge in enumerate(edges)
    }
    copies = {Series("fovea_serving_image_brightness_bucket", "r-1", "shadow", str(edge)): 9.0 for edge in edges}
    other = {Series("fovea_serving_image_brightness_bucket", "r-2", "candidate", str(edge)): 9.0 for edge in edges}
    known = {Series(profile.REFERENCE, "r-1", "", f"brightness,{edge}"): float(n) for n, edge in enumerate(edges)}
    known |= {Series(profile.REFERENCE_ITEMS, "r-1"): 31.0, Series(profile.REFERENCE_CLASSES, "r-1", "", "RBC"): 31.0}
    live |= {Series(profile.CLASSES, "r-1", "stable", "RBC"): 60.0}
    measured = Measured(images={**live, **copies, **other}, samples={"a": (Sample(0.0, known),), "b": ()})
    seen = observed_of(measured, "r-1", NOW)
    assert seen.images == 62
    assert seen.window == {"brightness": (0.0, *[2.0] * 31), CLASSES: (60.0, 0.0)}
    assert seen.reference == {"brightness": (0.0, *[1.0] * 31), CLASSES: (31.0, 0.0)}
    assert seen.items == 31
    missing = {series: count for series, count in live.items() if series.label != "inf"}
    assert "brightness" not in observed_of(replace(measured, images=missing), "r-1", NOW).window


@pytest.mark.parametrize("detector", ["ImageProperties", "ModelOutputs", "Embeddings"])
def test_every_feature_belongs_to_a_detector_of_the_api(detector: str) -> None:
    assert any(feature.detector == detector for feature in FEATURES.values())


def test_what_a_gateway_counts_is_what_the_operator_reads() -> None:
    registry = CollectorRegistry()
    gateway, scraper = DriftMetrics(registry), _Window(NOW)
    gateway.place = ("ns", "cells")
    counts = {"brightness": (0,) * 16 + (3000,) + (0,) * 15}
    gateway.reference(
        "r-1", "stable", profile.ReferenceProfile(splits=("test",), items=3000, features=counts, classes={"RBC": 3000})
    )
    before = read_sample(generate_latest(registry).decode(), 0.0)
    for _ in range(50):
        gateway.image("r-1", "stable", {"brightness": 0.51})
        gateway.classes("r-1", "stable", {"RBC": 0.5, "WBC": 0.5})
    sample = read_sample(generate_latest(registry).decode(), 1.0)
    scraper.add([before], sample)
    seen = observed_of(Measured(images=scraper.counts, samples={"a": (before, sample)}), "r-1", NOW)
    assert (seen.images, seen.items) == (50, 3000)
    assert seen.window == {"brightness": (*[0.0] * 16, 50.0, *[0.0] * 15), CLASSES: (25.0, 25.0)}
    assert seen.reference == {"brightness": tuple(map(float, counts["brightness"])), CLASSES: (3000.0, 0.0)}
