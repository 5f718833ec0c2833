"""The `vqclip models` commands: lists, fetches, checks and converts published weights.

Knows neither where files live nor how they are fetched. Whatever is heavy is imported inside the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vqclip.job import InputError, WeightsError

if TYPE_CHECKING:
    from vqclip.weights.catalogue import Entry

_LINE_EVERY = 10  # per cent, between two lines of plain progress
_STATES = {
    "here": "here",
    "shared": "here (another program's)",
    "partial": "begun",
    "damaged": "damaged",
    "missing": "-",
}


@click.group()
def models() -> None:
    """Full-size weights: what there is, what is here, fetch, check, convert."""


@models.command("list")
def show_all() -> None:
    """Print a table of the models that can be fetched by name."""
    from vqclip.weights import catalogue, store

    rows = [("name", "kind", "size", "licence", "state", "what it is")]
    for entry in catalogue.entries().values():
        state = _STATES[store.status(entry).state]
        rows.append((entry.name, entry.kind, entry.about, entry.licence, state, entry.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]))


@models.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--offline", is_flag=True, help="Fetch nothing; only find and check what is on this machine.")
def get(names: tuple[str, ...], *, offline: bool) -> None:
    """Fetch weights by name and print where they are; what is here is not fetched again.

    Interrupted downloads go on where they stopped. A damaged file is fetched again.
    """
    from vqclip.weights import catalogue, store

    stay = offline or store.is_offline()
    for entry in [catalogue.entry(name) for name in names]:
        _note(f"{entry.name}: {entry.about}, licence: {entry.licence}")
        if store.expected(entry) is None:
            _note(f"{entry.name}: its publisher names no SHA-256; the first one seen is demanded from now on")
        with meter(entry) as on_progress:
            path = store.locate(entry, offline=stay, on_progress=on_progress, renew=not stay)
        click.echo(str(path))


@models.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
def verify(names: tuple[str, ...]) -> None:
    """Check the SHA-256 of the fetched weights, or of those named."""
    from vqclip.weights import catalogue, store

    named = [catalogue.entry(name) for name in names]
    chosen = named or [each for each in catalogue.entries().values() if store.path_of(each).exists()]
    bad = []
    for entry in chosen:
        try:
            path = store.find(entry)
        except WeightsError as problem:
            _note(str(problem))
            path = None
        if path is None:
            bad.append(entry.name)
        else:
            click.echo(f"{entry.name}: good, {path}")
    if bad:
        raise WeightsError(f"missing or damaged: {', '.join(bad)}; `vqclip models get {' '.join(bad)}` fetches them")
    _note(f"{len(chosen)} files checked")


@models.command()
@click.argument("name")
def path(name: str) -> None:
    """Print the path of weights that are here; fetches nothing."""
    from vqclip.weights import catalogue, store

    click.echo(str(store.locate(catalogue.entry(name), offline=True)))


@models.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="File to write; default: FILE as .safetensors.")
def convert(file: Path, output: Path | None) -> None:
    """Write a checkpoint FILE as safetensors: only what is needed, and without code in it."""
    from vqclip.weights.convert import convert as write

    if not file.is_file():
        raise WeightsError(f"{file}: no such file; a checkpoint is needed")
    target = output or file.with_suffix(".safetensors")
    if target.exists():
        raise InputError(f"{target}: exists already; give another name as --output")
    click.echo(str(write(file, target, provenance=_provenance(file))))


def _provenance(file: Path) -> Mapping[str, str]:
    """What the catalogue says about a file with this content, {} for one that it does not know."""
    from vqclip.weights import catalogue, store

    digest = store.digest_of(file)
    for entry in catalogue.entries().values():
        if digest is not None and store.expected(entry) == digest:
            return {"model": entry.name, "licence": entry.licence, "url": entry.urls[0]}
    return {}


def _note(text: str) -> None:
    from vqclip.config.document import clean

    with suppress(OSError):  # a reader of stderr that has gone stops no download
        click.echo(f"vqclip: {clean(text)}", err=True)


@contextmanager
def meter(entry: Entry) -> Iterator[Callable[[int, int | None], None]]:
    """A callback that shows progress: a bar on a terminal, a line for every tenth elsewhere."""
    if not sys.stderr.isatty():
        yield _lines(entry)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(entry.name, total=entry.size, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def _lines(entry: Entry) -> Callable[[int, int | None], None]:
    shown = -1

    def on_progress(done: int, total: int | None) -> None:
        nonlocal shown
        tenth = int(100 * done / total) // _LINE_EVERY if total else done // 10**8
        if tenth > shown:
            shown = tenth
            _note(f"{entry.name}: {done / 1e6:.0f} MB" + (f", {100 * done // total} %" if total else ""))

    return on_progress
