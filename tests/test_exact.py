"""What decides the last bits of a picture: recorded, compared, and asked of torch only while a picture is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vqclip
from vqclip.backends.vqgan.backend import Drawing
from vqclip.cli.progress import Quiet
from vqclip.config import load
from vqclip.job import InputError, Result, Steps
from vqclip.perceptors import clip
from vqclip.run import cores, exact
from vqclip.run import picture as runs

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
MISSING = "grid_sampler_2d_backward_cuda does not have a deterministic implementation, but you set 'torch.use_...'"
NOW = {
    "device": "cpu", "device_name": "A CPU", "cpu_capability": "AVX512", "precision": "float32", "threads": "2",
}  # fmt: skip


def state() -> tuple[Any, ...]:
    """What torch and Python hold for the whole process."""
    return (
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic, list(warnings.filters), warnings.showwarning,
    )  # fmt: skip


@pytest.fixture
def settings(weight_files: dict[str, Path]) -> dict[str, Any]:
    return {
        "generator": str(weight_files["generator"]), "guides": [str(weight_files["guide"])], "judge": None,
        "size": [32, 32], "steps": 2, "tries": 1, "precision": "fp32", "threads": 1,
    }  # fmt: skip


class TestDifferences:
    def test_the_same_is_not_mentioned(self) -> None:
        assert exact.differences(NOW, NOW, {"torch": "2.12.1"}, {"torch": "2.12.1"}) is None

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"threads": "4"}, "threads 4 -> 2"),
            ({"precision": "bfloat16"}, "precision bfloat16 -> float32"),
            ({"cpu_capability": "AVX2"}, "CPU instructions AVX2 -> AVX512"),
            ({"device": "cuda:1", "device_name": "A card"}, "device cuda (A card) -> cpu (A CPU)"),
            ({"device_name": "B CPU"}, "device cpu (B CPU) -> cpu (A CPU)"),
        ],
    )
    def test_each_is_named_with_before_and_now(self, change: dict[str, str], said: str) -> None:
        assert exact.differences(NOW | change, NOW, {}, {"torch": "1"}) == f"pixels may differ: {said}"

    def test_all_stand_in_one_line(self) -> None:
        then = {"torch": "2.12.1", "kornia": "0.9.0", "python": "3.11", "imageio-ffmpeg": "1"}
        now = {"torch": "2.11.0", "kornia": "0.9.0", "python": "3.12", "imageio-ffmpeg": "2"}
        line = exact.differences(NOW | {"threads": "1"}, NOW, then, now)
        assert line == "pixels may differ: threads 1 -> 2, torch 2.12.1 -> 2.11.0"

    def test_pictures_that_say_nothing_are_not_guessed_at(self) -> None:
        assert exact.differences({}, NOW, {}, {"torch": "2.12.1"}) is None

    def test_which_of_several_cards_it_was_does_not_matter(self) -> None:
        then, now = ({"device": f"cuda:{number}", "device_name": "A card"} for number in range(2))
        assert exact.differences(then, now, {}, {}) is None


def test_the_machine_is_described() -> None:
    told = exact.hardware(CPU)
    assert told["device_name"]
    assert told["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    facts = {"device": "cpu", "precision": "float32", "threads": 3, "weights": {}, **told}
    assert exact.machine(facts) == {"device": "cpu", "precision": "float32", "threads": "3", **told}


class TestDeterministic:
    def test_it_is_asked_for_and_taken_back(self) -> None:
        before = state()
        with exact.deterministic():
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
        assert state() == before

    def test_an_error_takes_it_back_too(self) -> None:
        before = state()
        with pytest.raises(ValueError, match="away"), exact.deterministic():
            raise ValueError("away")
        assert state() == before

    def test_who_demands_it_keeps_the_demand(self) -> None:
        torch.use_deterministic_algorithms(mode=True)
        try:
            with exact.deterministic():
                assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.are_deterministic_algorithms_enabled()
        finally:
            torch.use_deterministic_algorithms(mode=False)

    def test_operations_without_it_are_named_once_and_other_warnings_pass(self) -> None:
        with warnings.catch_warnings(record=True) as passed, exact.deterministic() as undetermined:
            for message in (MISSING, MISSING, "something else"):
                warnings.warn(message, stacklevel=1)
        assert [str(each.message) for each in passed] == ["something else"]
        assert undetermined == {"grid_sampler_2d_backward_cuda"}
        (line,) = exact.warning(undetermined)
        assert "grid_sampler_2d_backward_cuda" in line
        assert exact.warning(set()) == []

    def test_torch_s_own_words_are_recognised(self) -> None:
        with exact.deterministic() as undetermined:
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        assert undetermined == {"put_"}


class TestRuns:
    def test_a_call_from_python_leaves_torch_as_it_was(
        self, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[bool] = []
        embed = clip.ClipPerceptor.embed_image
        monkeypatch.setattr(
            clip.ClipPerceptor, "embed_image",
            lambda self, *crops: asked.append(torch.are_deterministic_algorithms_enabled()) or embed(self, *crops),
        )  # fmt: skip
        before = state()
        settings |= {"preflight": False}  # a forecast is no part of the picture
        vqclip.generate(include="apple", **settings)
        assert state() == before
        for _step in vqclip.steps(include="apple", **settings):
            assert state() == before
        assert asked
        assert all(asked)

    def test_a_run_says_what_had_no_deterministic_form(
        self, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Drawing.__iter__

        def drawn(self: Drawing) -> Iterator[Steps]:
            warnings.warn(MISSING, stacklevel=1)
            return original(self)

        monkeypatch.setattr(Drawing, "__iter__", drawn)
        with pytest.warns(UserWarning, match="grid_sampler_2d_backward_cuda"):
            vqclip.generate(include="apple", **settings)
        result = vqclip.generate(include="apple", outputs=str(tmp_path), **settings)
        assert result.folder is not None
        assert "grid_sampler_2d_backward_cuda" in (result.folder / "run.json").read_text()

    def test_rerun_says_what_differs_and_takes_the_recorded_threads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two threads made it; with two cores they are taken, with one that is said."""
        small = ["include=a red apple", "steps=1", "tries=1", "size=64,64", "judge=none", "video.formats=[]"]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(cores, "usable", lambda: 2)
        screen = Recorded()
        (made,) = runs.run(load(None, [*small, "threads=2"]), screen)
        assert made.folder is not None
        picture = made.folder / "final.png"
        (again,) = runs.rerun(picture, ["video.formats=[]"], screen)
        assert not any("may differ" in line for line in screen.lines)
        assert threads_of(again) == 2
        monkeypatch.setattr(cores, "usable", lambda: 1)
        (again,) = runs.rerun(picture, ["video.formats=[]", "precision=fp32"], screen)
        assert threads_of(again) == 1
        (line,) = (line for line in screen.lines if "may differ" in line)
        assert line.startswith("pixels may differ: ")
        assert line.endswith("threads 2 -> 1")

    def test_rerun_checks_the_files_that_the_user_gives(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name, colour in (("a.png", "red"), ("b.png", "blue")):
            write_png(tmp_path / name, colour)
        small = ["include=a red apple", "steps=0", "tries=1", "size=64,64", "judge=none", "video.formats=[]"]
        screen = Recorded()
        (made,) = runs.run(load(None, [*small, "threads=1", "start={kind: image, image: a.png}"]), screen)
        assert made.folder is not None
        picture = made.folder / "final.png"
        with pytest.raises(InputError, match=r"start\.image='\./a\.png'"):
            runs.rerun(picture, [], screen)
        for given, other in (("a.png", False), ("b.png", True)):
            screen.lines.clear()
            runs.rerun(picture, [f"start.image={given}", "video.formats=[]"], screen)
            said = "start.image is not the file that made this picture; the pixels will differ"
            assert (said in screen.lines) is other


def write_png(path: Path, colour: str) -> None:
    Image.new("RGB", (64, 64), colour).save(path)


def threads_of(result: Result) -> int:
    assert result.folder is not None
    return int(json.loads((result.folder / "run.json").read_text())["threads"])


class Recorded(Quiet):
    """A display that keeps its notes."""

    def __init__(self) -> None:
        super().__init__(sys.stdout, sys.stderr)
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_the_command_line_sets_what_cuda_reads_when_torch_loads(tmp_path: Path) -> None:
    script = (
        "import os, sys; from vqclip.cli import main as cli; code = cli.main(['--version']); "
        "print(code, 'torch' in sys.modules, os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    )
    for given, expected in ((None, ":4096:8"), (":16:8", ":16:8")):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        environment |= {} if given is None else {"CUBLAS_WORKSPACE_CONFIG": given}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == f"0 False {expected}"
