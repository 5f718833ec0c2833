"""How a run shows itself: a bar, plain lines, JSON lines or a picture in the terminal. Writes no files.

Notes and progress go to stderr, the paths of what was made to stdout; JSON goes to stdout alone. A reader
that goes away or a log on a full disk silences the display and never the run.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from vqclip.cli.terminal import half_blocks, terms_line, verdict_line
from vqclip.config.document import clean
from vqclip.job import Job, Result, Step

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

KINDS = ("auto", "rich", "plain", "json", "none")
PREVIEWS = ("none", "ansi")
MAX_LINES = 40  # of a terminal picture
Clock = Callable[[], float]


class Quiet:
    """No progress: notes unless told otherwise, and the paths at the end. The others build on it."""

    def __init__(self, out: IO[str], err: IO[str], *, notes: bool = True, clock: Clock = time.monotonic) -> None:
        self._out, self._err = out, err
        self._notes = notes
        self._clock = clock
        self._place = ""
        self._begun = 0.0
        self.lost = False  # whether something could not be written

    def note(self, message: str) -> None:
        if self._notes:
            self._write(self._err, f"vqclip: {clean(message)}\n")

    def begin(self, job: Job, folder: Path, total_pictures: int, number: int) -> None:
        self._place = f"[{number}/{total_pictures}] " if total_pictures > 1 else ""
        self._begun = self._clock()
        self.note(f"{self._place}{job.title} -> {folder}")

    def step(self, step: Step, terms: Mapping[str, float] | None) -> None:
        pass

    def end(self, result: Result) -> None:
        self.note(f"{self._place}{result.steps} steps in {result.seconds:.1f} s")
        if result.verdict:
            self.note(f"{self._place}{verdict_line(result.verdict)}")
        self._write(self._out, "".join(f"{path}\n" for path in written(result)))

    def close(self) -> None:
        """Leave the terminal as it was. Safe to call twice."""

    def _write(self, stream: IO[str], text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:  # the reader is gone, of which the command line sees by itself
            pass
        except (OSError, ValueError):  # the disk of a log is full; ValueError: the stream is closed
            self.lost = True


class Plain(Quiet):
    """One line every few seconds, and one for the last step. For logs and dumb terminals."""

    seconds = 5.0

    def begin(self, job: Job, folder: Path, total_pictures: int, number: int) -> None:
        super().begin(job, folder, total_pictures, number)
        self._shown = self._begun
        self._first: int | None = None
        self._terms: Mapping[str, float] = {}

    def step(self, step: Step, terms: Mapping[str, float] | None) -> None:
        self._first = step.index if self._first is None else self._first
        self._terms = terms or self._terms
        if self._clock() - self._shown >= self.seconds or step.index == step.total:
            self._shown = self._clock()
            self._draw(step)

    def _draw(self, step: Step) -> None:
        self.note(self._status(step))

    def _status(self, step: Step) -> str:
        rate = (step.index - (self._first or 0)) / max(self._clock() - self._begun, 1e-9)
        ahead = (step.total - step.index) / rate if rate else math.inf
        wait = f"{ahead // 60:.0f}:{ahead % 60:02.0f}" if math.isfinite(ahead) else "-"
        head = f"{self._place}step {step.index}/{step.total}  {rate:.1f} steps/s  eta {wait}"
        return f"{head}  {terms_line(self._terms)}".rstrip()


class Preview(Plain):
    """The picture itself in half blocks (24-bit colour) above a status line, redrawn in place."""

    seconds = 0.4

    def begin(self, job: Job, folder: Path, total_pictures: int, number: int) -> None:
        super().begin(job, folder, total_pictures, number)
        self._above = 0  # lines to climb before the next drawing

    def note(self, message: str) -> None:
        self._above = 0
        super().note(message)

    def _draw(self, step: Step) -> None:
        columns, height = shutil.get_terminal_size()
        lines = half_blocks(step.image, columns=columns - 1, lines=min(MAX_LINES, max(height - 3, 1)))
        lines.append(self._status(step)[: columns - 1])
        climb = f"\x1b[{self._above}A" if self._above else ""
        self._write(self._err, climb + "".join(f"\r{line}\x1b[K\n" for line in lines))
        self._above = len(lines)


class Rich(Quiet):
    """A bar with rate, remaining time and the terms of the loss, drawn by rich."""

    def begin(self, job: Job, folder: Path, total_pictures: int, number: int) -> None:
        from rich import progress as parts
        from rich.console import Console

        self.close()  # of another picture, drawn beside this one
        super().begin(job, folder, total_pictures, number)
        self._bar: Bar | None = parts.Progress(
            parts.BarColumn(bar_width=24),
            parts.TextColumn("{task.completed}/{task.total}", markup=False),
            parts.TextColumn("{task.fields[rate]}", markup=False),
            parts.TimeRemainingColumn(compact=True),
            parts.TextColumn("{task.fields[terms]}", markup=False),
            console=Console(file=cast(IO[str], _Forgiving(self._err, self._write)), highlight=False),
            refresh_per_second=5,
        )
        self._line = ""
        self._task = self._bar.add_task("", total=job.steps, rate="", terms="")
        self._bar.start()

    def note(self, message: str) -> None:
        bar = getattr(self, "_bar", None)
        if bar and self._notes:
            bar.console.print(f"vqclip: {clean(message)}", markup=False, soft_wrap=True)
        else:
            super().note(message)

    def step(self, step: Step, terms: Mapping[str, float] | None) -> None:
        if self._bar:
            self._line = terms_line(terms) if terms else self._line
            rate = f"{step.index / max(self._clock() - self._begun, 1e-9):.1f}/s"
            self._bar.update(self._task, completed=step.index, rate=rate, terms=self._line)

    def end(self, result: Result) -> None:
        self.close()
        super().end(result)

    def close(self) -> None:
        """Take the bar off the screen; nothing to do before `begin` and the second time."""
        bar, self._bar = getattr(self, "_bar", None), None
        if bar:
            bar.stop()


class _Forgiving:
    """A stream for others to write to, which fails as silently as a display does."""

    def __init__(self, stream: IO[str], write: Callable[[IO[str], str], None]) -> None:
        self._stream, self._through = stream, write

    def write(self, text: str) -> int:
        self._through(self._stream, text)
        return len(text)

    def flush(self) -> None:
        self._through(self._stream, "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Json(Quiet):
    """One JSON object a line on stdout: begin, step, note, end. Numbers that are not finite are null."""

    def note(self, message: str) -> None:
        if self._notes:
            self._event("note", message=message)

    def begin(self, job: Job, folder: Path, total_pictures: int, number: int) -> None:
        self._event(
            "begin", picture=number, of=total_pictures, folder=str(folder), prompt=job.title,
            size=list(job.size), steps=job.steps, seed=job.seed,
        )  # fmt: skip

    def step(self, step: Step, terms: Mapping[str, float] | None) -> None:
        finite = None if terms is None else {name: _finite(value) for name, value in terms.items()}
        total = None if terms is None else _finite(sum(terms.values()))
        self._event("step", step=step.index, of=step.total, total=total, terms=finite)

    def end(self, result: Result) -> None:
        judged = vars(result.verdict) if result.verdict else None
        self._event(
            "end", folder=None if result.folder is None else str(result.folder), steps=result.steps,
            seconds=result.seconds, files=[str(path) for path in written(result)],
            terms={name: _finite(value) for name, value in result.terms.items()},
            verdict=judged and {name: _finite(value) for name, value in judged.items()},
        )  # fmt: skip

    def _event(self, event: str, **values: Any) -> None:
        self._write(self._out, json.dumps({"event": event, **values}) + "\n")


def choose(kind: str, *, preview: str, quiet: bool, out: IO[str], err: IO[str], environ: Mapping[str, str]) -> Quiet:
    """The display for `--progress`, `--preview` and `--quiet` on these streams.

    "auto" is a bar on a terminal and plain lines elsewhere. A preview needs a terminal with colour
    (no NO_COLOR, no TERM=dumb) and Unicode; without it a note says so and the progress stays.
    """
    if quiet:
        return Quiet(out, err, notes=False)
    terminal = err.isatty() and environ.get("TERM") != "dumb"
    if kind == "auto":
        kind = "rich" if terminal else "plain"
    made = {"rich": Rich, "plain": Plain, "json": Json, "none": Quiet}[kind]
    unicode = (getattr(err, "encoding", None) or "").lower().replace("-", "") == "utf8"
    if preview == "ansi" and kind != "json" and terminal and unicode and not environ.get("NO_COLOR"):
        made = Preview
    display = made(out, err)
    if preview == "ansi" and made is not Preview:
        display.note("no preview: it needs a colour terminal on stderr, and no --progress json")
    return display


def written(result: Result) -> list[Path]:
    """The picture, the videos and the page of a finished run, as far as they exist."""
    if result.folder is None:
        return []
    names = ("final.png", "progress.mp4", "progress.gif", "progress.webp", "report.html")
    return [result.folder / name for name in names if (result.folder / name).is_file()]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
