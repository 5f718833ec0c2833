"""Whether the judge sees colours: real drawings in other colours than their own, under right and wrong captions.

`python -m benchmarks.recolour [--drawings N]`, with the icons of `python -m training.data`. Drawings of styles that the
judge never saw are recoloured, set on grounds of another colour and shown to it. Of those whose thing it names first
among all names: how often the right colour (and ground) comes first among the eleven captions that differ in nothing
else. `before` is one caption each and the mean of both looks for everything, as the judge worked at first. Also a plain
star in each colour, drawn here. Writes benchmarks/results/recolour.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality import RESULTS
from training.captions import with_article
from training.colours import SHADES
from training.data import Icons, load
from training.views import make_bank
from vqclip import config
from vqclip.grammar import COLOURS, PARTS, Part
from vqclip.job import Job, Prompt, Verdict
from vqclip.judge.judge import Judge
from vqclip.judge.rivals import rivals
from vqclip.perceptors import Perceptor
from vqclip.run.assemble import judge_for, load_models
from vqclip.starter import concepts

SETS = {"a style that nobody saw": ("openmoji",), "the guide's sets": ("noto", "fluent-emoji-flat", "fxemoji")}
SIDE, INSET = 128, 12  # px of a picture, of the ground around a drawing
VARIANTS = 3  # colours of each drawing beside its own
Drawing = tuple[Tensor, str, str, str]  # picture (3, SIDE, SIDE) in [0, 1], name, colour, ground


def draw(styles: Sequence[str], count: int, seed: int) -> list[Drawing]:
    """Recoloured drawings, a third on white, the others on a ground of another colour than theirs; drawn by seed."""
    rng = random.Random(seed)  # no secret
    icons = load(styles, "concepts")
    chosen = rng.sample(range(len(icons.names)), min(count // VARIANTS, len(icons.names)))
    lists = ([each[place] for place in chosen] for each in (icons.labels, icons.styles, icons.names))
    bank = make_bank(Icons(icons.pixels[chosen], *lists), side=SIDE - 2 * INSET, variants=VARIANTS, seed=seed)
    rows = [row for row, truth in enumerate(bank.truths) if truth.colour]
    drawings = []
    for number, row in enumerate(rng.sample(rows, min(count, len(rows)))):
        truth, plain = bank.truths[row], number % 3 == 0
        others = [colour for colour in COLOURS if colour != truth.colour]
        ground = "white" if plain and truth.colour != "white" else rng.choice(others)
        shade = torch.ones(3) if ground == "white" else torch.tensor(rng.choice(SHADES[ground])) / 255
        icon = F.pad(bank.pixels[row].permute(2, 0, 1).float() / 255, [INSET] * 4)
        picture = icon[:3] + (1 - icon[3:]) * shade[:, None, None]
        drawings.append((picture.clamp(0, 1), truth.name, truth.colour, ground))
    return drawings


def captions(name: str, colour: str, ground: str) -> dict[str, str]:
    """The right captions of a drawing: with its colour, and with colour and ground."""
    text = with_article(f"{colour} {name}", name)
    return {"colour": text, "colour and ground": f"{text} on {with_article(f'{ground} background', 'background')}"}


def verdict(eye: Perceptor, text: str, picture: Tensor) -> Verdict:
    """What the judge as it is says of a text against all that differ in its colours."""
    swapped = {kind: texts for kind, texts in rivals(text).items() if kind != "thing"}
    found = Judge(eye, "starter", [text], rivals=[swapped]).judge(picture)
    assert found is not None, f"{text!r} cannot be read"
    return found


def before(eye: Perceptor, seen: Tensor, text: str, part: Part) -> bool:
    """Whether a text was first among those that differ in a part, by one caption each and what both looks show."""
    texts = [text, *rivals(text)[part]]
    return int((eye.embed_text(texts) @ seen).argmax()) == 0


def measure(eye: Perceptor, drawings: Sequence[Drawing]) -> dict[str, object]:
    """Shares of drawings that are named right, and of those the ones whose parts come first, before and now."""
    names = eye.embed_text([with_article(name, name) for name in concepts()])
    looker = Judge(eye, "starter", ["apple"], rivals=[{}])
    known, right = 0, dict[str, list[bool]]()
    for picture, name, colour, ground in drawings:
        seen = looker.embed(picture)
        if concepts()[int((names @ seen).argmax())] != name:
            continue
        known += 1
        for form, text in captions(name, colour, ground).items():
            now = verdict(eye, text, picture)
            for part in [part for part in PARTS if part in now.parts]:
                right.setdefault(f"{form}: {part} first", []).append(now.parts[part][0] == 1)
                right.setdefault(f"{form}: {part} first, before", []).append(before(eye, seen, text, part))
            right.setdefault(f"{form}: first of all that differ in colours", []).append(now.rank == 1)
    shares = {key: round(sum(each) / len(each), 3) for key, each in sorted(right.items())}
    named = {"thing named first of 150": round(known / len(drawings), 3), "known": known}
    return {"drawings": len(drawings), **named, **shares}


def star(colour: str, ground: str) -> Tensor:
    """A plain five-pointed star (3, SIDE, SIDE) in the first shade of a colour."""
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    turn = (torch.atan2(x, -y) / (2 * math.pi / 5)).remainder(1)
    point, notch = 0.85, 0.34  # distances from the middle
    # The edge from a point to the next notch in polar form, mirrored within each fifth.
    angle, inner = (0.5 - (turn - 0.5).abs()) * 2 * math.pi / 5, math.pi / 5
    edge = point * notch * math.sin(inner) / (point * angle.sin() + notch * (inner - angle).sin())
    inside = (x.square() + y.square()).sqrt() < edge
    colours = [torch.tensor(SHADES[word][0]) / 255 for word in (colour, ground)]
    return torch.where(inside, colours[0][:, None, None], colours[1][:, None, None])


def stars(eye: Perceptor) -> dict[str, object]:
    """Plain stars on white and black: places of the right colour, and of "a yellow star" by colour and in all."""
    rows: list[dict[str, object]] = []
    for colour in COLOURS:
        ground = "black" if colour in ("white", "grey") else "white"
        picture = star(colour, ground)
        texts = [with_article(f"{word} star", "star") for word in (colour, "yellow")]
        right, yellow = (verdict(eye, text, picture) for text in texts)
        whole = judge_for(Job((Prompt(texts[1]),)), eye, "starter").judge(picture)
        assert whole is not None
        places = {"right": right.parts["colour"][0], "yellow": yellow.parts["colour"][0]}
        rows.append({"star": f"{colour} on {ground}", **places, "yellow in all": whole.rank})
    return {"right colour first": sum(row["right"] == 1 for row in rows), "of": len(rows), "rows": rows}


def main() -> None:
    """Measure both sets and the stars, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=int, default=120, help="of each set")
    arguments = parser.parse_args()
    eye = load_models(config.load(None, ["include=any"]).config, lambda _message: None).judge
    assert eye is not None, "a judge is needed"
    found: dict[str, object] = {"stars": stars(eye)}
    for title, styles in SETS.items():
        found[title] = measure(eye, draw(styles, arguments.drawings, 5))
        print(title, found[title], flush=True)
    command = f"python -m benchmarks.recolour --drawings {arguments.drawings}"
    (RESULTS / "recolour.json").write_text(json.dumps({"command": command, **found}, indent=1) + "\n")
    print(found["stars"])


if __name__ == "__main__":
    main()
