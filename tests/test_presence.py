"""Who works in a folder: locks that go with their process, signs of life, and planted lock files."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vqclip.job import InputError, ResourceError
from vqclip.record import presence

HOLDING = """
import sys
from pathlib import Path
from vqclip.record.presence import held
with held(Path(sys.argv[1]), "this run"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder until it reads a line."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def running(folder: Path, **process: object) -> dict[str, object]:
    """What run.json says of a run of this host, or of the `process` given."""
    facts = {"status": "running", "process": {"id": 1, "host": platform.node(), **process}}
    (folder / "run.json").write_text(json.dumps(facts))
    return facts


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_a_folder_is_held_as_long_as_its_process_lives(tmp_path: Path, end: str) -> None:
    facts = running(tmp_path)
    child = holder(tmp_path)
    host = platform.node()
    with pytest.raises(InputError) as caught, presence.held(tmp_path, "this run"):
        pass
    assert str(caught.value) == f"{tmp_path}: another process ({child.pid} on {host}) works on this run"
    assert presence.in_use(tmp_path)
    assert not presence.is_dead(tmp_path, facts)
    if end == "killed":
        child.kill()
    child.communicate("end\n")
    assert not presence.in_use(tmp_path)
    assert presence.is_dead(tmp_path, facts)
    assert (tmp_path / presence.LOCK).exists() == (end == "killed")
    with presence.held(tmp_path, "this run"):
        assert presence.in_use(tmp_path)
    assert not (tmp_path / presence.LOCK).exists()


def test_a_lock_that_is_a_link_or_a_pipe_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / presence.LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(ResourceError, match=r"\.lock cannot be written \(it is a link\)"), presence.held(tmp_path, "x"):
        pass
    assert not presence.in_use(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"
    (tmp_path / presence.LOCK).unlink()
    os.mkfifo(tmp_path / presence.LOCK)
    with pytest.raises(ResourceError, match="not a regular file"), presence.held(tmp_path, "x"):
        pass
    assert not presence.in_use(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"\.lock cannot be written \(No such file"):
        presence.held(tmp_path / "gone", "x").__enter__()


@pytest.mark.parametrize(("age", "dead"), [(0, False), (presence.SILENCE + 30, True)])
def test_of_another_host_the_signs_of_life_decide(tmp_path: Path, age: float, *, dead: bool) -> None:
    facts = running(tmp_path, host="elsewhere.invalid")
    then = time.time() - age
    os.utime(tmp_path / "run.json", (then, then))
    assert presence.is_dead(tmp_path, facts) == dead


def test_of_a_run_that_names_no_process_nothing_is_known(tmp_path: Path) -> None:
    assert not presence.is_dead(tmp_path, {"status": "running"})
    assert not presence.is_dead(tmp_path, {"status": "running", "process": "me"})


def test_signs_of_life_are_given_until_the_block_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BEAT", 0.01)
    path = tmp_path / "run.json"
    path.write_text("{}")
    os.utime(path, (1, 1))
    with presence.beating(path):
        deadline = time.monotonic() + 30
        while path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert path.stat().st_mtime > time.time() - 60
    os.utime(path, (1, 1))
    time.sleep(0.1)
    assert path.stat().st_mtime == 1
    with presence.beating(tmp_path / "gone"):  # never fails
        time.sleep(0.05)


def test_a_stopped_process_still_holds_its_folder(tmp_path: Path) -> None:
    child = holder(tmp_path)
    os.kill(child.pid, signal.SIGSTOP)
    assert presence.in_use(tmp_path)
    os.kill(child.pid, signal.SIGCONT)
    child.communicate("end\n")
    assert not presence.in_use(tmp_path)
