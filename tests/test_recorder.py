"""A run folder tells the whole story, however the run ended."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from films import decode, encoders, raw
from PIL import Image

from vqclip import images
from vqclip.backends.diffusion import Guess
from vqclip.job import Job, Prompt, ResourceError, Result, Step, Verdict
from vqclip.record import metadata
from vqclip.record.pace import plan
from vqclip.record.recorder import Recorder

JOB = Job((Prompt("a cat"),), (Prompt("text"),), (), (32, 32), 6, 5)
FACTS = {"config": {"steps": 6}, "versions": {"vqclip": "1"}, "weights": {"generator": "ab"}, "device": "cpu"}
VERDICT = Verdict("judge", 1, 50, 0.3, 0.1, 0.2)


def a_step(index: int, total: int = 6, *, loss: float = 1.0) -> Step:
    image = torch.full((3, 32, 32), index / 10)
    return Step(index, total, image, {"include": torch.tensor(loss - index / 8), "smooth": torch.tensor(0.25)})


def a_recorder(folder: Path, **options: Any) -> Recorder:
    return Recorder(folder, JOB, **{"plan": raw(2, moving=4, held=2), "facts": FACTS, **options})


def a_result(steps: int = 6) -> Result:
    return Result(JOB, a_step(steps).image, {"include": 0.25}, steps, 1.5, VERDICT)


def record(folder: Path, **options: Any) -> list[Mapping[str, float] | None]:
    with a_recorder(folder, **options) as recorder:
        logged = [recorder.step(a_step(index)) for index in range(7)]
        recorder.finish(a_result())
    return logged


def break_off(folder: Path, steps: list[Step], error: BaseException, **options: Any) -> None:
    """A run that shows these steps and then ends by this error."""
    with a_recorder(folder, **options) as recorder:
        for step in steps:
            recorder.step(step)
        raise error


def story(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return told


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken(*_: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


class TestGuesses:
    """Pictures of a denoiser's steps are decoded when somebody looks."""

    def guesses(self, decoded: list[int]) -> list[Step]:
        def decode(index: int) -> torch.Tensor:
            decoded.append(index)
            return torch.full((3, 32, 32), index / 10)

        return [Guess(index, 6, partial(decode, index)) for index in range(7)]

    @pytest.mark.parametrize(
        ("options", "looked_at"),
        [
            ({"formats": ()}, [6]),
            ({"formats": (), "keep_frames": True}, [0, 2, 4, 6]),
            ({"formats": ("mp4",)}, [0, 2, 4, 6]),
            ({"formats": (), "score": lambda image: {"level": float(image.mean())}, "score_every": 3}, [0, 3, 6]),
        ],
    )
    def test_only_frames_and_scored_steps_are(
        self, tmp_path: Path, options: dict[str, Any], looked_at: list[int]
    ) -> None:
        decoded: list[int] = []
        with a_recorder(tmp_path, **options) as recorder:
            for step in self.guesses(decoded):
                recorder.step(step)
            recorder.finish(a_result())
        assert decoded == looked_at

    def test_an_interrupted_run_keeps_its_last_guess(self, tmp_path: Path) -> None:
        decoded: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            break_off(tmp_path, self.guesses(decoded)[:4], KeyboardInterrupt(), formats=())
        assert decoded == [3]
        assert story(tmp_path)["seconds"] is None
        assert images.from_pil(images.read(tmp_path / "final.png")).mean() == pytest.approx(0.3, abs=0.01)


class TestMetrics:
    def test_a_line_for_each_logged_step_and_the_last(self, tmp_path: Path) -> None:
        logged = record(tmp_path, log_every=4)
        assert [terms is not None for terms in logged] == [True, False, False, False, True, False, True]
        assert logged[4] == {"include": 0.5, "smooth": 0.25}
        assert [(line["step"], line["total"]) for line in lines(tmp_path)] == [(0, 1.25), (4, 0.75), (6, 0.5)]
        assert lines(tmp_path)[1]["terms"] == logged[4]
        seconds = [line["seconds"] for line in lines(tmp_path)]
        assert seconds == sorted(seconds)

    def test_lines_are_on_the_disk_while_the_run_goes(self, tmp_path: Path) -> None:
        with a_recorder(tmp_path) as recorder:
            recorder.step(a_step(0))
            assert len(lines(tmp_path)) == 1
            assert story(tmp_path)["status"] == "running"

    def test_the_judge_is_asked_at_its_steps_with_the_image_of_the_step(self, tmp_path: Path) -> None:
        record(tmp_path, log_every=100, score=lambda image: {"level": round(float(image.mean()), 3)}, score_every=4)
        assert [(line["step"], line["judge"]) for line in lines(tmp_path)] == [
            (0, {"level": 0.0}),
            (4, {"level": 0.4}),
            (6, {"level": 0.6}),
        ]

    def test_terms_cross_over_in_one_transfer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reads = []
        honest = torch.Tensor.tolist
        monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor.shape) or honest(tensor))
        monkeypatch.setattr(torch.Tensor, "item", lambda _tensor: pytest.fail("read one by one"))
        with a_recorder(tmp_path, formats=(), log_every=2, plan=raw(100, moving=2)) as recorder:
            for index in range(1, 5):
                recorder.step(a_step(index))
            assert reads == [(2,), (2,)]

    def test_numbers_that_are_not_finite_are_returned_and_written_as_null(self, tmp_path: Path) -> None:
        with a_recorder(tmp_path) as recorder:
            terms = recorder.step(a_step(0, loss=float("nan")))
        assert terms is not None
        assert np.isnan(terms["include"])
        assert lines(tmp_path)[0]["total"] is None
        assert lines(tmp_path)[0]["terms"] == {"include": None, "smooth": 0.25}

    def test_a_full_disk_costs_the_metrics_and_not_the_picture(self, tmp_path: Path) -> None:
        recorder = a_recorder(tmp_path, formats=())
        recorder._metrics.close()
        recorder._metrics = open("/dev/full", "a")  # noqa: SIM115  # the recorder closes it
        with recorder:
            for index in range(7):
                recorder.step(a_step(index))
            recorder.finish(a_result())
        assert recorder.shortage == (
            f"no space left in {tmp_path}: metrics from step 0 are missing; the picture is saved"
        )
        assert story(tmp_path)["status"] == "done"
        assert (tmp_path / "final.png").is_file()

    def test_kept_frames_make_room_for_metrics(self, tmp_path: Path) -> None:
        """A disk on which a line of metrics finds room only when frames have gone."""
        recorder = a_recorder(tmp_path, formats=(), keep_frames=True, plan=raw(1, moving=7))
        honest = recorder._metrics.flush

        def flush() -> None:
            full = len(list((tmp_path / "progress").glob("0*.png"))) >= 4
            no_space() if full else honest()

        recorder._metrics.flush = flush  # type: ignore[method-assign]
        with recorder:
            for index in range(7):
                recorder.step(a_step(index))
            recorder.finish(a_result())
        assert [line["step"] for line in lines(tmp_path)] == list(range(7))
        assert not list((tmp_path / "progress").glob("0*.png"))
        assert recorder.shortage is not None
        assert "frames from step 0 are missing" in recorder.shortage

    def test_another_failure_of_the_disk_ends_the_run(self, tmp_path: Path) -> None:
        recorder = a_recorder(tmp_path, formats=())
        recorder._metrics.close()
        recorder._metrics = open(os.devnull)  # noqa: SIM115  # the recorder closes it
        recorder._metrics.write = broken  # type: ignore[method-assign]
        with pytest.raises(ResourceError, match=r"metrics\.jsonl cannot be written \(Input/output"), recorder:
            recorder.step(a_step(0))
        assert story(tmp_path)["status"] == "failed"


class TestFrames:
    def test_the_video_shows_the_planned_steps_and_holds_the_last(self, tmp_path: Path) -> None:
        record(tmp_path, plan=raw(2, moving=30, held=2))
        levels = decode(tmp_path / "progress.mp4").mean(axis=(1, 2, 3))
        assert set(np.rint(levels / 51)) == {0, 1, 2, 3}, "steps 0, 2, 4 and 6"
        assert np.abs(levels - np.rint(levels / 51) * 51).max() <= 4
        assert len(levels) == 32
        assert np.abs(levels[-3:] - 153).max() <= 4

    @pytest.mark.parametrize("seconds", [1, 3])
    def test_the_video_lasts_what_was_asked_for_and_ends_with_the_picture(self, tmp_path: Path, seconds: float) -> None:
        record(tmp_path, plan=plan(6, seconds=seconds, hold=0.4))
        levels = decode(tmp_path / "progress.mp4").mean(axis=(1, 2, 3))
        assert len(levels) == 25 * seconds
        assert np.abs(levels[-11:] - 153).max() <= 4
        assert np.abs(np.diff(levels)).max() <= 153 / 4

    def test_every_film_carries_the_recipe_of_the_picture(self, tmp_path: Path) -> None:
        record(tmp_path, formats=["mp4", "gif", "webp"])
        recipe = metadata.read(tmp_path / "final.png")
        for form in ("mp4", "gif", "webp"):
            assert metadata.read(tmp_path / f"progress.{form}") == recipe

    def test_kept_frames_are_exact_and_named_by_step(self, tmp_path: Path) -> None:
        record(tmp_path, keep_frames=True, formats=())
        names = sorted(path.name for path in (tmp_path / "progress").iterdir())
        assert names == ["000000.png", "000002.png", "000004.png", "000006.png", "latest.png"]
        assert torch.equal(
            images.from_pil(images.read(tmp_path / "progress" / "000004.png")) * 255, torch.full((1, 3, 32, 32), 102.0)
        )
        assert not (tmp_path / "progress.mp4").exists()

    def test_the_preview_ends_with_the_last_step_and_is_rare(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = []
        honest = images.replace_file
        monkeypatch.setattr(
            images, "replace_file", lambda path, *a, **k: written.append(path.name) or honest(path, *a, **k)
        )
        record(tmp_path, formats=())
        assert written.count("latest.png") == 2, "the first and the last of four frames within a quarter of a second"
        assert images.read(tmp_path / "progress" / "latest.png").getpixel((0, 0)) == (153, 153, 153)

    def test_animations_beside_or_instead_of_the_video(self, tmp_path: Path) -> None:
        record(tmp_path, formats=["gif", "webp"])
        assert not list(tmp_path.glob("*.mp4"))
        for name in ("progress.gif", "progress.webp"):
            with Image.open(tmp_path / name) as picture:
                assert picture.n_frames >= 3

    def test_frames_stop_and_the_run_goes_on_when_the_disk_is_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        honest = images.replace_file

        def full_at_4(path: Path, data: bytes, *, durable: bool = True) -> None:
            no_space() if path.name == "000004.png" else honest(path, data, durable=durable)

        monkeypatch.setattr(images, "replace_file", full_at_4)
        record(tmp_path, keep_frames=True)
        told = story(tmp_path)
        assert told["status"] == "done"
        assert told["warnings"] == ["no frames after step 4: No space left on device"]
        assert [line["step"] for line in lines(tmp_path)] == list(range(7))
        assert len(decode(tmp_path / "progress.mp4")) == 3 + 2

    def test_a_missing_encoder_is_a_warning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
        record(tmp_path)
        told = story(tmp_path)
        assert told["status"] == "done"
        assert [warning.startswith("no video: ") for warning in told["warnings"]] == [True]
        assert metadata.read(tmp_path / "final.png")["seed"] == 5

    def test_an_image_with_nan_is_no_frame_and_never_the_picture(self, tmp_path: Path) -> None:
        nothing = torch.full((3, 32, 32), float("nan"))
        steps = [a_step(0), a_step(2), Step(3, 6, nothing, {}), Step(4, 6, nothing, {})]
        with pytest.raises(ZeroDivisionError):
            break_off(tmp_path, steps, ZeroDivisionError())
        assert images.read(tmp_path / "final.png").getpixel((0, 0)) == (51, 51, 51)


class TestRoom:
    """What a run is made for is written, whatever else has used the disk."""

    def test_the_reserve_is_given_up_for_the_picture(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = images.replace_file

        def full(path: Path, data: bytes, *, durable: bool = True) -> None:
            no_space() if list(tmp_path.glob(".reserve-*")) and path.suffix == ".png" else honest(path, data)

        monkeypatch.setattr(images, "replace_file", full)
        monkeypatch.setattr("vqclip.record.folder.replace_file", full)
        with a_recorder(tmp_path) as recorder:
            for index in range(7):
                recorder.step(a_step(index))
            recorder.finish(a_result())
        assert images.read(tmp_path / "final.png").getpixel((0, 0)) == (153, 153, 153)
        assert story(tmp_path)["status"] == "done"
        assert recorder.shortage is not None
        assert not list(tmp_path.glob(".*"))

    @pytest.mark.parametrize("end", ["whole", "broken off"])
    def test_nothing_of_it_stays(self, tmp_path: Path, end: str) -> None:
        with a_recorder(tmp_path) as recorder:
            recorder.step(a_step(0))
            assert len(list(tmp_path.glob(".reserve-*"))) == 1
            if end == "whole":
                recorder.finish(a_result())
        assert not list(tmp_path.glob(".*"))
        assert recorder.shortage is None

    @pytest.mark.parametrize("fate", ["deleted", "moved", "another in its place"])
    def test_a_folder_that_is_gone_is_seen_at_the_next_step(self, tmp_path: Path, fate: str) -> None:
        place = tmp_path / "run"
        place.mkdir()
        recorder = a_recorder(place)
        recorder.step(a_step(0))
        place.rename(tmp_path / "elsewhere")
        if fate == "deleted":
            shutil.rmtree(tmp_path / "elsewhere")
        if fate == "another in its place":
            place.mkdir()
        with pytest.raises(ResourceError, match="run was moved or deleted during the run"), recorder:
            recorder.step(a_step(1))
        assert not encoders()
        assert not place.exists() or not list(place.iterdir()), "nothing is written into a folder of others"


class TestEnd:
    def test_the_picture_is_the_result_and_knows_its_making(self, tmp_path: Path) -> None:
        record(tmp_path)
        assert images.read(tmp_path / "final.png").getpixel((0, 0)) == (153, 153, 153)
        found = metadata.read(tmp_path / "final.png")
        assert (found["config"], found["seed"], found["weights"]) == ({"steps": 6}, 5, {"generator": "ab"})

    def test_run_json_tells_everything_with_hashes_that_fit(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("steps: 6\n")
        record(tmp_path, keep_frames=True)
        told = story(tmp_path)
        assert (told["schema"], told["status"], told["device"], told["warnings"]) == (1, "done", "cpu", [])
        assert (told["job"]["title"], told["job"]["seed"], told["job"]["size"]) == ("a cat", 5, [32, 32])
        assert (told["steps"], told["seconds"], told["terms"]) == (6, 1.5, {"include": 0.25})
        assert told["wall_seconds"] >= lines(tmp_path)[-1]["seconds"]
        assert told["verdict"]["rank"] == 1
        there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert set(told["outputs"]) == there - {"run.json"}
        assert {"config.yaml", "final.png", "metrics.jsonl", "progress.mp4", "progress/000002.png"} <= there
        for name, digest in told["outputs"].items():
            assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest

    @pytest.mark.parametrize(
        ("error", "status"),
        [(KeyboardInterrupt(), "interrupted"), (EOFError("x"), "interrupted"), (RuntimeError("two\nlines"), "failed")],
    )
    def test_an_exception_keeps_everything_made_so_far(self, tmp_path: Path, error: BaseException, status: str) -> None:
        stops = (KeyboardInterrupt, EOFError)
        with pytest.raises(type(error)):
            break_off(tmp_path, [a_step(index) for index in range(4)], error, stops=stops)
        told = story(tmp_path)
        assert (told["status"], told["steps"], told["verdict"]) == (status, 3, None)
        assert told["error"] in ("KeyboardInterrupt", "EOFError: x", "RuntimeError: two lines")
        assert images.read(tmp_path / "final.png").getpixel((0, 0)) == (76, 76, 76), "the last step seen"
        assert len(decode(tmp_path / "progress.mp4")) == 2 + 2
        assert not encoders()

    def test_leaving_without_a_result_is_an_interruption(self, tmp_path: Path) -> None:
        with a_recorder(tmp_path):
            pass
        assert (story(tmp_path)["status"], story(tmp_path)["steps"]) == ("interrupted", None)
        assert sorted(story(tmp_path)["outputs"]) == ["metrics.jsonl"]

    def test_a_picture_that_cannot_be_written_ends_the_run_with_all_files_closed(self, tmp_path: Path) -> None:
        (tmp_path / "final.png").mkdir()
        with pytest.raises(ResourceError, match=r"final\.png cannot be written"):
            record(tmp_path)
        assert story(tmp_path)["status"] == "failed"
        assert len(decode(tmp_path / "progress.mp4")) == 6
        assert not encoders()

    def test_the_first_error_is_the_one_that_is_heard(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder = a_recorder(tmp_path)
        recorder.step(a_step(0))
        monkeypatch.setattr(os, "replace", no_space)
        with pytest.raises(ZeroDivisionError), recorder:
            raise ZeroDivisionError

    def test_finish_counts_once(self, tmp_path: Path) -> None:
        with a_recorder(tmp_path) as recorder:
            recorder.step(a_step(0))
            recorder.finish(a_result(0), "interrupted", {"reason": "asked to"})
            recorder.finish(a_result(0))
        assert (story(tmp_path)["status"], story(tmp_path)["reason"]) == ("interrupted", "asked to")
