"""How long, how fast, which steps: arithmetic that must hold for every run length."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqclip.job import InputError
from vqclip.record.pace import plan


@given(st.integers(0, 100_000), st.sampled_from([1.0, 3.0, 8.0, 30.0]), st.floats(0, 60), st.integers(10, 120))
def test_films_last_what_was_asked_for_with_their_hold(steps: int, seconds: float, hold: float, fps: int) -> None:
    pace = plan(steps, seconds=seconds, hold=hold, fps=fps)
    assert pace.seconds == pytest.approx(seconds, abs=0.051)
    assert pace.moving >= pace.held
    assert pace.fps == fps
    if hold <= seconds / 2:
        assert pace.held / fps == pytest.approx(hold, abs=0.5 / fps + 1e-6)
        assert pace.notes == ()


@given(st.integers(0, 3000), st.floats(1, 60))
def test_steps_have_their_places_in_order_from_the_first_frame_to_the_last(steps: int, seconds: float) -> None:
    pace = plan(steps, seconds=seconds)
    wanted = [step for step in range(steps + 1) if pace.wants(step, steps)]
    assert wanted[-1] == steps
    assert len(wanted) > min(steps, 120), "enough is looked at to make a longer film of it"
    assert len(wanted) <= 2 + max(240, pace.moving), "no more is looked at than shows"
    places = [pace.place(step, steps) for step in wanted]
    assert places == sorted(places)
    assert places[-1] == pace.moving - 1
    assert not steps or places[0] == 0
    assert pace.reach(steps, steps) == 0, "the last frame is the last step alone"
    assert all(pace.reach(step, steps) <= steps / 15 for step in wanted)


def test_the_beginning_and_the_end_take_longer_than_what_only_jitters() -> None:
    pace = plan(60)
    first, middle, last = (pace.place(end, 60) - pace.place(end - 10, 60) for end in (10, 35, 60))
    assert first > 1.8 * middle
    assert last > 1.15 * middle


def test_few_steps_a_second_are_averaged_by_steps_and_many_by_time() -> None:
    few, many = plan(60, seconds=30), plan(2000, seconds=60)
    assert few.reach(30, 60) == pytest.approx(4 * 0.5**0.5)
    assert many.reach(1000, 2000) == pytest.approx(0.45 * 2000 * 25 / many.moving * 0.5**0.5)
    assert plan(60, smooth=0).reach(30, 60) == 0
    assert plan(60, smooth=2).reach(30, 60) == 2 * plan(60).reach(30, 60)


@pytest.mark.parametrize(
    ("steps", "asked", "made"),
    [
        (60, {}, (1, 25, 162, 38)),  # every, fps, moving, held
        (0, {}, (1, 25, 162, 38)),
        (500, {}, (3, 25, 162, 38)),
        (500, {"every": 10}, (10, 25, 162, 38)),
        (1000, {"seconds": 30, "fps": 30}, (2, 30, 855, 45)),
        (60, {"seconds": 1, "hold": 0.5}, (1, 25, 13, 12)),
        (60, {"seconds": 0.1, "fps": 10, "hold": 0}, (1, 10, 1, 0)),
    ],
)
def test_examples(steps: int, asked: dict[str, Any], made: tuple[int, ...]) -> None:
    pace = plan(steps, **asked)
    assert (pace.every, pace.fps, pace.moving, pace.held) == made
    assert pace.notes == ()


def test_what_cannot_be_as_asked_is_said() -> None:
    assert plan(9, seconds=1, hold=1.5).notes == ("video.hold: 1.5 s is more than half of 1 s; the end stays 0.48 s",)
    short = plan(9, seconds=1.5, fps=1, hold=0)
    assert short.notes == ("video.seconds: 1.5 s at 1 frames a second become 2 s",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0},
        {"seconds": float("nan")},
        {"fps": 0},
        {"fps": 121},
        {"every": 0},
        {"hold": -1},
        {"hold": float("inf")},
        {"smooth": -1},
        {"smooth": float("nan")},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"video.{next(iter(wrong))}"):
        plan(10, **wrong)
