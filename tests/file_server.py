"""A file server on this machine that can fail in every way that real ones do, and a ban on all others."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vqclip.job import WeightsError
from vqclip.weights import fetch

Behaviour = Callable[["Visit"], None]
ETAG = '"first"'


def weights_like(size: int, seed: int = 0) -> bytes:
    """Bytes that no check takes for text."""
    return b"PK\x03\x04" + random.Random(seed).randbytes(size - 4)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


MB = 2**20
DATA = weights_like(2 * MB)
HASH = sha256(DATA)
OTHER = weights_like(2 * MB, seed=1)
HTML = b"<!doctype html><html><body>Sign in to this network</body></html>" * 30


class Server:
    """Answers each request of a path with the next of its behaviours; the last one stays."""

    def __init__(self) -> None:
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0  # bytes of bodies
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), lambda *rest: Visit(self, *rest))
        self._http.daemon_threads = True
        self._http.block_on_close = False
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    def offers(self, path: str, *behaviours: Behaviour) -> str:
        self.behaviours[path] = list(behaviours)
        return f"http://127.0.0.1:{self.port}{path}"

    def next(self, path: str, headers: dict[str, str]) -> Behaviour:
        with self._lock:
            self.requests.append((path, headers))
            queue = self.behaviours.get(path) or [status(404)]
            return queue.pop(0) if len(queue) > 1 else queue[0]

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()


class Visit(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *rest: Any) -> None:
        self.owner = server
        super().__init__(*rest)

    def do_GET(self) -> None:
        self.close_connection = True
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.owner.next(self.path, headers)(self)

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def body(self, data: bytes) -> None:
        self.owner.sent += len(data)  # before the client can have it
        try:
            self.wfile.write(data)
        except OSError:
            self.owner.sent -= len(data)  # the client has seen enough

    def log_message(self, *_: object) -> None:
        pass


def serve(
    data: bytes, *, etag: str | None = ETAG, modified: str | None = None, stop_at: int | None = None,
    then: str = "cut", kind: str = "application/octet-stream",
) -> Behaviour:  # fmt: skip
    """A good server with ranges and If-Range; with `stop_at`, one that cuts or stalls when it gets there."""

    def behave(visit: Visit) -> None:
        start, known = _start(visit), [etag, modified]
        condition = visit.headers.get("If-Range")
        if condition is not None and condition not in known:
            start = 0
        headers: dict[str, object] = {"Content_Type": kind}
        headers |= {"ETag": etag} if etag else {}
        headers |= {"Last_Modified": modified} if modified else {}
        if start >= len(data):
            visit.head(416, Content_Range=f"bytes */{len(data)}", Content_Length=0)
            return
        headers["Content_Length"] = len(data) - start
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        visit.head(206 if start else 200, **headers)
        visit.body(data[start:stop_at])
        if stop_at is not None and then == "stall":
            visit.wfile.flush()
            visit.owner.over.wait(30)

    return behave


def _start(visit: Visit) -> int:
    return int((visit.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))


def whole(data: bytes, code: int = 200, **headers: object) -> Behaviour:
    """The same answer whatever is asked for."""

    def behave(visit: Visit) -> None:
        visit.head(code, **({"Content_Length": len(data)} | headers))
        visit.body(data)

    return behave


def status(code: int, **headers: object) -> Behaviour:
    return whole(b"", code, **headers)


def chunked(data: bytes, *, end: bool = True, pieces: int = 7) -> Behaviour:
    """A body without a length; without `end` it breaks off inside a chunk."""

    def behave(visit: Visit) -> None:
        visit.head(200, Transfer_Encoding="chunked", ETag=ETAG)
        step = len(data) // pieces + 1
        for begin in range(0, len(data), step):
            piece = data[begin : begin + step]
            visit.body(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if end:
            visit.body(b"0\r\n\r\n")
        else:
            visit.body(b"ffff\r\nabc")

    return behave


def unframed(data: bytes) -> Behaviour:
    """A body that ends with the connection, as HTTP/1.0 has it."""

    def behave(visit: Visit) -> None:
        visit.head(200)
        visit.body(data)

    return behave


def drip(data: bytes, every: float) -> Behaviour:
    """One byte at a time, for ever."""

    def behave(visit: Visit) -> None:
        visit.head(200, Content_Length=len(data))
        for byte in data:
            if visit.owner.over.is_set():
                return
            visit.body(bytes([byte]))
            visit.wfile.flush()
            time.sleep(every)

    return behave


@contextmanager
def only_this_machine() -> Iterator[Server]:
    """A server, and no way to any other: names do not resolve, proxies are forgotten, connections fail the test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo

        def connect(self: socket.socket, address: Any) -> None:
            assert address[0] == "127.0.0.1", f"a connection to {address}"
            real_connect(self, address)

        def lookup(host: Any, *rest: Any, **named: Any) -> Any:
            if host != "127.0.0.1":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return real_lookup(host, *rest, **named)

        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", lookup)
        server = Server()
        try:
            yield server
        finally:
            server.close()


def get(urls: list[str], target: Path, **changes: Any) -> list[float]:
    """Download with size and hash known; returns the waits between tries instead of waiting."""
    waits: list[float] = []
    options = {"size": len(DATA), "sha256": HASH, "timeout": 5.0, "sleep": waits.append} | changes
    assert fetch.download(urls, target, **options) == sha256(target.read_bytes())
    return waits


def refused(urls: list[str], target: Path, **changes: Any) -> str:
    """The one-line message of a download that fails; nothing may be in place then."""
    before = target.read_bytes() if target.exists() else None
    with pytest.raises(WeightsError) as caught:
        get(urls, target, **changes)
    assert (target.read_bytes() if target.exists() else None) == before
    message = str(caught.value)
    assert message.isprintable()
    assert target.name in message
    return message


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def keep(target: Path, data: bytes, **notes: str) -> None:
    """As if an earlier download had been killed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part_of(target).write_bytes(data)
    if notes:
        target.with_name(f"{target.name}.part.json").write_text(json.dumps(notes))
