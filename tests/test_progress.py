"""Displays: what goes to which stream, how often, and that nothing from a prompt reaches the terminal raw."""

from __future__ import annotations

import errno
import io
import json
import math
import os
from pathlib import Path

import pytest
import torch

from vqclip.cli.progress import Json, Plain, Preview, Quiet, Rich, choose
from vqclip.job import Job, Prompt, Result, Step, Verdict

NASTY = "red\x1b[2J [bold]apple[/bold]\n\u202e"


class Screen(io.StringIO):
    """A text stream that says whether it is a terminal."""

    encoding = "utf-8"

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Gone(Screen):
    """A stream whose reader has left."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError


class Full(Screen):
    """A log on a disk without room."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Untouchable(dict[str, torch.Tensor]):
    """Loss terms on a device: reading one is the mistake."""

    def __getitem__(self, _name: str) -> torch.Tensor:
        raise AssertionError("a display read the device")

    __iter__ = items = values = __getitem__  # type: ignore[assignment]  # every way of reading is refused


class Clock:
    """Time that passes by a fixed amount each time it is read."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def play(display: Quiet, folder: Path, *, steps: int = 20) -> None:
    """A run of two pictures' second one, logged every other step."""
    job = Job((Prompt(NASTY),), steps=steps)
    display.begin(job, folder, 2, 2)
    for index in range(steps + 1):
        terms = {"include": 1.0 - index / 100, "exclude": -0.25} if index % 2 == 0 else None
        display.step(Step(index, steps, torch.rand(3, 16, 16), Untouchable()), terms)
    display.note("half\x1b[31m way")
    verdict = Verdict("starter", 3, 64, 0.25, None, 0.1)
    display.end(Result(job, torch.zeros(3, 4, 4), {"include": math.nan}, steps, 1.5, verdict, folder))
    display.close()
    display.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("final.png", "progress.mp4", "report.html", "run.json"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def shown_of(folder: Path) -> list[str]:
    """What is told to be there: the picture, the film and the page, in this order."""
    return [str(folder / name) for name in ("final.png", "progress.mp4", "report.html")]


@pytest.mark.parametrize("kind", [Quiet, Plain, Preview, Rich])
@pytest.mark.parametrize("terminal", [True, False])
def test_paths_go_to_stdout_and_nothing_raw_to_stderr(kind: type[Quiet], folder: Path, *, terminal: bool) -> None:
    out, err = Screen(), Screen(terminal=terminal)
    play(kind(out, err), folder)
    assert out.getvalue().splitlines() == shown_of(folder)
    shown = err.getvalue()
    for raw in ("\x1b[2J", "half\x1b", "\u202e"):
        assert raw not in shown
    assert "red\\x1b[2J [bold]apple[/bold]\\n\\u202e" in shown  # escaped, and no markup
    assert "half\\x1b[31m way" in shown
    assert "[2/2] 20 steps in 1.5 s" in shown
    assert "rank 3 of 64" in shown


def test_quiet_leaves_only_the_paths(folder: Path) -> None:
    out, err = Screen(), Screen(terminal=True)
    play(choose("auto", preview="ansi", quiet=True, out=out, err=err, environ={}), folder)
    assert err.getvalue() == ""
    assert out.getvalue().splitlines() == shown_of(folder)


def test_plain_lines_come_every_few_seconds_and_at_the_end(folder: Path) -> None:
    err = Screen()
    play(Plain(Screen(), err, clock=Clock(0.5)), folder, steps=100)
    lines = [line for line in err.getvalue().splitlines() if "step " in line]
    assert 10 <= len(lines) <= 25  # 101 steps of 0.5 s and more, a line every 5 s
    assert lines[-1].startswith("vqclip: [2/2] step 100/100  ")
    assert "eta 0:00" in lines[-1]
    assert "loss -0.250  include 0.000  exclude -0.250" in lines[-1]
    assert "steps/s" in lines[0]


def test_plain_keeps_the_last_logged_terms_and_survives_no_steps(folder: Path) -> None:
    err = Screen()
    play(Plain(Screen(), err), folder, steps=0)
    assert "step 0/0  0.0 steps/s  eta -  loss 0.750" in err.getvalue()
    err = Screen()
    play(Plain(Screen(), err), folder, steps=3)
    assert "step 3/3" in err.getvalue()
    assert "include 0.980" in err.getvalue()  # of step 2: step 3 was not logged


def test_json_is_one_event_a_line_on_stdout_only(folder: Path) -> None:
    out, err = Screen(), Screen()
    play(Json(out, err), folder, steps=2)
    events = [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]
    assert [each["event"] for each in events] == ["begin", "step", "step", "step", "note", "end"]
    assert events[0]["prompt"] == NASTY
    assert (events[0]["picture"], events[0]["of"], events[0]["folder"]) == (2, 2, str(folder))
    assert events[1]["terms"] == {"include": 1.0, "exclude": -0.25}
    assert events[1]["total"] == 0.75
    assert events[2]["terms"] is None
    assert events[-1]["terms"] == {"include": None}  # nan
    assert events[-1]["files"] == shown_of(folder)
    assert events[-1]["verdict"]["rank"] == 3
    assert out.getvalue().isascii()
    assert err.getvalue() == ""


def test_preview_redraws_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    err = Screen(terminal=True)
    play(Preview(Screen(), err, clock=Clock(0.3)), folder, steps=5)
    shown = err.getvalue()
    drawings = shown.split("\x1b[18A")  # 17 lines of picture and a status line
    assert len(drawings) > 3
    for drawing in drawings[1:-1]:
        assert drawing.count("\n") == 18
        assert drawing.count("▀") == 17 * 34
    assert "step 5/5" in drawings[-1]


def test_rich_shows_rate_and_terms_and_gives_the_cursor_back(folder: Path) -> None:
    err = Screen(terminal=True)
    play(Rich(Screen(), err), folder)
    shown = err.getvalue()
    assert "20/20" in shown
    assert "include 0.800" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


def test_rich_gives_the_cursor_back_after_an_error(folder: Path) -> None:
    err = Screen(terminal=True)
    display = Rich(Screen(), err)
    display.begin(Job((Prompt("a"),)), folder, 1, 1)
    display.close()
    assert err.getvalue().rfind("\x1b[?25h") > err.getvalue().rfind("\x1b[?25l")


@pytest.mark.parametrize("kind", [Quiet, Plain, Preview, Json, Rich])
def test_a_log_on_a_full_disk_never_stops_the_run(kind: type[Quiet], folder: Path) -> None:
    display = kind(Full(), Full(terminal=kind is Rich))
    play(display, folder)
    display.close()
    assert display.lost


@pytest.mark.parametrize("kind", [Quiet, Plain, Preview, Json, Rich])
def test_a_reader_that_left_never_stops_the_run(kind: type[Quiet], folder: Path) -> None:
    play(kind(Gone(), Gone()), folder)


@pytest.mark.parametrize(
    ("kind", "preview", "terminal", "environ", "expected"),
    [
        ("auto", "none", True, {"TERM": "xterm"}, Rich),
        ("auto", "none", True, {"TERM": "dumb"}, Plain),
        ("auto", "none", False, {"TERM": "xterm"}, Plain),
        ("auto", "none", True, {"TERM": "xterm", "NO_COLOR": "1"}, Rich),
        ("plain", "none", True, {}, Plain),
        ("none", "none", True, {}, Quiet),
        ("json", "ansi", True, {}, Json),
        ("auto", "ansi", True, {"TERM": "xterm"}, Preview),
        ("auto", "ansi", True, {"TERM": "xterm", "NO_COLOR": "1"}, Rich),
        ("auto", "ansi", True, {"TERM": "dumb"}, Plain),
        ("auto", "ansi", False, {"TERM": "xterm"}, Plain),
    ],
)
def test_the_streams_choose_the_display(
    kind: str, preview: str, environ: dict[str, str], expected: type[Quiet], *, terminal: bool
) -> None:
    out, err = Screen(), Screen(terminal=terminal)
    display = choose(kind, preview=preview, quiet=False, out=out, err=err, environ=environ)
    assert type(display) is expected
    assert ("no preview" in err.getvalue() + out.getvalue()) == (preview == "ansi" and expected is not Preview)


def test_a_terminal_without_unicode_gets_no_preview() -> None:
    err = Screen(terminal=True)
    err.encoding = "ascii"
    display = choose("auto", preview="ansi", quiet=False, out=Screen(), err=err, environ={"TERM": "xterm"})
    assert type(display) is Rich


def test_no_color_reaches_rich(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    err = Screen(terminal=True)
    play(Rich(Screen(), err), folder)
    assert "\x1b[9" not in err.getvalue()  # no bright colours
    assert "\x1b[3" not in err.getvalue()
