"""Curves and intervals: inside their canvas, true to the numbers, with round labels, for any numbers at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from vqclip.report import charts
from vqclip.report.charts import Chart, Line, curves, intervals, label

NUMBERS = some.floats(-1e290, 1e290, allow_nan=False)
COURSE = some.lists(some.none() | NUMBERS, min_size=1, max_size=400)
PATH = re.compile(r"(M-?[\d.]+ -?[\d.]+h0|L-?[\d.]+ -?[\d.]+)*")


def chart(values: list[float | None], **more: bool) -> Chart:
    found = curves([Line([(index, value) for index, value in enumerate(values)])], **more)
    assert found is not None
    return found


def corners(found: Chart) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for trace in found.traces for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", trace.d)]


@given(COURSE)
def test_every_course_stays_inside_its_box_and_its_path_is_numbers_alone(values: list[float | None]) -> None:
    found = curves([Line(list(enumerate(values)))])
    if found is None:
        assert all(value is None for value in values)
        return
    left, top, right, bottom = found.box
    assert all(PATH.fullmatch(trace.d) for trace in found.traces)
    assert all(left <= x <= right and top <= y <= bottom for x, y in corners(found))
    assert all(left <= tick.at <= right for tick in found.across)
    assert all(top <= tick.at <= bottom for tick in found.up)


def test_more_is_higher_and_later_is_further_right() -> None:
    (low, high, middle) = corners(chart([1.0, 3.0, 2.0]))
    assert low[0] < high[0] < middle[0]
    assert high[1] < middle[1] < low[1]


def test_ranks_have_the_first_place_on_top() -> None:
    found = chart([80, 3, 1], ranks=True)
    worst, _, best = corners(found)
    assert best[1] == found.box[1] < worst[1]
    assert found.up[0].text == "1"
    assert all(float(tick.text).is_integer() for tick in found.up)


def test_heights_are_in_proportion() -> None:
    (_, a), (_, b), (_, c) = corners(chart([0.0, 5.0, 10.0]))
    assert a - b == pytest.approx(b - c, abs=0.11)


def test_a_gap_in_the_numbers_is_a_gap_in_the_line() -> None:
    (trace,) = chart([1.0, None, 2.0, 3.0, None]).traces
    assert trace.d.count("M") == 2
    assert trace.d.count("L") == 1


def test_no_number_is_no_chart_and_one_is_a_dot() -> None:
    assert curves([Line([(0, None)])]) is None
    assert curves([]) is None
    assert chart([0.5]).traces[0].d.endswith("h0")


def test_long_lines_are_thinned_without_losing_a_peak() -> None:
    values: list[float | None] = [0.0] * 20_000
    values[12_345] = 7.0
    values[777] = -7.0
    found = chart(values)
    heights = [y for _, y in corners(found)]
    assert len(heights) <= charts.MOST + 2
    whole = chart([0.0, 7.0, -7.0])
    assert min(heights) == min(y for _, y in corners(whole))
    assert max(heights) == max(y for _, y in corners(whole))
    places = [x for x, _ in corners(found)]
    assert places == sorted(places)
    assert places[-1] == found.box[2]


def test_lines_share_their_axes_and_keep_their_colours() -> None:
    found = curves([Line([(0, 0.0), (10, 1.0)], 0), Line([(0, 0.0), (5, 1.0)], 4), Line([(0, None)], 2)])
    assert found is not None
    assert [trace.colour for trace in found.traces] == [0, 4]
    assert found.traces[0].end[1] == found.traces[1].end[1]
    assert found.traces[1].end[0] < found.traces[0].end[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 0.25, 0.5], ["From 1.00 at step 0 to 0.500 at step 2", "lowest 0.250", "highest 1.00"]),
        ([None, 2.0, None], ["From 2.00 at step 1 to 2.00 at step 1"]),
    ],
)
def test_a_chart_is_also_said(values: list[float | None], words: list[str]) -> None:
    said = chart(values).said
    assert all(word in said for word in words)


@given(NUMBERS, NUMBERS)
def test_ticks_are_few_in_order_and_different(first: float, second: float) -> None:
    found = chart([first, second])
    places = [tick.at for tick in found.up]
    assert len(places) <= 6
    assert places == sorted(places, reverse=True)
    if abs(first - second) > 1e-3 * max(abs(first), abs(second), 1e-3):
        assert len({tick.text for tick in found.up}) == len(found.up)


def test_steps_are_counted_in_whole_numbers() -> None:
    assert [tick.text for tick in chart([1.0, 2.0]).across] == ["0", "1"]


@pytest.mark.parametrize(
    ("value", "pitch", "text"),
    [
        (0.2, 0.1, "0.2"),
        (-0.2, 0.05, "\u22120.20"),
        (1500, 500, "1,500"),
        (1e-17, 0.1, "0"),
        (3e8, 1e8, "3e8"),
        (1.25e9, 5e7, "1.25e9"),
        (2, 1, "2"),
    ],
)
def test_labels_have_the_decimals_of_their_pitch(value: float, pitch: float, text: str) -> None:
    assert label(value, pitch) == text


def test_intervals_hold_their_means_and_share_one_axis() -> None:
    found = intervals([(1.0, 0.0, 2.0), (None, None, None), (3.0, None, None)])
    assert found is not None
    first, last = found.bars
    assert first.low is not None
    assert first.high is not None
    assert 0 < first.low < first.middle < first.high < last.middle < found.width
    assert last.low is None
    assert (first.colour, last.colour) == (0, 2)
    assert first.y < last.y < found.height
    assert found.zero == first.low


def test_zero_is_marked_only_where_it_is() -> None:
    far = intervals([(5.0, 4.0, 6.0)])
    assert far is not None
    assert far.zero is None
    assert intervals([(None, None, None)]) is None
