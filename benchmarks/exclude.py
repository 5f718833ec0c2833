"""What excluding does, over drawn prompts: `python -m benchmarks.exclude`.

Twenty includes are drawn from the guided names, colours and grounds, seeds 0 to 3, default recipe. Each is paired
with something excluded: seven with a colour that its pictures show unasked (drawn among those that fill 5 % of them
on average; any other colour where none does), seven with any colour that it does not name, three with a thing that
the judge sees in its pictures (drawn among names of a mean likeness of .2 or more), three with any thing or a part of
things. Every picture is made with and without. Pictures stay in outputs/benchmark-exclude and are not
made twice; `--part 0/2` makes every second one. Colours are counted in HSV, likeness by the judge.
Writes benchmarks/results/exclude.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.hsv import colour_shares, overlaps, thing_and_ground
from benchmarks.quality import RESULTS
from benchmarks.starter import guided
from vqclip import images
from vqclip.config import from_mapping
from vqclip.grammar import COLOURS, with_article
from vqclip.job import Job, Prompt, Verdict
from vqclip.judge.statistics import estimate
from vqclip.run.assemble import Models, judge_for, load_models
from vqclip.starter import concepts

FOLDER = Path("outputs/benchmark-exclude")
COUNT, SEEDS = 20, 4
PARTS = ("a face", "leaves", "a wave", "a ring", "a spoon", "a door")  # what guided things are drawn with, or near


@dataclass(frozen=True)
class Asked:
    """An include: its text, its thing and the colours that it names."""

    text: str
    thing: str
    colours: tuple[str, ...]


def includes(count: int, seed: int) -> list[Asked]:
    """Drawn things, half of them with a colour, half of them on a ground."""
    rng, found = random.Random(seed), []
    for thing in rng.sample(guided(), count):
        form = rng.choice(["t", "ct", "tg", "ctg"])
        colour, ground = rng.sample(COLOURS, 2)
        text = with_article(f"{colour} {thing}" if "c" in form else thing)
        text += f" on {with_article(f'{ground} background')}" if "g" in form else ""
        named = tuple(word for word, part in ((colour, "c"), (ground, "g")) if part in form)
        found.append(Asked(text, thing, named))
    return found


def pairs(
    asked: Sequence[Asked], seen: Sequence[dict[str, float]], alike: Sequence[dict[str, float]], seed: int
) -> list[str]:
    """What each include is paired with; of its pictures, mean shares of the colours and mean likenesses of names."""
    rng, chosen = random.Random(seed), [""] * len(asked)
    order = rng.sample(range(len(asked)), len(asked))
    for place, number in enumerate(order):
        one = asked[number]
        others = [word for word in COLOURS if word not in one.colours]
        shown = [word for word in others if seen[number][word] >= 0.05]
        if place >= 0.7 * len(asked):
            things = [with_article(name) for name in guided() if name != one.thing]
            chosen[number] = rng.choice([rng.choice(things), rng.choice(PARTS)])
            near = [with_article(name) for name, value in alike[number].items() if value >= 0.2 and name != one.thing]
            if place % 2 and near:
                chosen[number] = random.Random(number).choice(near)
        else:
            chosen[number] = rng.choice(shown if shown and place < 0.35 * len(asked) else others)
    return chosen


def likenesses(models: Models, images_of: Sequence[Tensor]) -> dict[str, float]:
    """Mean similarity of pictures to each everyday name, as the judge sees it."""
    assert models.judge is not None, "a judge is needed"
    names = list(concepts())
    texts = models.judge.embed_text([with_article(name) for name in names])
    look = judge_for(Job((Prompt("a heart"),)), models.judge, models.judge_name).embed
    means = torch.stack([texts @ look(image) for image in images_of]).mean(0)
    return dict(zip(names, means.tolist(), strict=True))


def make(models: Models, include: str, exclude: str, seed: int) -> Tensor:
    """A picture of the default recipe (3, H, W), made once."""
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{include} without {exclude or 'nothing'} {seed}")
    path = FOLDER / f"{name}.png"
    if not path.is_file():
        job = Job((Prompt(include),), (Prompt(exclude),) if exclude else (), size=(256, 256), steps=60, seed=seed)
        image = models.backend.generate(job, lambda _step: None).image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.to_png(image))
        print(path.name, flush=True)
    return images.from_pil(images.read(path))[0]


@dataclass(frozen=True)
class Row:
    """One pair of pictures, without and with the exclude; `share` is None where it is no colour."""

    include: str
    exclude: str
    seed: int
    rank: tuple[int, int]
    thing_rank: tuple[int, int]
    likeness: tuple[float, float]
    share: tuple[float, float] | None
    colours: tuple[tuple[str, str], tuple[str, str]]  # of thing and ground
    overlap: tuple[float, float]  # of the colours inside and on the rim, see `overlaps`
    change: float

    @property
    def same(self) -> bool:
        """Same colours of thing and ground; prompt and thing ranked as well, or still among the first three."""
        ranks = all(after <= max(before, 3) for before, after in (self.rank, self.thing_rank))
        return ranks and self.same_colours

    @property
    def same_colours(self) -> bool:
        """Whether four fifths of what lies inside, and of the rim, have kept their colour."""
        return min(self.overlap) >= 0.8


def measure(models: Models, one: Asked, exclude: str, seed: int) -> Row:
    """Shares of the excluded colour, likeness to what is excluded, ranks, and the colours of thing and ground."""
    assert models.judge is not None, "a judge is needed"
    images_of = make(models, one.text, "", seed), make(models, one.text, exclude, seed)
    judge = judge_for(Job((Prompt(one.text),), (Prompt(exclude),)), models.judge, models.judge_name)
    first, second = (judge.judge(image) for image in images_of)
    assert first is not None, "the judge reads all names"
    assert second is not None, "the judge reads all names"
    shares = [colour_shares(image).get(exclude) for image in images_of]
    return Row(
        include=one.text,
        exclude=exclude,
        seed=seed,
        rank=(first.rank, second.rank),
        thing_rank=(_rank(first, "thing"), _rank(second, "thing")),
        likeness=(first.exclude or 0.0, second.exclude or 0.0),
        share=None if shares[0] is None or shares[1] is None else (shares[0], shares[1]),
        colours=(thing_and_ground(images_of[0]), thing_and_ground(images_of[1])),
        overlap=overlaps(*images_of),
        change=float((images_of[0] - images_of[1]).abs().mean()),
    )


def _rank(verdict: Verdict, part: str) -> int:
    return verdict.parts.get(part, (verdict.rank, 0))[0]


def _count(rows: Sequence[bool]) -> str:
    return f"{sum(rows)} of {len(rows)}"


def summarise(rows: Sequence[Row]) -> dict[str, object]:
    """In how many pairs what was asked came, and what it cost."""
    shares = [row.share for row in rows if row.share]
    absent = [row for row in rows if row.share and row.share[0] < 0.02]
    ranks = {(row.include, row.seed): math.log(row.rank[1] / row.rank[0]) for row in rows}
    numbers = {text: number for number, text in enumerate(dict.fromkeys(row.include for row in rows))}
    found = estimate({(numbers[text], seed): value for (text, seed), value in ranks.items()})
    assert found is not None, "there are rows"
    gone = {share: share[1] <= share[0] / 2 or share[1] < 0.05 for share in shares}
    return {
        "colour at most half, or below .05": _count([gone[share] for share in shares]),
        "the same where .05 or more were shown": _count([gone[share] for share in shares if share[0] >= 0.05]),
        "largest growth of an excluded colour": round(max(after - before for before, after in shares), 3),
        "likeness to what is no colour falls": _count([r.likeness[1] < r.likeness[0] for r in rows if not r.share]),
        "colour was absent (below .02): same colours and ranks": _count([row.same for row in absent]),
        "absent: same colours": _count([row.same_colours for row in absent]),
        "absent: same commonest colour of thing and ground": _count([r.colours[0] == r.colours[1] for r in absent]),
        "difference of the ranks' logarithms": [round(found.mean, 3), found.low, found.high],
        "first without and with": [_count([row.rank[at] == 1 for row in rows]) for at in (0, 1)],
    }


def main() -> None:
    """Make what is missing, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="0/1", help="K/N: make every Nth pair from K on, and save no figures")
    parser.add_argument("settings", nargs="*", help="settings of the run, key=value")
    arguments = parser.parse_args()
    mine, of = (int(each) for each in arguments.part.split("/"))
    given = dict(each.split("=", 1) for each in arguments.settings)
    models = load_models(from_mapping({"include": "heart", "threads": 1, **given}, source="settings"))
    torch.set_num_threads(1)
    asked = includes(COUNT, seed=11)
    jobs = [(number, seed) for number in range(COUNT) for seed in range(SEEDS)]
    for at, (number, seed) in enumerate(jobs):
        if at % of == mine:
            make(models, asked[number].text, "", seed)
    plain = [[make(models, one.text, "", seed) for seed in range(SEEDS)] for one in asked]
    shares = [[colour_shares(image) for image in four] for four in plain]
    means = [{word: sum(each[word] for each in four) / SEEDS for word in COLOURS} for four in shares]
    chosen = pairs(asked, means, [likenesses(models, four) for four in plain], seed=12)
    if of > 1:
        for at, (number, seed) in enumerate(jobs):
            if at % of == mine:
                make(models, asked[number].text, chosen[number], seed)
        return
    rows = [measure(models, asked[number], chosen[number], seed) for number, seed in jobs]
    told = {"settings": given, "weights": models.facts["weights"], **summarise(rows), "rows": [asdict(r) for r in rows]}
    (RESULTS / "exclude.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summarise(rows), indent=1))


if __name__ == "__main__":
    main()
