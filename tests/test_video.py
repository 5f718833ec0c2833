"""The real encoder: what goes in comes out, whatever is killed, broken or full on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import COLOURS, FPS, decode, encoders, ffmpeg, frame, movie, tag, wait_for_end
from PIL import Image, ImageSequence

from vqclip.job import InputError
from vqclip.record import stream, video
from vqclip.record.video import VideoWriter

ODD = {"prompt": "quotes \" ' \\ = ; # % $HOME `id`\nline, tab \t, NUL \0, ü 猫 \U0001f431, half \ud83d", "seed": 7}


class TestFile:
    def test_length_is_frames_by_rate(self, tmp_path: Path) -> None:
        made = movie(tmp_path / "progress.mp4", [frame(256, 256, colour) for colour in COLOURS])
        about = ffmpeg("-i", made)[1]
        assert "Duration: 00:00:00.70" in about
        assert "10 fps" in about
        assert len(decode(made)) == 7

    def test_format_is_what_every_player_takes(self, tmp_path: Path) -> None:
        made = movie(tmp_path / "progress.mp4", [frame(320, 256)] * 3)
        about = ffmpeg("-i", made)[1]
        assert "h264 (High)" in about
        assert "yuv420p(tv, bt709, progressive), 320x256" in about
        data = made.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat"), "the index must come first"
        assert b"moof" not in data
        assert list(tmp_path.iterdir()) == [made], "nothing else may be left"

    def test_colours_survive_within_4_levels(self, tmp_path: Path) -> None:
        made = movie(tmp_path / "a.mp4", [frame(256, 256, colour) for colour in COLOURS])
        error = np.abs(decode(made)[: len(COLOURS)] - np.array(COLOURS)[:, None, None, :])
        assert error.max() <= 4

    @pytest.mark.parametrize("size", [(257, 259), (300, 301), (301, 300), (256, 256)])
    def test_odd_sizes_are_padded_with_the_edge_and_not_stretched(self, tmp_path: Path, size: tuple[int, int]) -> None:
        width, height = size
        picture = frame(width, height, (128, 128, 128))
        picture[:, -1] = 255  # a line that stretching would blur
        picture[-1, :] = 0
        shown = decode(movie(tmp_path / "a.mp4", [picture] * 2))[0]
        assert shown.shape == (height + height % 2, width + width % 2, 3)
        expected = np.pad(picture, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge").astype(int)
        assert np.abs(shown - expected).mean() < 2
        assert np.abs(shown[:-4, : width - 4] - 128).max() <= 12

    @pytest.mark.parametrize(
        ("size", "factor", "shown"),
        [((64, 64), 4, (256, 256)), ((128, 96), 3, (384, 288)), ((91, 91), 3, (276, 276)), ((91, 64), 1, (92, 64))],
    )
    def test_pictures_are_enlarged_without_smoothing_and_only_when_asked(
        self, tmp_path: Path, size: tuple[int, int], factor: int, shown: tuple[int, int]
    ) -> None:
        checks = frame(*size, (40, 40, 40))
        checks[::2, 1::2] = checks[1::2, ::2] = 210
        found = decode(movie(tmp_path / "a.mp4", [checks] * 2, scale=factor))[0]
        assert found.shape[1::-1] == shown
        large = checks.repeat(factor, axis=0).repeat(factor, axis=1)
        assert np.abs(found[: large.shape[0], : large.shape[1]] - large).mean() < 6

    def test_keyframes_are_at_most_15_apart(self, tmp_path: Path) -> None:
        made = movie(tmp_path / "a.mp4", [frame(256, 256, COLOURS[i % 7]) for i in range(40)])
        told = ffmpeg(
            "-skip_frame", "nokey", "-i", made, "-vf", "showinfo", "-fps_mode", "passthrough", "-f", "null", "-"
        )
        keys = [round(float(part.split()[0]) * 10) for part in told[1].split("pts_time:")[1:]]
        assert keys[0] == 0
        assert max(np.diff([*keys, 45])) <= 15

    def test_facts_come_back_exactly(self, tmp_path: Path) -> None:
        made = movie(tmp_path / "a.mp4", [frame(256, 256)] * 2, facts=ODD, title='a "cat"\nü 猫\0')
        assert json.loads(tag(made, "comment")) == ODD
        assert tag(made, "title") == 'a "cat" ü 猫 '

    def test_too_many_facts_say_so_and_the_most_fit(self, tmp_path: Path) -> None:
        most = {"a": "x" * (100_000 - len('{"a": ""}'))}
        assert json.loads(tag(movie(tmp_path / "a.mp4", [frame(256, 256)] * 2, facts=most), "comment")) == most
        more = {"a": most["a"] + "x"}
        made = movie(tmp_path / "a.mp4", [frame(256, 256)] * 2, facts=more)
        assert json.loads(tag(made, "comment")) == {"omitted": "100001 bytes of facts"}

    def test_the_cover_is_the_picture_given_and_no_frame(self, tmp_path: Path) -> None:
        picture = Image.new("RGB", (2048, 1024), (250, 10, 120))
        made = movie(tmp_path / "a.mp4", [frame(64, 64, (0, 90, 0))] * 3, cover=picture, facts={"seed": 7})
        ffmpeg("-v", "error", "-i", made, "-map", "0:v:1", "-c", "copy", "-f", "image2pipe", tmp_path / "cover.jpg")
        with Image.open(tmp_path / "cover.jpg") as cover:
            assert cover.size == (1024, 512)
            assert np.abs(np.array(cover.convert("RGB"), dtype=int) - (250, 10, 120)).max() <= 4
        assert "(attached pic)" in ffmpeg("-i", made)[1]
        assert decode(made).shape == (3, 64, 64, 3)
        assert json.loads(tag(made, "comment")) == {"seed": 7}

    def test_nothing_is_written_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("precious")
        (tmp_path / "a.part.mp4").symlink_to(tmp_path / "mine")
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        writer.append(frame(64, 64))
        assert writer.close() is None
        assert writer.problem == "video stopped after 0 frames: File exists"
        assert (tmp_path / "mine").read_text() == "precious"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.part.mp4", "mine"]

    def test_no_frames_no_file(self, tmp_path: Path) -> None:
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        assert writer.close() is None
        assert writer.problem is None
        assert list(tmp_path.iterdir()) == []

    def test_one_frame_and_closing_twice(self, tmp_path: Path) -> None:
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), 10, {})
        writer.append(frame(64, 64))
        assert writer.close() == writer.close() == tmp_path / "a.mp4"
        writer.append(frame(64, 64))
        assert len(decode(tmp_path / "a.mp4")) == 1

    @pytest.mark.parametrize("wrong", [frame(64, 63), frame(64, 64).astype(float), frame(64, 64)[:, :, 0]])
    def test_frames_of_another_kind_are_refused(self, tmp_path: Path, wrong: Any) -> None:
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        with pytest.raises(ValueError, match="is needed"):
            writer.append(wrong)


WRITING = """
    import sys, time
    import numpy as np
    from pathlib import Path
    from vqclip.record.video import VideoWriter
    writer = VideoWriter(Path(sys.argv[1]), (128, 128), 10, {"seed": 7})
    for index in range(40):
        writer.append(np.full((128, 128, 3), index * 6, dtype=np.uint8))
        time.sleep(0.01)
    print("written", flush=True)
    sys.stdin.readline()
"""


def start(path: Path) -> tuple[subprocess.Popen[str], int]:
    """A run that has handed over 40 frames and waits for a line, and the process id of its encoder."""
    code = textwrap.dedent(WRITING)
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    (encoder,) = encoders(child.pid)
    return child, encoder


class TestEnds:
    @pytest.mark.parametrize("victims", ["the run", "the run and the encoder"])
    def test_a_killed_run_leaves_a_video_that_plays(self, tmp_path: Path, victims: str) -> None:
        child, encoder = start(tmp_path / "a.mp4")
        time.sleep(0.5)
        if victims != "the run":
            os.kill(encoder, signal.SIGKILL)
        child.kill()
        child.communicate()
        wait_for_end(encoder)
        shown = decode(tmp_path / "a.part.mp4")
        assert len(shown) >= 38
        assert np.abs(shown.mean(axis=(1, 2, 3)) - np.arange(len(shown)) * 6).max() <= 4
        assert json.loads(tag(tmp_path / "a.part.mp4", "comment")) == {"seed": 7}

    def test_an_interpreter_that_ends_takes_its_encoder_along(self, tmp_path: Path) -> None:
        child, encoder = start(tmp_path / "a.mp4")
        child.communicate("end\n", timeout=60)
        assert child.returncode == 0
        wait_for_end(encoder)
        assert len(decode(tmp_path / "a.part.mp4")) == 40

    def test_nothing_runs_after_close(self, tmp_path: Path) -> None:
        before = encoders()
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        writer.append(frame(64, 64))
        assert len(encoders() - before) == 1
        writer.close()
        assert encoders() <= before


def fake(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


class TestTroubles:
    @pytest.mark.parametrize("script", ["exit 1", "echo 'no libx264 here' >&2; exit 1", None])
    def test_a_broken_encoder_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
    ) -> None:
        exe = fake(tmp_path / "encoder", script) if script else str(tmp_path / "missing")
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", exe)
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        for _ in range(3):
            writer.append(frame(64, 64))
        assert writer.close() is None
        assert writer.problem is not None
        assert writer.problem.startswith("no video: ")
        assert writer.problem.isprintable()
        assert not list(tmp_path.glob("*.mp4"))

    def test_an_encoder_that_dies_leaves_what_it_wrote(self, tmp_path: Path) -> None:
        before = encoders()
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        for _ in range(20):
            writer.append(frame(64, 64))
            time.sleep(0.01)
        time.sleep(0.5)
        (victim,) = encoders() - before
        os.kill(victim, signal.SIGKILL)
        for _ in range(200):
            writer.append(frame(64, 64))
        assert writer.close() == tmp_path / "a.mp4"
        assert writer.problem is not None
        assert writer.problem.startswith("video stopped after 2")
        assert writer.problem.isprintable()
        assert len(decode(tmp_path / "a.mp4")) >= 18
        assert encoders() <= before
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]

    def test_a_stopped_encoder_costs_the_film_s_rest_and_not_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "PATIENCE", 1.0)
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        before = encoders()
        for _ in range(10):
            writer.append(frame(64, 64))
        time.sleep(1)
        (victim,) = encoders() - before
        os.kill(victim, signal.SIGSTOP)
        begun = time.monotonic()
        for _ in range(200):
            writer.append(frame(64, 64))
        assert writer.close() == tmp_path / "a.mp4"
        assert time.monotonic() - begun < 60
        assert writer.problem is not None
        assert writer.problem.endswith("the encoder did not answer in 1 s")
        assert len(decode(tmp_path / "a.mp4")) >= 8
        assert encoders() <= before

    def test_an_encoder_that_dies_before_a_frame_is_whole_leaves_no_film(self, tmp_path: Path) -> None:
        before = encoders()
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        writer.append(frame(64, 64))
        (victim,) = encoders() - before
        os.kill(victim, signal.SIGKILL)
        made = writer.close()
        assert writer.problem is not None
        assert made is None or len(decode(made)) == 1, "a film is one that plays"
        assert made is not None or list(tmp_path.iterdir()) == []

    def test_without_room_for_a_copy_the_part_itself_is_the_film(self, tmp_path: Path) -> None:
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        for _ in range(5):
            writer.append(frame(64, 64))
        assert writer.close(seekable=False) == tmp_path / "a.mp4"
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
        assert len(decode(tmp_path / "a.mp4")) == 5

    def test_an_abandoned_film_leaves_nothing(self, tmp_path: Path) -> None:
        before = encoders()
        writer = VideoWriter(tmp_path / "a.mp4", (64, 64), FPS, {})
        writer.append(frame(64, 64))
        writer.abandon()
        assert writer.close() is None
        assert list(tmp_path.iterdir()) == []
        assert encoders() <= before

    def test_a_file_that_may_not_grow_ends_the_video_and_not_the_run(self, tmp_path: Path) -> None:
        code = """
            import resource, sys
            import numpy as np
            from pathlib import Path
            from vqclip.record.video import VideoWriter
            writer = VideoWriter(Path(sys.argv[1]), (256, 256), 10, {})
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
            draw = np.random.default_rng(0)
            for _ in range(30):
                writer.append(draw.integers(0, 255, (256, 256, 3), dtype=np.uint8))
            writer.close()
            print(writer.problem)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.mp4")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0
        assert done.stderr == ""
        assert done.stdout.startswith("video stopped after ")

    def test_a_folder_that_vanishes(self, tmp_path: Path) -> None:
        writer = VideoWriter(tmp_path / "gone" / "a.mp4", (64, 64), FPS, {})
        for _ in range(300):
            writer.append(frame(64, 64))
        assert writer.close() is None
        assert writer.problem is not None


class TestAnimations:
    @pytest.fixture(scope="class")
    def film(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return movie(tmp_path_factory.mktemp("film") / "a.mp4", [frame(256, 256, colour) for colour in COLOURS])

    @pytest.mark.parametrize("suffix", [".gif", ".webp"])
    def test_length_loop_and_colours(self, tmp_path: Path, film: Path, suffix: str) -> None:
        output = video.animate(film, tmp_path / f"a{suffix}")
        assert list(tmp_path.iterdir()) == [output]
        with Image.open(output) as picture:
            assert picture.info["loop"] == 0
            shown = [(each.convert("RGB"), each.info["duration"]) for each in ImageSequence.Iterator(picture)]
        assert sum(duration for _, duration in shown) == pytest.approx(700, abs=20)
        first = np.asarray(shown[0][0], dtype=int)
        assert np.abs(first - COLOURS[0]).max() <= 12

    def test_a_film_with_a_cover_is_animated_by_its_frames(self, tmp_path: Path) -> None:
        cover = Image.new("RGB", (400, 300), (255, 255, 255))
        film = movie(tmp_path / "a.mp4", [frame(64, 64, (200, 30, 60))] * 3, cover=cover)
        for suffix in (".gif", ".webp"):
            with Image.open(video.animate(film, tmp_path / f"a{suffix}")) as picture:
                assert picture.size == (64, 64)
                assert np.abs(np.array(picture.convert("RGB"), dtype=int) - (200, 30, 60)).max() <= 12

    def test_failures(self, tmp_path: Path, film: Path) -> None:
        with pytest.raises(InputError, match=r"'\.avi'"):
            video.animate(film, tmp_path / "a.avi")
        (tmp_path / "broken.mp4").write_text("no video")
        with pytest.raises(video.EncoderError) as caught:
            video.animate(tmp_path / "broken.mp4", tmp_path / "a.gif")
        assert str(caught.value).isprintable()
        assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]
