"""HTTP connections whose answers keep a pace or count as stalled, from their first byte on: headers, frames, body.

A socket's own timeout begins anew with every byte, so that a server which sends one now and then is waited for without
end, also where no body is asked of it: in a line of its headers, in the size of a chunk, after the last one.
"""

from __future__ import annotations

import io
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import IO, Any, Protocol

SLOWEST = 1024  # bytes a second, over a window of twice the timeout; slower is stalled
OVERHEAD = 2**20  # bytes that headers may take, or frames between two pieces of a body


class _Socket(Protocol):
    """What is used of a socket, plain or encrypted."""

    def makefile(self, mode: str, buffering: int) -> IO[bytes]: ...

    def gettimeout(self) -> float | None: ...


class Paced(io.RawIOBase):
    """What a socket receives, read in order; raises TimeoutError when too little came in the time it was waited for.

    Only waiting counts: a slow disk behind the reader is no fault of the server's. `allowance`: bytes that may come
    until it is renewed; HTTPException beyond.
    """

    def __init__(self, source: _Socket) -> None:
        self._source: Any = source.makefile("rb", buffering=0)
        timeout = source.gettimeout()
        self._window = float("inf") if timeout is None else 2 * timeout
        self._waited, self._came = 0.0, 0
        self.allowance = OVERHEAD

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, room: Any) -> int:
        """Bytes received into `room`; 0 at the end."""
        begun = time.monotonic()
        count = int(self._source.readinto(room))
        self._waited += time.monotonic() - begun
        self._came += count
        self.allowance -= count
        if self.allowance < 0:
            raise HTTPException("headers or frames without end")
        if self._waited > self._window:
            if count and self._came < SLOWEST * self._waited:
                raise TimeoutError
            self._waited, self._came = 0.0, 0
        return count

    def close(self) -> None:
        """Let go of the socket."""
        self._source.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: _Socket, *rest: Any, **named: Any) -> None:
        self._paced = Paced(sock)
        super().__init__(_Reader(self._paced), *rest, **named)  # type: ignore[arg-type]  # asked for its file alone

    def read1(self, n: int = -1) -> bytes:
        self._paced.allowance = max(n, 0) + OVERHEAD
        return super().read1(n)


class _Reader:
    """What an HTTPResponse wants of a socket."""

    def __init__(self, source: Paced) -> None:
        self._source = source

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._source)


class Plain(HTTPConnection):
    """An HTTPConnection with paced answers."""

    response_class = _Response


class Encrypted(HTTPSConnection):
    """An HTTPSConnection with paced answers."""

    response_class = _Response
