"""From pictures of steps to frames: calm on the way, exact at both ends, one pass with constant memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from films import frame, raw
from numpy.typing import NDArray

from vqclip.record.film import Film
from vqclip.record.pace import VideoPlan, plan

Pictures = list[NDArray[np.uint8]]


def grey(level: int) -> NDArray[np.uint8]:
    return frame(4, 2, (level, level, level))


def jitter(count: int, *, size: int = 8) -> Pictures:
    """What a run shows: a picture that is there from the start, under noise that fades."""
    draw = np.random.default_rng(0)
    target = draw.uniform(60, 190, (size, size, 3))
    noise = (draw.normal(0, 60 * (1 - step / count) + 4, (size, size, 3)) for step in range(count))
    return [np.clip(target + each, 0, 255).astype(np.uint8) for each in noise]


def develop(pace: VideoPlan, pictures: Pictures, *, total: int | None = None, final: Any = None) -> Pictures:
    """The frames of a film that sees these pictures as steps 0, 1, ... and then ends."""
    frames: Pictures = []
    film = Film(pace, frames.append)
    last = len(pictures) - 1 if total is None else total
    for step, picture in enumerate(pictures):
        if pace.wants(step, last):
            film.show(picture, step, last)
    film.end(final)
    return frames


def change(frames: Pictures) -> NDArray[np.float64]:
    return np.abs(np.diff(np.stack(frames).astype(float), axis=0)).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("smooth", [0, 1, 3])
@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("steps", [0, 1, 10, 61])
def test_first_and_last_frames_are_the_first_and_last_picture(steps: int, every: int, smooth: float) -> None:
    pictures = jitter(steps + 1)
    pace = plan(steps, seconds=2, hold=0.4, every=every, smooth=smooth)
    frames = develop(pace, pictures)
    assert len(frames) == 50
    if steps:
        assert np.array_equal(frames[0], pictures[0])
    for shown in frames[pace.moving - 1 :]:
        assert np.array_equal(shown, pictures[-1])


def test_frames_change_little_where_steps_jitter() -> None:
    pictures = jitter(61)
    calm, plain = change(develop(plan(60), pictures)), change(pictures)
    middle = slice(len(calm) // 4, -len(calm) // 4)
    assert calm[middle].mean() < plain[15:45].mean() / 20
    assert calm[middle].mean() * 25 < plain[15:45].mean() * 61 / 6.5 / 3, "not by having more frames alone"
    assert calm.max() < plain[:15].max() / 4


def test_frames_between_two_pictures_fade_from_one_to_the_other() -> None:
    levels = [int(each.mean()) for each in develop(VideoPlan(1, 10, 11, 0), [grey(0), grey(200)])]
    assert levels == list(range(0, 201, 20))


def test_without_smoothing_each_step_is_shown_as_it_is_until_the_next_one() -> None:
    frames = develop(raw(moving=40), [grey(level) for level in (0, 50, 100, 150, 200)])
    levels = [int(each.mean()) for each in frames]
    assert set(levels) == {0, 50, 100, 150, 200}
    assert levels == sorted(levels)
    assert len(levels) == 40


def test_more_steps_than_frames_are_thinned_and_the_last_one_stays() -> None:
    frames = develop(VideoPlan(1, 10, 5, 5, smooth=0), [grey(level) for level in range(101)])
    levels = [int(each.mean()) for each in frames]
    assert levels[0] == 0
    assert levels[4:] == [100] * 6
    assert levels[:5] == sorted(set(levels[:5]))


def test_a_run_that_stops_early_is_a_film_of_what_there_is_with_its_hold() -> None:
    pictures = jitter(61)[:30]
    pace = plan(60, seconds=4, hold=1)
    frames = develop(pace, pictures, total=60, final=pictures[-1])
    assert len(frames) == int(pace.place(29, 60)) + 1 + pace.held
    assert np.array_equal(frames[-1], pictures[-1])
    assert change(frames)[-24:-12].max() < 12, "fades into the last picture, no jump"
    assert change(frames)[-12:].max() == 0, "and stays there"


def test_a_final_picture_that_is_not_the_last_step_is_reached_within_the_hold() -> None:
    final = grey(240)
    for hold in (0, 1):
        frames = develop(plan(4, seconds=3, hold=hold), [grey(100)] * 5, final=final)
        assert np.array_equal(frames[-1], final)
        assert len(frames) == 75 + (hold == 0), "without a hold it is one frame more"
    assert np.array_equal(develop(plan(4), [grey(100)] * 5, final=frame(9, 9))[-1], grey(100)), "another size is not"


def test_a_first_step_that_was_no_picture_costs_no_time() -> None:
    frames: Pictures = []
    film = Film(plan(10, seconds=1, hold=0), frames.append)
    for step in range(3, 11):
        film.show(grey(step * 20), step, 10)
    film.end()
    assert len(frames) == 25
    assert int(frames[0].mean()) == 60


def test_no_pictures_no_frames() -> None:
    assert develop(plan(10), []) == []


def test_a_thousand_steps_hold_no_more_memory_than_a_few() -> None:
    def peak(steps: int) -> int:
        pace = plan(steps, every=1, seconds=2)
        film = Film(pace, lambda _frame: None)
        picture = frame(64, 64)
        tracemalloc.start()
        for step in range(steps + 1):
            film.show(picture, step, steps)
        film.end()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)
    assert peak(1000) < 1.2 * peak(5)
