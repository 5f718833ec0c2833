"""What a run reads, looked at before any model is loaded: pictures, weight files, the size; and where it will write.

Fetches nothing, and leaves to the loaders what only they can see.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vqclip import images
from vqclip.config import Config, is_set
from vqclip.config.paths import OPEN_CLIP, PIN, unpinned
from vqclip.generators.vqgan import cells
from vqclip.job import InputError, WeightsError
from vqclip.perceptors import open_clip
from vqclip.report.evidence import facts
from vqclip.weights import checkpoints
from vqclip.weights import load as weights

Note = Callable[[str], None]
_LEVELS = 8  # of a VQGAN at most: 128 pixels a cell
_FIRST_BLOCKS = tuple(
    f"{at}encoder.down.{level}.block.0.norm1.bias" for at in ("", "first_stage_model.") for level in range(_LEVELS)
)


def check(config: Config, note: Note) -> None:
    """Look at everything that the config's backends will read; `note` takes a line for each picture that is cropped.

    Raises:
        InputError: no such picture or model, or a size that the generator cannot draw; the line begins with the key.
            WeightsError: no weights there.
    """
    for key, path, size in _pictures(config):
        _check_picture(key, Path(path), size, note)
    for key, name, role in _models(config):
        _check_weights(key, name, role)
    for key, value in _folders(config):
        name, pin = unpinned(value)
        if pin and Path(name).is_dir():
            raise InputError(f"{key}: {PIN} is for a file, and {name} is a folder")
        if os.path.isabs(name) and not Path(name).is_file() and not Path(name).is_dir():
            kind = "folder" if key.startswith("kandinsky") else "file or folder"
            raise WeightsError(f"{key}: {_missing(Path(name), kind)}")
    if "vqgan" in _makers(config):
        stride = _stride(config.generator)
        if stride:
            cells(config.size, stride)


def check_outputs(config: Config) -> None:
    """Raise InputError for names of run folders that are taken, and for an `outputs` that is no folder."""
    outputs = Path(config.outputs)
    if outputs.exists() and not outputs.is_dir():
        raise InputError(f"outputs: {outputs} is not a folder")
    if config.name is None:
        return
    for name in folder_names(config.name, max(1, len(config.prompts)) * config.seeds):
        if os.path.lexists(outputs / name):
            raise InputError(f"name: {outputs / name} exists; {_instead(outputs / name)}")


def status_of(folder: Path) -> str:
    """What the run.json of a folder says; "" where there is none, as after a kill before its first word."""
    try:
        return facts(folder / "run.json").text("status")
    except InputError:
        return ""


def _instead(folder: Path) -> str:
    """What to do about a name that is taken."""
    if status_of(folder) in ("running", "interrupted"):
        return f"that run is not finished: `vqclip resume {folder}` goes on with it, or choose another name"
    return "choose another name, runs are never overwritten"


def folder_names(name: str, pictures: int) -> list[str]:
    """The run folders of a named run: the name, or with several pictures the name and a number."""
    return [name] if pictures < 2 else [f"{name[:74]}-{number}" for number in range(1, pictures + 1)]


@contextmanager
def with_origins(origins: Mapping[str, str]) -> Iterator[None]:
    """Put the file and line where a key was set before the errors that begin with that key."""
    try:
        yield
    except (InputError, WeightsError) as error:
        where = origins.get(str(error).partition(":")[0], "default")
        if not is_set(where):
            raise
        raise type(error)(f"{where}: {error}") from error


def digests(config: Config) -> dict[str, str]:
    """SHA-256 of every picture that is read, by its key."""
    found = {}
    for key, path, _ in _pictures(config):
        with open(path, "rb") as file:
            found[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _makers(config: Config) -> set[str | None]:
    return {config.backend, config.start.backend}


def _pictures(config: Config) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """(key, path, the size or shape that it will be cropped to) of every picture that is read."""
    if config.start.kind == "image" and config.start.image:
        yield "start.image", config.start.image, config.size
    if config.backend == "kandinsky" and config.kandinsky.mask:
        yield "kandinsky.mask", config.kandinsky.mask, config.size
    if _makers(config) & {"vqgan", "kandinsky"}:
        for number, each in enumerate(config.images):
            yield f"images[{number}]", each.image, (1, 1)


def _check_picture(key: str, path: Path, size: tuple[int, int], note: Note) -> None:
    if not path.exists() or path.is_dir():
        raise InputError(f"{key}: {_missing(path, 'file')}")
    try:
        picture = images.read(path)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    width, height = picture.size
    seen = (min(width, round(height * size[0] / size[1])), min(height, round(width * size[1] / size[0])))
    if seen != picture.size:
        part = math.gcd(*size)
        shape = f"{size[0] // part}:{size[1] // part}"
        note(f"{key}: {path.name} is {width}x{height}, cropped to {shape}: its middle {seen[0]}x{seen[1]} is used")


def _models(config: Config) -> Iterator[tuple[str, str, str]]:
    """(key, name or path, role) of every CLIP, generator and denoiser that is loaded."""
    if "vqgan" in _makers(config):
        yield "generator", config.generator, "generator"
        for number, guide in enumerate(config.guides):
            yield f"guides[{number}]", guide.model, "guide"
        if config.denoiser.model not in ("auto", "none"):
            yield "denoiser.model", config.denoiser.model, "denoiser"
    if config.judge is not None:
        yield "judge", config.judge, "judge"


def _check_weights(key: str, name: str, role: str) -> None:
    try:
        path = open_clip.parse(name).path if name.startswith(OPEN_CLIP) else name
        file, _ = unpinned(path)
        if os.path.isabs(file) and not Path(file).is_file():
            raise WeightsError(_missing(Path(file), "file"))
        weights.look_up(path, role=role)
    except (InputError, WeightsError) as error:
        raise type(error)(f"{key}: {str(error).removeprefix(f'{role}: ')}") from error


def _folders(config: Config) -> Iterator[tuple[str, str]]:
    """(key, path or name) of the pipelines that are opened."""
    if "kandinsky" in _makers(config):
        drawn = "decoder" if config.kandinsky.mask is None else "inpaint"
        parts = {"prior": config.kandinsky.prior, drawn: getattr(config.kandinsky, drawn)}
        yield from ((f"kandinsky.{part}", name) for part, name in parts.items() if name is not None)
    if "stable-diffusion" in _makers(config) and config.stable_diffusion.model is not None:
        yield "stable_diffusion.model", config.stable_diffusion.model


def _missing(path: Path, kind: str) -> str:
    """What is said of a path with nothing behind it: where it was looked for, and where something of that name is."""
    if path.is_dir():
        return f"{path} is a folder; a {kind} is needed"
    if path.exists():
        return f"{path} is not a regular file; a {kind} is needed"  # a pipe or a device has no end
    if not path.parent.is_dir():
        said = f"{path.name}: no such {kind} (there is no folder {path.parent})"
    else:
        said = f"{path.name}: no such {kind} (looked in {path.parent})"
    tails = (Path(*path.parts[start:]) for start in range(1, len(path.parts)))
    found = next((tail for tail in tails if tail.exists()), None)
    return said if found is None else f"{said}; the current folder has {found}, but a path in a file is relative to it"


def _stride(name: str) -> int | None:
    """Pixels a cell of a generator, from the names of its tensors or its own in the catalogue; None if unknown."""
    found = weights.look_up(name, role="generator")
    if not isinstance(found, Path):
        match = re.search(r"_f(\d+)(_|$)", found.name)
        return int(match[1]) if match else None
    if found.suffix == ".zip":
        return None  # it would have to be unpacked
    try:
        state, _ = checkpoints.read(found, parts=_FIRST_BLOCKS)
    except WeightsError:
        return None  # whoever loads it says what is wrong
    return 1 << (len(state) - 1)
