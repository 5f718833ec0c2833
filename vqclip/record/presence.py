"""Says whether a process works in a folder: holds a lock there, shows signs of life, and reads those of others.

The lock is the system's and goes with its process, however that ends. Where a folder is shared between machines and
locks do not cross over, run.json tells the host, and its time of change, renewed every few seconds, the rest.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from vqclip.job import InputError, ResourceError

fcntl: Any
try:
    import fcntl
except ImportError:  # not POSIX: signs of life alone have to do
    fcntl = None

LOCK: Final = ".lock"
BEAT: Final = 5.0  # seconds between two signs of life
SILENCE: Final = 60.0  # seconds without one after which a process on another host counts as dead
_FLAGS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link is followed, no pipe waited for
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # file systems that have none


def process() -> dict[str, Any]:
    """This process as run.json names it: {"id", "host"}."""
    return {"id": os.getpid(), "host": platform.node()}


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process alone; its lock file is gone afterwards.

    `what` is what others are told that is worked on. Raises InputError when another process holds it, ResourceError
    when the folder cannot be written.
    """
    handle = _lock(folder / LOCK, what)
    try:
        yield
    finally:
        with suppress(OSError):  # first the name, then the lock: whoever comes between finds the lock held
            os.unlink(folder / LOCK)
        os.close(handle)


def _lock(path: Path, what: str) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else error.strerror or error
            raise ResourceError(f"{path} cannot be written ({reason})") from error
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ResourceError(f"{path} is not a regular file; remove it")
            if not _taken(handle, exclusive=True):
                raise InputError(f"{path.parent}: another process{_who(handle)} works on {what}")
            if _is(path, handle):  # else its holder has just ended and taken the name away
                os.ftruncate(handle, 0)
                os.write(handle, "{id} {host}\n".format(**process()).encode())
                return handle
        except OSError as error:
            os.close(handle)
            raise ResourceError(f"{path} cannot be written ({error.strerror or error})") from error
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _taken(handle: int, *, exclusive: bool) -> bool:
    """Take the lock of an open file; False when somebody else has it, True also where there are no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is(path: Path, handle: int) -> bool:
    """Whether a name still stands for an open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except OSError:
        return False


def _who(handle: int) -> str:
    """ " (1234 on host)" as the holder of a lock file wrote it there; "" when it did not."""
    with suppress(OSError, ValueError):
        number, host = os.pread(handle, 300, 0).decode("ascii").split()
        return f" ({int(number)} on {host})" if host.isprintable() else ""
    return ""


def in_use(folder: Path) -> bool:
    """Whether a process of this machine holds a folder. Writes nothing; what is no lock file holds nothing."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | _FLAGS)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(handle).st_mode) and not _taken(handle, exclusive=False)
    except OSError:
        return False
    finally:
        os.close(handle)


def is_dead(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the process of a run that says "running" has ended without a word: killed, or its machine went down.

    `facts` are what run.json says. Of a run whose process it does not name nothing is known: False.
    """
    named = facts.get("process")
    if not isinstance(named, Mapping) or in_use(folder):
        return False
    if fcntl is not None and named.get("host") == platform.node():
        return True
    try:
        return abs(time.time() - os.stat(folder / "run.json").st_mtime) > SILENCE
    except OSError:
        return True


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Renew the time of change of a file every few seconds, until the block is left. Never fails."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
