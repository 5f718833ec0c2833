"""An encoder that stops, dies or ends too early is said in time, and never outlives who feeds it."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from vqclip.record import stream
from vqclip.record.ffmpeg import EncoderError
from vqclip.record.stream import Stream

READS = "import sys; sys.stdin.buffer.read()"
LEAVES = "import sys; sys.stdin.buffer.read(1); sys.exit(3)"
FRAME = bytes(1 << 20)  # more than a pipe holds


def started(code: str) -> Stream:
    return Stream([sys.executable, "-c", code])


def gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_frame_goes_through_and_the_end_is_waited_for() -> None:
    made = started(READS)
    made.send(FRAME)
    made.close()
    assert gone(made._process.pid)


@pytest.mark.parametrize("at", ["a frame", "the end"])
def test_a_stopped_encoder_is_given_up(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.5)
    made = started(READS)
    os.kill(made._process.pid, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(EncoderError, match="did not answer in"):
        made.send(FRAME) if at == "a frame" else made.close()
    assert time.monotonic() - begun < 20
    assert gone(made._process.pid)


def test_a_killed_or_ended_encoder_is_said() -> None:
    made = started(READS)
    os.kill(made._process.pid, signal.SIGKILL)
    made._process.wait()
    with pytest.raises(EncoderError, match="the encoder was killed"):
        made.send(FRAME)
    made = started(LEAVES)
    with pytest.raises(EncoderError, match="the encoder"):
        made.send(FRAME * 4)
    made = started(LEAVES)
    made.send(b"x")
    with pytest.raises(EncoderError, match=r"the encoder ended \(3\)"):
        made.close()


def test_one_that_cannot_be_started_is_said(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="No such file"):
        Stream([tmp_path / "missing"])


def test_whoever_lets_go_of_it_ends_it() -> None:
    made = started(READS)
    process_id = made._process.pid
    del made
    gc.collect()
    assert gone(process_id)
    made = started(READS)
    made.kill()
    made.kill()
    assert gone(made._process.pid)
