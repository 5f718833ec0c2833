"""What extras do, measured in pixels: `python -m benchmarks.extras`.

Ten extras, four of them drawn grounds and six looks, each beside one of the includes that `benchmarks.exclude` drew
and that names no ground, at its four seeds in the default recipe; each must move its measure the right way (a
ground that was there already on nine tenths of the rim may stay). Pictures stay in outputs/benchmark-exclude and are
not made twice; `--part 0/2` makes every second one. Writes benchmarks/results/extras.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from kornia.color import rgb_to_hsv
from torch import Tensor

from benchmarks.exclude import COUNT, FOLDER, SEEDS, includes
from benchmarks.hsv import colour_shares, masks
from benchmarks.quality import RESULTS
from vqclip import images
from vqclip.config import from_mapping
from vqclip.grammar import COLOURS, with_article
from vqclip.job import Job, Prompt
from vqclip.run.assemble import Models, judge_for, load_models


def saturation(image: Tensor) -> float:
    """Mean saturation of (3, H, W), weighted by value: that of black is noise."""
    _, saturated, value = rgb_to_hsv(image[None].clamp(0, 1))[0]
    return float((saturated * value).sum() / value.sum())


def lightness(image: Tensor) -> float:
    """Mean value of (3, H, W)."""
    return float(image.amax(0).mean())


def unevenness(image: Tensor) -> float:
    """Mean difference of neighbouring pixels that are on no edge: shading, brush strokes, grain."""
    steps = torch.cat([image.diff(dim=axis).abs().amax(0).flatten() for axis in (-1, -2)])
    return float(steps[steps < 0.1].mean())


def colours(image: Tensor) -> float:
    """The number of colours besides black, white and grey, each counted by its share (the exponential of entropy)."""
    shares = [share for word, share in colour_shares(image).items() if word not in ("black", "white", "grey")]
    total = sum(shares)
    return math.exp(-sum(s / total * math.log(s / total) for s in shares if s > 0)) if total > 0.01 else 0.0


def on_ground(word: str) -> Callable[[Tensor], float]:
    """The share of a colour on the picture's rim, an eighth of its sides wide."""

    def measure(image: Tensor) -> float:
        rim = torch.ones(image.shape[-2:], dtype=torch.bool)
        down, right = image.shape[-2] // 8, image.shape[-1] // 8
        rim[down:-down, right:-right] = False
        return float(masks(image)[COLOURS.index(word), rim].float().mean())

    return measure


LOOKS: dict[str, tuple[Callable[[Tensor], float], int]] = {  # and which way they move it
    "black and white": (saturation, -1),
    "flat": (unevenness, -1),
    "one colour": (colours, -1),
    "vivid": (saturation, 1),
    "pastel": (saturation, -1),
    "dark": (lightness, -1),
}


@dataclass(frozen=True)
class Row:
    """One picture without and with an extra, and its measure of both."""

    include: str
    extra: str
    seed: int
    before: float
    after: float
    moved: bool
    rank: tuple[int, int]


def make(models: Models, include: str, extra: str, seed: int) -> Tensor:
    """A picture of the default recipe (3, H, W), made once."""
    words = f"{include} with {extra}" if extra else f"{include} without nothing"
    path = FOLDER / f"{''.join(letter if letter.isalnum() else '-' for letter in f'{words} {seed}')}.png"
    if not path.is_file():
        job = Job((Prompt(include),), (), (Prompt(extra),) if extra else (), size=(256, 256), steps=60, seed=seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.to_png(models.backend.generate(job, lambda _step: None).image))
        print(path.name, flush=True)
    return images.from_pil(images.read(path))[0]


def main() -> None:
    """Make what is missing, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="0/1", help="K/N: make every Nth pair from K on, and save no figures")
    mine, of = (int(each) for each in parser.parse_args().part.split("/"))
    models = load_models(from_mapping({"include": "heart", "threads": 1}, source="settings"))
    torch.set_num_threads(1)
    assert models.judge is not None, "a judge is needed"
    rng = random.Random(14)
    plain = [one for one in includes(COUNT, seed=11) if "background" not in one.text]
    grounds = {with_article(f"{word} background"): (on_ground(word), 1) for word in rng.sample(COLOURS, 4)}
    asked = [(rng.choice(plain).text, extra, *how) for extra, how in (grounds | LOOKS).items()]
    rows = []
    for number, (include, extra, measure, sign) in enumerate(asked):
        for seed in range(SEEDS):
            if (number * SEEDS + seed) % of != mine:
                continue
            pair = make(models, include, "", seed), make(models, include, extra, seed)
            before, after = (measure(image) for image in pair)
            judge = judge_for(Job((Prompt(include),)), models.judge, models.judge_name)
            first, second = (judge.judge(image) for image in pair)
            assert first is not None, "the judge reads all names"
            assert second is not None, "the judge reads all names"
            moved = sign * (after - before) > 0 or (sign > 0 and min(before, after) > 0.9)
            rows.append(Row(include, extra, seed, round(before, 4), round(after, 4), moved, (first.rank, second.rank)))
            print(rows[-1], flush=True)
    if of == 1:
        told = f"{sum(row.moved for row in rows)} of {len(rows)}"
        saved = {"moved": told, "weights": models.facts["weights"], "rows": [vars(row) for row in rows]}
        (RESULTS / "extras.json").write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
        print(told)


if __name__ == "__main__":
    main()
