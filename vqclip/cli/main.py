"""The command line: reads argv, calls the package, turns errors into one line and an exit code.

Whatever is heavy is imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import click

from vqclip import __version__
from vqclip.cli.doctor import doctor
from vqclip.cli.models import models
from vqclip.job import InputError, ResourceError, WeightsError

DONE, BAD_INPUT, BAD_WEIGHTS, NO_RESOURCES, INTERRUPTED, TERMINATED = 0, 2, 3, 4, 130, 143
_CODES = {InputError: BAD_INPUT, WeightsError: BAD_WEIGHTS, ResourceError: NO_RESOURCES}
_WIDTH, _VALUE, _ORIGIN = 120, 20, 20  # columns of a table, of a value in it and of where that came from
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # for every OpenMP; Intel's and LLVM's read the second
_WAITING_TOO = ("GOMP_SPINCOUNT", "KMP_LIBRARY")  # what else says how threads wait
_CPU_FULL = "DefaultCPUAllocator: can't allocate memory"  # torch has no class of its own for it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` default to sys.argv.

    0 done, 2 bad input, 3 missing or damaged weights, 4 out of memory or disk, 130 interrupted by Ctrl+C, 143 by
    another signal. Errors are one line on stderr; VQCLIP_DEBUG=1 adds the traceback. What is none of these is a bug
    and raises.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an ASCII terminal shows escapes instead of failing
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when torch loads; else CUDA repeats no sum
    _wait_asleep()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with commands.make_context("vqclip", words) as context:
            commands.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:  # --help and --version
        return end.exit_code
    except (Exception, KeyboardInterrupt) as problem:
        if isinstance(problem, BrokenPipeError) and _hang_up():
            return DONE
        explained = _explain(problem)
        if explained is None:
            raise
        if os.environ.get("VQCLIP_DEBUG") == "1":
            traceback.print_exc()
        from vqclip.config.document import clean

        with suppress(OSError):  # of a log that is full the exit code has to tell
            click.echo(f"vqclip: {clean(explained[1])}", err=True)
        _let_go(sys.stderr)
        return explained[0]
    return DONE


def _wait_asleep() -> None:
    """Let threads that wait for others sleep, unless the user has said how they wait. OpenMP asks as torch loads.

    They spin else, and where something else has one of the cores, they keep it from the thread that all wait for.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in (*_WAITING, *_WAITING_TOO)):
        os.environ |= _WAITING


def _hang_up() -> bool:
    """Whether the reader of stdout has gone (`| head`); what is still buffered for it goes nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    gone = any(state & (select.POLLERR | select.POLLHUP) for _, state in output.poll(0))
    if gone:  # left in place, the buffer would make the interpreter complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _let_go(stream: IO[str]) -> None:
    """Flush a stream; what it does not take goes nowhere."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()


def _explain(problem: BaseException) -> tuple[int, str] | None:
    """Exit code and line for an error that a user can meet, None for a bug."""
    for kind, code in _CODES.items():
        if isinstance(problem, kind):
            return code, f"error: {problem}"
    if isinstance(problem, click.ClickException):
        return BAD_INPUT, f"error: {problem.format_message()}"
    if _is_out_of_memory(problem):
        return NO_RESOURCES, "error: out of memory; a lower crops.chunk, crops.count or size needs less"
    if isinstance(problem, OSError) and problem.errno in _DISK_FULL:
        return NO_RESOURCES, f"error: no space left for {problem.filename or 'the output'}"
    runner = sys.modules.get("vqclip.run.picture")
    saved = runner is not None and isinstance(problem, runner.Interrupted)
    if saved or isinstance(problem, KeyboardInterrupt):
        by_hand = getattr(problem, "number", signal.SIGINT) == signal.SIGINT
        return INTERRUPTED if by_hand else TERMINATED, str(problem) or "interrupted"
    return None


def _is_out_of_memory(problem: BaseException) -> bool:
    torch = sys.modules.get("torch")
    on_device = torch is not None and isinstance(problem, torch.OutOfMemoryError)
    return on_device or isinstance(problem, MemoryError) or _CPU_FULL in str(problem)


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Tell the config file from the overrides: an argument with `=` that is no file is an override.

    Raises:
        InputError: two config files, or a value with spaces that was not quoted.
    """
    files = [each for each in arguments if "=" not in each or os.path.isfile(each)]
    for before, word in pairwise(arguments):
        if "=" in before and before not in files and word in files and not os.path.exists(word) and "." not in word:
            raise InputError(
                f"{word}: neither a config file that exists nor key=value; a value with spaces needs quotes, as in "
                f"'{before} {word}'"
            )
    if len(files) > 1:
        raise InputError(f"two config files, {files[0]} and {files[1]}; one is allowed, it can name others as `base`")
    return Path(files[0]) if files else None, [each for each in arguments if each not in files]


def _finite(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("a finite number is needed")
    return value


def _display_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --progress, --preview and --quiet, and give the command the display they choose."""

    @click.option("--progress", default="auto", type=click.Choice(["auto", "rich", "plain", "json", "none"]),
                  help="How to show progress; auto: a bar on a terminal, lines elsewhere.")  # fmt: skip
    @click.option("--preview", default="none", type=click.Choice(["none", "ansi"]),
                  help="ansi: draw the picture in the terminal while it grows.")  # fmt: skip
    @click.option("--quiet", is_flag=True, help="Only errors, and the paths of what was made.")
    @wraps(command)
    def wrapped(*, progress: str, preview: str, quiet: bool, **rest: Any) -> None:
        from vqclip.cli.progress import choose

        display = choose(progress, preview=preview, quiet=quiet, out=sys.stdout, err=sys.stderr, environ=os.environ)
        try:
            command(display=display, **rest)
        finally:
            display.close()
            if display.lost:  # what is still buffered for a full disk would fail again at exit, and not silently
                for stream in (sys.stdout, sys.stderr):
                    _let_go(stream)

    return wrapped


@click.group(invoke_without_command=True)
@click.version_option(__version__, prog_name="vqclip", message="%(prog)s %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Make pictures from words: CLIP steers the latents of a VQGAN."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command()
@click.argument("arguments", metavar="[CONFIG] [KEY=VALUE]...", nargs=-1)
@_display_options
def run(arguments: tuple[str, ...], display: Any) -> None:
    """Make the pictures of a CONFIG file, with KEY=VALUE settings on top.

    Without a file: vqclip run include="red apple" steps=200
    """
    from vqclip import config

    loaded = config.load(*split_arguments(arguments))  # bad input ends here, before torch is imported
    from vqclip.run import picture as runner

    runner.run(loaded, display)


@commands.command()
@click.argument("picture", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--trust", is_flag=True, help="Also take files, models and amounts that a stranger could misuse.")
@_display_options
def rerun(picture: Path, overrides: tuple[str, ...], *, trust: bool, display: Any) -> None:
    """Repeat the run that made PICTURE, from the settings inside its file."""
    from vqclip.run import picture as runner

    runner.rerun(picture, overrides, display, trust=trust)


@commands.command()
@click.argument("folders", metavar="RUN_FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--changed", is_flag=True, help="Go on although settings or weights have changed.")
@_display_options
def resume(folders: tuple[Path, ...], *, changed: bool, display: Any) -> None:
    """Go on with the interrupted run of each RUN_FOLDER, to the same end as if it had never stopped."""
    from vqclip.run import resume as runner

    runner.resume(folders, display, changed=changed)


@commands.command()
@click.argument("arguments", metavar="CONFIG|RUN... [KEY=VALUE]...", nargs=-1)
@_display_options
def compare(arguments: tuple[str, ...], display: Any) -> None:
    """Compare the variants of a CONFIG file, or finished RUN folders, on one page.

    The same command goes on with a comparison that was stopped.
    """
    from vqclip import config

    runs = [Path(each) for each in arguments if os.path.isdir(each)]
    rest = [each for each in arguments if not os.path.isdir(each)]
    files = [each for each in rest if "=" not in each or os.path.isfile(each)]
    if files and len(runs) + len(files) > 1:
        what = "a file" if os.path.isfile(files[0]) else "no such folder"
        raise InputError(f"{files[0]}: {what}; one config with variants, or two run folders and more, are compared")
    if runs:
        from vqclip.run import comparison

        made = comparison.compare_runs(runs, rest, display)
    else:
        loaded = config.load(*split_arguments(rest))  # bad input ends here, before torch is imported
        from vqclip.run import comparison

        made = comparison.compare(loaded, display)
    for name in ("report.html", "report.json", "contact-sheet.png"):
        click.echo(str(made.root / name))
    if not made.done:
        raise made.fault or InputError(f"{made.root}: none of these runs was finished; nothing is compared")
    if made.done < made.count:
        click.echo(f"vqclip: {made.count - made.done} of {made.count} pictures failed; report.html says why", err=True)


@commands.command()
@click.argument("folder", metavar="RUN_FOLDER", type=click.Path(path_type=Path))
@click.option("--seconds", type=click.FloatRange(0.1, 600), callback=_finite, help="Length in all; default: the run's.")
@click.option("--fps", type=click.IntRange(1, 120), help="Frames a second.")
@click.option("--hold", type=click.FloatRange(0, 60), callback=_finite,
              help="Seconds of it in which the final picture stays, half of it at most.")  # fmt: skip
@click.option("--smooth", type=click.FloatRange(0, 10), callback=_finite,
              help="Averaging over neighbouring steps; 0: each step as it is.")  # fmt: skip
@click.option("--scale", type=click.IntRange(1, 4), help="How many times as large as the picture.")
@click.option("--format", "form", type=click.Choice(["mp4", "gif", "webp"]), help="Default: as --output ends, or mp4.")
@click.option("--output", type=click.Path(path_type=Path), help="File to write; default: a new one beside the frames.")
def video(folder: Path, *, form: str | None, **options: Any) -> None:
    """Make the progress video of RUN_FOLDER again from its kept frames."""
    from vqclip.record.remake import reencode

    asked_to_stop: list[int] = []

    def stop(number: int, _frame: object) -> None:
        asked_to_stop.append(number)  # an exception is lost where Python is just starting the encoder
        raise KeyboardInterrupt

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.signal(number, stop) for number in ends}  # whoever ends us leaves no half-made files
    try:
        made = reencode(
            folder, format=form, say=lambda line: click.echo(f"vqclip: {line}", err=True),
            stopped=lambda: bool(asked_to_stop), **options,
        )  # fmt: skip
    finally:
        for number in ends:  # once stopped, nothing is left to stop but the saying so
            signal.signal(number, signal.SIG_IGN if asked_to_stop else kept[number])
    click.echo(str(made))


@commands.command("config")
@click.argument("arguments", metavar="[CONFIG] [KEY=VALUE]...", nargs=-1)
@click.option("--explain", is_flag=True,
              help="A table: key, value, where it came from, what it means and what is allowed.")  # fmt: skip
def show_config(arguments: tuple[str, ...], *, explain: bool) -> None:
    """Print the settings that a run would use, complete, as YAML."""
    from vqclip import config

    loaded = config.load(*split_arguments(arguments), prompted=not explain)
    if not explain:
        click.echo(config.to_yaml(loaded.config), nl=False)
        return
    rows = [("key", "value", "from", "meaning", "allowed"), *config.explain(loaded)]
    for line in _table(rows):
        click.echo(line)


def _table(rows: Sequence[tuple[str, str, str, str, str]]) -> Iterator[str]:
    """Columns within `_WIDTH`: key, value, origin (its end counts most), beside them the meaning, [allowed] below."""
    shown = [(key, _cut(value, _VALUE), _cut(origin[::-1], _ORIGIN)[::-1], *rest) for key, value, origin, *rest in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(3)]
    room = _WIDTH - sum(widths) - 6
    for row in shown:
        head = "  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True))
        lines = [line for text in (row[3], f"[{row[4]}]") for line in textwrap.wrap(text, room)]
        for number, line in enumerate(lines):
            yield f"{head if number == 0 else ' ' * len(head)}  {line}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


commands.add_command(doctor)
commands.add_command(models)
