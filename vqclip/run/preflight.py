"""Before a run: will it fit into memory, and how long will it take? Measured on small pieces of the run itself.

The generator draws a few latent cells and the guides look at a few crops; what that takes is continued to the
size of the run. What was measured of models with a name is kept in the process, and only the room is asked for anew.
Loads no weights, sees no config and leaves every random stream alone.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from vqclip.generators import Generator
from vqclip.generators.denoiser import Denoiser
from vqclip.job import ResourceError, WeightsError
from vqclip.loop.crops import Cropper, CropSpec
from vqclip.perceptors import Perceptor
from vqclip.run.memory import available, gigabytes, held
from vqclip.run.tally import Growth, Turn, trace
from vqclip.weights.checkpoints import is_safetensors
from vqclip.weights.regular import opened

_SIDES = (2, 3, 4)  # of the counted pictures, in cells: three, because attention grows by cells squared
_ENOUGH = 0.05  # seconds; a piece that takes longer says enough about the pace
_IMAGES = 2  # that a step keeps besides those counted: the image of the step before, and its gradient
_SHOWN = 3  # of each picture side by side: of this step, of the one before, and of the one that its film was shown
_KNOWN: dict[Hashable, Any] = {}  # what was measured, by what it was measured on
T = TypeVar("T")
Part = tuple[tuple[int, int], int]  # a size in pixels, and how many updates of latents are made at it
Batch = tuple[tuple[int, int], int]  # a size in pixels, and how many latents are drawn at a time at it


@dataclass(frozen=True)
class Forecast:
    """What one picture takes.

    `peak`: bytes that the process (on CUDA: its tensors) will hold at the worst moment, weights included.
    `room`: bytes that it may hold, None where the system does not say. `seconds`: one step on average, without
    what recorder and judge add; None when only the memory was asked for.
    """

    device: str
    steps: int
    peak: int
    room: int | None
    seconds: float | None

    @property
    def line(self) -> str:
        """The forecast for people."""
        free = "" if self.room is None else f", {gigabytes(self.room)} free"
        if self.seconds is None:
            return f"about {gigabytes(self.peak)} on {self.device}{free}"
        step = f"{self.seconds:.1f}" if self.seconds >= 0.95 else f"{self.seconds:.2g}"
        total = _duration(self.steps * self.seconds)
        return f"about {gigabytes(self.peak)} and {step} s a step ({self.steps} steps: {total}) on {self.device}{free}"


def preflight(
    generator: Generator, guides: Sequence[Perceptor], crops: CropSpec, *, size: tuple[int, int], steps: int,
    parts: Sequence[Part] = (), batches: Sequence[Batch] = (), pictures: int = 1,
    denoiser: Denoiser | None = None, key: Hashable = None, timed: bool = True,
) -> Forecast:  # fmt: skip
    """Measure what a run of `steps` steps at `size` = (width, height) pixels will take.

    Args:
        generator: what the run draws with.
        guides: what looks at the crops.
        crops: how many a step has, their kind, and how many are looked at in one go.
        size: of the largest picture.
        steps: the run's updates.
        parts: the run's updates by size, where not all of them are made once and at `size`.
        batches: how many latents are drawn at a time, by size; one at `size` where nothing is said.
        pictures: how many are drawn side by side, and shown at each step.
        denoiser: what cleans the latent after each update, None for nothing.
        key: names the models and where they work, so that what was measured of them serves again; None measures anew.
        timed: whether the time is wanted too.

    Raises:
        ResourceError: it cannot fit into the memory available; the message names what to lower.
    """
    work = _Work(generator, guides, crops, size)
    now, highest = held(work.device)  # before the measuring, which leaves freed memory with the process
    free = available(work.device)
    room = None if free is None else now + free
    chunk = min(crops.chunk, crops.count)

    of = (key, crops)
    drawing = once((*of, "drawing", min(work.cells, _SIDES[-1] ** 2 + 1)), work.drawing)
    batches = batches or [(size, 1)]
    now += (pictures - 1) * _SHOWN * 3 * 4 * size[0] * size[1]  # float32
    _refuse(_Need(drawing, size, batches, stride=generator.stride, held=now), room, chunk, guides=len(guides))
    looking = once((*of, "looking", size), partial(work.looking, chunk))
    need = _Need(drawing, size, batches, stride=generator.stride, held=now, looking=looking)
    _refuse(need, room, chunk, guides=len(guides))
    peak = max(highest, need.at(chunk))
    if not timed:
        return Forecast(str(work.device), steps, peak, room, None)
    shares: Counter[tuple[int, int]] = Counter()
    for pixels, updates in parts or [(size, max(1, steps))]:
        shares[pixels] += updates
    look = once((*of, "look", size), partial(work.seconds_of_looks, chunk))  # crops are as large at every size
    total = 0.0
    for pixels, updates in shares.items():
        piece = _Work(generator, guides, crops, pixels)
        rest = once((*of, "rest", pixels, denoiser is None), partial(piece.seconds_besides, denoiser))
        total += updates * (look + rest)
    return Forecast(str(work.device), steps, peak, room, total / max(1, steps))


def once(at: tuple[Hashable, ...], measure: Callable[[], T]) -> T:
    """What was measured before of named models, else `measure()`; without a name always that."""
    if at[0] is None:
        return measure()
    if at not in _KNOWN:
        _KNOWN[at] = measure()
    found: T = _KNOWN[at]
    return found


def check_files(files: Iterable[Path], device: torch.device, *, share: float = 1.0) -> None:
    """Refuse weights whose files alone are larger than the memory, before any of them is loaded.

    Args:
        files: of weights; those that are not there are left out.
        device: where they will be.
        share: of their bytes that are kept at least, where they are loaded in another precision.

    Raises:
        ResourceError: they cannot fit. WeightsError: one cannot be read.
    """
    sizes = {path: int(share * _least(path)) for path in files if path.is_file()}
    total = sum(sizes.values())
    for place in {"cpu": torch.device("cpu"), device.type: device}.values():  # read into RAM first, then moved
        room = available(place)
        if room is not None and total > room:
            largest = max(sizes, key=lambda path: sizes[path])
            raise ResourceError(
                f"the weights need at least {gigabytes(total)} ({largest.name} {gigabytes(sizes[largest])}), "
                f"{gigabytes(room)} are free on {place}; use smaller models or fewer guides"
            )


def _least(path: Path) -> int:
    """Bytes that a file's weights take at least. Of a checkpoint up to two thirds are training state, not loaded."""
    try:
        with opened(path) as file:
            plain = is_safetensors(file.read(16))
            return os.fstat(file.fileno()).st_size // (1 if plain else 3)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Work:
    """The pieces of a step, at any size: decoding with its way back, and a look at some crops with its own."""

    def __init__(
        self, generator: Generator, guides: Sequence[Perceptor], crops: CropSpec, size: tuple[int, int]
    ) -> None:
        self._rng = torch.Generator().manual_seed(0)  # its own: the job's streams are not touched
        self._generator, self._guides, self._size = generator, guides, size
        self._grid = (size[1] // generator.stride, size[0] // generator.stride)
        self.device = generator.sample((generator.stride, generator.stride), self._rng).device
        self._cropper = Cropper(crops)
        self._plan = self._cropper.draw([self._rng], width=size[0], height=size[1]).to(self.device)
        self.cells = self._grid[0] * self._grid[1]

    def decode(self, rows: int, columns: int, turn: Turn = lambda: None) -> None:
        """Draw a picture of rows x columns cells and take its gradient back to the latent."""
        stride = self._generator.stride
        latent = self._generator.sample((columns * stride, rows * stride), self._rng).requires_grad_()
        image = self._generator.decode(latent)
        turn()
        (image * torch.ones_like(image)).sum().backward()

    def look(self, count: int, turn: Turn = lambda: None) -> None:
        """Show every guide the first `count` crops of a grey picture and take the gradient back to it."""
        canvas = torch.full((1, 3, self._size[1], self._size[0]), 0.5, device=self.device, requires_grad=True)
        part = range(count)
        cut = partial(self._cropper.cut, canvas, self._plan, part)
        embeds = [guide.embed_image(cut(size=guide.size)) for guide in self._guides]
        turn()
        torch.stack([embed.sum() for embed in embeds]).sum().backward()

    @torch.enable_grad()
    def drawing(self) -> Growth:
        """Bytes over cells, from small pictures or, where the run's are no larger, from one like those."""
        small = self.cells <= _SIDES[-1] ** 2
        grids = [self._grid] if small else [(side, side) for side in _SIDES]
        traces = tuple(trace(partial(self.decode, *grid)) for grid in grids)
        return Growth(tuple(rows * columns for rows, columns in grids), traces)

    @torch.enable_grad()
    def looking(self, chunk: int) -> Growth:
        """Bytes over crops embedded at a time."""
        counts = tuple(range(1, min(chunk, 2) + 1))
        return Growth(counts, tuple(trace(partial(self.look, count)) for count in counts))

    def clean(self, denoiser: Denoiser) -> None:
        """Clean one latent of the run's size."""
        denoiser.clean(self._generator.sample(self._size, self._rng), 0.5)

    @torch.enable_grad()
    def seconds_of_looks(self, chunk: int) -> float:
        """Looks at all crops of a step. To be asked after the counting, warm."""
        looking = pace([(n, partial(self.look, n)) for n, _ in _ladder(chunk, 1, first=1)], self.device)
        return looking * self._cropper.spec.count / chunk

    @torch.enable_grad()
    def seconds_besides(self, denoiser: Denoiser | None) -> float:
        """The rest of a step: decoding with its way back, cleaning."""
        cleaning = 0.0 if denoiser is None else pace([(1, partial(self.clean, denoiser))], self.device)
        return cleaning + pace(
            [(r * c, partial(self.decode, r, c)) for r, c in _ladder(*self._grid, first=8)], self.device
        )


class _Need:
    """Bytes of a run, from its pieces: the decoder's graph stays while chunk after chunk is looked at."""

    def __init__(
        self, drawing: Growth, size: tuple[int, int], batches: Sequence[Batch], *, stride: int, held: int,
        looking: Growth | None = None,
    ) -> None:  # fmt: skip
        self.size, self.most = size, max(count for _, count in batches)
        self._batches, self._stride, self._held = batches, stride, held
        self._drawing, self._looking = drawing, looking

    def at(self, chunk: int, *, batch: int | None = None, size: tuple[int, int] | None = None) -> int:
        """Bytes in all at the worst moment, with at most `batch` latents at a time, or with one of another size."""
        batches = [(size, 1)] if size else self._batches
        return self._held + max(self._of(pixels, min(count, batch or count), chunk) for pixels, count in batches)

    def _of(self, size: tuple[int, int], latents: int, chunk: int) -> int:
        graph, worst = self._drawing.at(size[0] * size[1] // self._stride**2)
        look = self._looking.at(latents * chunk)[1] if self._looking else 0
        image = 3 * 4 * size[0] * size[1]  # float32
        return latents * _IMAGES * image + max(latents * worst, latents * graph + look)

    def smaller(self, room: int, chunk: int) -> str:
        """What would fit: the largest batch, else the largest chunk or size of about the same shape."""
        batches = (n for n in range(self.most - 1, 0, -1) if self.at(chunk, batch=n) <= room)
        if fitting := next(batches, 0):
            return f"batch to {fitting}, crops.chunk or size"
        chunks = (n for n in range(chunk - 1, 0, -1) if self.at(n, batch=1) <= room)
        first = "batch to 1, " if self.most > 1 else ""
        if self._looking and (fitting := next(chunks, 0)):
            return f"{first}crops.chunk to {fitting}, or size"
        shortest = min(self.size) // self._stride
        for cells in range(shortest - 1, 0, -1):
            width, height = (max(1, side * cells // (shortest * self._stride)) * self._stride for side in self.size)
            if self.at(1, size=(width, height)) <= room:
                return f"{first}size to at most {width}x{height}, and crops.chunk with it"
        return f"{first}size and crops.chunk, and use smaller models"


def _refuse(need: _Need, room: int | None, chunk: int, *, guides: int) -> None:
    peak = need.at(chunk)
    if room is None or peak <= room:
        return
    fewer = f", or use fewer than {guides} guides" if guides > 1 else ""
    several = f" and batch {need.most}" if need.most > 1 else ""
    raise ResourceError(
        f"size {need.size[0]}x{need.size[1]} with crops.chunk {chunk}{several} needs about {gigabytes(peak)}, "
        f"{gigabytes(room)} are free; lower {need.smaller(room, chunk)}{fewer}"
    )


def _ladder(rows: int, columns: int, *, first: int) -> Iterator[tuple[int, int]]:
    """Grids from an area of about `first` up to (rows, columns), each of about twice the one before."""
    area = first
    while area < rows * columns:
        width = min(columns, area // min(rows, math.isqrt(area)))
        yield min(rows, area // width), width
        area *= 2
    yield rows, columns


def pace(pieces: Sequence[tuple[int, Callable[[], None]]], device: torch.device) -> float:
    """Seconds for the last of some growing pieces: run until one takes long enough, then along a line."""
    points = [(0, 0.0)]
    for amount, run in pieces:
        seconds, (small, fast) = _seconds(run, device), points[-1]
        if not small or seconds > fast * amount / small:  # more than in proportion to the one before: disturbed
            seconds = min(seconds, _seconds(run, device))
        points.append((amount, seconds))
        if len(points) > 2 and points[-1][1] > _ENOUGH:
            break
    (small, fast), (large, slow) = points[-2:]
    # No piece has a cost below zero that is independent of its size; and a busy machine bends any line.
    slope = min(max((slow - fast) / (large - small), slow / large / 2), slow / large)
    return slow + slope * (pieces[-1][0] - large)


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - begun


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
