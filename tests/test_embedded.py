"""Pictures and films inside a page: whole, of the kind they claim, and never from elsewhere."""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from report_folders import FILM, write_run

from vqclip.job import InputError
from vqclip.report.embedded import Allowance, film, inside, picture, poster, spread, strip

MUCH = 1 << 20


def test_a_picture_keeps_its_bytes_and_says_its_size(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", "x") / "final.png"
    found = picture(path, Allowance(MUCH))
    assert found is not None
    assert (found.width, found.height) == (32, 32)
    assert base64.b64decode(found.uri.removeprefix("data:image/png;base64,")) == path.read_bytes()


@pytest.mark.parametrize("data", [b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n<script>", b"GIF89a"])
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "final.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"final\.png"):
        picture(path, Allowance(MUCH))


def test_another_format_under_the_name_of_a_png_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "final.png", format="JPEG")
    with pytest.raises(InputError, match="not a PNG"):
        picture(tmp_path / "final.png", Allowance(MUCH))


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert picture(tmp_path / "final.png", Allowance(MUCH)) is None
    assert film(tmp_path / "progress.mp4", Allowance(MUCH)) is None
    assert strip(tmp_path, 7) == []


def test_the_allowance_is_for_all_together(tmp_path: Path) -> None:
    path = tmp_path / "progress.mp4"
    path.write_bytes(FILM)
    allowance = Allowance(2 * len(FILM) + 1)
    assert [film(path, allowance) is not None for _ in range(3)] == [True, True, False]
    assert allowance.left == 1
    assert picture(write_run(tmp_path / "run", "x") / "final.png", Allowance(10)) is None


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x1aE\xdf\xa3matroska", b"ftyp"])
def test_a_film_that_is_no_mp4_is_left_out(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "progress.mp4"
    path.write_bytes(data)
    assert film(path, Allowance(MUCH)) is None


def test_the_poster_of_a_film_is_the_final_picture(tmp_path: Path) -> None:
    Image.new("RGB", (2048, 512), (200, 30, 60)).save(tmp_path / "final.png")
    allowance = Allowance(MUCH)
    uri = poster(tmp_path / "final.png", allowance)
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    assert allowance.left == MUCH - len(data)
    with Image.open(io.BytesIO(data)) as shown:
        assert (shown.format, shown.size) == ("JPEG", (1024, 256))
        assert max(abs(a - b) for a, b in zip(shown.getpixel((9, 9)), (200, 30, 60), strict=True)) <= 4
    assert poster(tmp_path / "final.png", Allowance(10)) == ""
    assert poster(tmp_path / "gone.png", Allowance(MUCH)) == ""


def test_the_strip_runs_from_the_first_frame_to_the_last(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "x")
    (folder / "progress" / "note.png").write_bytes(b"not a frame, not read")
    assert [frame.label for frame in strip(folder, 5)] == ["0", "2", "4", "6", "8"]
    assert len(strip(folder, 50)) == 9


def test_large_frames_are_reduced_for_the_strip(tmp_path: Path) -> None:
    (tmp_path / "progress").mkdir()
    for step in (0, 1):
        Image.new("RGB", (900, 300), (200, 10, 10)).save(tmp_path / "progress" / f"{step:06d}.png")
    assert [(frame.width, frame.height) for frame in strip(tmp_path, 7)] == [(256, 85)] * 2


@pytest.mark.parametrize(("length", "count"), [(1, 7), (7, 7), (8, 7), (1000, 7), (3, 2)])
def test_spread_is_even_and_keeps_both_ends(length: int, count: int) -> None:
    chosen = list(spread(length, count))
    assert (chosen[0], chosen[-1], len(chosen)) == (0, length - 1, min(length, count))
    gaps = [b - a for a, b in pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_only_places_inside_are_inside(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    assert inside(tmp_path, "cells/a/b") == (tmp_path / "cells/a/b").resolve()
    for name in ("..", ".", "", "/etc/passwd", "cells/../../x", "a\0", "y" * 4000):
        with pytest.raises(InputError, match="does not lie inside"):
            inside(tmp_path, name)
