"""What all trainings share while they run: the command line, the clock, the log, the step of the optimizer."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from training.checkpoint import Run, put_aside, resume_run, save_run
from training.data import cache_folder
from training.recipes import Training, pace
from vqclip.job import InputError

T = TypeVar("T", bound=Training)


@dataclass(frozen=True)
class Options(Generic[T]):
    """The command line of a training: the recipe with its seed and minutes, and where things go."""

    name: str
    recipe: T
    device: torch.device
    out: Path
    resume: bool = True
    changed: bool = False
    restart: bool = False

    @property
    def checkpoint(self) -> Path:
        """Where the run is saved."""
        return self.out / "runs" / f"{self.name}.safetensors"

    @property
    def export(self) -> Path:
        """Where the finished model goes."""
        return self.out / "export" / f"{self.name}.safetensors"

    def sheet(self, steps: int) -> Path:
        """Where a sheet of pictures goes after so many steps."""
        return self.out / "logs" / f"{self.name}-{steps:06d}.png"

    def go_on(self, run: Run[Any, Any]) -> None:
        """Resumes, begins anew or begins a new cosine of rates, as asked; raises as `resume_run`."""
        if self.resume:
            resume_run(self.checkpoint, run, changed=self.changed)
        else:
            put_aside(self.checkpoint)
        if self.restart:
            run.since = run.seconds


def find(out: Path, name: str, maker: str) -> Path:
    """A file that an earlier command made, in `out` or where they leave theirs. Raises InputError without one."""
    for folder in (out, cache_folder()):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"{out / name} is missing; {maker} makes it")


def find_export(out: Path, name: str) -> Path:
    """What another training exported; InputError without it."""
    return find(out, f"export/{name}.safetensors", f"the training of {name}")


def parser_of(about: str | None, *, seed: int | None = None) -> argparse.ArgumentParser:
    """A parser with the options of everything that is made from data: --seed, --device, --threads, --out."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seed", type=int, default=seed, help="another one than the recipe's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=_positive, default=1, help="on the CPU; 1 as the shipped models had")
    parser.add_argument("--out", type=Path, default=None, help="folder of what is made; the cache unless given")
    return parser


def training_parser(about: str | None, recipe: Training | None = None) -> argparse.ArgumentParser:
    """A parser with the options that all trainings have."""
    parser = parser_of(about, seed=None if recipe is None else recipe.seed)
    parser.add_argument(
        "--minutes", type=float, default=None if recipe is None else recipe.minutes,
        help="training time in all, earlier runs included; the shipped model's unless given",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on from the checkpoint where there is one, or begin anew",
    )  # fmt: skip
    parser.add_argument("--changed", action="store_true", help="go on though the recipe is another one by now")
    parser.add_argument(
        "--restart", action="store_true", help="begin a new cosine of rates, half as high; resume it without"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return value


def device_and_folder(arguments: argparse.Namespace) -> tuple[torch.device, Path]:
    """Device and folder of the command line; the threads are set.

    Raises:
        InputError: a device that PyTorch does not know or does not find.
    """
    torch.set_num_threads(arguments.threads)
    try:
        device = torch.empty(0, device=arguments.device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device: {arguments.device}: {str(error).splitlines()[0]}") from error
    return device, arguments.out or cache_folder()


def options_of(arguments: argparse.Namespace, name: str, recipe: T) -> Options[T]:
    """The options of `training_parser` for one recipe; InputError for a device that is not here."""
    device, out = device_and_folder(arguments)
    given = {key: getattr(arguments, key) for key in ("seed", "minutes") if getattr(arguments, key) is not None}
    changed, restart = arguments.changed, arguments.restart
    return Options(name, replace(recipe, **given), device, out, arguments.resume, changed, restart)


def run_main(main: Callable[[], None]) -> None:
    """Runs a command line; what the user can mend is one line and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"training: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def train(
    run: Run[T, Any], options: Options[T], update: Callable[[Any, float], dict[str, float]],
    report: Callable[[], dict[str, float]],
) -> None:  # fmt: skip
    """Updates until the recipe's minutes are spent in all; saves and reports every `every` seconds and at the end.

    Args:
        run: its counters go on from where they stand.
        options: how long, and where checkpoint and log go: JSON lines with the mean figures of the steps since the last
            report, and what `report` measured.
        update: takes the run and the share of its cosine's time that is over; returns figures of one step.
        report: measures and exports; its time is no training time.
    """
    total, saved, rows, views = 60 * options.recipe.minutes, run.seconds, [], run.views
    last, spent = time.monotonic(), time.process_time()
    while run.seconds < total:
        rows.append(update(run, (run.seconds - run.since) / (total - run.since)))
        run.seconds, last = run.seconds + time.monotonic() - last, time.monotonic()
        run.processor, spent = run.processor + time.process_time() - spent, time.process_time()
        if run.seconds - saved > options.recipe.every or run.seconds >= total:
            save_run(options.checkpoint, run)
            means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
            speed = (run.views - views) / (run.seconds - saved)
            line = {"minutes": run.seconds / 60, "cpu_minutes": run.processor / 60, "steps": run.steps}
            line |= {run.counted: run.views, f"{run.counted}_per_s": speed}
            write_line(options.out / "logs" / f"{options.name}.jsonl", line | means | report())
            saved, rows, views = run.seconds, [], run.views
            last, spent = time.monotonic(), time.process_time()


def write_line(path: Path, line: dict[str, float]) -> None:
    """Adds one JSON line to the log and prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: round(value, 4) for key, value in line.items()})
    with path.open("a") as file:
        file.write(text + "\n")
    print(text, flush=True)


def adam(recipe: Training, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimizer: AdamW where weights decay, else Adam."""
    if recipe.decay:
        settings: dict[str, Any] = {"weight_decay": recipe.decay, "fused": True}
        return torch.optim.AdamW(parameters, lr=recipe.rate, betas=recipe.betas, **settings)
    return torch.optim.Adam(parameters, lr=recipe.rate, betas=recipe.betas)


def learn(
    run: Run[Any, Any], progress: float, loss: Tensor, views: int, *, backward: Callable[[], None] | None = None,
    **figures: Tensor,
) -> dict[str, float]:  # fmt: skip
    """One update on so many views; returns the loss and the other figures as numbers.

    Args:
        run: whose model, optimizer, average and counts move on.
        progress: share of the time that is over, in [0, 1].
        loss: a scalar.
        views: pictures, or whatever the run counts, that the loss was taken over.
        backward: leaves the gradients; those of the loss unless given.
        **figures: scalars to report beside it.
    """
    set_rate(run, progress)
    step(run, backward or loss.backward)
    average(run)
    run.steps, run.views = run.steps + 1, run.views + views
    return {name: value.item() for name, value in {"loss": loss, **figures}.items()}


def set_rate(run: Run[Any, Any], progress: float) -> None:
    """The learning rate at this share of the time."""
    for group in run.optimizer.param_groups:
        group["lr"] = run.recipe.rate * pace(run.steps, min(progress, 1), restarted=run.since > 0)


def step(run: Run[Any, Any], backward: Callable[[], None]) -> None:
    """One step along the gradients that `backward` leaves; weights that it does not reach stay as they are."""
    run.optimizer.zero_grad(set_to_none=True)
    backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.norm)
    run.optimizer.step()


def average(run: Run[Any, Any]) -> None:
    """Moves the averaged weights after a step; they follow more closely in the first steps."""
    follow(run.average, run.model, min(run.recipe.smooth, run.steps / (run.steps + 20)))


@torch.no_grad()
def follow(old: nn.Module, new: nn.Module, decay: float) -> None:
    """Moves averaged weights, batch statistics included, towards the model's."""
    for one, other in zip(old.state_dict().values(), new.state_dict().values(), strict=True):
        if one.is_floating_point():
            one.lerp_(other, 1 - decay)
        else:
            one.copy_(other)


def machine(device: torch.device) -> str:
    """Where a training runs, for the exported file: the accelerator, or how many threads of how many cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    of = f"{threads} thread{'s' * (threads > 1)} of {cores} core{'s' * (cores > 1)}, {platform.machine()}"
    return of if device.type == "cpu" else f"{device.type}, {of}"
