"""The cells of a comparison: where each picture belongs, whether it is made, and making room for it.

Makes no pictures and deletes nothing. One process at a time may work on a comparison; the caller sees to that.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from vqclip.compare.finished import Run, intact, read_run
from vqclip.compare.variants import settings
from vqclip.config.document import clean
from vqclip.job import InputError, Job, ResourceError
from vqclip.record.folder import slug, to_json
from vqclip.report.embedded import MAX_PICTURE
from vqclip.report.evidence import MAX_JSON, MAX_METRICS

State = Literal["done", "failed", "missing", "stale", "broken"]

# What a comparison keeps of a run from elsewhere, and the bytes of it that are copied at most: what is larger is left
# out. run.json comes last, so that a copy is a run only when it is whole.
KEPT: Final[Mapping[str, int]] = {
    "config.yaml": 1 << 20, "config.resolved.yaml": 1 << 20, "metrics.jsonl": MAX_METRICS, "progress.mp4": 256 << 20,
    "final.png": MAX_PICTURE, "run.json": MAX_JSON,
}  # fmt: skip
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor a pipe that is waited for
_DIGITS: Final = 10  # of a hash in a folder's name: 40 bits


@dataclass(frozen=True)
class Cell:
    """One picture of a comparison: which variant makes it, from what, and the run folder it has or will have.

    `config` is the variant's, in JSON values: what a finished run must agree with, and what the report shows for a
    variant without any finished run; empty for "whatever the run says". Pictures of several variants are
    compared when `prompt` and seed are equal; without it the include, exclude and extras prompts have to be.
    `error` says why there is no run folder, when the caller knows.
    """

    variant: str
    job: Job
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    error: str | None = None

    @property
    def row(self) -> str:
        """The same text for cells that are compared, seeds apart."""
        return self.prompt or _digest(self.job)


def folder_of(root: Path, variant: str, job: Job) -> Path:
    """The run folder of a cell: root/cells/<variant>/<title>-<hash>-s<seed>.

    Safe on every file system for any text, and different for different variants, prompts (weights and stops too) and
    seeds. The same always gives the same; size and steps, which belong to the variant, have no say.
    """
    return root / "cells" / _variant(variant) / f"{slug(job.title)}-{_digest(job)}-s{job.seed}"


def _variant(name: str) -> str:
    """A plain name as it is; others as a slug with a hash, also those that Windows keeps for devices."""
    if name == slug(name) and len(name) > 4:  # the longest device name is com1
        return name
    return f"{slug(name)}-{_hash(name)}"


def _digest(job: Job) -> str:
    return _hash([[asdict(prompt) for prompt in part] for part in (job.include, job.exclude, job.extras)])


def _hash(value: Any) -> str:
    return hashlib.sha256(to_json(value).encode()).hexdigest()[:_DIGITS]


def state(cell: Cell) -> State:
    """What lies in a cell's folder.

    done: a finished run of this very job and config, its final.png as its run.json says. failed: such a run that ended
    with an error. stale: a finished run of another job or config. broken: anything else that is there, such as what
    a killed or interrupted run leaves. missing: nothing.
    """
    if not os.path.lexists(cell.folder):
        return "missing"
    try:
        run = read_run(cell.folder)
    except InputError:
        return "broken"
    if run.job != cell.job or not _agrees(run.config, cell.config):
        return "stale"
    if run.status == "failed":
        return "failed"
    return "done" if run.status == "done" and intact(run) else "broken"


def _agrees(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a run has every setting of the variant; threads None is whatever the machine had."""
    have = settings(made)
    want: dict[str, Any] = settings(_plain(wanted))
    return all(have.get(key) == value for key, value in want.items() if (key, value) != ("threads", None))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as the lists that JSON makes of them."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
    }


def unfinished(cells: Sequence[Cell], *, retry_failed: bool = True) -> list[Cell]:
    """The cells that are still to be made, in their order: all but the done ones, and the failed ones if so wished."""
    over = {"done"} if retry_failed else {"done", "failed"}
    return [cell for cell in cells if state(cell) not in over]


def make_room(cell: Cell) -> Path | None:
    """Set aside whatever lies where a cell belongs, by renaming it to <name>.broken-1, -2, ...; returns where to.

    None when nothing is there. Makes the folder above. Raises InputError when the system refuses.
    """
    folder = cell.folder
    for above in (folder.parent, folder.parent.parent):  # the variant's folder, and that of all cells
        if above.is_symlink():
            raise InputError(f"{clean(str(above))} is a link; what lies behind it is left alone")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(folder):
            return None
        number = 1
        while os.path.lexists(aside := folder.with_name(f"{folder.name}.broken-{number}")):
            number += 1
        os.rename(folder, aside)
    except OSError as error:
        raise InputError(f"{clean(str(folder))} cannot be set aside ({error.strerror or error})") from error
    return aside


def adopt(run: Run, root: Path, variant: str) -> Cell:
    """Copy what a comparison shows of a finished run to its place below `root`; pairs by title and seed.

    A copy that is there already stays, so that adopting twice is adopting once. Symbolic links inside the run are left
    out, and files that are larger than any run's. Raises InputError when what else has the place cannot be set aside,
    ResourceError when copying fails.
    """
    cell = Cell(variant, run.job, folder_of(root, variant, run.job), run.config, prompt=run.job.title)
    if state(cell) in ("done", "failed") and read_run(cell.folder).outputs == run.outputs:
        return cell
    make_room(cell)
    part = cell.folder.with_name(f".{cell.folder.name[:80]}.{secrets.token_hex(8)}.part")
    try:
        part.mkdir()
        for name, most in KEPT.items():
            _copy(run.folder / name, part / name, most)
        os.rename(part, cell.folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ResourceError(f"{clean(str(cell.folder))} cannot be copied ({error.strerror or error})") from error
    return cell


def _copy(source: Path, target: Path, most: int) -> None:
    """Copy a regular file of at most `most` bytes; anything else is left out."""
    try:
        handle = os.open(source, os.O_RDONLY | _NO_LINK)
    except OSError:  # not there, a link, or not readable
        return
    try:
        about = os.fstat(handle)
        if stat.S_ISREG(about.st_mode) and about.st_size <= most:
            with open(handle, "rb", closefd=False) as file, open(target, "xb") as copy:
                shutil.copyfileobj(file, copy)
    finally:
        os.close(handle)
