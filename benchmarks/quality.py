"""How often the judge finds the prompt: `python -m benchmarks.quality NAME [--prompts N] [key=value ...]`.

Prompts are drawn by a fixed seed from the vocabulary of the starter models, not chosen: bare names, names with a
colour, names on a background, in turn. Writes benchmarks/results/quality-NAME.json and, with --sheet, a contact
sheet of all pictures as they came.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vqclip import config, images
from vqclip.backends import Backend
from vqclip.backends.vqgan.backend import VQGANBackend
from vqclip.job import Job, Prompt
from vqclip.judge.statistics import wilson
from vqclip.run.assemble import job_of, load_models

RESULTS = Path(__file__).parent / "results"
VOCABULARY = Path(__file__).parent.parent / "vqclip" / "starter" / "vocabulary.json"
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
GROUNDS = ("white", "black", "yellow", "blue", "green", "pink")
Row = dict[str, object]


def draw_prompts(count: int, seed: int) -> list[str]:
    """`count` texts, a third of each kind, without repeating a thing before all were used."""
    rng = random.Random(seed)  # no secret
    names = json.loads(VOCABULARY.read_text(encoding="utf-8"))["guided"]
    rng.shuffle(names)
    texts = []
    for number in range(count):
        name = names[number % len(names)]
        colour, ground = rng.choice(COLOURS), rng.choice(GROUNDS)
        texts.append((name, f"{colour} {name}", f"{name} on a {ground} background")[number % 3])
    return texts


def measure(
    texts: list[str], overrides: list[str], limits: list[float] | None = None, kept: Path | None = None
) -> tuple[list[Row], list[torch.Tensor]]:
    """One picture per text at the settings given; rank, margin, seconds and the steps made of each.

    `limits` ends each picture after so many seconds, with what it shows then: for recipes that take longer. What lies
    in the folder `kept` is taken from there and the rest is added, so that a run of hours can be stopped and go on.
    """
    settings = config.load(None, [f"include={texts[0]}", *overrides]).config
    models = load_models(settings, lambda _message: None)
    base = job_of(settings)
    rows: list[Row] = []
    pictures = []
    for number, text in enumerate(texts):
        job = replace(base, include=(Prompt(text),), seed=settings.seed + number)
        limit = math.inf if limits is None else limits[number]
        known = None if kept is None else Kept(kept / f"{number:03d}", [text, *overrides, str(limit)])
        if known is not None and (found := known.read()) is not None:
            rows.append(found[0])
            pictures.append(found[1])
            continue
        begun = clock()
        image, made = draw(models.backend, job, limit)
        seconds = clock() - begun
        judge = models.judge_of(job)
        assert judge is not None, "a judge is needed"
        verdict = judge.judge(image)
        assert verdict is not None, judge.refusal
        judged: Row = {"rank": verdict.rank, "among": verdict.among, "margin": verdict.margin}
        rows.append({"prompt": text, **judged, "seconds": round(seconds, 2), "steps": made})
        pictures.append(image)
        if known is not None:
            known.write(rows[-1], image)
        print(f"{number + 1:3d}/{len(texts)}  rank {verdict.rank:3d}  {seconds:5.1f} s  {text}", flush=True)
    return rows, pictures


@dataclass(frozen=True)
class Kept:
    """A measured picture in two files, PNG and JSON, and what it was asked for."""

    stem: Path
    asked: list[str]

    def read(self) -> tuple[Row, torch.Tensor] | None:
        """Row and picture, (3, H, W); None where there are none, or of something else."""
        try:
            said = json.loads(self.stem.with_suffix(".json").read_text())
            picture = images.from_pil(images.read(self.stem.with_suffix(".png")))[0]
        except (OSError, ValueError):
            return None
        return (said["row"], picture) if said["asked"] == self.asked else None

    def write(self, row: Row, picture: torch.Tensor) -> None:
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        images.save_png(self.stem.with_suffix(".png"), picture)
        self.stem.with_suffix(".json").write_text(json.dumps({"asked": self.asked, "row": row}))


def clock() -> float:
    """Seconds: of this process's CPU time with one thread, so that other work on the machine does not count."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def draw(backend: Backend, job: Job, limit: float) -> tuple[torch.Tensor, int]:
    """The picture of a job, or of a VQGAN's last step within `limit` seconds, (3, H, W) on the CPU, and its step."""
    if not isinstance(backend, VQGANBackend):
        result = backend.generate(job, lambda _step: None)
        return result.image, result.steps
    end = clock() + limit
    for step in backend.steps(job):
        image, made = step.image, step.index
        if clock() > end:
            break
    return image.cpu(), made


def summary(rows: list[Row]) -> dict[str, float]:
    """Shares of top-1 and top-5 with their intervals, median rank, seconds and steps."""
    ranks = [int(str(row["rank"])) for row in rows]
    medians = {
        f"median_{name}": sorted(float(str(row[name])) for row in rows)[len(rows) // 2]
        for name in ("rank", "seconds", "steps")
    }
    return shares(ranks) | medians


def shares(ranks: list[int]) -> dict[str, float]:
    """Top-1 and top-5 of a list of ranks, each with Wilson's 95 % interval."""
    count = len(ranks)
    found: dict[str, float] = {"pictures": count}
    for most in (1, 5):
        share = sum(rank <= most for rank in ranks) / count
        low, high = wilson(share, count)
        found |= {f"top{most}": round(share, 3), f"top{most}_low": round(low, 3), f"top{most}_high": round(high, 3)}
    return found


def save(name: str, command: str, rows: list[Row], more: dict[str, object] | None = None) -> None:
    """Write benchmarks/results/quality-NAME.json and print its summary."""
    machine = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
    report = {"command": command, "machine": machine, "summary": summary(rows) | (more or {}), "rows": rows}
    (RESULTS / f"quality-{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["summary"]))


def main() -> None:
    """Measure, print the summary, write JSON and sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--draw", type=int, default=3, help="seed of the prompts")
    parser.add_argument("--sheet", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    texts = draw_prompts(arguments.prompts, arguments.draw)
    rows, pictures = measure(texts, arguments.overrides)
    command = f"python -m benchmarks.quality {arguments.name} --prompts {arguments.prompts} --draw {arguments.draw}"
    save(arguments.name, " ".join([command, *arguments.overrides]), rows)
    if arguments.sheet:
        labels = [f"{row['prompt']} #{row['rank']}" for row in rows]
        images.grid(pictures, 6, labels=labels).save(RESULTS / f"quality-{arguments.name}.png")


if __name__ == "__main__":
    main()
