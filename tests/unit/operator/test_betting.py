"""Tests that may be looked at whenever one likes: held against closed forms, a library, and what must never happen."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import pytest
from fovea_operator.evidence.betting import (
    STAKES,
    Difference,
    PairedDifference,
    Quantity,
    Ratio,
    Share,
    growth_until,
    interval,
    log_wealth,
)
from hypothesis import given
from hypothesis import strategies as st


def binomial(n: int, p: float) -> Iterator[tuple[int, float]]:
    return ((k, math.comb(n, k) * p**k * (1 - p) ** (n - k)) for k in range(n + 1))


def multinomial(n: int, *chances: float) -> Iterator[tuple[tuple[int, ...], float]]:
    for counts in itertools.product(range(n + 1), repeat=len(chances)):
        if sum(counts) == n:
            ways = math.factorial(n) / math.prod(map(math.factorial, counts))
            yield counts, ways * math.prod(p**k for p, k in zip(chances, counts, strict=True))


class TestWealth:
    """On the bound itself the bets are fair: summed over all that can happen, the expected wealth is 1."""

    @pytest.mark.parametrize("bound", [0.01, 0.05, 0.4, 0.9])
    def test_share(self, bound: float) -> None:
        for side in (Share.above, Share.below):
            expected = sum(p * math.exp(side(Share(k, 60), bound)) for k, p in binomial(60, bound))
            assert expected == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize("bound", [-0.3, -0.02, 0.1])
    def test_paired_difference(self, bound: float) -> None:
        chances = (0.2 + bound / 2, 0.2 - bound / 2, 0.6)
        for side in (PairedDifference.above, PairedDifference.below):
            expected = sum(p * math.exp(side(PairedDifference(*n), bound)) for n, p in multinomial(12, *chances))
            assert expected == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize(("weight", "bound"), [(0.05, 1.0), (0.5, 1.2), (0.25, 0.5)])
    def test_ratio(self, weight: float, bound: float) -> None:
        of_stable = 0.1
        chances = (weight * of_stable * bound, (1 - weight) * of_stable)
        chances = (*chances, 1 - sum(chances))
        for side in (Ratio.above, Ratio.below):
            found = ((Ratio(*n[:2], weight), p) for n, p in multinomial(12, *chances))
            assert sum(p * math.exp(side(ratio, bound)) for ratio, p in found) == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize(("weight", "bound"), [(0.05, 0.0), (0.5, -0.1)])
    def test_difference(self, weight: float, bound: float) -> None:
        of_stable, of_candidate = 0.8, 0.8 + bound
        chances = (weight * of_candidate, weight * (1 - of_candidate))
        chances = (*chances, (1 - weight) * of_stable, (1 - weight) * (1 - of_stable))
        for side in (Difference.above, Difference.below):
            expected = sum(
                p * math.exp(side(Difference(Share(a, a + b), Share(c, c + d), weight), bound))
                for (a, b, c, d), p in multinomial(7, *chances)
            )
            assert expected == pytest.approx(1, abs=1e-12)

    def test_copies_of_one_request_are_no_advantage(self) -> None:
        """Where both versions answer the same requests their events go together; the bets are then less than fair."""
        chances = {(1, 1): 0.08, (1, 0): 0.02, (0, 1): 0.02, (0, 0): 0.88}
        for side in (Ratio.above, Ratio.below):
            one = sum(p * math.exp(side(Ratio(a, b, 0.5), 1.0)) for (a, b), p in chances.items())
            assert one <= 1

    def test_all_is_computed_by_hand(self) -> None:
        """One stake, two of three observations occur: (1 - f + f / m)^2 (1 - f)."""
        assert log_wealth(((2, 1 / 0.4), (1, 0.0)), (0.25,)) == pytest.approx(math.log((0.75 + 0.25 / 0.4) ** 2 * 0.75))

    @pytest.mark.parametrize(
        ("stake", "up", "down"),
        [
            (1 / 17, 3.699914709763303, -3.107652222661957),
            (1 / 33, 2.0450211815463026, -1.5340501243692264),
            (1 / 65, 1.075918901739834, -0.7613768465642199),
            (1 / 129, 0.5519548614902824, -0.3791801046155205),
        ],
    )
    def test_agrees_with_ville(self, stake: float, up: float, down: float) -> None:
        """ville 0.1.0, whose bets are as small as its `c` where that is small:
        `BettingTest(0.4, alternative="greater", c=stake).fit(109 ones and 91 zeros).log_e_values_[-1]`, and "less"."""
        assert log_wealth(((109, 1 / 0.4), (91, 0.0)), (stake,)) == pytest.approx(up, abs=1e-9)
        assert log_wealth(((91, 1 / 0.6), (109, 0.0)), (stake,)) == pytest.approx(down, abs=1e-9)


QUANTITIES: tuple[Quantity, ...] = (
    Share(3, 400),
    Ratio(12, 40, 0.25),
    PairedDifference(9, 14, 400),
    Difference(Share(90, 100), Share(170, 200), 0.4),
)


class TestInterval:
    @pytest.mark.parametrize(
        ("events", "total", "lower", "upper"),
        [(0, 470, 0.0, 0.01783), (1, 700, 2e-7, 0.01599), (5, 500, 0.001057, 0.03604), (40, 800, 0.02732, 0.08199)],
    )
    def test_is_no_wider_than_a_conjugate_mixture(self, events: int, total: int, lower: float, upper: float) -> None:
        """ville 0.1.0: `BernoulliCS(alpha=0.1, intersect=False)`, by a mixture that is uniform over all shares."""
        low, high = interval(Share(events, total), 0.05, 0.05)
        assert lower - 1e-6 <= low <= events / total <= high <= upper

    @pytest.mark.parametrize("quantity", QUANTITIES)
    def test_holds_what_no_test_rejects(self, quantity: Quantity) -> None:
        low, high = interval(quantity, 0.01, 0.2)
        assert low < (quantity.estimate or 0) < high
        assert quantity.above(low - 1e-4) >= -math.log(0.01) > quantity.above(low + 1e-4)
        assert quantity.below(high + 1e-4) >= -math.log(0.2) > quantity.below(high - 1e-4)

    @pytest.mark.parametrize("quantity", [Share(0, 0), Ratio(0, 0, 0.1), PairedDifference(0, 0, 0)])
    def test_of_nothing_is_all(self, quantity: Quantity) -> None:
        assert interval(quantity, 0.05, 0.05) == quantity.span
        assert quantity.estimate is None

    @given(events=st.integers(0, 200), others=st.integers(0, 5000), low=st.floats(0, 1), high=st.floats(0, 1))
    def test_evidence_falls_as_the_bound_rises(self, events: int, others: int, low: float, high: float) -> None:
        share, (low, high) = Share(events, events + others), sorted((low, high))
        assert share.above(low) >= share.above(high) - 1e-9
        assert share.below(high) >= share.below(low) - 1e-9


class TestRepeatedLooks:
    @pytest.mark.parametrize(("bound", "requests"), [(0.01, 3000), (0.05, 1000)])
    def test_of_many_at_the_bound_few_are_ever_decided(self, bound: float, requests: int) -> None:
        """300 of them, looked at after every 50 requests. 5 % are promised, 15; benchmarks/rollout.py counts 10,000."""
        draw = random.Random(7)
        kept = broken = 0
        for _ in range(300):
            events, ever_kept, ever_broken = 0, False, False
            for total in range(50, requests + 1, 50):
                events += sum(draw.random() < bound for _ in range(50))
                ever_kept |= Share(events, total).below(bound) >= -math.log(0.05)
                ever_broken |= Share(events, total).above(bound) >= -math.log(0.05)
            kept += ever_kept
            broken += ever_broken
        assert kept <= 15
        assert broken <= 15

    def test_a_bad_hour_after_a_good_one_is_no_licence(self) -> None:
        """The share is at most the bound at every moment, and changes: the evidence against that stays fair."""
        first, then = binomial(20, 0.02), list(binomial(20, 0.1))
        expected = sum(p * q * math.exp(Share(a + b, 40).above(0.1)) for a, p in first for b, q in then)
        assert expected <= 1


class TestGrowth:
    def test_to_what_decides(self) -> None:
        share = Share(0, 100)
        growth = growth_until(share, lambda more: more.below(0.01) >= -math.log(0.05))
        assert growth is not None
        assert share.scaled(growth).below(0.01) >= -math.log(0.05) > share.scaled(growth * 0.99).below(0.01)

    def test_on_the_bound_there_is_none(self) -> None:
        assert growth_until(Share(1, 100), lambda more: more.below(0.01) >= -math.log(0.05)) is None


def test_stakes_reach_from_almost_all_to_almost_nothing() -> None:
    assert STAKES[0] > 0.9
    assert STAKES[-1] < 0.01
    assert all(0 < stake < 1 for stake in STAKES)
