"""Texts in GIF, WebP and MP4: put in without touching a picture, found again, and never trusted."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from films import COLOURS, frame, movie
from PIL import Image, ImageSequence

from vqclip.job import InputError, Job, Prompt
from vqclip.record import containers, metadata, video

JOB = Job((Prompt("a café, 猫 \U0001f431"),), seed=7)
TEXTS = metadata.embed(job=JOB, config={"include": "a café, 猫 \U0001f431" * 40}, versions={}, weights={})


def animation(path: Path, *, pictures: int = 3, size: tuple[int, int] = (9, 6)) -> Path:
    """A film by Pillow, without texts."""
    first, *rest = [Image.new("RGB", size, colour) for colour in COLOURS[:pictures]]
    first.save(path, save_all=True, append_images=rest, duration=80, loop=0)
    return path


def pixels(path: Path) -> list[bytes]:
    with Image.open(path) as picture:
        return [each.convert("RGB").tobytes() for each in ImageSequence.Iterator(picture)]


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
@pytest.mark.parametrize("pictures", [1, 3])
def test_texts_come_back_and_the_pictures_stay(tmp_path: Path, name: str, pictures: int) -> None:
    made = animation(tmp_path / name, pictures=pictures)
    before = pixels(made)
    containers.add(made, TEXTS)
    assert json.loads(str(containers.find(made))) == json.loads(TEXTS["vqclip"])
    assert metadata.read(made)["seed"] == 7
    assert pixels(made) == before
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with Image.open(made) as picture:
        assert pictures == 1 or picture.info["loop"] == 0


def test_parameters_lie_where_other_programs_look_in_webp(tmp_path: Path) -> None:
    made = animation(tmp_path / "a.webp")
    containers.add(made, TEXTS)
    with Image.open(made) as picture:
        said = picture.getexif().get_ifd(0x8769)[0x9286]
    assert said.startswith(b"UNICODE\0")
    assert said[8:].decode("utf-16-be") == TEXTS["parameters"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_films_of_the_encoder_carry_them(tmp_path: Path, suffix: str) -> None:
    film = movie(tmp_path / "a.mp4", [frame(32, 32, colour) for colour in COLOURS])
    plain = video.animate(film, tmp_path / f"plain{suffix}")
    told = video.animate(film, tmp_path / f"told{suffix}", TEXTS)
    assert metadata.read(told)["config"] == json.loads(TEXTS["vqclip"])["config"]
    assert pixels(told) == pixels(plain)
    assert containers.find(plain) is None


def test_mp4_is_read_where_the_encoder_puts_it(tmp_path: Path) -> None:
    made = movie(tmp_path / "a.mp4", [frame(32, 32)] * 2, facts=json.loads(TEXTS["vqclip"]))
    assert metadata.read(made) == json.loads(TEXTS["vqclip"])


def box(name: bytes, inside: bytes = b"", *, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(inside) if size is None else size, name) + inside


def forged(inside: bytes, *, size: int | None = None) -> bytes:
    return box(b"ftyp", b"isom") + box(b"moov", box(b"udta", inside), size=size)


COMMENT = box(b"\xa9cmt", box(b"data", b"\0" * 8 + b"[1]"))
HOSTILE: dict[str, bytes] = {
    "a head alone": box(b"ftyp"),
    "no comment": forged(b""),
    "endless empty boxes": box(b"ftyp", b"isom") + box(b"free") * 20_000,
    "a box smaller than its head": box(b"ftyp", b"isom") + box(b"moov", size=3) * 9,
    "a box larger than the file": forged(box(b"meta", b"\0" * 4), size=1 << 31),
    "a box of 64 bits without them": box(b"ftyp", b"isom") + box(b"moov", size=1),
    "a box of 2**64 bytes": box(b"ftyp", b"isom") + box(b"moov", b"\xff" * 8, size=1),
    "a comment that is no envelope": forged(box(b"meta", b"\0" * 4 + box(b"ilst", COMMENT))),
    "a comment that is no text": forged(
        box(b"meta", b"\0" * 4 + box(b"ilst", box(b"\xa9cmt", box(b"data", b"\xff" * 99))))
    ),
    "data shorter than its head": forged(box(b"meta", b"\0" * 4 + box(b"ilst", box(b"\xa9cmt", box(b"data"))))),
    "a long comment": forged(
        box(b"meta", b"\0" * 4 + box(b"ilst", box(b"\xa9cmt", box(b"data", b"\0" * 8 + b"x" * (3 << 20)))))
    ),
    "half a GIF": b"GIF89a\xff\xff",
    "half a WebP": b"RIFF\xff\xff\xff\xffWEBPVP8X",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_films_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "film"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(InputError) as caught:
        metadata.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0AVI "])
def test_nothing_is_put_into_other_files(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a GIF or WebP"):
        containers.add(path, TEXTS)
    assert path.read_bytes() == content
