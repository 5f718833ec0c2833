"""One encoder process that is fed frames through a pipe, and that may not keep the run waiting."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vqclip.record.ffmpeg import EncoderError

PATIENCE: Final = 20.0  # seconds that one frame may take, or the end: a stopped encoder is given up then ...
_PER_BYTE: Final = 1e-7  # ... and so many more for each byte of a frame


class Stream:
    """`command` with frames at its standard input, in a process group of its own: Ctrl+C is for the run alone.

    Raises EncoderError, in one line, when it cannot be started, has ended, or does not take a frame in time; after
    either of the last two it is gone.
    """

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._late = False
        try:
            self._process = subprocess.Popen(  # noqa: S603  # an argument list, no shell
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                bufsize=0, process_group=0,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise EncoderError(getattr(error, "strerror", None) or type(error).__name__) from error

    def send(self, data: bytes | memoryview) -> None:
        """Hand over a frame; waits until the encoder has taken it."""
        rest, source = memoryview(data), self._process.stdin
        assert source is not None
        try:
            with self._watched(len(rest)):
                while rest:
                    rest = rest[source.write(rest) or 0 :]
        except (OSError, ValueError) as error:
            self.kill()
            raise EncoderError(self._why()) from error

    def close(self) -> None:
        """Tell the encoder that this was all, and wait for its end."""
        assert self._process.stdin is not None
        try:
            with self._watched():
                with suppress(OSError):
                    self._process.stdin.close()
                code = self._process.wait()
        finally:
            self.kill()
        if self._late or code:
            raise EncoderError(self._why())

    def kill(self) -> None:
        """End the encoder now, also a stopped one. Further calls change nothing."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def __del__(self) -> None:
        """Whoever lets go of an encoder ends it: in order where it can, by force where it cannot."""
        if hasattr(self, "_process") and self._process.poll() is None:
            with suppress(OSError, ValueError, subprocess.TimeoutExpired):
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process.wait(1)
            self.kill()

    @contextmanager
    def _watched(self, size: int = 0) -> Iterator[None]:
        """End the encoder when the block takes too long, which then fails: nothing else ends a write to a full pipe."""
        watch = threading.Timer(PATIENCE + _PER_BYTE * size, self._give_up)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _why(self) -> str:
        code = self._process.poll()
        if self._late:
            return f"the encoder did not answer in {PATIENCE:.0f} s"
        return "the encoder was killed" if code is not None and code < 0 else f"the encoder ended ({code})"
