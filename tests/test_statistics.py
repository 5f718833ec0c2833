"""Intervals cover the truth, resample prompts, mirror when swapped, and claim nothing on little evidence."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from vqclip.judge.statistics import FEWEST, Key, duel, estimate, wilson


def of(*prompts: list[float]) -> dict[Key, float]:
    """Values by prompt; the place in the list is the seed."""
    return {(number, seed): value for number, each in enumerate(prompts) for seed, value in enumerate(each)}


NUMBERS = st.floats(-10, 10, allow_subnormal=False).map(lambda value: round(value, 3))
TABLES = st.lists(st.lists(NUMBERS, min_size=1, max_size=3), min_size=1, max_size=9).map(lambda lists: of(*lists))


class TestEstimate:
    def test_nothing_gives_nothing(self) -> None:
        assert estimate({}) is None

    def test_one_prompt_says_nothing_of_others(self) -> None:
        found = estimate(of([1.0, 2.0, 6.0]))
        assert found is not None
        assert (found.mean, found.low, found.high, found.count) == (3.0, None, None, 3)

    def test_a_prompt_with_many_seeds_counts_no_more(self) -> None:
        found = estimate(of([0.0] * 9, [1.0]))
        assert found is not None
        assert (found.mean, found.count) == (0.5, 10)

    def test_two_prompts_reach_from_one_to_the_other(self) -> None:
        """Of the four equally likely draws one is (0, 0) and one is (1, 1): a quarter each, far above 2.5 %."""
        found = estimate(of([0.0], [1.0]))
        assert found is not None
        assert (found.low, found.high) == (0.0, 1.0)

    def test_equal_prompts_have_no_width(self) -> None:
        found = estimate(of([0.25], [0.25], [0.25]))
        assert found is not None
        assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)

    def test_three_prompts_match_the_enumerated_bootstrap(self) -> None:
        """All 27 draws of (0, 0, 3): the mean is 0 in 8, 1 in 12, 2 in 6 and 3 in 1, which is 3.7 % of them."""
        found = estimate(of([0.0], [0.0], [3.0]))
        assert found is not None
        assert found.low == 0.0
        assert found.high == 3.0

    def test_prompts_are_resampled_and_not_cells(self) -> None:
        """Copying every seed adds no knowledge, so the interval stays as it is."""
        once, often = estimate(of([0.0], [1.0], [0.5], [0.2])), estimate(of(*([v] * 25 for v in (0.0, 1.0, 0.5, 0.2))))
        assert once is not None
        assert often is not None
        assert (once.low, once.high) == pytest.approx((often.low, often.high))

    @pytest.mark.parametrize("prompts", [3, 8, 12])
    def test_draws_are_made_of_prompts_at_random(self, prompts: int) -> None:
        """The library's interval of the prompts' means is that of draws made by hand, with t's tails."""
        values = np.random.default_rng(prompts).normal(size=(prompts, 2))
        found = estimate(of(*values.tolist()))
        means = values.mean(1)
        picks = np.random.default_rng(7).integers(prompts, size=(40_000, prompts))
        student = {3: 4.302653, 8: 2.364624, 12: 2.200985}[prompts]
        tail = NormalDist().cdf(-student * math.sqrt(prompts / (prompts - 1)))
        low, high = np.quantile(means[picks].mean(1), [tail, 1 - tail])
        assert found is not None
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))

    def test_many_prompts_match_the_normal_interval(self) -> None:
        values = np.random.default_rng(5).normal(size=400)
        found = estimate(of(*([float(value)] for value in values)))
        half = NormalDist().inv_cdf(0.975) * values.std() / math.sqrt(len(values))
        assert found is not None
        assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
        assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)

    def test_the_same_numbers_give_the_same_interval(self) -> None:
        table = of([0.1], [0.7], [0.4], [0.9])
        assert estimate(table) == estimate(table)
        assert estimate(table, seed=1) == estimate(table, seed=1)

    def test_the_order_of_the_values_has_no_say(self) -> None:
        table = of([0.1], [0.7, 0.3], [0.4], [0.9])
        assert estimate(dict(reversed(table.items()))) == estimate(table)

    def test_no_global_random_state_is_touched(self) -> None:
        before = np.random.get_state()[1].tolist()
        estimate(of([0.1], [0.7]))
        assert np.random.get_state()[1].tolist() == before

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_refused(self, value: float) -> None:
        with pytest.raises(ValueError, match="NaN or infinite"):
            estimate(of([1.0], [value]))

    @given(TABLES)
    @settings(max_examples=40, deadline=None)
    def test_the_interval_lies_within_the_prompts_means(self, table: dict[Key, float]) -> None:
        found = estimate(table, draws=500)
        assert found is not None
        means = [np.mean([v for (p, _), v in table.items() if p == prompt]) for prompt in {p for p, _ in table}]
        if len(means) == 1:
            assert found.low is found.high is None
        else:
            assert found.low is not None
            assert found.high is not None
            assert min(means) - 1e-9 <= found.low <= found.high <= max(means) + 1e-9


class TestShares:
    @pytest.mark.parametrize(
        ("share", "count", "low", "high"),
        [(1.0, 16, 0.8064, 1.0), (0.0, 16, 0.0, 0.1936), (0.5, 10, 0.2366, 0.7634), (0.1, 50, 0.0435, 0.2136)],
    )
    def test_wilson_matches_published_values(self, share: float, count: int, low: float, high: float) -> None:
        assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)

    @pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 8), (16, 16), (37, 120)])
    def test_wilson_is_the_library_s_for_whole_numbers(self, hits: int, count: int) -> None:
        expected = binomtest(hits, count).proportion_ci(method="wilson")
        assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)

    def test_all_of_sixteen_is_not_certain(self) -> None:
        found = estimate(of(*([1.0] for _ in range(16))), share=True)
        assert found is not None
        assert (found.mean, found.low, found.high, found.prompts) == (1.0, wilson(1.0, 16)[0], 1.0, 16)

    def test_seeds_that_agree_add_nothing(self) -> None:
        once = estimate(of(*([float(n < 5)] for n in range(8))), share=True)
        often = estimate(of(*([float(n < 5)] * 4 for n in range(8))), share=True)
        assert once is not None
        assert often is not None
        assert (often.low, often.high) == (once.low, once.high) == pytest.approx(wilson(5 / 8, 8))
        assert (once.count, often.count) == (8, 32)

    def test_seeds_that_differ_as_much_as_prompts_count(self) -> None:
        """Each prompt has one hit in two: the prompts say the same, so every picture is a draw of its own."""
        found = estimate(of(*([0.0, 1.0] for _ in range(8))), share=True)
        assert found is not None
        assert (found.low, found.high) == pytest.approx(wilson(0.5, 16))

    def test_the_effective_number_lies_between(self) -> None:
        """Means 0, 1, .5 x 4, 1, 0 of two seeds have the variance 1/7: 14 draws, and fewer for so few prompts."""
        mixed = of([0.0, 0.0], [1.0, 1.0], *([0.0, 1.0] for _ in range(4)), [1.0, 1.0], [0.0, 0.0])
        found = estimate(mixed, share=True)
        assert found is not None
        expected = 0.25 / (1 / 7 / 8) * (NormalDist().inv_cdf(0.975) / 2.3646) ** 2  # t of 7 degrees of freedom
        assert 8 < expected < 16
        assert (found.low, found.high) == pytest.approx(wilson(0.5, expected), abs=1e-3)

    def test_the_difference_of_all_and_none_is_not_certain_either(self) -> None:
        every = of(*([1.0] for _ in range(16)))
        found = duel(every, dict.fromkeys(every, 0.0), share=True)
        assert found is not None
        middle, half = 16 / 18, 1.95996 * math.sqrt((1 - (16 / 18) ** 2) / 18)  # one draw is added for each side
        assert (found.difference, found.high, found.decided) == (1.0, 1.0, True)
        assert found.low == pytest.approx(middle - half, abs=1e-4)

    def test_three_of_eight_decide_nothing(self) -> None:
        """By a sign test three of three come by chance in a quarter of all cases."""
        first = of(*([float(n < 3)] for n in range(8)))
        found = duel(first, dict.fromkeys(first, 0.0), share=True)
        assert found is not None
        assert found.low is not None
        assert found.low < 0 < found.difference
        assert not found.decided

    def test_without_a_difference_few_are_decided(self) -> None:
        rng = np.random.default_rng(3)
        decided = 0
        for _ in range(600):
            chance = rng.beta(2, 2, size=(12, 1))
            tables = (of(*(rng.random((12, 3)) < chance).astype(float).tolist()) for _ in range(2))
            found = duel(*tables, share=True)
            decided += found is not None and found.decided
        assert decided / 600 <= 0.05


@pytest.mark.parametrize("prompts", [8, 12, 30])
@pytest.mark.parametrize("kind", ["normal", "shares"])
def test_intervals_cover_the_truth_about_95_times_in_100(prompts: int, kind: str) -> None:
    """600 made-up comparisons of prompts with an effect of their own and three seeds each."""
    rng = np.random.default_rng(prompts)
    trials, covered = 600, 0
    for _ in range(trials):
        if kind == "normal":
            truth, table = 0.3, 0.3 + rng.normal(size=(prompts, 1)) + 0.5 * rng.normal(size=(prompts, 3))
        else:
            truth, table = 0.4, (rng.random((prompts, 3)) < rng.beta(2, 3, size=(prompts, 1))).astype(float)
        found = estimate(of(*table.tolist()), share=kind == "shares", draws=1000)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / trials <= 0.98


class TestDuel:
    def test_nothing_in_common_gives_nothing(self) -> None:
        assert duel({(0, 0): 1.0}, {(0, 1): 1.0}) is None

    def test_counts_and_rates(self) -> None:
        found = duel(of([3.0, 1.0], [2.0, 2.0]), of([1.0, 1.0], [5.0, 1.0]))
        assert found is not None
        assert (found.wins, found.losses, found.ties) == (2, 1, 1)
        assert found.win_rate == pytest.approx((0.75 + 0.5) / 2)
        assert found.difference == pytest.approx((1.0 - 1.0) / 2)

    def test_only_shared_pairs_count(self) -> None:
        found = duel(of([1.0, 100.0], [1.0]), of([0.0]))
        assert found is not None
        assert (found.wins + found.losses + found.ties, found.difference) == (1, 1.0)

    def test_less_can_be_better(self) -> None:
        found = duel(of([1.0], [2.0]), of([3.0], [4.0]), lower_wins=True)
        assert found is not None
        assert (found.wins, found.losses, found.win_rate, found.difference) == (2, 0, 1.0, -2.0)

    def test_one_prompt_is_undecided_and_without_interval(self) -> None:
        found = duel(of([5.0] * 20), of([1.0] * 20))
        assert found is not None
        assert (found.low, found.high, found.win_low, found.win_high) == (None, None, None, None)
        assert not found.decided

    @pytest.mark.parametrize("prompts", range(2, 12))
    def test_a_clear_difference_is_decided_from_six_prompts_on(self, prompts: int) -> None:
        first = of(*([1.0 + 0.1 * number] for number in range(prompts)))
        found = duel(first, dict.fromkeys(first, 0.0))
        assert found is not None
        assert found.low is not None
        assert found.low > 0
        assert found.decided == (prompts >= FEWEST == 6)

    def test_an_interval_around_zero_decides_nothing(self) -> None:
        first = of(*([1.0 if number % 2 else -0.9] for number in range(20)))
        found = duel(first, dict.fromkeys(first, 0.0))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < 0 < found.high
        assert not found.decided

    def test_equal_variants_tie(self) -> None:
        table = of(*([0.3 * number] for number in range(9)))
        found = duel(table, dict(table))
        assert found is not None
        assert (found.ties, found.win_rate) == (9, 0.5)
        assert (found.win_low, found.win_high) == pytest.approx(wilson(0.5, 9))
        assert (found.difference, found.low, found.high, found.decided) == (0.0, 0.0, 0.0, False)

    @given(TABLES, TABLES, st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_swapping_mirrors(self, first: dict[Key, float], second: dict[Key, float], lower: bool) -> None:
        one, other = (duel(*pair, lower_wins=lower, draws=400) for pair in ((first, second), (second, first)))
        assert (one is None) == (other is None)
        if one is None or other is None:
            return
        assert (one.wins, one.losses, one.ties) == (other.losses, other.wins, other.ties)
        assert one.difference == pytest.approx(-other.difference, abs=1e-9)
        assert one.win_rate == pytest.approx(1 - other.win_rate)
        assert one.decided == other.decided
        if one.low is None:
            assert other.low is one.high is other.high is one.win_low is None
            return
        assert one.low == pytest.approx(-(other.high or 0.0), abs=1e-9)
        assert one.high == pytest.approx(-(other.low or 0.0), abs=1e-9)
        assert one.win_low == pytest.approx(1 - (other.win_high or 0.0), abs=1e-9)

    def test_without_a_difference_few_are_decided(self) -> None:
        """600 made-up comparisons of two equal variants on eight prompts: at most 8 % may look decided."""
        rng = np.random.default_rng(11)
        decided = 0
        for _ in range(600):
            tables = (of(*rng.normal(size=(8, 2)).tolist()) for _ in range(2))
            found = duel(*tables, draws=1000)
            decided += found is not None and found.decided
        assert decided / 600 <= 0.08
