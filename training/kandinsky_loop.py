"""What the trainings of the starter Kandinsky's parts share: the clock, the log, averaging, sheets of pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn


class Timed(Protocol):
    """A run that counts its own time, updates and pictures."""

    seconds: float
    steps: int
    views: int


R = TypeVar("R", bound=Timed)


def spend(
    run: R, minutes: float, update: Callable[[R, float], dict[str, float]], report: Callable[[], dict[str, float]],
    *, log: Path, every: float = 300,
) -> None:  # fmt: skip
    """Updates until `minutes` are spent in all, reporting every `every` seconds and at the end.

    Args:
        run: its counters go on from where they stand.
        update: takes the run and the share of the time that is over; returns figures of one step.
        report: measures, saves and exports; its time is no training time.
        log: JSON lines with the mean figures of the steps since the last report, and what `report` measured.
    """
    total, saved, rows, views = 60 * minutes, run.seconds, [], run.views
    last = time.monotonic()
    while run.seconds < total:
        rows.append(update(run, run.seconds / total))
        run.seconds, last = run.seconds + time.monotonic() - last, time.monotonic()
        if run.seconds - saved > every or run.seconds >= total:
            means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
            speed = (run.views - views) / (run.seconds - saved)
            line = {"minutes": run.seconds / 60, "steps": run.steps, "views": run.views, "views_per_s": speed}
            write_line(log, line | means | report())
            saved, rows, views, last = run.seconds, [], run.views, time.monotonic()


def write_line(path: Path, line: dict[str, float]) -> None:
    """Adds one JSON line to the log and prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: round(value, 4) for key, value in line.items()})
    with path.open("a") as file:
        file.write(text + "\n")
    print(text, flush=True)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the averaged weights towards the model's."""
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - decay)


def save_pictures(path: Path, rows: Sequence[Tensor]) -> None:
    """A PNG with one line per row of pictures (B, 3, H, W) in [0, 1], all of one size."""
    sheet = torch.cat([torch.cat(list(row.cpu()), 2) for row in rows], 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
