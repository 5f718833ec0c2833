"""Downloads one file from a list of mirrors: the only file of the package that talks to the network.

Knows no model, no cache and no lock. Sends nothing but the request: no cookies, tokens or counters.
"""

from __future__ import annotations

import socket
import ssl
import string
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from typing import cast
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from vqclip import __version__
from vqclip.job import WeightsError
from vqclip.weights import paced
from vqclip.weights.answer import LIMIT, LONGEST, MirrorError, Order, PassingError, Progress, receive
from vqclip.weights.part import DamagedError, Part

ATTEMPTS = 4  # at one mirror, in a row and without getting further
REDIRECTS = 5
ADVANCE = 2**20  # bytes that count as getting further
TIMEOUT = 30.0  # seconds without a byte

_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_WAIT = 30.0  # seconds


def download(
    urls: Sequence[str],
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    on_progress: Progress | None = None,
    timeout: float = TIMEOUT,
    limit: int = LIMIT,
    longest: float = LONGEST,
    offline: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Fetch `target` from the first of `urls` that gives it, and return its SHA-256 (hex).

    Interrupted downloads are kept beside the target and gone on with, at another mirror if need be. The
    target appears complete and checked, or not at all. One process at a time: the caller holds a lock.

    Args:
        urls: https addresses of the same bytes (http for this machine itself), tried in order.
        target: where the file shall lie; its folder is made.
        size: bytes expected, None if not known: then at most `limit` are taken.
        longest: seconds that a download of unknown size may take.
        sha256: hash expected, None if not known.
        on_progress: called with the bytes so far and in all.
        timeout: seconds without a byte after which a connection counts as dead; also one that brings less than 1 KB a
            second over twice that time, in its headers too.
        limit: bytes that are taken at most where `size` is not known.
        offline: refuse at once.
        sleep: waits between tries.

    Raises:
        WeightsError: no mirror gave the file, or `offline`. ResourceError: no space, or not writable.
    """
    if offline:
        raise WeightsError(f"{target.name} is not here and this is offline; connect, or put the file at {target}")
    order = Order(size, sha256, on_progress, timeout, limit, until=time.monotonic() + longest)
    problems = []
    with Part(target) as part:
        for url in urls:
            try:
                return _from_mirror(url, part, order, sleep)
            except MirrorError as problem:
                problems.append(f"{urlsplit(url).hostname}: {problem}")
        kept = f"{part.done / 1e6:.0f} MB are kept; " if part.done else ""
    reasons = "; ".join(problems) or "no address is known"
    raise WeightsError(
        f"{target.name} could not be fetched ({reasons}); {kept}try again later, or put the file at {target}"
    )


def _from_mirror(url: str, part: Part, order: Order, sleep: Callable[[float], None]) -> str:
    """Try until the file is there, the mirror is given up, or it stops getting further."""
    best, failures = part.done, 0
    while True:
        resumed = part.done > 0
        wait = None
        try:
            _transfer(url, part, order)
            return part.install(order.sha256)
        except DamagedError as problem:
            if not resumed:
                raise MirrorError(str(problem)) from problem
            reason = str(problem)  # the bytes kept may have been the bad ones
        except PassingError as problem:
            reason, wait = str(problem), problem.wait
        except (OSError, HTTPException, ValueError) as problem:
            reason = _passing_reason(problem)
        failures += 1
        if part.done >= best + ADVANCE:
            best, failures = part.done, 1
        if failures >= ATTEMPTS:
            raise MirrorError(f"{reason}, {ATTEMPTS} times")
        sleep(min(2.0 ** (failures - 1) if wait is None else wait, _LONGEST_WAIT))


def _passing_reason(problem: Exception) -> str:
    """Why a connection broke, if another may do better; raises MirrorError if none will."""
    cause = problem.reason if isinstance(problem, URLError) else problem
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise MirrorError(f"its certificate is not valid ({cause.verify_message})") from problem
    if isinstance(cause, socket.gaierror):
        raise MirrorError("no such host, or no connection") from problem
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    broken = isinstance(cause, ConnectionError | HTTPException | ssl.SSLError)
    if broken and not isinstance(cause, ConnectionRefusedError | ValueError):
        return "the connection was cut"
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    raise MirrorError(text.splitlines()[0][:120]) from problem


def _transfer(url: str, part: Part, order: Order) -> None:
    """One request: whatever arrives goes to the part. Returns when the part is complete."""
    if part.done > (order.limit if order.size is None else order.size):
        part.clear()
    if part.done and part.done == order.size:
        return
    headers = part.resume(url, sha256=order.sha256)
    part.check_space(order.size)
    with _open(url, headers, order.timeout) as answer:
        receive(url, answer, part, order)


def _open(url: str, headers: dict[str, str], timeout: float) -> HTTPResponse:
    """The answer to a GET after at most five redirects, whatever its status."""
    at_home = _is_loopback(url)
    headers = {"User-Agent": f"vqclip/{__version__}", "Accept-Encoding": "identity"} | headers
    for _ in range(REDIRECTS + 1):
        scheme = urlsplit(url).scheme
        if scheme != "https" and not (at_home and scheme == "http" and _is_loopback(url)):
            raise MirrorError(f"{scheme or 'an address without scheme'}: only https is allowed")
        opener = OpenerDirector()  # no file:, ftp: or data:, no cookies, and redirects only as below
        for handler in (_Plain(), _Encrypted(), *([] if at_home else [ProxyHandler()])):
            opener.add_handler(handler)
        request = Request(url, headers=headers)  # noqa: S310  # the scheme was checked above
        answer = cast(HTTPResponse, opener.open(request, timeout=timeout))
        if answer.status not in _REDIRECTS:
            return answer
        answer.close()
        place = answer.headers.get("Location")
        if not place:
            raise MirrorError("a redirect without an address")
        url = urljoin(url, quote(place, safe=string.punctuation, encoding="iso-8859-1"))
    raise MirrorError(f"more than {REDIRECTS} redirects")


class _Plain(HTTPHandler):
    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(paced.Plain, req)


class _Encrypted(HTTPSHandler):
    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(paced.Encrypted, req)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
