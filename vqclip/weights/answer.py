"""Judges the answers of a file server and streams their bytes into a part. Opens no connection and tries once."""

from __future__ import annotations

import math
import string
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPResponse

from vqclip.weights.part import Part

LIMIT = 16 * 2**30  # bytes, of a file of which nothing at all is known
CHUNK = 2**18
LONGEST = 12 * 3600.0  # seconds that a file of unknown size may take: it may have no end, at whatever pace
STRIDE = 2**26  # bytes, of a file of unknown size, between two looks at the room on the disk

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if known

_PASSING = (408, 425, 429, 500, 502, 503, 504)
_NOT_WEIGHTS = ("text/", "application/json", "application/xml", "application/xhtml", "multipart/")
_TEXT = frozenset(bytes(string.printable, "ascii"))


class MirrorError(Exception):
    """This mirror will not give the file."""


class PassingError(Exception):
    """Another try at the same mirror may work, after `wait` seconds if the server named a time."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Order:
    """What is wanted: size in bytes and SHA-256 where known, who is told, seconds until a silence is a stall.

    `limit`: bytes that are taken at most where the size is not known, and `until` when.
    """

    size: int | None
    sha256: str | None
    on_progress: Progress | None
    timeout: float
    limit: int = LIMIT
    until: float = math.inf  # time.monotonic() at which a file of unknown size has taken too long


def receive(url: str, answer: HTTPResponse, part: Part, order: Order) -> None:
    """Take what `answer`, to a request of `url` with the headers of `part.resume`, brings of the file.

    Returns when the part is complete. The part is replaced only by bytes that may be weights.

    Raises:
        MirrorError, PassingError: as said there. OSError, HTTPException: the connection broke.
    """
    if answer.status == 416 and _is_complete(answer, part, order):
        return
    _check(answer)
    total = _range_total(url, answer, part) if answer.status == 206 else answer.length
    if total is None and not answer.chunked and order.size is None and order.sha256 is None:
        raise MirrorError("does not say how long the file is")
    if total is not None and order.size is not None and total != order.size:
        raise MirrorError(f"offers {total} bytes, {order.size} are expected")
    if total is not None and order.size is None and not 0 < total <= order.limit:
        raise MirrorError(f"offers {total} bytes, 1 to {order.limit} are taken")
    _copy(url, answer, part, total if order.size is None else order.size, order=order)


def _is_complete(answer: HTTPResponse, part: Part, order: Order) -> bool:
    """Whether 416 means that nothing is missing; otherwise the part cannot be gone on with."""
    total = _number((answer.headers.get("Content-Range") or "").removeprefix("bytes */"))
    if part.done and total == part.done and order.size in (None, total):
        return True
    if not part.done:
        raise MirrorError("HTTP 416 to a request for everything")
    part.clear()
    raise PassingError("the part could not be gone on with")


def _check(answer: HTTPResponse) -> None:
    """Refuse an answer that is no file."""
    if answer.status in _PASSING:
        raise PassingError(f"HTTP {answer.status}", _number(answer.headers.get("Retry-After")))
    if answer.status not in (200, 206):
        raise MirrorError(f"HTTP {answer.status}")
    kind = answer.headers.get("Content-Type", "").lower()
    if kind.startswith(_NOT_WEIGHTS):
        raise MirrorError(f"gives a page ({kind.split(';')[0][:40]}), no weights")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise MirrorError("gives the file in another encoding")


def _range_total(url: str, answer: HTTPResponse, part: Part) -> int | None:
    """Bytes of the whole file, from a 206 that goes on exactly where the part ends."""
    if not part.done:
        raise MirrorError("gives a piece of the file where all of it was asked for")
    span, _, total = (answer.headers.get("Content-Range") or "").removeprefix("bytes ").partition("/")
    if _number(span.partition("-")[0]) != part.done or part.is_other(url, etag=answer.headers.get("ETag")):
        part.clear()
        raise PassingError("another piece or another file came than was asked for")
    return _number(total) or (part.done + answer.length if answer.length is not None else None)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None


def _copy(url: str, answer: HTTPResponse, part: Part, total: int | None, *, order: Order) -> None:
    fresh = answer.status == 200
    limit, looked = (order.limit if total is None else total), part.done
    head = _head(answer) if fresh else b""
    if head:
        _begin(url, answer, part, head, total)
    elif fresh:
        raise PassingError("the connection was cut")
    while chunk := head or answer.read1(CHUNK):  # one read of the socket: what came before a stall is not lost
        head = b""
        if part.done + len(chunk) > limit:
            part.clear()
            raise MirrorError(f"sends more than {limit} bytes")
        if total is None and time.monotonic() > order.until:
            part.clear()
            raise MirrorError("does not come to an end")
        if total is None and part.done >= looked:
            looked = part.done + STRIDE
            part.check_space(looked)
        part.write(chunk)
        if order.on_progress:
            order.on_progress(part.done, total)
    if total is not None and part.done < total:
        raise PassingError("the connection was cut")


def _head(answer: HTTPResponse) -> bytes:
    """The first 64 bytes, fewer of a shorter body: networks cut anywhere."""
    head = b""
    while len(head) < 64 and (chunk := answer.read1(64 - len(head))):
        head += chunk
    return head


def _begin(url: str, answer: HTTPResponse, part: Part, head: bytes, total: int | None) -> None:
    """Throw away what was kept, for the bytes of a whole file."""
    if all(byte in _TEXT for byte in head):  # an error page, or the pointer of a large-file store
        raise MirrorError("gives a text, no weights")
    part.clear()
    part.check_space(total)
    part.note(url, etag=answer.headers.get("ETag"), modified=answer.headers.get("Last-Modified"))
