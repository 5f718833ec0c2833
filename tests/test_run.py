"""Whole runs with tiny models from files: folders, repeatability, rerun, interrupts, mistakes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from vqclip import config as configs
from vqclip.backends.vqgan.backend import Drawing
from vqclip.job import InputError, Job, Result, Step, Steps, WeightsError
from vqclip.judge.judge import UNSURE, Judge
from vqclip.record import presence
from vqclip.run import picture as runs

ROOT = Path(__file__).parent.parent
NAMED = ("generator=", "guides=", "judge=", "outputs=")  # what a picture may not choose


class Quiet:
    """A Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []
        self.begun: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def begin(self, job: Job, folder: Path, total_pictures: int, number: int) -> None:
        self.begun.append(f"{number}/{total_pictures} {job.title}")

    def step(self, step: Step, terms: object) -> None:
        self.steps.append(step.index)

    def end(self, result: Result) -> None:
        assert result.folder is not None

    def close(self) -> None:
        pass


def overrides(files: dict[str, Path], outputs: Path, *more: str) -> list[str]:
    base = [
        f"generator={files['generator']}", f'guides=["{files["guide"]}"]', f"judge={files['judge']}",
        f"outputs={outputs}", "include=apple", "size=32,32", "steps=3", "crops.count=4", "score_every=2",
        "precision=fp32", "threads=1",
    ]  # fmt: skip
    return [*base, *more]


def make(files: dict[str, Path], outputs: Path, *more: str) -> tuple[list[Result], Quiet]:
    progress = Quiet()
    return runs.run(configs.load(None, overrides(files, outputs, *more)), progress), progress


def make_two(files: dict[str, Path], outputs: Path) -> tuple[list[Result], Quiet]:
    progress = Quiet()
    settings = [each for each in overrides(files, outputs, "prompts=[a fig, a pear]") if each != "include=apple"]
    return runs.run(configs.load(None, settings), progress), progress


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_a_run_leaves_a_complete_folder(weight_files: dict[str, Path], tmp_path: Path) -> None:
    (result,), progress = make(weight_files, tmp_path)
    assert result.folder is not None
    names = {path.name for path in result.folder.iterdir()}
    assert {"config.yaml", "config.resolved.yaml", "run.json", "metrics.jsonl", "final.png", "progress.mp4"} <= names
    facts = json.loads((result.folder / "run.json").read_text())
    assert facts["status"] == "done"
    assert facts["seed"] == 0
    assert set(facts["weights"]) == {"generator", "guide 0", "judge"}
    assert facts["verdict"]["among"] == 101
    assert facts["verdict"]["self_scored"] is False
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert all(line["total"] == pytest.approx(sum(line["terms"].values())) for line in lines)
    assert ["judge" in line for line in lines] == [True, False, True, True]
    assert progress.steps == [0, 1, 2, 3]
    again = configs.load(result.folder / "config.resolved.yaml").config
    assert again.include == result.job.include


def test_the_same_config_gives_the_same_pixels_in_another_folder(weight_files: dict[str, Path], tmp_path: Path) -> None:
    pictures = [
        pixels(make(weight_files, tmp_path / place, f"seed={seed}")[0][0].folder / "final.png")  # type: ignore[operator]
        for place, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def test_locale_threads_and_hash_seed_of_the_environment_change_nothing(
    weight_files: dict[str, Path], tmp_path: Path
) -> None:
    found = []
    for number, extra in enumerate(
        (
            {"LC_ALL": "C", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1", "TZ": "UTC"},
            {"LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        )
    ):
        place = tmp_path / str(number)
        command = [sys.executable, "-m", "vqclip", "run", *overrides(weight_files, place), "--progress", "none"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | extra
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
        found.append(pixels(next(place.glob("*/final.png"))))
    assert found[0] == found[1]


def test_a_picture_reruns_to_the_same_pixels(weight_files: dict[str, Path], tmp_path: Path) -> None:
    (result,), _ = make(weight_files, tmp_path, "seed=5", 'exclude=["pear",{"text":"a fig: ripe","weight":0.5}]')
    assert result.folder is not None
    moved = tmp_path / "moved.png"
    moved.write_bytes((result.folder / "final.png").read_bytes())
    progress = Quiet()
    models = [each for each in overrides(weight_files, tmp_path / "again") if each.startswith(NAMED)]
    (again,) = runs.rerun(moved, models, progress)
    assert again.folder is not None
    assert pixels(again.folder / "final.png") == pixels(moved)
    assert again.job == result.job
    assert not any("not the file" in note or "may differ" in note for note in progress.notes)


def test_rerun_says_when_other_weights_are_used(weight_files: dict[str, Path], tmp_path: Path) -> None:
    (result,), _ = make(weight_files, tmp_path)
    assert result.folder is not None
    progress = Quiet()
    other = [f'guides=["{weight_files["judge"]}"]', f"outputs={tmp_path}"]
    runs.rerun(result.folder / "final.png", other, progress, trust=True)
    assert any("guide 0 is not the file" in note for note in progress.notes)


def test_rerun_refuses_pictures_without_a_config(tmp_path: Path) -> None:
    plain = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    with pytest.raises(InputError, match=r"plain\.png"):
        runs.rerun(plain, [], Quiet())


def test_several_pictures_share_models_and_excludes(weight_files: dict[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "two.yaml"
    config.write_text("prompts: [apple, {include: pear, seed: 9, exclude: worm}]\nexclude: yellow\nname: fruit\n")
    settings = [value for value in overrides(weight_files, tmp_path) if not value.startswith("include")]
    progress = Quiet()
    results = runs.run(configs.load(config, settings), progress)
    assert progress.begun == ["1/2 apple", "2/2 pear"]
    assert [result.folder.name for result in results if result.folder] == ["fruit-1", "fruit-2"]
    assert [result.job.seed for result in results] == [0, 9]
    assert [[prompt.text for prompt in result.job.exclude] for result in results] == [["yellow"], ["worm", "yellow"]]


def test_what_is_not_read_is_said_once_and_stands_in_the_folder(weight_files: dict[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "two.yaml"
    config.write_text("prompts: [a puppy over Tokyo, apples]\nexclude: seven\nname: odd\n")
    wanted = ['guides=["starter/guide-rn"]', "steps=1", "tries=1"]
    settings = [value for value in overrides(weight_files, tmp_path, *wanted) if not value.startswith("include")]
    progress = Quiet()
    results = runs.run(configs.load(config, settings), progress)
    tokyo = "prompt 'a puppy over Tokyo' (guide): puppy is read as dog; Tokyo is not read"
    apples = "prompt 'apples' (guide): apples is read as apple"
    seven = "prompt 'seven' (guide): seven is not read; nothing of it is left"
    assert [note for note in progress.notes if note.startswith("prompt")] == [tokyo, seven, apples]
    for result, expected in zip(results, ([tokyo, seven], [apples, seven]), strict=True):
        assert result.folder is not None
        assert json.loads((result.folder / "run.json").read_text())["notices"] == expected
    assert results[0].folder is not None
    page = (results[0].folder / "report.html").read_text(encoding="utf-8")
    assert "puppy is read as dog; Tokyo is not read" in page


def test_a_guide_as_judge_is_labelled_self_scored(weight_files: dict[str, Path], tmp_path: Path) -> None:
    (result,), _ = make(weight_files, tmp_path, f"judge={weight_files['guide']}", "steps=0")
    assert result.verdict is not None
    assert result.verdict.self_scored


def test_words_that_the_judge_cannot_read_leave_no_verdict(weight_files: dict[str, Path], tmp_path: Path) -> None:
    """It is said once, on the screen, in run.json and on the page; there is no curve of ranks either."""
    (result,), progress = make(weight_files, tmp_path, "judge=starter", "include=Tokyo", "seed=1")
    assert result.folder is not None
    assert result.verdict is None
    said = "no verdict: the judge cannot read Tokyo"
    told = [note for note in progress.notes if "Tokyo" in note]
    assert told == ["prompt 'Tokyo' (judge): Tokyo is not read; nothing of it is left; there is no verdict"]
    facts = json.loads((result.folder / "run.json").read_text())
    assert (facts["status"], facts["verdict"], facts["warnings"]) == ("done", None, [said])
    assert said.capitalize().replace("tokyo", "Tokyo") in (result.folder / "report.html").read_text()
    assert not any("judge" in json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines())


def test_without_a_judge_there_is_no_verdict(weight_files: dict[str, Path], tmp_path: Path) -> None:
    (result,), _ = make(weight_files, tmp_path, "judge=none", "steps=0")
    assert result.verdict is None


def test_a_start_picture_is_fitted_and_used(weight_files: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    settings = ["start.kind=image", f"start.image={tmp_path / 'red.png'}", "steps=0"]
    (result,), _ = make(weight_files, tmp_path, *settings)
    assert result.image.shape == (3, 32, 32)
    with pytest.raises(InputError, match="start.image"):
        make(weight_files, tmp_path, "start.kind=image")


def test_mistakes_are_found_before_a_folder_is_made(weight_files: dict[str, Path], tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    mistakes = {
        "size=30,32": InputError,
        "generator=missing.ckpt": WeightsError,
        "judge=starter/none": InputError,
        "device=cuda:7": InputError,
        'guides=["missing.pt"]': WeightsError,
        "include=" + "apple " * 90: InputError,
    }
    for wrong, error in mistakes.items():
        with pytest.raises(error) as caught:
            make(weight_files, outputs, wrong)
        assert "\n" not in str(caught.value)
    assert not outputs.exists() or list(outputs.iterdir()) == []


def test_a_loss_that_is_not_a_number_ends_the_run_with_advice(
    weight_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Drawing.__iter__

    def poisoned(self: Drawing) -> object:
        for step in original(self):
            yield step if step.index < 2 else Steps(2, 3, step.images, {"include": torch.tensor([float("nan")])})

    monkeypatch.setattr(Drawing, "__iter__", poisoned)
    with pytest.raises(InputError, match=r"not a number at step 2; a lower optimizer\.lr"):
        make(weight_files, tmp_path)
    facts = json.loads(next(tmp_path.glob("*/run.json")).read_text())
    assert facts["status"] == "failed"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGUSR1, 143)]
)
def test_an_interrupt_keeps_everything_made_so_far(
    weight_files: dict[str, Path], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [
        sys.executable, "-m", "vqclip", "run", *overrides(weight_files, tmp_path, "steps=5000"), "--progress", "plain",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not any("\n" in path.read_text() for path in tmp_path.glob("*/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    (folder,) = tmp_path.iterdir()
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "interrupted"
    assert "process" not in facts
    assert "interrupted; this is the result so far" in (folder / "report.html").read_text().lower()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert (folder / "progress.mp4").stat().st_size > 0
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert 0 <= last["step"] < 5000
    with Image.open(folder / "final.png") as picture:
        assert picture.size == (32, 32)
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("first", ["vqgan", "kandinsky"])
def test_an_interrupt_is_obeyed_while_the_start_picture_is_made(
    weight_files: dict[str, Path], tmp_path: Path, first: str
) -> None:
    """Within a step and not at the end of the first backend, which would come after minutes; its picture is kept."""
    second = "kandinsky" if first == "vqgan" else "vqgan"
    chained = [
        f"backend={second}", "start.kind=backend", f"start.backend={first}", "size=64,64", "steps=50000",
        "kandinsky.steps=900", "kandinsky.prior_steps=2",
    ]  # fmt: skip
    command = [sys.executable, "-m", "vqclip", "run", *overrides(weight_files, tmp_path, *chained)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--progress", "plain"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("*/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    time.sleep(2)  # into its steps, past opening what it draws with
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10  # with leaving the process, on a busy machine
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    (folder,) = tmp_path.iterdir()
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "interrupted"
    assert facts["steps"] is None
    (warning,) = facts["warnings"]
    number, total = map(int, re.findall(r"stopped at step (\d+) of (\d+) of the start picture", warning)[0])
    assert 0 <= number < total == (900 if first == "kandinsky" else 50000)
    with Image.open(folder / "final.png") as picture:
        assert picture.size == (64, 64)


def test_a_stop_with_the_last_step_ends_with_a_whole_judged_picture(
    weight_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Drawing.__iter__

    def stopped(self: Drawing) -> object:
        for step in original(self):
            if step.index == step.total:
                signal.raise_signal(signal.SIGTERM)
            yield step

    monkeypatch.setattr(Drawing, "__iter__", stopped)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(runs.Interrupted, match="the picture was finished and is in") as caught:
        make_two(weight_files, tmp_path)
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    (folder,) = tmp_path.iterdir()  # the second picture was not begun
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "done"
    assert facts["verdict"]["among"] == 101
    assert (folder / "report.html").is_file()


def test_the_second_signal_ends_at_once_and_an_ignored_hangup_stays_ignored() -> None:
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runs.stop_on_signal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
            signal.raise_signal(signal.SIGUSR1)
            assert stop.is_set()
            assert stop.number == signal.SIGUSR1
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, kept)


def test_a_judge_without_finite_numbers_costs_the_verdict_alone(
    weight_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "_looks", lambda self, _image: self._include[:1].repeat(2, 1) * math.nan)
    results, progress = make_two(weight_files, tmp_path)
    assert len(results) == 2
    assert progress.notes.count(UNSURE) == 1
    for result in results:
        assert result.folder is not None
        facts = json.loads((result.folder / "run.json").read_text())
        assert (facts["status"], facts["verdict"]) == ("done", None)
        assert UNSURE in facts["warnings"]
        assert UNSURE[1:] in (result.folder / "report.html").read_text().replace("&#39;", "'")


@pytest.mark.parametrize("part", ["guide", "generator"])
def test_numbers_that_overflow_at_the_first_step_blame_no_rate(
    weight_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    original = Drawing.__iter__

    def poisoned(self: Drawing) -> object:
        for step in original(self):
            images = step.images * float("nan") if part == "generator" else step.images
            yield Steps(step.index, step.total, images, {"include: apple": torch.tensor([float("nan")])})

    monkeypatch.setattr(Drawing, "__iter__", poisoned)
    told = "of a guide overflow" if part == "guide" else "of generator or denoiser overflow"
    with pytest.raises(WeightsError, match=told):
        make(weight_files, tmp_path)
    facts = json.loads(next(tmp_path.glob("*/run.json")).read_text())
    assert facts["status"] == "failed"
    assert next(tmp_path.glob("*/report.html")).is_file()
    assert (part == "guide") == bool(list(tmp_path.glob("*/final.png"))), "a picture of NaN is never written"


def test_a_run_in_progress_is_held_and_tells_its_process(
    weight_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, dict[str, object]]] = []
    original = Drawing.__iter__

    def watched(self: Drawing) -> object:
        for step in original(self):
            (folder,) = tmp_path.iterdir()
            facts = json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else {}
            seen.append((presence.in_use(folder), facts.get("process", {})))
            yield step

    monkeypatch.setattr(Drawing, "__iter__", watched)
    (result,), _ = make(weight_files, tmp_path)
    assert seen == [(True, presence.process())] * 4
    assert result.folder is not None
    assert not presence.in_use(result.folder)


def test_pinned_weights_draw_as_ever_and_others_are_refused(weight_files: dict[str, Path], tmp_path: Path) -> None:
    pins = {
        name: f"{path}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in weight_files.items()
    }
    pinned = [f"generator={pins['generator']}", f'guides=["{pins["guide"]}"]', f"judge={pins['judge']}"]
    (plain,), _ = make(weight_files, tmp_path / "a")
    (checked,), _ = make(weight_files, tmp_path / "b", *pinned)
    assert plain.folder is not None
    assert checked.folder is not None
    assert pixels(plain.folder / "final.png") == pixels(checked.folder / "final.png")
    with pytest.raises(WeightsError, match="asked for by its pin"):
        make(weight_files, tmp_path / "c", f"judge={weight_files['judge']}#sha256={'0' * 64}")
    assert not (tmp_path / "c").exists()
