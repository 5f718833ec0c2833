"""The system's viewer: which program is asked, and what its answer means; notebooks."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from vqclip import viewer


def stand_in(folder: Path, name: str, body: str) -> Path:
    """A program in a folder of its own that does `body`."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("environ", "found"),
    [({}, False), ({"DISPLAY": ""}, False), ({"DISPLAY": ":0"}, True), ({"WAYLAND_DISPLAY": "wayland-0"}, True)],
)
def test_a_display_and_its_opener_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *, found: bool
) -> None:
    program = stand_in(tmp_path / "bin", "xdg-open", "exit 0")
    monkeypatch.setenv("PATH", str(program.parent))
    assert viewer.opener("linux", environ) == (str(program) if found else None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert viewer.opener("linux", environ) is None


def test_other_systems_have_their_own_opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = stand_in(tmp_path / "bin", "open", "exit 0")
    monkeypatch.setenv("PATH", str(program.parent))
    assert viewer.opener("darwin", {}) == str(program)


@pytest.mark.parametrize(
    ("body", "patience", "shown"),
    [('printf %s "$1" > "$0.asked"', 60, True), ("exit 3", 60, False), ("exec sleep 5", 0.1, True)],
    ids=["opens", "finds no viewer", "is the viewer"],
)
def test_the_openers_answer_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, patience: float, *, shown: bool
) -> None:
    program = stand_in(tmp_path / "bin", "xdg-open", body)
    monkeypatch.setattr(viewer, "opener", lambda _platform, _environ: str(program))
    monkeypatch.setattr(viewer, "PATIENCE", patience)
    monkeypatch.chdir(tmp_path)
    assert viewer.show(Path("-rf.png")) is shown
    if "asked" in body:
        assert (tmp_path / "bin" / "xdg-open.asked").read_text() == str(tmp_path / "-rf.png")  # never an option


def test_nothing_to_ask_and_a_broken_opener_show_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in (None, str(tmp_path / "gone")):
        monkeypatch.setattr(viewer, "opener", lambda _platform, _environ, program=program: program)
        assert not viewer.show(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("shell", "expected"),
    [(None, False), (types.SimpleNamespace(), False), (types.SimpleNamespace(kernel=object()), True)],
    ids=["plain Python beside an imported IPython", "IPython in a terminal", "notebook"],
)
def test_a_notebook_is_an_ipython_with_a_kernel(
    monkeypatch: pytest.MonkeyPatch, shell: object, *, expected: bool
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert viewer.in_notebook() is expected


def test_without_ipython_there_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert viewer.in_notebook() is False
    assert "IPython" not in sys.modules
