"""How many frames, how fast: arithmetic that must hold for every run length."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqclip.job import InputError
from vqclip.record.pace import VideoPlan, plan


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_frames_are_counted_as_they_are_wanted(steps: int, every: int) -> None:
    pace = VideoPlan(every, 10, 0)
    wanted = [step for step in range(steps + 1) if pace.wants(step, steps)]
    assert len(wanted) == pace.frames(steps)
    assert wanted[0] == 0
    assert wanted[-1] == steps


@given(st.integers(0, 100_000), st.floats(1, 60))
def test_long_runs_last_about_as_long_as_wished(steps: int, seconds: float) -> None:
    pace = plan(steps, seconds=seconds)
    assert 10 <= pace.fps <= 30
    length = pace.frames(steps) / pace.fps
    assert length <= seconds * 1.06
    if steps >= 30 * seconds:
        assert length >= seconds * 0.45
    if steps < 30 * seconds - 1:
        assert pace.every == 1, "a short run shows every step"


@pytest.mark.parametrize(
    ("steps", "given_values", "every", "fps"),
    [
        (100, {}, 1, 13),  # 101 frames in 8 s
        (30, {}, 1, 10),  # 31 frames: not slower than 10 a second
        (500, {}, 3, 21),  # 168 frames
        (500, {"seconds": 4.0}, 5, 25),  # 101 frames
        (500, {"fps": 25, "seconds": 4.0}, 6, 25),  # 85 frames of the 100 that fit
        (500, {"fps": 25, "every": 1, "seconds": 4.0}, 1, 25),
        (500, {"every": 10}, 10, 10),
        (0, {}, 1, 10),
    ],
)
def test_examples(steps: int, given_values: dict[str, Any], every: int, fps: int) -> None:
    pace = plan(steps, **given_values)
    assert (pace.every, pace.fps) == (every, fps)


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
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"video.{next(iter(wrong))}"):
        plan(10, **wrong)
