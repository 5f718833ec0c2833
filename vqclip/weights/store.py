"""Where fetched weights live: finds them, there and in the caches of other programs, checks and fetches them.

Reads no tensor, and leaves the network to fetch.py. What other programs keep is used and never written to.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import platformdirs
from filelock import FileLock

from vqclip.job import ResourceError, WeightsError
from vqclip.weights import fetch
from vqclip.weights.answer import Progress
from vqclip.weights.catalogue import Entry
from vqclip.weights.regular import opened

_SWITCHES = ("VQCLIP_OFFLINE", "HF_HUB_OFFLINE")
_ON = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Status:
    """What is on this machine, by size alone. `path` is the file, or None without one.

    "here" in the store, "shared" in the cache of another program, "partial" after an interrupted
    download, "damaged" with a size that cannot be, "missing".
    """

    state: Literal["here", "shared", "partial", "damaged", "missing"]
    path: Path | None = None


def home() -> Path:
    """The folder of the store: VQCLIP_HOME, or the user's cache folder of this system."""
    given = os.environ.get("VQCLIP_HOME")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("vqclip", appauthor=False)


def path_of(entry: Entry) -> Path:
    """Where the store keeps the file of an entry, whether it is there or not."""
    return home() / "weights" / entry.file


def is_offline() -> bool:
    """Whether VQCLIP_OFFLINE or HF_HUB_OFFLINE forbids connections."""
    return any(os.environ.get(name, "").strip().lower() in _ON for name in _SWITCHES)


def expected(entry: Entry) -> str | None:
    """The SHA-256 that the file must have: the catalogue's, or the one pinned on first use, or None.

    Raises:
        WeightsError: the file with the pins is damaged.
    """
    return entry.sha256 or _pins().get(entry.name)


def status(entry: Entry) -> Status:
    """What is here of an entry, at a glance: no weights are read. `find` reads and checks.

    Raises:
        WeightsError: the file with the pins is damaged.
    """
    own = path_of(entry)
    if own.is_file():
        right = entry.size is None or own.stat().st_size == entry.size
        return Status("here" if right else "damaged", own)
    shared = next(_elsewhere(entry), None)
    if shared:
        return Status("shared", shared)
    return Status("partial" if own.with_name(f"{own.name}.part").is_file() else "missing")


def find(entry: Entry) -> Path | None:
    """The file of an entry with its SHA-256 checked, from the store or another program's cache; None without one.

    A file that the user put into the store for an entry without a known hash is pinned.

    Raises:
        WeightsError: the file in the store is damaged, or not the one pinned.
        ResourceError: the pin cannot be written.
    """
    own = path_of(entry)
    if own.is_file():
        _check(entry, own)
        return own
    wanted = expected(entry)
    return next((path for path in _elsewhere(entry) if digest_of(path) == wanted), None)


def locate(entry: Entry, *, offline: bool = False, on_progress: Progress | None = None, renew: bool = False) -> Path:
    """The checked file of an entry; fetched first if it is nowhere on this machine.

    Several processes may ask for the same file: one fetches, the others wait for it.

    Args:
        entry: of the catalogue.
        offline: fetch nothing, as VQCLIP_OFFLINE=1 and HF_HUB_OFFLINE=1 do.
        on_progress: called with the bytes so far and in all.
        renew: fetch a damaged file of the store again, instead of refusing it.

    Raises:
        WeightsError: damaged, not to be fetched, or missing and offline. ResourceError: no space.
    """
    found = _find_or_renew(entry, renew=renew)
    if found:
        return found
    own = path_of(entry)
    if offline or is_offline():
        raise WeightsError(
            f"{entry.name}: not on this machine, and offline; run `vqclip models get {entry.name}` with a "
            f"connection, or put the file at {own}"
        )
    with _lock(entry.file):
        found = _find_or_renew(entry, renew=renew)  # another process may have fetched it meanwhile
        if found:
            return found
        wanted = expected(entry)
        digest = fetch.download(
            entry.urls, own, size=entry.size, sha256=wanted, on_progress=on_progress, limit=entry.most
        )
        if wanted is None:
            _pin(entry, digest)
    return own


def _find_or_renew(entry: Entry, *, renew: bool) -> Path | None:
    try:
        return find(entry)
    except WeightsError:
        if renew:
            return None
        raise


def _check(entry: Entry, path: Path) -> None:
    digest, wanted = digest_of(path), expected(entry)
    if digest is None:
        raise WeightsError(f"{path}: cannot be read; check its permissions")
    if wanted is None:
        _pin(entry, digest)
    elif digest != wanted:
        whence = "" if entry.sha256 else f" pinned in {_pins_path()}"
        raise WeightsError(
            f"{path}: SHA-256 is {digest[:12]}..., {wanted[:12]}...{whence} is expected; "
            f"`vqclip models get {entry.name}` fetches it again"
        )


def digest_of(path: Path) -> str | None:
    """The SHA-256 of a file (hex), None if it cannot be read."""
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _elsewhere(entry: Entry) -> Iterator[Path]:
    """Files of other programs that may be this one: a known hash, and the right size where that is known."""
    wanted = expected(entry)
    if wanted is None:
        return
    for path in _shared_places(entry, wanted):
        if path.is_file() and entry.size in (None, path.stat().st_size):
            yield path


def _shared_places(entry: Entry, sha256: str) -> Iterator[Path]:
    cache = _folder("XDG_CACHE_HOME", Path("~/.cache"))
    names = dict.fromkeys([entry.file, *(Path(urlsplit(url).path).name for url in entry.urls)])
    folders = [_folder("TORCH_HOME", cache / "torch") / "hub" / "checkpoints"]
    if entry.kind == "clip":
        folders.insert(0, _folder("CLIP_HOME", Path("~/.cache/clip")))  # openai-clip ignores XDG_CACHE_HOME
    for folder in folders:
        yield from (folder / name for name in names if name)
    hub = _folder("HF_HUB_CACHE", _folder("HF_HOME", cache / "huggingface") / "hub")
    for blob in hub.glob(f"models--*/blobs/{sha256}"):  # large files are stored there under their SHA-256
        links = (link for link in blob.parent.parent.glob("snapshots/*/**/*") if link.is_file())
        yield next((link for link in links if link.resolve() == blob.resolve()), blob)


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser()


def _pins_path() -> Path:
    return home() / "pins.json"


def _pins() -> dict[str, str]:
    """SHA-256 by entry name, of files whose publisher names none."""
    try:
        pins = json.loads(_pins_path().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{_pins_path()}: cannot be read; delete it, and files are pinned anew") from error
    if not isinstance(pins, dict) or not all(isinstance(value, str) for value in pins.values()):
        raise WeightsError(f"{_pins_path()}: not a list of hashes; delete it, and files are pinned anew")
    return pins


def _pin(entry: Entry, sha256: str) -> None:
    from vqclip.images import replace_file

    with _lock("pins"):
        pins = {entry.name: sha256} | _pins()  # who came first counts
        try:
            replace_file(_pins_path(), (json.dumps(pins, indent=2, sort_keys=True) + "\n").encode())
        except OSError as error:
            raise ResourceError(f"{_pins_path()} cannot be written ({error.strerror or error})") from error


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Hold the lock of that name among processes; wait for it as long as it takes."""
    path = home() / "locks" / f"{name}.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ResourceError(
            f"{path} cannot be written ({error.strerror or error}); set VQCLIP_HOME to a folder that can"
        ) from error
    try:
        yield
    finally:
        lock.release()
