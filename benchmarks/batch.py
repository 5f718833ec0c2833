"""Several starts at once or in turn: `python -m benchmarks.batch [--times 5] [--latents 3] [key=value ...]`.

Draws the pictures of consecutive seeds of one prompt by the default recipe, one try each, side by side in one batch
and then one after the other, alternating in one process after one warm-up of both. In turn is measured with as many
threads as the batch has and with the one that a single picture gets; the quicker of the two counts. Seconds are those
of the wall: let nothing else run. Also says how far the pictures differ, in 255ths, and how the judge ranks them.
Writes benchmarks/results/batch.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vqclip import config
from vqclip.backends.vqgan.backend import Drawing, VQGANBackend
from vqclip.job import Job
from vqclip.run.assemble import job_of, load_models

RESULTS = Path(__file__).parent / "results" / "batch.json"


def side_by_side(backend: VQGANBackend, jobs: list[Job]) -> list[Tensor]:
    """The pictures of a batch, (3, H, W) each."""
    for steps in Drawing(backend, jobs):
        images = steps.images
    return list(images)


def in_turn(backend: VQGANBackend, jobs: list[Job]) -> list[Tensor]:
    """The same one after the other."""
    return [image for job in jobs for image in side_by_side(backend, [job])]


def in_turn_on(threads: int, backend: VQGANBackend, jobs: list[Job]) -> list[Tensor]:
    """The same by a number of threads."""
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return in_turn(backend, jobs)
    finally:
        torch.set_num_threads(usual)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--latents", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    settings = config.load(None, ["include=a red apple on a white background", "tries=1", *arguments.overrides]).config
    models = load_models(settings)
    backend = models.backend
    assert isinstance(backend, VQGANBackend), "backend: vqgan is measured"
    jobs = [replace(job_of(settings), seed=settings.seed + number) for number in range(arguments.latents)]
    several = min(backend.threads, len(jobs))
    ways = {
        "batch": lambda: side_by_side(backend, jobs),
        "in turn": lambda: in_turn(backend, jobs),
        f"in turn, {several} threads": lambda: in_turn_on(several, backend, jobs),
    }
    pictures = {name: way() for name, way in ways.items()}  # warm
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    load = os.getloadavg()[0]
    for _ in range(arguments.times):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(round(time.perf_counter() - begun, 3))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    judge = models.judge_of(jobs[0])
    assert judge is not None, "a judge is needed"
    ranks = {name: [getattr(judge.judge(each), "rank", None) for each in made] for name, made in pictures.items()}
    alone, together = (torch.stack(pictures[name]) for name in ("in turn", "batch"))
    report = {
        "command": " ".join(
            ["python -m benchmarks.batch", f"--times {arguments.times} --latents {len(jobs)}", *arguments.overrides]
        ),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, load before {load:.2f}",
        "threads": {"single": torch.get_num_threads(), "batch": several},
        "ratio": round(medians["batch"] / min(value for name, value in medians.items() if name != "batch"), 3),
        "medians": medians,
        "largest_difference": round(255 * float((alone - together).abs().max()), 4),
        "ranks": ranks,
        "seconds": seconds,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
