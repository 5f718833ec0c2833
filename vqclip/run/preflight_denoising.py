"""Before a diffusion run: will it fit into memory, and how long will it take? Measured on a few cells of its latent.

The same counting and the same line as for the loop (preflight.py). Opens nothing and draws no random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial

import torch

from vqclip.backends.pieces import Pieces
from vqclip.job import ResourceError
from vqclip.run.memory import available, gigabytes, held
from vqclip.run.preflight import Forecast, once, pace
from vqclip.run.tally import Growth, trace

_TIMES = (1, 2, 3)  # sides of the counted latents, in the least that the networks take; three for attention's square


@torch.no_grad()
def preflight_denoising(pieces: Pieces, *, steps: int, key: Hashable = None, timed: bool = True) -> Forecast:
    """Measure what `steps` updates of a diffusion will take; `key` and `timed` as for `preflight`.

    The time is that of the updates and of one decoding: a prior's and those of the film are not in it.

    Raises:
        ResourceError: it cannot fit into the memory available; the message names what to lower.
    """
    now, highest = held(pieces.device)
    free = available(pieces.device)
    room = None if free is None else now + free
    base = now + pieces.arriving
    _refuse(pieces, base, room)
    pieces.move()
    cells = math.prod(pieces.grid)
    grids = [(side * pieces.multiple, side * pieces.multiple) for side in _TIMES]
    if cells <= math.prod(grids[-1]):
        grids = [pieces.grid]
    of = (key, pieces.batch, tuple(grids))
    kinds = {"update": pieces.update, "decode": pieces.decode}
    grown = [once((*of, name), partial(_growth, work, grids)) for name, work in kinds.items()]
    peak = base + max(each.at(cells)[1] for each in grown)
    _refuse(pieces, peak, room)
    seconds = None
    if timed:
        paces = [once((*of, name, pieces.grid), partial(_pace, work, grids, pieces)) for name, work in kinds.items()]
        seconds = paces[0] + paces[1] / max(1, steps)
    return Forecast(str(pieces.device), steps, max(highest, peak), room, seconds)


def _growth(work: Callable[[int, int], None], grids: list[tuple[int, int]]) -> Growth:
    """Bytes over cells."""
    traces = tuple(trace(lambda _turn, grid=grid: work(*grid)) for grid in grids)  # type: ignore[misc]
    return Growth(tuple(rows * columns for rows, columns in grids), traces)


def _pace(work: Callable[[int, int], None], grids: list[tuple[int, int]], pieces: Pieces) -> float:
    """Seconds at the size of the job, from the counted latents on."""
    rungs = dict.fromkeys([*grids, pieces.grid])
    return pace([(rows * columns, partial(work, rows, columns)) for rows, columns in rungs], pieces.device)


def _refuse(pieces: Pieces, peak: int, room: int | None) -> None:
    if room is None or peak <= room:
        return
    rows, columns = pieces.grid
    raise ResourceError(
        f"{pieces.name} at {columns * pieces.stride}x{rows * pieces.stride} needs about {gigabytes(peak)}, "
        f"{gigabytes(room)} are free; lower size, or use smaller models"
    )
