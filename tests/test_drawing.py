"""Pictures side by side in run folders of their own: seeds, contests, one of several that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_run import Quiet, overrides, pixels

from vqclip import config as configs
from vqclip.backends.vqgan.backend import Drawing
from vqclip.job import InputError, Job, Result, Step, Steps
from vqclip.judge.judge import Judge
from vqclip.run import picture as runs
from vqclip.run import resume as resuming
from vqclip.run.assemble import Models
from vqclip.run.drawing import SHEET


def run(files: dict[str, Path], outputs: Path, *more: str, progress: Quiet | None = None) -> list[Result]:
    return runs.run(configs.load(None, overrides(files, outputs, "steps=6", *more)), progress or Quiet())


def facts(result: Result) -> dict[str, Any]:
    assert result.folder is not None
    found: dict[str, Any] = json.loads((result.folder / "run.json").read_text())
    return found


def same(one: Result, other: Result) -> bool:
    """Whether two pictures are equal but for the rounding of sums, which a batch may do in another order."""
    return bool(torch.allclose(one.image, other.image, atol=1e-3))


def test_each_seed_has_a_folder_and_the_picture_that_it_has_alone(
    weight_files: dict[str, Path], tmp_path: Path
) -> None:
    progress = Quiet()
    made = run(weight_files, tmp_path / "all", "seeds=3", "seed=5", "name=x", "batch=2", progress=progress)
    assert [result.job.seed for result in made] == [5, 6, 7]
    assert [result.folder.name for result in made if result.folder] == ["x-1", "x-2", "x-3"]
    assert "side by side: seeds 5, 6" in progress.notes
    assert [facts(result).get("side_by_side") for result in made] == [[5, 6], [5, 6], None]
    for result in made:
        (alone,) = run(weight_files, tmp_path / "alone", f"seed={result.job.seed}")
        assert same(result, alone)
        assert facts(result)["verdict"]["rank"] == facts(alone)["verdict"]["rank"]
        assert result.folder is not None
        for name in ("final.png", "progress.mp4", "report.html", "metrics.jsonl", "config.resolved.yaml"):
            assert (result.folder / name).stat().st_size > 0


def test_every_prompt_has_all_seeds(weight_files: dict[str, Path], tmp_path: Path) -> None:
    settings = [each for each in overrides(weight_files, tmp_path, "steps=1") if each != "include=apple"]
    loaded = configs.load(None, [*settings, "prompts=[a fig, a pear]", "seeds=2"])
    progress = Quiet()
    made = runs.run(loaded, progress)
    assert [(result.job.title, result.job.seed) for result in made] == [
        ("a fig", 0), ("a fig", 1), ("a pear", 1), ("a pear", 2),
    ]  # fmt: skip
    assert progress.begun == ["1/4 a fig", "2/4 a fig", "3/4 a pear", "4/4 a pear"]


@pytest.mark.parametrize("by", ["guides", "judge"])
def test_the_best_go_on_and_the_others_leave_nothing(
    weight_files: dict[str, Path], tmp_path: Path, by: str
) -> None:
    progress = Quiet()
    outputs = tmp_path / "all"
    contest = ["seeds=4", "keep=2", f"keep_by={by}", "keep_share=0.5", "tries=2"]
    made = run(weight_files, outputs, *contest, progress=progress)
    assert len(made) == 2
    assert sorted(path.name for path in outputs.iterdir()) == sorted(each.folder.name for each in made if each.folder)
    told = facts(made[0])["population"]
    assert told == facts(made[1])["population"]
    assert (told["by"], told["step"]) == (by, 3)
    assert told["kept"] == [result.job.seed for result in made]
    ranked = sorted(told["scores"], key=lambda seed: -told["scores"][seed])
    assert sorted(map(int, ranked[:2])) == told["kept"]
    assert any(f"2 of 4 seeds go on after step 3, by the {by}" in line for line in progress.notes)
    for result in made:
        (alone,) = run(weight_files, tmp_path / "alone", f"seed={result.job.seed}", "tries=2")
        assert same(result, alone)
        assert result.folder is not None
        with Image.open(result.folder / SHEET) as sheet:
            assert sheet.width > 4 * 32
        assert [json.loads(line)["step"] for line in (result.folder / "metrics.jsonl").open()] == list(range(7))


def test_a_kept_picture_is_repeated_alone(weight_files: dict[str, Path], tmp_path: Path) -> None:
    (made,) = run(weight_files, tmp_path / "all", "seeds=3", "keep=1", "keep_share=1.0")
    assert made.folder is not None
    named = [each for each in overrides(weight_files, tmp_path / "again") if "=" in each and each[0] in "gjo"]
    (again,) = runs.rerun(made.folder / "final.png", named, Quiet())
    assert again.job.seed == made.job.seed
    assert same(again, made)


def poison(monkeypatch: pytest.MonkeyPatch, *rows: int, at: int = 2) -> None:
    """Some of the pictures lose their numbers at a step."""
    original = Drawing.__iter__

    def poisoned(self: Drawing) -> Iterator[Steps]:
        for steps in original(self):
            if steps.index != at:
                yield steps
                continue
            spoilt = torch.tensor([float("nan") if row in rows else 0.0 for row in range(len(steps))])
            yield Steps(at, steps.total, steps.images, {name: each + spoilt for name, each in steps.terms.items()})

    monkeypatch.setattr(Drawing, "__iter__", poisoned)


def test_one_that_fails_ends_alone(
    monkeypatch: pytest.MonkeyPatch, weight_files: dict[str, Path], tmp_path: Path
) -> None:
    (alone,) = run(weight_files, tmp_path / "alone", "seed=2")
    poison(monkeypatch, 1)
    progress = Quiet()
    with pytest.raises(InputError, match="not a number at step 2"):  # once the others are made
        run(weight_files, tmp_path / "all", "seeds=3", "name=x", progress=progress)
    done = [json.loads((tmp_path / "all" / name / "run.json").read_text()) for name in ("x-1", "x-3")]
    assert [each["status"] for each in done] == ["done", "done"]
    assert done[1]["verdict"]["rank"] == facts(alone)["verdict"]["rank"]
    assert not any(name.startswith("checkpoints") for name in done[0]["outputs"])
    failed = json.loads((tmp_path / "all" / "x-2" / "run.json").read_text())
    assert failed["status"] == "failed"
    assert "not a number at step 2" in failed["error"]
    assert (tmp_path / "all" / "x-2" / "report.html").is_file()
    assert any("x-2: the loss is not a number" in line for line in progress.notes)


def test_when_all_fail_the_run_does(
    monkeypatch: pytest.MonkeyPatch, weight_files: dict[str, Path], tmp_path: Path
) -> None:
    poison(monkeypatch, 0, 1)
    with pytest.raises(InputError, match="not a number at step 2"):
        run(weight_files, tmp_path, "seeds=2", "name=x")
    assert {json.loads(path.read_text())["status"] for path in tmp_path.glob("*/run.json")} == {"failed"}


def test_a_signal_ends_all_of_them_and_each_goes_on(
    monkeypatch: pytest.MonkeyPatch, weight_files: dict[str, Path], tmp_path: Path
) -> None:
    class Stopping(Quiet):
        def step(self, step: Step, terms: object) -> None:
            if step.index == 3:
                stop.set()

    whole = run(weight_files, tmp_path / "whole", "seeds=2")
    stop = runs.Stop()
    with monkeypatch.context() as patched:
        patched.setattr(runs, "Stop", lambda: stop)
        with pytest.raises(runs.Interrupted):
            run(weight_files, tmp_path / "part", "seeds=2", progress=Stopping())
    told = {path.parent: json.loads(path.read_text()) for path in (tmp_path / "part").glob("*/run.json")}
    assert {each["status"] for each in told.values()} == {"interrupted"}
    folders = sorted(told, key=lambda folder: told[folder]["seed"])
    for result, before in zip(resuming.resume(folders, Quiet()), whole, strict=True):
        assert same(result, before)
        assert result.folder is not None
        assert before.folder is not None
        assert len(pixels(result.folder / "final.png")) == len(pixels(before.folder / "final.png"))


def test_seeds_share_one_judge(
    monkeypatch: pytest.MonkeyPatch, weight_files: dict[str, Path], tmp_path: Path
) -> None:
    made: list[str] = []
    original = Models.judge_of

    def counted(self: Models, job: Job) -> Judge | None:
        made.append(job.title)
        return original(self, job)

    monkeypatch.setattr(Models, "judge_of", counted)
    results = run(weight_files, tmp_path, "seeds=3")
    assert made == ["apple"]
    assert all(result.verdict for result in results)
