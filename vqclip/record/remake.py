"""Makes a film again from the frames that a run kept; the run's own files stay as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqclip import images
from vqclip.job import InputError, ResourceError
from vqclip.record import containers, metadata, presence, video
from vqclip.record.ffmpeg import GIF_FPS, EncoderError
from vqclip.record.film import Film
from vqclip.record.folder import to_json
from vqclip.record.pace import plan

FORMATS: Final = ("mp4", "gif", "webp")
_KEYS: Final = ("seconds", "fps", "hold", "smooth", "scale")  # of the config's section video
MAX_SCALE: Final = 4


def reencode(
    folder: Path,
    *,
    fps: float | None = None,
    seconds: float | None = None,
    hold: float | None = None,
    smooth: float | None = None,
    scale: int | None = None,
    format: str | None = None,
    output: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Path:
    """Make a film (mp4, gif or webp) from the frames kept in `folder`/progress and the final picture.

    What is None is as in the run's recipe, the format as `output` ends, else mp4. Without `output` the film lies in
    the folder as progress.<format>, or progress-2 and so on: nothing is overwritten. `say` is told, in a line each,
    what could not be as asked. Once `stopped`, the next frame raises KeyboardInterrupt. Raises InputError when there
    are no frames, they differ in size, or `format` and `output` do not fit, ResourceError when the encoder or the
    disk fails; an older file stays then.
    """
    form = _form(folder, format, output)
    kept = _kept(folder)
    recipe = _recipe(folder)
    asked: dict[str, Any] = {"seconds": seconds, "fps": fps, "hold": hold, "smooth": smooth, "scale": scale}
    how = _settings(recipe) | {name: value for name, value in asked.items() if value is not None}
    factor = int(how.pop("scale", 1))
    if not 1 <= factor <= MAX_SCALE:
        raise InputError(f"video.scale: {factor}; a whole number from 1 to {MAX_SCALE} is needed")
    pace = plan(len(kept) - 1, every=1, **how)
    for line in pace.notes:
        say(line)
    if form == "gif" and pace.fps > GIF_FPS:
        say(f"video.fps: {pace.fps:g}; a GIF shows at most {GIF_FPS} frames a second")
    beside = output or folder / f"progress.{form}"
    final = _final(folder)
    try:
        with video.workroom(beside) as room:
            frames, last = _read(kept), int(kept[-1].stem)
            first = next(frames)
            made = room / "film.mp4"
            writer = video.VideoWriter(made, (first.shape[1], first.shape[0]), pace.fps, recipe, scale=factor)
            film = Film(pace, partial(_send, writer, stopped))
            try:
                film.show(first, int(kept[0].stem), last)
                for path, frame in zip(kept[1:], frames, strict=True):
                    film.show(frame, int(path.stem), last)
                film.end(None if final is None else np.asarray(final))
            except BaseException:  # the encoder ends with us, also when somebody presses Ctrl+C
                writer.abandon()
                raise
            whole = writer.close(final)
            if whole is None or writer.problem:
                raise ResourceError(f"{beside}: {writer.problem or 'no video'}")
            if form != "mp4":
                texts = {containers.KEY: to_json(recipe)} if recipe else None
                whole = video.animate(whole, room / f"film.{form}", texts)
            return _deliver(whole, beside, replace=output is not None)
    except EncoderError as error:
        raise ResourceError(f"{beside}: {error}") from error
    except OSError as error:
        raise ResourceError(f"{beside} cannot be written ({error.strerror or error})") from error


def _send(writer: video.VideoWriter, stopped: Callable[[], bool], frame: NDArray[np.uint8]) -> None:
    if stopped():
        raise KeyboardInterrupt
    writer.append(frame)


def _form(folder: Path, form: str | None, output: Path | None) -> str:
    """Which format is meant; every mistake in names is found here, before anything is read or made."""
    if not folder.is_dir():
        raise InputError(f"{folder}: {'not a run folder' if folder.exists() else 'no such folder'}")
    if presence.in_use(folder):
        raise InputError(f"{folder}: another process still works on this run; its film comes when it ends")
    if form is not None and form not in FORMATS:
        raise InputError(f"format: {form!r}; mp4, gif or webp are allowed")
    if output is None:
        return form or "mp4"
    suffix = output.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise InputError(f"output: {output}; a name that ends in .mp4, .gif or .webp is needed")
    if form not in (None, suffix):
        raise InputError(f"output: {output} does not end in .{form}, the format asked for")
    if not output.parent.is_dir():
        raise InputError(f"output: {output}: the folder {output.parent} does not exist")
    if output.is_dir():
        raise InputError(f"output: {output} is a folder")
    if output.name == f"progress.{suffix}" and output.exists() and output.parent.samefile(folder):
        raise InputError(f"output: {output} is the run's own film, whose hash stands in run.json; choose another name")
    return suffix


def _kept(folder: Path) -> list[Path]:
    """The kept frames in the order of their steps."""
    found = [path for path in (folder / "progress").glob("*.png") if path.stem.isascii() and path.stem.isdigit()]
    if not found:
        raise InputError(f"{folder}: no kept frames in progress/; the run needs video.keep: true")
    return sorted(found, key=lambda path: int(path.stem))


def _recipe(folder: Path) -> Mapping[str, Any]:
    """What the final picture says of its making; empty when it says nothing."""
    try:
        return metadata.read(folder / "final.png")
    except InputError:
        return {}


def _settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The film that the recipe asked for, as far as it can be read."""
    section = recipe.get("config", {}).get("video")
    if not isinstance(section, dict):
        return {}
    numbers = {name: section.get(name) for name in _KEYS}
    return {name: value for name, value in numbers.items() if type(value) in (int, float)}


def _final(folder: Path) -> Image.Image | None:
    """The final picture, which the last step of a run that was stopped need not be."""
    path = folder / "final.png"
    return images.read(path) if path.is_file() else None


def _read(kept: list[Path]) -> Iterator[NDArray[np.uint8]]:
    """The frames (H, W, 3), checked to be of one size."""
    size = None
    for path in kept:
        picture = images.read(path)
        size = size or picture.size
        if picture.size != size:
            raise InputError(f"{path}: {picture.size[0]}x{picture.size[1]} pixels among frames of {size[0]}x{size[1]}")
        yield np.asarray(picture)


def _deliver(film: Path, output: Path, *, replace: bool) -> Path:
    """Move the film to its place; without `replace` to the first free name of progress, progress-2, ..."""
    number, place = 1, output
    while not replace:
        try:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            number += 1
            place = output.with_name(f"{output.stem}-{number}{output.suffix}")
    try:
        os.replace(film, place)
    except BaseException:
        if not replace:
            place.unlink(missing_ok=True)
        raise
    return place
