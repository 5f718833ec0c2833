"""Reading picture files that nobody vouches for: upright RGB, or one line that names the file."""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqclip import images
from vqclip.job import InputError


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (rows * 255 // (height - 1), columns * 255 // (width - 1), (rows + columns) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises many pixels and holds next to none."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    return exif


def save_deep_grey(path: Path) -> None:
    Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)).save(path)


def save_palette_alpha(path: Path) -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((0, 0), 1)
    picture.save(path, transparency=b"\x00\xff")  # red is clear, green is opaque


def save_clear_grey16(path: Path) -> None:
    wide = np.full((2, 2), 0x1234, dtype=np.uint16)
    wide[0, 0] = 0x8000
    Image.fromarray(wide).save(path, transparency=0x1234)


class TestRead:
    def test_plain_formats(self, tmp_path: Path) -> None:
        for name, options in (("a.png", {}), ("a.webp", {"lossless": True}), ("a.jpg", {"quality": 95})):
            gradient().save(tmp_path / name, **options)
            found = images.read(tmp_path / name)
            assert (found.mode, found.size) == ("RGB", (24, 16))
            error = np.abs(np.asarray(found, dtype=int) - np.asarray(gradient(), dtype=int)).mean()
            assert error < (5 if name == "a.jpg" else 1e-9)

    def test_content_decides_and_not_the_name(self, tmp_path: Path) -> None:
        gradient().save(tmp_path / "a.jpg", format="PNG")
        assert images.read(tmp_path / "a.jpg").tobytes() == gradient().tobytes()

    def test_16_bit_grey_is_scaled(self, tmp_path: Path) -> None:
        save_deep_grey(tmp_path / "a.png")
        assert np.asarray(images.read(tmp_path / "a.png"))[:, :, 1].ravel().tolist() == list(range(256))

    def test_16_bit_clear_grey_becomes_white(self, tmp_path: Path) -> None:
        save_clear_grey16(tmp_path / "a.png")
        assert np.asarray(images.read(tmp_path / "a.png"))[:, :, 0].tolist() == [[128, 255], [255, 255]]

    def test_palette_with_alpha_lies_on_white(self, tmp_path: Path) -> None:
        save_palette_alpha(tmp_path / "a.png")
        found = images.read(tmp_path / "a.png")
        assert found.getpixel((0, 0)) == (0, 255, 0)
        assert found.getpixel((3, 3)) == (255, 255, 255)

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_alpha_lies_on_white(self, tmp_path: Path, mode: str) -> None:
        layer = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
        layer.putpixel((1, 0), (0, 0, 0, 128))
        layer.convert(mode).save(tmp_path / "a.png")
        found = images.read(tmp_path / "a.png")
        assert found.getpixel((0, 0)) == (255, 255, 255)
        assert found.getpixel((1, 0)) == (127, 127, 127)

    def test_cmyk_jpeg(self, tmp_path: Path) -> None:
        Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
        found = np.asarray(images.read(tmp_path / "a.jpg"), dtype=int)
        assert np.abs(found - [200, 30, 60]).max() <= 4

    def test_exif_rotation_is_applied(self, tmp_path: Path) -> None:
        for name in ("a.jpg", "a.png", "a.webp"):
            gradient().save(tmp_path / name, exif=rotated())
            found = images.read(tmp_path / name)
            assert found.size == (16, 24)
            corner = np.asarray(found, dtype=int)[0, -1] - np.asarray(gradient(), dtype=int)[0, 0]
            assert np.abs(corner).max() < 40

    @pytest.mark.parametrize("name", ["a.webp", "a.png"])
    def test_an_animation_gives_its_first_picture(self, tmp_path: Path, name: str) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert images.read(tmp_path / name).getpixel((4, 4)) == (255, 0, 0)

    def test_size_is_judged_by_the_header(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png_header(4097, 8))
        with pytest.raises(InputError, match=r"4097x8 pixels; at most 4096x4096"):
            images.read(tmp_path / "a.png")

    def test_a_smaller_limit_holds_too(self, tmp_path: Path) -> None:
        gradient().save(tmp_path / "a.png")
        assert images.read(tmp_path / "a.png", max_side=24).size == (24, 16)
        with pytest.raises(InputError, match="at most 23x23"):
            images.read(tmp_path / "a.png", max_side=23)


def save_truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def save_gif(path: Path) -> None:
    gradient().save(path, format="GIF")


REFUSED: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a picture\n"),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "truncated": save_truncated,
    "gif": save_gif,
    "svg": lambda path: path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "100 megapixels": lambda path: path.write_bytes(png_header(10_000, 10_000)),
    "900 megapixels": lambda path: path.write_bytes(png_header(30_000, 30_000)),
    "more pixels than memory": lambda path: path.write_bytes(png_header(2**31 - 1, 2**31 - 1)),
    "fewer pixels than promised": lambda path: path.write_bytes(png_header(4000, 4000)),
    "no pixels": lambda path: path.write_bytes(png_header(0, 0)),
}


class TestRefused:
    @pytest.mark.parametrize("kind", REFUSED)
    def test_one_line_with_the_name_of_the_file(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "picture.png"
        REFUSED[kind](path)
        with pytest.raises(InputError) as caught:
            images.read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["a\0b.png", "a\nb.png", "x" * 300, "\udce4.png"])
    def test_odd_names_stay_one_printable_line(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError) as caught:
            images.read(tmp_path / name)
        assert str(caught.value).isprintable()

    def test_damaged_files_never_raise_anything_else(self, tmp_path: Path) -> None:
        draw = random.Random(1)
        whole = []
        for options in ({"format": "PNG"}, {"format": "JPEG", "exif": rotated()}, {"format": "WEBP"}):
            gradient().save(tmp_path / "whole", **options)
            whole.append((tmp_path / "whole").read_bytes())
        outcomes = set()
        for _ in range(300):
            data = bytearray(draw.choice(whole))
            for _ in range(draw.randint(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            (tmp_path / "damaged").write_bytes(data)
            try:
                outcomes.add(images.read(tmp_path / "damaged").mode)
            except InputError:
                outcomes.add("refused")
        assert outcomes == {"RGB", "refused"}
