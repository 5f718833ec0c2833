"""Interrupted runs go on to the end of one that was never interrupted; what is no such run is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from test_run import Quiet, overrides, pixels

from vqclip import config as configs
from vqclip.job import InputError, Step
from vqclip.record import checkpointing, presence
from vqclip.run import picture as runs
from vqclip.run.recording import Interrupted
from vqclip.run.resume import resume

STEPS = 9
SETTINGS = ("steps=9", "tries=2", "coarse=0.5", "checkpoint.every=2", "video.seconds=0.5", "size=64,64")


class Copies(Quiet):
    """Copies the run folder as it lies on the disk after each step: what a kill at that moment leaves."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def step(self, step: Step, terms: object) -> None:
        super().step(step, terms)
        shutil.copytree(self._folder, self._folder.with_name(f"killed-{step.index}"))


def run(files: dict[str, Path], outputs: Path, *more: str, progress: Quiet | None = None) -> Path:
    (result,) = runs.run(configs.load(None, overrides(files, outputs, *SETTINGS, *more)), progress or Quiet())
    assert result.folder is not None
    return result.folder


def killed(files: dict[str, Path], outputs: Path, *more: str) -> Path:
    """A whole run, beside it the folders of killed ones."""
    return run(files, outputs, "name=whole", *more, progress=Copies(outputs / "whole"))


def numbers(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def film(folder: Path) -> list[bytes]:
    reader = imageio_ffmpeg.read_frames(str(folder / "progress.mp4"))
    next(reader)
    return list(reader)


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def assert_same(one: Path, other: Path) -> None:
    assert pixels(one / "final.png") == pixels(other / "final.png")
    assert numbers(one) == numbers(other)
    assert film(one) == film(other)
    assert listed(one) == listed(other)
    assert about(one)["status"] == about(other)["status"] == "done"
    assert about(one)["verdict"] == about(other)["verdict"]
    assert about(one)["warnings"] == about(other)["warnings"]


OTHERWISE = ("video.keep=false", "average=0.5", "log_every=4", 'video.formats=["mp4","gif"]')


@pytest.mark.parametrize("more", [(), OTHERWISE])
def test_a_killed_run_goes_on_to_the_same_end(
    weight_files: dict[str, Path], tmp_path: Path, more: tuple[str, ...]
) -> None:
    whole = killed(weight_files, tmp_path, *more)
    for step in (0, 2, 5, 8):
        folder, progress = tmp_path / f"killed-{step}", Quiet()
        assert about(folder)["status"] == "running"
        resume([folder], progress)
        (where,) = (line for line in progress.notes if "goes on from" in line)
        last = step - step % 2
        assert where.endswith(f"step {last} of 9" if last else "its beginning: there is no checkpoint")
        assert progress.steps == list(range(last + 1 if last else 0, STEPS + 1))
        assert_same(folder, whole)


def test_a_run_stopped_by_a_signal_goes_on(
    weight_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(Quiet):
        def step(self, step: Step, terms: object) -> None:
            if step.index == 4:
                stop.set()

    stop = runs.Stop()
    with monkeypatch.context() as patched:
        patched.setattr(runs, "Stop", lambda: stop)
        with pytest.raises(Interrupted, match=r"`vqclip resume .*part` goes on"):
            run(weight_files, tmp_path, "name=part", "checkpoint.every=0", progress=Stopping())
    folder = tmp_path / "part"
    assert about(folder)["status"] == "interrupted"
    with pytest.raises(InputError, match=r"name: .*part exists; .*: `vqclip resume .*part` goes on with it"):
        run(weight_files, tmp_path, "name=part")
    progress = Quiet()
    resume([folder], progress)
    assert progress.steps == [5, 6, 7, 8, 9]
    assert_same(folder, run(weight_files, tmp_path, "name=whole"))


def test_several_are_finished_one_after_the_other(weight_files: dict[str, Path], tmp_path: Path) -> None:
    killed(weight_files, tmp_path)
    progress = Quiet()
    results = resume([tmp_path / "killed-3", tmp_path / "killed-6"], progress)
    assert [result.folder for result in results] == [tmp_path / "killed-3", tmp_path / "killed-6"]
    assert progress.begun == ["1/2 apple", "2/2 apple"]


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(weight_files: dict[str, Path], tmp_path: Path) -> None:
    whole = killed(weight_files, tmp_path)
    folder = tmp_path / "killed-7"
    *_, newest = sorted((folder / checkpointing.FOLDER).glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    progress = Quiet()
    resume([folder], progress)
    assert any(f"{newest.name}: damaged" in line for line in progress.notes)
    assert any("goes on from step 4 of 9" in line for line in progress.notes)
    assert_same(folder, whole)


def test_frames_that_are_gone_are_told(weight_files: dict[str, Path], tmp_path: Path) -> None:
    killed(weight_files, tmp_path)
    folder = tmp_path / "killed-4"
    (folder / "progress" / "000001.png").unlink()
    (folder / "progress" / "000002.png").write_bytes(b"no picture")
    resume([folder], Quiet())
    assert "2 frames from before step 4 are gone" in about(folder)["warnings"]
    assert about(folder)["status"] == "done"


def test_without_checkpoints_a_run_begins_anew(weight_files: dict[str, Path], tmp_path: Path) -> None:
    whole = killed(weight_files, tmp_path, "checkpoint.every=0", "checkpoint.seconds=0")
    folder, progress = tmp_path / "killed-6", Quiet()
    assert not (folder / checkpointing.FOLDER).exists()
    resume([folder], progress)
    assert progress.steps == list(range(STEPS + 1))
    assert_same(folder, whole)


def test_what_is_no_interrupted_run_is_refused(weight_files: dict[str, Path], tmp_path: Path) -> None:
    whole = killed(weight_files, tmp_path)
    with pytest.raises(InputError, match=r"whole: this run is done; `vqclip rerun .*final.png` repeats it"):
        resume([whole], Quiet())
    with pytest.raises(InputError, match="not the folder of a run that was begun"):
        resume([tmp_path], Quiet())
    with presence.held(tmp_path / "killed-2", "this run"), pytest.raises(InputError, match="another process works on"):
        resume([tmp_path / "killed-2"], Quiet())
    with pytest.raises(InputError, match="not the folder of a run that was begun"):
        resume([tmp_path / "none"], Quiet())
    assert len(resume([tmp_path / "killed-2"], Quiet())) == 1  # nobody holds it any more


def test_other_settings_and_weights_are_named_and_taken_only_when_told(
    weight_files: dict[str, Path], tmp_path: Path
) -> None:
    killed(weight_files, tmp_path)
    folder = tmp_path / "killed-4"
    resolved = folder / "config.resolved.yaml"
    resolved.write_text(resolved.read_text().replace("score_every: 2", "score_every: 3"))
    with pytest.raises(InputError, match="score_every was 2 and is 3; --changed goes on nevertheless"):
        resume([folder], Quiet())
    assert about(folder)["status"] == "running"  # nothing was touched
    progress = Quiet()
    resume([folder], progress, changed=True)
    assert "score_every was 2 and is 3" in progress.notes

    folder = tmp_path / "killed-5"
    resolved = folder / "config.resolved.yaml"
    resolved.write_text(resolved.read_text().replace(str(weight_files["judge"]), str(weight_files["guide"])))
    with pytest.raises(InputError, match="judge is another file than before"):
        resume([folder], Quiet())


def test_a_checkpoint_of_other_models_is_refused_in_one_line(weight_files: dict[str, Path], tmp_path: Path) -> None:
    killed(weight_files, tmp_path)
    folder = tmp_path / "killed-6"
    resolved = folder / "config.resolved.yaml"
    resolved.write_text(resolved.read_text().replace("size: [64, 64]", "size: [96, 64]"))
    with pytest.raises(InputError, match="the checkpoint does not fit these models"):
        resume([folder], Quiet(), changed=True)


def test_seconds_are_those_of_all_parts(weight_files: dict[str, Path], tmp_path: Path) -> None:
    killed(weight_files, tmp_path)
    folder = tmp_path / "killed-8"
    found, _ = checkpointing.newest(folder / checkpointing.FOLDER)
    assert found is not None
    (result,) = resume([folder], Quiet())
    assert result.seconds > found.about["seconds"] > 0
    assert about(folder)["wall_seconds"] > found.about["record"]["wall_seconds"] > 0


def test_a_run_killed_before_its_page_gets_one(weight_files: dict[str, Path], tmp_path: Path) -> None:
    whole = run(weight_files, tmp_path, "name=whole")
    files, page = listed(whole), whole / "report.html"
    page.unlink()
    (whole / checkpointing.FOLDER).mkdir()
    (whole / ".progress.mp4.x1").mkdir()
    progress = Quiet()
    assert resume([whole], progress) == []
    assert any("its page is made" in line for line in progress.notes)
    assert listed(whole) == files


def test_what_a_killed_process_left_is_removed(weight_files: dict[str, Path], tmp_path: Path) -> None:
    whole = killed(weight_files, tmp_path)
    folder = tmp_path / "killed-4"
    (folder / ".progress.mp4.x1").mkdir()
    (folder / ".progress.mp4.x1" / "half.mp4").write_bytes(b"half")
    (folder / "progress" / ".latest.png.x1.part").write_bytes(b"half")
    (folder / ".final.png.x1.part").write_bytes(b"half")
    resume([folder], Quiet())
    assert listed(folder) == listed(whole)
    assert not (folder / ".progress.mp4.x1").exists()
