"""Frames kept for a run that goes on: back without loss, cut where a checkpoint says, ended where damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vqclip.record.frames import Frames, replay


def frame(seed: int, height: int = 8, width: int = 12) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def filled(path: Path, count: int) -> list[int]:
    """A file of `count` frames and its length after each."""
    frames, lengths = Frames(path), []
    for number in range(count):
        frames.add(frame(number), 10 * number)
        lengths.append(frames.settle())
    frames.close()
    return lengths


def test_frames_come_back_as_they_were(tmp_path: Path) -> None:
    lengths = filled(tmp_path / "frames", 4)
    for count, length in enumerate(lengths, start=1):
        seen = list(replay(tmp_path / "frames", length))
        assert [step for step, _ in seen] == [10 * number for number in range(count)]
        assert all(np.array_equal(picture, frame(number)) for number, (_, picture) in enumerate(seen))


def test_a_run_that_goes_on_cuts_off_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    lengths = filled(tmp_path / "frames", 4)
    frames = Frames(tmp_path / "frames", lengths[1])
    frames.add(frame(9), 15)
    length = frames.settle()
    frames.close()
    assert (tmp_path / "frames").stat().st_size == length
    assert [step for step, _ in replay(tmp_path / "frames", length)] == [0, 10, 15]


@pytest.mark.parametrize("at", [0, 3, 5, 9, 13, 20])
def test_damage_ends_the_frames_before_it(tmp_path: Path, at: int) -> None:
    lengths = filled(tmp_path / "frames", 3)
    data = bytearray((tmp_path / "frames").read_bytes())
    data[lengths[0] + at] ^= 0x80
    (tmp_path / "frames").write_bytes(data)
    seen = list(replay(tmp_path / "frames", lengths[-1]))
    assert len(seen) < 3
    assert np.array_equal(seen[0][1], frame(0))


def test_a_cut_or_missing_file_ends_it_too(tmp_path: Path) -> None:
    lengths = filled(tmp_path / "frames", 3)
    (tmp_path / "frames").write_bytes((tmp_path / "frames").read_bytes()[: lengths[1] + 30])
    assert len(list(replay(tmp_path / "frames", lengths[2]))) == 2
    assert list(replay(tmp_path / "none", 100)) == []


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "frames").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=r"symbolic links|Too many levels"):
        Frames(tmp_path / "frames")
    assert (tmp_path / "secret").read_text() == "mine"
