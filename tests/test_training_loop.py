"""The clock, the log and the command lines that all trainings share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from training import clip, denoiser, denoiser_data, kandinsky_data, kandinsky_prior, kandinsky_unet, loop, movq, vqgan
from training.checkpoint import Run, save_run
from training.loop import Options, find, follow, options_of, parser_of, run_main, train, training_parser
from training.recipes import RECIPES, TRAININGS, Training
from vqclip.job import InputError

CPU = torch.device("cpu")
RECIPE = Training(styles=("noto",), seed=3, minutes=2, batch=4, gpu=8, rate=0.05, every=50)
COMMANDS = (clip, vqgan, denoiser, movq, kandinsky_prior, kandinsky_unet)
ALIKE = ("--minutes", "--out", "--resume", "--no-resume", "--threads", "--seed", "--device", "--restart", "--changed")


@pytest.fixture
def run() -> Run[Training, nn.Linear]:
    model = nn.Linear(2, 2)
    return Run(RECIPE, model, torch.optim.SGD(model.parameters(), lr=1.0), CPU)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and as many threads afterwards as before."""
    monkeypatch.setattr(loop, "cache_folder", lambda: tmp_path / "cache")
    threads = torch.get_num_threads()
    yield tmp_path / "cache"
    torch.set_num_threads(threads)


def test_the_clock_stops_in_time_saves_reports_and_logs(run: Run[Training, nn.Linear], tmp_path: Path) -> None:
    reports: list[int] = []
    options = Options("tiny", RECIPE, CPU, tmp_path)

    def slow(run: Run[Training, nn.Linear], progress: float) -> dict[str, float]:
        assert 0 <= progress < 1
        run.steps, run.views, run.seconds = run.steps + 1, run.views + 5, run.seconds + 20
        return {"loss": float(run.steps)}

    def report() -> dict[str, float]:
        assert options.checkpoint.exists()  # saved before anything is measured
        reports.append(run.steps)
        return {"figure": 7.0}

    train(run, options, slow, report)
    lines = [json.loads(line) for line in (tmp_path / "logs" / "tiny.jsonl").read_text().splitlines()]
    assert reports == [3, 6]
    assert [line["loss"] for line in lines] == [2.0, 5.0]
    assert (lines[-1]["figure"], lines[-1]["views"]) == (7.0, 30)
    assert lines[-1]["views_per_s"] == pytest.approx(0.25, rel=0.01)


def test_a_new_cosine_takes_the_time_that_is_left(run: Run[Training, nn.Linear], tmp_path: Path) -> None:
    run.seconds = run.since = 60.0
    seen: list[float] = []

    def slow(run: Run[Training, nn.Linear], progress: float) -> dict[str, float]:
        seen.append(progress)
        run.seconds, run.views = run.seconds + 30, run.views + 1
        return {"loss": 0.0}

    train(run, Options("tiny", RECIPE, CPU, tmp_path), slow, dict)
    assert seen == pytest.approx([0.0, 0.5], abs=0.01)


def test_averages_follow_weights_and_batch_statistics() -> None:
    old, new = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    new.weight.data.fill_(3.0)
    new.running_mean.fill_(1.0)
    new.num_batches_tracked.fill_(7)
    follow(old, new, 0.75)
    assert old.weight.tolist() == [1.5, 1.5]
    assert old.running_mean.tolist() == [0.25, 0.25]
    assert old.num_batches_tracked == 7


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__)
def test_every_training_takes_the_same_options(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [option for option in ALIKE if option not in shown] == []


@pytest.mark.parametrize("module", [denoiser_data, kandinsky_data], ids=lambda module: module.__name__)
def test_what_draws_pictures_takes_the_options_that_mean_something_there(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, "--help"])
    with pytest.raises(SystemExit):
        module.main()
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--out", "--threads", "--seed", "--device"))


@pytest.mark.parametrize("name", TRAININGS)
def test_defaults_come_from_the_table_and_options_go_before_them(name: str, tmp_path: Path) -> None:
    recipe = TRAININGS[name]
    parser = training_parser("", None if name in RECIPES else recipe)
    given = ["--minutes", "0.5", "--seed", "8", "--out", str(tmp_path), "--no-resume", "--device", "cpu"]
    assert options_of(parser.parse_args(["--device", "cpu"]), name, recipe).recipe == recipe
    options = options_of(parser.parse_args(given), name, recipe)
    assert options.recipe == replace(recipe, minutes=0.5, seed=8)
    assert (options.export, options.resume) == (tmp_path / "export" / f"{name}.safetensors", False)


def test_threads_are_set_and_wrong_values_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parser_of("").parse_args(["--threads", "2", "--device", "cpu"])
    assert loop.device_and_folder(arguments)[0] == CPU
    assert torch.get_num_threads() == 2
    for wrong in (["--threads", "0"], ["--threads", "x"]):
        with pytest.raises(SystemExit) as ended:
            parser_of("").parse_args(wrong)
        assert ended.value.code == 2
    with pytest.raises(InputError, match="--device: nowhere"):
        loop.device_and_folder(argparse.Namespace(threads=1, device="nowhere", out=None))


def test_files_of_earlier_commands_are_looked_for_in_both_places(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json is missing; python -m training\.data makes it"):
        find(tmp_path, "a.json", "python -m training.data")
    for folder in (cache, tmp_path):  # the cache's own, then the nearer one
        folder.mkdir(exist_ok=True)
        (folder / "a.json").write_text("")
        assert find(tmp_path, "a.json", "") == folder / "a.json"


def test_a_missing_file_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["denoiser", "--out", str(tmp_path), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        run_main(denoiser.main)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("training: error: ")
    assert said.count("\n") == 1
    assert "python -m training.denoiser_data makes it" in said


def test_beginning_anew_and_a_new_cosine_are_as_asked(run: Run[Training, nn.Linear], tmp_path: Path) -> None:
    run.steps, run.seconds = 5, 70.0
    options = Options("tiny", RECIPE, CPU, tmp_path)
    save_run(options.checkpoint, run)
    model = nn.Linear(2, 2)

    def again(**changes: bool) -> Run[Training, nn.Linear]:
        fresh = Run(RECIPE, model, torch.optim.SGD(model.parameters(), lr=1.0), CPU)
        replace(options, **changes).go_on(fresh)
        return fresh

    assert (again().steps, again().since) == (5, 0.0)
    assert (again(restart=True).steps, again(restart=True).since) == (5, 70.0)
    assert again(resume=False).steps == 0
    assert again().steps == 0  # it was put aside
