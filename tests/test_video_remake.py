"""GIF and WebP from a film, and films from kept frames: same pace, order and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import COLOURS, decode, frame, movie
from PIL import Image, ImageSequence

from vqclip.job import InputError, ResourceError
from vqclip.record import video


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
        assert sum(duration for _, duration in shown) == pytest.approx(1200, abs=20)
        first = np.asarray(shown[0][0], dtype=int)
        assert np.abs(first - COLOURS[0]).max() <= 12

    def test_failures(self, tmp_path: Path, film: Path) -> None:
        with pytest.raises(InputError, match=r"'\.avi'"):
            video.animate(film, tmp_path / "a.avi")
        (tmp_path / "broken.mp4").write_text("no video")
        with pytest.raises(video.EncoderError) as caught:
            video.animate(tmp_path / "broken.mp4", tmp_path / "a.gif")
        assert str(caught.value).isprintable()
        assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]


class TestReencode:
    def kept(self, folder: Path, count: int, size: tuple[int, int] = (64, 64)) -> Path:
        (folder / "progress").mkdir(exist_ok=True)
        for index in range(count):  # names without leading zeros: order must be by number
            Image.new("RGB", size, (index * 20, 0, 0)).save(folder / "progress" / f"{index}.png")
        Image.new("RGB", (8, 8)).save(folder / "progress" / "latest.png")
        return folder

    def test_frames_in_numeric_order_at_the_given_rate(self, tmp_path: Path) -> None:
        made = video.reencode(self.kept(tmp_path, 12), fps=5, seconds=None, hold=1, format="mp4")
        assert made == tmp_path / "progress.mp4"
        red = decode(made)[:, 0, 0, 0]
        assert np.abs(red[:12] - np.arange(12) * 20).max() <= 4
        assert len(red) == 12 + 5
        assert sorted(path.name for path in tmp_path.iterdir()) == ["progress", "progress.mp4"]

    def test_seconds_and_rate_thin_the_frames_and_keep_the_last(self, tmp_path: Path) -> None:
        made = video.reencode(self.kept(tmp_path, 12), fps=5, seconds=1, hold=0, format="mp4")
        red = decode(made)[:, 0, 0, 0]
        assert len(red) <= 5
        assert abs(red[-1] - 220) <= 4

    def test_gif_elsewhere(self, tmp_path: Path) -> None:
        made = video.reencode(
            self.kept(tmp_path, 3), fps=10, seconds=None, hold=0, format="gif", output=tmp_path / "x.gif"
        )
        with Image.open(made) as picture:
            assert (picture.format, picture.size) == ("GIF", (256, 256))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["progress", "x.gif"]

    def test_mistakes_are_one_line_and_change_nothing(self, tmp_path: Path) -> None:
        how: dict[str, Any] = {"fps": None, "seconds": None, "hold": 0, "format": "mp4"}
        with pytest.raises(InputError, match="no kept frames"):
            video.reencode(tmp_path, **how)
        self.kept(tmp_path, 2)
        with pytest.raises(InputError, match="'avi'"):
            video.reencode(tmp_path, **{**how, "format": "avi"})
        with pytest.raises(InputError, match="does not exist"):
            video.reencode(tmp_path, **how, output=tmp_path / "gone" / "a.mp4")
        Image.new("RGB", (8, 8)).save(tmp_path / "progress" / "2.png")
        with pytest.raises(InputError, match=r"2\.png"):
            video.reencode(tmp_path, **how)
        assert [path.name for path in tmp_path.iterdir()] == ["progress"]

    def test_a_failing_encoder_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
        with pytest.raises(ResourceError, match="no video"):
            video.reencode(self.kept(tmp_path, 2), fps=None, seconds=None, hold=0, format="mp4")
