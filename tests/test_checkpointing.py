"""Checkpoints: whole or not there, any damage seen, the newest whole one found, saving kept cheap."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from vqclip.job import ResourceError
from vqclip.record import checkpointing
from vqclip.record.checkpointing import Pace, newest, write

SOAK = int(os.environ.get("VQCLIP_SOAK", "1"))
TENSORS = {"latent": torch.arange(24.0).view(2, 3, 4), "index": torch.tensor(7), "stream": torch.ByteTensor([1, 2, 3])}
ABOUT = {"seed": 3, "config": {"include": "a red apple 苹果"}, "frames": 0}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "checkpoints", 12, TENSORS, ABOUT)
    assert path.name.startswith("000012-")
    found, damaged = newest(tmp_path / "checkpoints")
    assert found is not None
    assert (found.step, found.about, damaged) == (12, ABOUT, [])
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in TENSORS.items())


def test_the_newest_three_stay(tmp_path: Path) -> None:
    for step in (5, 900_000, 1_200_000, 40, 3):
        write(tmp_path, step, TENSORS, ABOUT)
    assert sorted(int(path.name.split("-")[0]) for path in tmp_path.iterdir()) == [40, 900_000, 1_200_000]
    found, _ = newest(tmp_path)
    assert found is not None
    assert found.step == 1_200_000


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "missing") == (None, [])
    (tmp_path / "000001-note.safetensors").write_bytes(b"x")
    assert newest(tmp_path) == (None, [])


@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_every_damage_is_seen_and_the_one_before_is_used(tmp_path: Path, kind: str) -> None:
    write(tmp_path, 1, TENSORS, ABOUT)
    path = write(tmp_path, 2, TENSORS, ABOUT)
    whole, rng = path.read_bytes(), random.Random(5)  # no secret
    for _ in range(100 * SOAK):
        data = bytearray(whole)
        if kind == "flip":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        found, damaged = newest(tmp_path)
        assert found is not None
        assert (found.step, damaged) == (1, [path])


def test_a_failed_write_leaves_the_ones_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, TENSORS, ABOUT)

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        write(tmp_path, 2, TENSORS, ABOUT)
    monkeypatch.undo()
    found, damaged = newest(tmp_path)
    assert found is not None
    assert (found.step, damaged) == (1, [])
    assert len(list(tmp_path.iterdir())) == 1  # no temporary file


def test_no_link_is_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "real", 4, TENSORS, ABOUT)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / path.name).symlink_to(path)
    assert newest(tmp_path / "linked")[0] is None


def test_saving_is_due_by_steps_and_by_seconds_and_stays_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpointing.time, "perf_counter", lambda: now[0])
    never, by_steps, by_seconds = Pace(0, 0), Pace(10, 0), Pace(0, 5)
    now[0] += 4
    assert [pace.due(9) for pace in (never, by_steps, by_seconds)] == [False, False, False]
    now[0] += 2
    assert [pace.due(10) for pace in (never, by_steps, by_seconds)] == [False, True, True]
    by_seconds.took(10, 0.2)
    by_steps.took(10, 0.2)
    now[0] += 19  # 0.2 s in 19 are more than a hundredth
    assert not by_seconds.due(50)
    assert by_steps.due(50)  # as somebody said
    now[0] += 2
    assert by_seconds.due(51)


def test_what_comes_after_a_step_is_forgotten(tmp_path: Path) -> None:
    for step in (10, 480, 490):
        write(tmp_path, step, TENSORS, ABOUT).write_bytes(b"damaged")
    checkpointing.forget(tmp_path, 10)
    write(tmp_path, 20, TENSORS, ABOUT)
    found, damaged = newest(tmp_path)
    assert found is not None
    assert (found.step, damaged) == (20, [])
