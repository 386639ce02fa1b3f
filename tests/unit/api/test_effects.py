"""Effect sizes, against counting pairs and closed forms."""

from __future__ import annotations

import random

import pytest
from fovea_api.effects import EffectSize, cliffs_delta, cohens_h


def counts(values: list[int], bins: int) -> list[float]:
    return [float(values.count(index)) for index in range(bins)]


def test_cliffs_delta_counts_pairs() -> None:
    draw = random.Random(0)
    before, now = ([draw.randrange(6) for _ in range(40)], [min(draw.randrange(8), 5) for _ in range(30)])
    pairs = sum((b > a) - (b < a) for a in before for b in now) / (len(before) * len(now))
    assert cliffs_delta(counts(before, 6), counts(now, 6)).value == pytest.approx(pairs)


def test_its_error_is_that_of_mann_and_whitney() -> None:
    """Of two samples of one continuous distribution the variance of delta is (n + m + 1) / 3nm."""
    fine = cliffs_delta([1.0] * 400, [0.5] * 400)
    assert fine.value == pytest.approx(0)
    assert fine.error**2 == pytest.approx((400 + 200 + 1) / (3 * 400 * 200), rel=0.01)


def test_cohens_h_is_the_largest_of_all_classes() -> None:
    found = cohens_h([50.0, 50.0, 0.0], [50.0, 25.0, 25.0])
    assert found.value == pytest.approx(1.0472, abs=1e-4)  # 2 asin(sqrt(1/4)) is pi / 3
    assert found.error == pytest.approx((2 / 100) ** 0.5)
    assert cohens_h([50.0, 50.0], [0.0, 10.0]).value < 0 or cohens_h([50.0, 50.0], [0.0, 10.0]).name == "Large"


@pytest.mark.parametrize(("value", "error", "name", "certain"), [
    (0.146, 0.0, None, False), (-0.2, 0.001, "Small", True), (0.33, 0.2, "Medium", False), (-1.0, 0.1, "Large", True),
])  # fmt: skip
def test_an_effect_has_a_name_and_is_certain_or_not(
    value: float, error: float, name: str | None, certain: bool
) -> None:
    limits = cliffs_delta([1.0], [1.0]).limits
    assert (EffectSize(value, error, limits).name, EffectSize(value, error, limits).is_certain) == (name, certain)
