"""The contract of drift detection: bins and names that gateways and operator share."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from fovea_api.profile import FEATURES, ReferenceProfile, bin_counts


@pytest.mark.parametrize("feature", FEATURES.values(), ids=lambda feature: feature.name)
def test_edges_rise_and_bins_are_what_cumulative_buckets_hold(feature):
    assert all(low < high for low, high in pairwise(feature.edges))
    counts = tuple(float(index % 5) for index in range(feature.bins))
    buckets = dict(zip((*feature.edges, float("inf")), accumulate(counts), strict=True))
    assert bin_counts(feature, buckets) == counts


def test_a_missing_bucket_is_unknown_and_no_zero():
    feature = FEATURES["objects"]
    assert bin_counts(feature, dict.fromkeys(feature.edges, 1.0)) is None


def test_each_feature_has_a_metric_of_its_own():
    assert len({feature.metric for feature in FEATURES.values()}) == len(FEATURES)


def test_a_profile_keeps_what_it_says():
    profile = ReferenceProfile(splits=("test",), items=2, features={"objects": (0, 2)}, classes={"RBC": 1.5})
    assert ReferenceProfile.model_validate_json(profile.model_dump_json()) == profile
