"""Checkpoints: bit for bit, whole or the one before, of one recipe; and what is changed on the way is noted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from training import checkpoint
from training.checkpoint import Run, previous, put_aside, resume_run, save_run, write_whole
from training.export import export_run
from training.loop import adam, learn
from training.recipes import Training
from vqclip.job import InputError

CPU = torch.device("cpu")
RECIPE = Training(styles=("noto",), seed=3, minutes=5, batch=4, gpu=1, rate=0.05)
PATH = "runs/tiny.safetensors"


def fresh(recipe: Training = RECIPE, width: int = 2) -> Run[Training, nn.Linear]:
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = nn.Linear(3, width)
    return Run(recipe, model, adam(recipe, model.parameters()), CPU)


def update(run: Run[Training, nn.Linear]) -> float:
    """A step that draws from all three generators."""
    noise = torch.randn(4, 3, generator=run.rng) + torch.randn(4, 3) + run.words.random()
    return learn(run, 0.5, run.model(noise.float()).square().mean(), 4)["loss"]


def saved(folder: Path, steps: int = 3) -> Run[Training, nn.Linear]:
    """A run that was saved after each of its steps."""
    run = fresh()
    for _ in range(steps):
        update(run)
        run.seconds += 60.0
        save_run(folder / PATH, run)
    return run


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_resumed_run_goes_on_bit_for_bit_with_every_generator(tmp_path: Path, decay: float) -> None:
    recipe = replace(RECIPE, decay=decay)
    one = fresh(recipe)
    for _ in range(3):
        update(one)
    one.seconds, one.since, one.processor = 90.0, 30.0, 80.0
    save_run(tmp_path / PATH, one)
    expected = [update(one) for _ in range(3)]
    torch.manual_seed(99)
    other = fresh(recipe)
    resume_run(tmp_path / PATH, other)
    assert (other.steps, other.views, other.seconds, other.since, other.processor) == (3, 12, 90.0, 30.0, 80.0)
    assert [update(other) for _ in range(3)] == expected
    for mine, same in ((one.model, other.model), (one.average, other.average)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.model.weight, one.average.weight)


def test_without_a_checkpoint_a_run_begins(tmp_path: Path) -> None:
    run = fresh()
    resume_run(tmp_path / PATH, run)
    assert run.steps == 0


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:-5] + bytes([b[-5] ^ 1]) + b[-4:], lambda b: b""])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_goes_on(
    tmp_path: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut short, one bit flipped, empty."""
    saved(tmp_path)
    path = tmp_path / PATH
    path.write_bytes(damage(path.read_bytes()))
    run = fresh()
    resume_run(path, run)
    assert run.steps == 2
    assert "damaged, put aside; goes on from the one before, tiny.previous" in capsys.readouterr().out
    save_run(path, run)
    path.write_bytes(b"")  # the next save has left the good one where it was
    again = fresh()
    resume_run(path, again)
    assert again.steps == 2


def test_a_kill_between_two_renames_goes_on_from_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / PATH).unlink()
    run = fresh()
    resume_run(tmp_path / PATH, run)
    assert run.steps == 2


def test_a_kill_while_writing_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved(tmp_path)

    def killed(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_run(tmp_path / PATH, run)
    other = fresh()
    resume_run(tmp_path / PATH, other)
    assert other.steps == 3


def test_files_reach_the_disk_before_they_take_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = checkpoint.os.fsync, checkpoint.os.replace
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: done.append("sync") or sync(handle))
    monkeypatch.setattr(checkpoint.os, "replace", lambda *paths: done.append("rename") or rename(*paths))
    write_whole(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    assert done == ["sync", "rename", "sync"]  # the file, its name, the folder


def test_nothing_but_damage_is_said_in_one_line_and_stays(tmp_path: Path) -> None:
    saved(tmp_path)
    for each in (tmp_path / PATH, previous(tmp_path / PATH)):
        each.write_bytes(b"x")
    for _ in range(2):  # it does not begin anew by itself the second time
        with pytest.raises(InputError, match=r"damaged, and there is no other checkpoint; --no-resume begins anew"):
            resume_run(tmp_path / PATH, fresh())


def test_a_new_beginning_keeps_the_old_checkpoint_out_of_the_way(tmp_path: Path) -> None:
    saved(tmp_path)
    put_aside(tmp_path / PATH)
    run = fresh()
    resume_run(tmp_path / PATH, run)
    assert run.steps == 0
    assert (tmp_path / "runs" / "tiny.earlier.safetensors").exists()


def test_another_recipe_is_refused_or_noted_with_the_minute(tmp_path: Path) -> None:
    saved(tmp_path)
    other = replace(RECIPE, rate=0.01, minutes=9)
    with pytest.raises(InputError, match=r"rate was 0.05 and is 0.01; --changed goes on nevertheless"):
        resume_run(tmp_path / PATH, fresh(other))
    run = fresh(other)
    resume_run(tmp_path / PATH, run, changed=True)
    save_run(tmp_path / PATH, run)
    again = fresh(other)
    resume_run(tmp_path / PATH, again)
    assert again.changes == [{"minutes": 3.0, "key": "rate", "was": 0.05, "is": 0.01}]
    export_run(tmp_path / "a.safetensors", again, {}, kind="tiny", architecture={})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["training"])["changes"] == again.changes


def test_more_minutes_are_no_other_recipe(tmp_path: Path) -> None:
    saved(tmp_path)
    run = fresh(replace(RECIPE, minutes=50))
    resume_run(tmp_path / PATH, run)
    assert (run.steps, run.changes) == (3, [])


def test_weights_of_another_shape_are_said_in_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(InputError, match="does not fit this training") as raised:
        resume_run(tmp_path / PATH, fresh(width=5))
    assert "\n" not in str(raised.value)


def test_the_words_generator_is_seeded_by_the_recipe() -> None:
    assert fresh().words.random() == np.random.default_rng(3).random()
