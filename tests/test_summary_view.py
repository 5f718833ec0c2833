"""The summary: what is bold, who won, and how intervals are printed."""

from __future__ import annotations

from typing import Any

import pytest
from report_folders import estimate, pair, report

from vqclip.job import InputError
from vqclip.judge.scores import METRICS
from vqclip.report import summary_view
from vqclip.report.evidence import Facts
from vqclip.report.summary_view import SHOWN, Row


def rows(count: int, **changes: Any) -> dict[str, Row]:
    """The lines of a summary of `count` variants, by metric name."""
    plain = report("x")["variants"][1]
    facts = Facts(report("x", variants=[plain | {"name": f"v{n}"} for n in range(count)], **changes), "report.json")
    variants = [summary_view.variant(each, number) for number, each in enumerate(facts.each("variants"))]
    duels = [summary_view.duel(each, variants) for each in facts.each("pairs")]
    return {row.metric.name: row for row in summary_view.rows(facts, variants, duels)}


def bold(row: Row) -> list[int]:
    return [number for number, score in enumerate(row.scores) if score and score.best]


def test_every_metric_of_a_comparison_has_a_name() -> None:
    assert tuple(SHOWN) == METRICS


@pytest.mark.parametrize(
    ("metric", "difference", "winner"), [("margin", 0.3, 0), ("margin", -0.3, 1), ("seconds", 7, 1), ("seconds", -7, 0)]
)
def test_the_better_one_is_bold_by_the_direction_of_the_metric(metric: str, difference: float, winner: int) -> None:
    summary = [estimate(0, metric, 1.0, 0.5, 1.5), estimate(1, metric, 2.0)]
    for decided in (True, False):
        (row,) = rows(2, summary=summary, pairs=[pair(0, 1, metric, difference, decided=decided)]).values()
        assert bold(row) == ([winner] if decided else [])


def test_of_three_the_best_has_beaten_both_others() -> None:
    summary = [estimate(number, "margin", 0.1 * number) for number in range(3)]
    won = [pair(0, 2, "margin", -0.2, decided=True), pair(1, 2, "margin", -0.1, decided=True)]
    assert bold(rows(3, summary=summary, pairs=won)["Margin"]) == [2]
    won[1] |= {"decided": False}
    assert bold(rows(3, summary=summary, pairs=won)["Margin"]) == []
    assert bold(rows(3, summary=summary, pairs=won[:1])["Margin"]) == []
    assert bold(rows(3, summary=[summary[0], summary[2]], pairs=won[:1])["Margin"]) == [2]


def test_one_variant_alone_is_never_best() -> None:
    assert bold(rows(1, summary=[estimate(0, "margin", 0.1)], pairs=[])["Margin"]) == []


def test_values_have_their_unit_and_their_interval() -> None:
    summary = [estimate(0, "top1", 0.25, 0.0, 0.5), estimate(1, "seconds", 200.0, 190, 210), estimate(1, "top1", 0.5)]
    found = rows(2, summary=summary, pairs=[])
    first, second = found["Prompt ranked first"].scores
    assert first is not None
    assert second is not None
    assert (first.mean, first.interval) == ("25 %", "0 % to 50 %")
    assert (second.mean, second.interval) == ("50 %", "")
    missing, time = found["Time"].scores
    assert missing is None
    assert time is not None
    assert (time.mean, time.interval) == ("3 min 20 s", "3 min 10 s to 3 min 30 s")


def test_a_duel_in_words() -> None:
    facts = Facts(report("x"), "report.json")
    variants = [summary_view.variant(each, number) for number, each in enumerate(facts.each("variants"))]
    duel = summary_view.duel(Facts(pair(0, 1, "top5", 0.25, decided=True), "pairs[0]"), variants)
    assert (duel.tally, duel.rate) == ("3 : 1 : 0", "75 % (50 % to 100 %)")
    assert duel.difference == "+25 points (+15 points to +35 points)"
    assert duel.winner is variants[0]


@pytest.mark.parametrize("wrong", [-1, 2, None, 10**12])
def test_a_variant_that_is_not_there_is_refused(wrong: int | None) -> None:
    with pytest.raises(InputError, match="variant"):
        rows(2, summary=[estimate(0, "margin", 0.1) | {"variant": wrong}], pairs=[])
