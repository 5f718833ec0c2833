"""Finds, verifies and loads weight files by the names that configs use, and executes nothing.

What a file may contain is settled in checkpoints.py, what can be fetched in catalogue.py and store.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vqclip.config.paths import PIN, is_path, unpinned
from vqclip.job import InputError, ResourceError, WeightsError
from vqclip.weights import checkpoints
from vqclip.weights.regular import opened
from vqclip.weights.tensors import damaged

if TYPE_CHECKING:
    from vqclip.weights.answer import Progress
    from vqclip.weights.catalogue import Entry

STARTER = Path(__file__).parent.parent / "starter"
# What "starter" means for each part of a run, and the names by which one can be picked.
STARTER_FILES = {"generator": "vqgan", "guide": "guide-rn", "judge": "judge", "denoiser": "denoiser"}
# Which kinds of the catalogue fit each part of a run.
KINDS = {
    "generator": {"vqgan"},
    "guide": {"clip", "open_clip"},
    "judge": {"clip", "open_clip"},
    "denoiser": {"denoiser"},  # of which none is published
}
_HASH = re.compile("[0-9a-fA-F]{64}")
_LARGE = 50_000_000  # bytes: smaller files are read so fast that a converted copy is of no use


@dataclass(frozen=True)
class Weights:
    """The tensors of one file as a state dict. `sha256` is of the whole file as published, also where a converted copy
    was read; `metadata` its safetensors header strings, or what was read from the weights."""

    path: Path
    sha256: str
    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A short name for people."""
        return f"starter/{self.path.stem}" if self.path.parent == STARTER else self.path.name

    def trained_with(self, part: str) -> str:
        """Digest of the "vqgan" or "guide" that these weights were trained with; empty where the file does not say."""
        try:
            return str(json.loads(self.metadata["training"])[part])
        except (KeyError, TypeError, ValueError, RecursionError):
            return ""


def find(name: str, *, role: str, offline: bool = False, on_progress: Progress | None = None) -> Path:
    """The file behind a config value: "starter", "starter/<model>", a path, or a name of the catalogue.

    A file of the catalogue that is not on this machine is fetched, unless that is forbidden. A path with a pin,
    `path#sha256=...`, is that of a file with this hash.

    Args:
        name: as the config has it.
        role: "generator", "guide" or "judge": what "starter" alone stands for.
        offline: fetch nothing, as VQCLIP_OFFLINE=1 does.
        on_progress: called with the bytes so far and in all while a file is fetched.

    Raises:
        InputError: an unknown starter model or name, or a pin that is none. WeightsError: no file at that path, another
            one than the pin demands, or not to be had. ResourceError: no space for it.
    """
    found = look_up(name, role=role)
    if isinstance(found, Path):
        return checked(found, unpinned(name)[1], role=role)
    from vqclip.weights import store

    return store.locate(found, offline=offline, on_progress=on_progress)


def look_up(name: str, *, role: str) -> Path | Entry:
    """The file behind a config value, or what the catalogue says about one that may have to be fetched.

    Raises:
        InputError: an unknown starter model or name, or a pin that is none. WeightsError: no file at that path.
    """
    if PIN in name:
        plain, pin = unpinned(name)
        if not _HASH.fullmatch(pin):
            raise InputError(f"{role}: {PIN}{pin[:80]}; the 64 hexadecimal digits of a SHA-256 are needed")
        found = look_up(plain, role=role)
        if not isinstance(found, Path) or found.parent == STARTER:
            raise InputError(f"{role}: {PIN} is for files by their path; {plain} is checked against its own hash")
        return found
    if name == "starter" or name.startswith("starter/"):
        stem = STARTER_FILES[role] if name == "starter" else name.removeprefix("starter/")
        shipped = sorted(path.stem for path in STARTER.glob("*.safetensors"))
        if stem not in shipped:
            raise InputError(f"{role}: there is no starter model {stem!r}; shipped: {', '.join(shipped) or 'none'}")
        return STARTER / f"{stem}.safetensors"
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir() or is_path(name):
        raise WeightsError(f"{role}: no weights at {name}; give a file, 'starter' or a name of `vqclip models list`")
    from vqclip.weights import catalogue  # needed by those alone who name a published model

    try:
        entry = catalogue.entry(name)
    except InputError as error:
        raise InputError(f"{role}: {error}") from error
    if entry.kind not in KINDS[role]:
        raise InputError(f"{role}: {entry.name} is of the kind {entry.kind}; {' or '.join(KINDS[role])} is needed")
    return entry


def checked(path: Path, pin: str, *, role: str) -> Path:
    """The path of a file whose SHA-256 is `pin`, or of any file without one. Raises WeightsError for another."""
    if not pin:
        return path
    from vqclip.weights import store

    digest = store.digest_of(path)
    if digest != pin.lower():
        said = "cannot be read" if digest is None else f"SHA-256 is {digest}"
        raise WeightsError(f"{role}: {path}: {said}, {pin.lower()} is asked for by its pin; this is another file")
    return path


def load(path: Path, *, parts: tuple[str, ...] | None = None) -> Weights:
    """Read a weight file of any kind that `checkpoints.read` knows.

    Of a large file that is not safetensors a converted copy is kept in the store and read from then on,
    as long as it belongs to exactly this file.

    Args:
        path: a regular file.
        parts: what the names of the wanted tensors begin with, as for `checkpoints.read`.

    Raises:
        WeightsError: missing, not a regular file, damaged, refused, not a mapping of tensors, or with a NaN or an
            infinity in one of them. ResourceError: no room to unpack an archive.
    """
    try:
        with opened(path) as file:
            head = file.read(9)
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    _check_manifest(path, digest)
    large = size > _LARGE and not checkpoints.is_safetensors(head)
    loaded = _load_large(path, digest, parts) if large else Weights(path, digest, *_read(path, parts))
    if (name := damaged(loaded.state.items())) is not None:  # would end as a picture of nothing, or in its midst
        raise WeightsError(f"{path}: {name} holds NaN or infinite numbers; fetch or export it again")
    return loaded


def _read(path: Path, parts: tuple[str, ...] | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    return checkpoints.read(path) if parts is None else checkpoints.read(path, parts=parts)


def _load_large(path: Path, digest: str, parts: tuple[str, ...] | None) -> Weights:
    """Through the converted copy, which is made first where there is none or a damaged one."""
    from vqclip.weights import convert, store  # most runs use small files

    choice = "" if parts is None else f"-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}"
    copy = store.home() / "converted" / f"{digest[:16]}{choice}.safetensors"
    if copy.is_file():
        try:
            state, metadata = _read(copy, parts)
        except WeightsError:
            state, metadata = {}, {}
        claimed = metadata.pop("tensors_sha256", "")
        if metadata.get("source_sha256") == digest and convert.digest_of(state) == claimed:
            return Weights(path, digest, state, metadata)
    state, metadata = _read(path, parts)
    try:
        metadata = _facts(state, metadata, path, digest, parts)
        convert.write(state, copy, metadata)
    except (WeightsError, ResourceError):
        pass  # of an unknown layout, which whoever builds the model reports; or no space, and the copy is a mere help
    return Weights(path, digest, state, metadata)


def _facts(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path, digest: str, parts: tuple[str, ...] | None
) -> dict[str, str]:
    """What a converted copy says of itself; of chosen parts only where they come from."""
    from vqclip.weights import convert

    if parts is None:
        return convert.describe(state, metadata, name=path.name, sha256=digest)
    facts = {"format": convert.FORMAT, "kind": "parts", "parts": " ".join(parts)}
    return {**metadata, **facts, "source": path.name, "source_sha256": digest}


def _check_manifest(path: Path, digest: str) -> None:
    """Starter files must be the ones that shipped: safetensors itself notices no flipped bit."""
    if path.parent != STARTER:
        return
    manifest = STARTER / "manifest.json"
    try:
        expected = dict(json.loads(manifest.read_text("utf-8"))).get(path.name)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise WeightsError(f"{manifest}: {why}, so {path.name} cannot be checked; reinstall vqclip") from error
    if expected != digest:
        raise WeightsError(
            f"{path}: SHA-256 is {digest[:12]}..., shipped was {str(expected)[:12]}...; reinstall vqclip"
        )
