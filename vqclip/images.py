"""Turns image tensors into pictures and files and back; the only place that knows uint8 and PNG.

Does not resize for a model, choose names of files, or know what the texts inside a PNG mean.
"""

from __future__ import annotations

import io
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from vqclip.job import InputError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_SIDE = 4096
WHITE = (255, 255, 255)


def to_uint8(image: torch.Tensor) -> NDArray[np.uint8]:
    """Round an image to 8 bits a channel.

    `image` is (3, H, W) or (1, 3, H, W), floating point, meant for [0, 1] (values outside are clipped).
    Returns a contiguous (H, W, 3) array on the CPU. Rounding happens on the image's own device, so that
    a quarter of the bytes cross over. Raises ValueError for another shape or dtype, or for NaN and Inf.
    """
    pixels = image.detach()
    if pixels.ndim == 4 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.is_floating_point():
        shape = tuple(image.shape)
        raise ValueError(f"image is {shape} {image.dtype}; (3, H, W) or (1, 3, H, W) float is needed")
    rounded = pixels.float().nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    finite = torch.isfinite(pixels).all().to(torch.uint8)
    flat: NDArray[np.uint8] = torch.cat([rounded.permute(1, 2, 0).flatten(), finite[None]]).cpu().numpy()  # device sync
    if not flat[-1]:
        raise ValueError("image holds NaN or infinite values")
    return flat[:-1].reshape(*pixels.shape[1:], 3)


def to_pil(image: torch.Tensor) -> Image.Image:
    """An image (3, H, W) in [0, 1] as an RGB picture; raises ValueError as `to_uint8` does."""
    return Image.fromarray(to_uint8(image))


def from_pil(picture: Image.Image) -> torch.Tensor:
    """A picture as (1, 3, H, W) float32 in [0, 1] on the CPU; alpha is composited on white."""
    pixels = np.array(flatten(picture))  # (H, W, 3) uint8, a copy: torch wants writable memory
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).to(torch.float32).div(255).contiguous()


def to_png(
    image: torch.Tensor | Image.Image, texts: Mapping[str, str] | None = None, *, compress_level: int = 6
) -> bytes:
    """Encode an image (3, H, W) in [0, 1], or a picture, as PNG with `texts` as iTXt chunks ahead of the pixels.

    Keys are 1 to 79 printable Latin-1 characters without outer blanks, values hold no NUL: ValueError
    otherwise. The same input gives the same bytes under one version of Pillow.
    """
    info = PngInfo()
    for key, text in (texts or {}).items():
        if not (1 <= len(key) <= 79 and key.isprintable() and key == key.strip()):
            raise ValueError(f"PNG text key {key!r}: 1 to 79 printable characters, outer blanks not allowed")
        if "\0" in text:
            raise ValueError(f"PNG text {key!r} holds a NUL character")
        info.add_itxt(key, text)
    picture = to_pil(image) if isinstance(image, torch.Tensor) else image
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info, compress_level=compress_level)
    return buffer.getvalue()


def save_png(
    path: Path,
    image: torch.Tensor | Image.Image,
    texts: Mapping[str, str] | None = None,
    *,
    compress_level: int = 6,
    durable: bool = True,
) -> None:
    """Write `to_png` of an image (3, H, W) or picture, seen whole or not at all.

    Raises ValueError as `to_png` does, OSError when the disk refuses. `durable` as in `replace_file`.
    """
    replace_file(path, to_png(image, texts, compress_level=compress_level), durable=durable)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` at `path` by rename, so that no reader and no crash ever sees half a file.

    `durable` also waits for the disk (file and folder), which a preview that is replaced four times a
    second should not do. Raises OSError; the temporary file is gone then and the old content stays.
    """
    part = beside(path)
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable and os.name == "posix":  # elsewhere a folder cannot be opened, and rename is durable enough
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def beside(path: Path) -> Path:
    """A new empty file next to `path`, hidden and of a name that nobody can guess; it follows no link.

    For what is renamed to `path` when it is whole. Raises OSError.
    """
    part = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}.part")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # O_EXCL: not through a link either
    return part


def read(path: str | Path, *, max_side: int = MAX_SIDE) -> Image.Image:
    """Read a PNG, JPEG or WebP file that nobody vouches for, as an upright RGB picture.

    The format is decided by content, and the size by the header before a pixel is decoded (at most
    `max_side` on either side). EXIF rotation is applied, alpha composited on white, 16 bits reduced to
    8, of an animation the first picture taken; colour profiles are ignored. Raises InputError, one line.
    """
    shown = str(path) if str(path).isprintable() else repr(str(path))
    try:
        return _decode(Path(path), max_side)
    except InputError as error:
        raise InputError(f"{shown}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{shown}: far more pixels than {max_side}x{max_side}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{shown}: not a PNG, JPEG or WebP picture") from error
    except Exception as error:  # on damaged files decoders raise a dozen kinds (struct.error, SyntaxError, ...)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{shown}: cannot be read as a picture ({reason})") from error


def _decode(path: Path, max_side: int) -> Image.Image:
    """Open, measure, decode and straighten one file; raises whatever the decoder raises."""
    if not path.is_file():  # also keeps us from waiting on a pipe
        raise InputError("not a regular file" if path.exists() else "no such file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF and the like: the pixels decide
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if max(width, height) > max_side:
                raise InputError(f"{width}x{height} pixels; at most {max_side}x{max_side} are allowed")
            picture.load()
            return flatten(ImageOps.exif_transpose(picture))


def flatten(picture: Image.Image) -> Image.Image:
    """Any picture as 8-bit RGB: alpha on white, 16-bit grey scaled (Pillow alone would clip it)."""
    if picture.mode.startswith("I"):
        wide = np.asarray(picture).astype(np.int64)  # (H, W) in 0..65535
        grey = np.clip((wide + 128) // 257, 0, 255).astype(np.uint8)
        if isinstance(clear := picture.info.get("transparency"), int):
            grey[wide == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*WHITE, 255)), layer).convert("RGB")
    return picture.convert("RGB")


def fit(
    picture: Image.Image, size: tuple[int, int], how: Literal["cover", "contain", "stretch"] = "cover"
) -> Image.Image:
    """Bring a picture to `size` (width, height): fill and crop the middle, pad with white, or distort.

    Raises InputError for an unknown `how` or a size below one pixel.
    """
    if min(size) < 1:
        raise InputError(f"a picture cannot be fitted to {size[0]}x{size[1]}; at least 1x1 is needed")
    picture = flatten(picture)
    match how:
        case "cover":
            return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        case "contain":
            return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color=WHITE)
        case "stretch":
            return picture.resize(size, Image.Resampling.LANCZOS)
    raise InputError(f"a picture cannot be fitted by {how!r}; cover, contain or stretch are allowed")


def grid(
    images: Sequence[torch.Tensor | Image.Image],
    columns: int,
    labels: Sequence[str] | None = None,
    *,
    gap: int = 4,
) -> Image.Image:
    """A contact sheet on white, row by row, each cell as large as the largest image, label below.

    Images are tensors (3, H, W) in [0, 1] or pictures, of any sizes. The same input gives the same pixels. Raises
    ValueError for no images, fewer than one column, a negative gap, or a number of labels that differs.
    """
    if not images or columns < 1 or gap < 0:
        raise ValueError(f"{len(images)} images, {columns} columns, gap {gap}: 1, 1 and 0 are the least")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")
    pictures = [to_pil(image) if isinstance(image, torch.Tensor) else flatten(image) for image in images]
    cell = (max(p.width for p in pictures), max(p.height for p in pictures))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    band = 0 if labels is None else 16  # px of text under each cell
    pitch = (cell[0] + gap, cell[1] + band + gap)
    sheet = Image.new("RGB", (columns * pitch[0] + gap, rows * pitch[1] + gap), WHITE)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)  # comes with Pillow: no system font, same pixels everywhere
    for index, picture in enumerate(pictures):
        left, top = gap + index % columns * pitch[0], gap + index // columns * pitch[1]
        sheet.paste(picture, (left + (cell[0] - picture.width) // 2, top + (cell[1] - picture.height) // 2))
        if labels is not None:
            draw.text((left, top + cell[1] + 1), shorten(labels[index], cell[0], font), (0, 0, 0), font)
    return sheet


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """One line of `text` that is at most `width` pixels wide, with an ellipsis where something was cut."""
    line = "".join(c if c.isprintable() else " " for c in text[:400])
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..." if line else ""
