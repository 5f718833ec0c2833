"""Films from kept frames: as long as asked, beside the run's own, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import decode, encoders, ffmpeg
from PIL import Image

from vqclip import images
from vqclip.job import InputError, Job, Prompt, ResourceError
from vqclip.record import metadata, presence, video
from vqclip.record.remake import reencode

CONFIG = {"steps": 11, "video": {"seconds": 2.0, "fps": 10, "hold": 0.5, "smooth": 0.0, "scale": 2, "formats": ["mp4"]}}


def kept(folder: Path, count: int, size: tuple[int, int] = (64, 64)) -> Path:
    """A run folder with frames whose red is 20 times the step."""
    (folder / "progress").mkdir(exist_ok=True, parents=True)
    for index in range(count):  # names without leading zeros: order must be by number
        Image.new("RGB", size, (index * 20, 0, 0)).save(folder / "progress" / f"{index}.png")
    Image.new("RGB", (8, 8)).save(folder / "progress" / "latest.png")
    return folder


def finished(folder: Path, *, red: int = 220) -> Path:
    """The same with a final picture that knows its recipe, and the film that the run made."""
    kept(folder, 12)
    texts = metadata.embed(job=Job((Prompt("x"),)), config=CONFIG, versions={}, weights={})
    images.save_png(folder / "final.png", Image.new("RGB", (64, 64), (red, 0, 0)), texts)
    (folder / "progress.mp4").write_bytes(b"the run's own")
    return folder


def seconds(film: Path) -> float:
    told = ffmpeg("-i", film, "-map", "0:v:0", "-c", "copy", "-progress", "pipe:1", "-f", "null", "-")[0]
    return float([line for line in told.splitlines() if line.startswith("out_time_us=")][-1].split("=")[1]) / 1e6


@pytest.mark.parametrize("asked", [1, 3, 8, 30])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_films_last_the_seconds_asked_for(tmp_path: Path, asked: int, count: int) -> None:
    said: list[str] = []
    made = reencode(kept(tmp_path, count), seconds=asked, hold=0.4, say=said.append)
    assert seconds(made) == pytest.approx(asked, abs=0.1)
    assert said == []


def test_steps_come_in_numeric_order_at_the_given_rate_and_the_last_stays(tmp_path: Path) -> None:
    made = reencode(kept(tmp_path, 12), fps=10, seconds=4, hold=1, smooth=0)
    assert made == tmp_path / "progress.mp4"
    red = decode(made)[:, 0, 0, 0]
    assert len(red) == 40
    assert np.abs(np.diff(red)).max() <= 24
    assert set(np.rint(red / 20)) == set(range(12))
    assert np.abs(red[30:] - 220).max() <= 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress", "progress.mp4"]


def test_what_is_not_asked_is_as_in_the_recipe(tmp_path: Path) -> None:
    made = reencode(finished(tmp_path))
    assert decode(made).shape == (20, 128, 128, 3)
    assert len(decode(reencode(tmp_path, seconds=1, hold=0))) == 10
    assert decode(reencode(tmp_path, scale=1, fps=5)).shape == (10, 64, 64, 3)


@pytest.mark.parametrize("form", ["mp4", "gif", "webp"])
def test_films_carry_the_recipe_and_the_runs_own_stays(tmp_path: Path, form: str) -> None:
    finished(tmp_path)
    before = (tmp_path / "progress.mp4").read_bytes()
    made = [reencode(tmp_path, format=form, seconds=1) for _ in range(2)]
    stems = ("progress-2", "progress-3") if form == "mp4" else ("progress", "progress-2")
    names = [f"{stem}.{form}" for stem in stems]
    assert [path.name for path in made] == names
    assert metadata.read(made[0]) == metadata.read(tmp_path / "final.png")
    assert (tmp_path / "progress.mp4").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"final.png", "progress", "progress.mp4", *names}


def test_the_final_picture_ends_the_film_where_the_run_was_stopped_after_another_frame(tmp_path: Path) -> None:
    red = decode(reencode(finished(tmp_path, red=255), smooth=1, seconds=3, hold=1))[:, 0, 0, 0]
    assert abs(red[-1] - 255) <= 4
    assert len(red) == 30
    assert np.diff(red).max() <= 40


def test_the_suffix_decides_the_format(tmp_path: Path) -> None:
    made = reencode(kept(tmp_path, 3), seconds=1, hold=0, output=tmp_path / "x.GIF")
    with Image.open(made) as picture:
        assert (picture.format, picture.size) == ("GIF", (64, 64))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress", "x.GIF"]
    assert reencode(tmp_path, seconds=1, hold=0, output=made) == made, "what is named is replaced"


def test_what_cannot_be_as_asked_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    reencode(kept(tmp_path, 3), seconds=1, hold=4, fps=60, format="gif", say=said.append)
    assert said == [
        "video.hold: 4 s is more than half of 1 s; the end stays 0.5 s",
        "video.fps: 60; a GIF shows at most 50 frames a second",
    ]


def test_mistakes_are_one_line_and_change_nothing(tmp_path: Path) -> None:
    def refused(match: str, **how: Any) -> None:
        with pytest.raises(InputError, match=match) as caught:
            reencode(how.pop("folder", tmp_path / "run"), **how)
        assert str(caught.value).isprintable()

    refused("no such folder")
    (tmp_path / "run").mkdir()
    refused("no kept frames in progress/; the run needs video.keep: true")
    refused("not a run folder", folder=finished(tmp_path / "run") / "final.png")
    refused("'avi'", format="avi")
    refused(r"x\.avi; a name that ends in \.mp4, \.gif or \.webp", output=tmp_path / "x.avi")
    refused(r"does not end in \.gif", format="gif", output=tmp_path / "x.mp4")
    refused("gone does not exist", output=tmp_path / "gone" / "a.mp4")
    (tmp_path / "folder.mp4").mkdir()
    refused("is a folder", output=tmp_path / "folder.mp4")
    refused("hash stands in run.json", output=tmp_path / "run" / "progress.mp4")
    refused("video.scale: 9", scale=9)
    refused("video.seconds", seconds=0.0)
    Image.new("RGB", (8, 8)).save(tmp_path / "run" / "progress" / "2.png")
    refused(r"2\.png: 8x8 pixels among frames of 64x64")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.mp4", "run"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["final.png", "progress", "progress.mp4"]


def test_a_recipe_with_nonsense_in_it_does_no_harm(tmp_path: Path) -> None:
    kept(tmp_path, 2)
    odd: Any = {"video": {"seconds": "8", "fps": None, "hold": True, "smooth": [1], "scale": {}}}
    texts = metadata.embed(job=Job((Prompt("x"),)), config=odd, versions={}, weights={})
    images.save_png(tmp_path / "final.png", Image.new("RGB", (64, 64), (20, 0, 0)), texts)
    assert len(decode(reencode(tmp_path, seconds=1, hold=0))) == 25
    (tmp_path / "final.png").unlink()
    images.save_png(tmp_path / "final.png", Image.new("RGB", (64, 64), (20, 0, 0)), {"vqclip": "{"})
    assert len(decode(reencode(tmp_path, seconds=1, hold=0))) == 25


@pytest.mark.parametrize("form", ["mp4", "gif"])
def test_nothing_is_written_through_a_link(tmp_path: Path, form: str) -> None:
    kept(tmp_path / "run", 2)
    mine = tmp_path / "mine"
    mine.write_text("precious")
    for name in (f"x.{form}", f"progress.{form}", f".x.{form}.part", f".x.{form}.{os.getpid()}.part.mp4"):
        (tmp_path / "run" / name).symlink_to(mine)
    made = reencode(tmp_path / "run", seconds=1, hold=0, output=tmp_path / "run" / f"x.{form}")
    assert made.is_file()
    assert not made.is_symlink(), "the link itself was replaced"
    assert reencode(tmp_path / "run", seconds=1, hold=0, format=form).name == f"progress-2.{form}"
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("vqclip.record.video.tempfile.mkdtemp", refuse)
    with pytest.raises(ResourceError, match=rf"progress\.mp4 cannot be written \({os.strerror(code)}\)"):
        reencode(kept(tmp_path, 2))


def test_a_failing_encoder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    with pytest.raises(ResourceError, match="no video"):
        reencode(kept(tmp_path, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = encoders()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    kept(tmp_path, 6)
    for place in ("append", "close"):
        honest = getattr(video.VideoWriter, place)
        monkeypatch.setattr(video.VideoWriter, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            reencode(tmp_path)
        monkeypatch.setattr(video.VideoWriter, place, honest)
    monkeypatch.setattr("vqclip.record.video.ffmpeg.animate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reencode(tmp_path, format="gif")
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]
    assert encoders() <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_without_a_trace(tmp_path: Path, number: signal.Signals) -> None:
    kept(tmp_path, 12, (512, 512))
    command = [sys.executable, "-m", "vqclip", "video", str(tmp_path), "--seconds", "600", "--fps", "60"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".progress.mp4.*/*.part.mp4")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(number)
    output, said = child.communicate(timeout=120)
    assert (child.returncode, output) == (130, "")
    assert said.endswith("vqclip: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]


def test_a_run_that_is_still_made_is_left_alone(tmp_path: Path) -> None:
    kept(tmp_path, 3)
    with presence.held(tmp_path, "this run"), pytest.raises(InputError, match="another process still works"):
        reencode(tmp_path)
    assert reencode(tmp_path, seconds=1).is_file()


def test_run_json_stays_true(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"outputs": {"progress.mp4": "ab"}}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    reencode(tmp_path, seconds=1)
    assert {path: path.read_bytes() for path in before} == before
