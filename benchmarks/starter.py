"""Checks of the starter models that no guide can flatter: `python -m benchmarks.starter CHECK`.

ceiling: where the judge ranks real drawings, and VQGAN reconstructions of them, asked as for pictures that were
made. colours: whether "red X", "blue X" and "green X" come out in that colour. shapes: whether nearest
drawings by oriented edges agree with the prompt, on the pictures that `benchmarks.gallery` left. binding: whether
the guide knows whose colour it sees. All but colours need the icons of `python -m training.data`.
Writes benchmarks/results/starter-NAME.json.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import random

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality import RESULTS, VOCABULARY, draw, shares
from training.captions import with_article
from vqclip import config, images
from vqclip.backends.vqgan.backend import VQGANBackend
from vqclip.job import Job, Prompt
from vqclip.run.assemble import Models, judge_for, load_models

HUES = {"red": (345, 15), "green": (75, 165), "blue": (190, 260)}  # degrees, ends included
THINGS = 10


def guided() -> list[str]:
    """The names that the guide knows best."""
    names: list[str] = json.loads(VOCABULARY.read_text(encoding="utf-8"))["guided"]
    return names


def judge_rank(models: Models, text: str, image: Tensor) -> int:
    """Place of a text among its rivals for one picture."""
    assert models.judge is not None, "a judge is needed"
    verdict = judge_for(Job((Prompt(text),)), models.judge, models.judge_name).judge(image)
    assert verdict is not None, f"{text!r} cannot be read"
    return verdict.rank


def ceiling(models: Models, size: int) -> dict[str, object]:
    """Ranks of real drawings on white, of a style that nothing was trained on and of the guides' own, and rebuilt."""
    from training.data import load
    from training.views import make_bank

    assert isinstance(models.backend, VQGANBackend)
    found: dict[str, object] = {}
    for title, style in (("unseen style", "openmoji"), ("a style of the guides", "noto")):
        bank = make_bank(load((style,), "concepts").only(tuple(guided())), side=size, variants=0, seed=0)
        pixels = bank.pixels.permute(0, 3, 1, 2).float() / 255
        white = (pixels[:, :3] + 1 - pixels[:, 3:]).clamp(0, 1)
        texts = [f"{with_article(truth.name, truth.name)} on a white background" for truth in bank.truths]
        generator = models.backend.generator
        with torch.no_grad():
            rebuilt = torch.cat([generator.decode(generator.encode(image[None])) for image in white])
        for kind, pictures in (("drawings", white), ("reconstructions", rebuilt)):
            ranks = [judge_rank(models, text, image) for text, image in zip(texts, pictures, strict=True)]
            found[f"{title}, {kind}"] = shares(ranks)
    return found


def colours(models: Models, job: Job) -> dict[str, object]:
    """Dominant hue of the thing, and of the picture's middle, for ten things in three colours."""
    things = random.Random(7).sample(guided(), THINGS)  # no secret
    rows: list[dict[str, object]] = []
    for thing in things:
        for colour in HUES:
            text = with_article(f"{colour} {thing}", thing)
            asked = Job((Prompt(text),), size=job.size, steps=job.steps, seed=0)
            image, _ = draw(models.backend, asked, float("inf"))
            hue, middle = (dominant_hue(pixels) for pixels in thing_and_middle(image))
            found = {"hue": hue, "right": has_hue(hue, colour)}
            rows.append({"prompt": text, **found, "middle_hue": middle, "middle_right": has_hue(middle, colour)})
            print(text, hue, has_hue(hue, colour), middle, has_hue(middle, colour), flush=True)
    told = {key: round(sum(bool(row[key]) for row in rows) / len(rows), 3) for key in ("right", "middle_right")}
    return {**told, "rows": rows}


def dominant_hue(pixels: Tensor) -> float | None:
    """The commonest hue in degrees, by saturation, of colours (3, N) in [0, 1]; None where all are grey."""
    bins = [0.0] * 24
    for red, green, blue in pixels.T.tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        if saturation > 0.25 and value > 0.15:
            bins[int(hue * 24) % 24] += saturation
    best = max(range(24), key=lambda place: bins[place])
    return None if bins[best] == 0 else best * 15 + 7.5


def thing_and_middle(image: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (3, N) of what stands out from the ground, and of the middle half whatever is there.

    The ground is the median colour of the picture's rim; what differs from it by more than 0.3 stands out.
    """
    small = F.interpolate(image[None], (64, 64), mode="bilinear", antialias=True, align_corners=False)[0]
    rim = torch.ones(64, 64, dtype=torch.bool)
    rim[4:60, 4:60] = False
    ground = small[:, rim].median(1).values
    outside = (small - ground[:, None, None]).square().sum(0).sqrt() > 0.3
    middle = small[:, 16:48, 16:48].flatten(1)
    return (small[:, outside] if outside.float().mean() > 0.03 else middle), middle


def has_hue(hue: float | None, colour: str) -> bool:
    """Whether a hue in degrees is called by that colour."""
    low, high = HUES[colour]
    return hue is not None and (low <= hue <= high if low < high else hue >= low or hue <= high)


def shapes() -> dict[str, object]:
    """Place of the prompted thing among the guided names, by edges alone, for the pictures of `benchmarks.gallery`."""
    from benchmarks.gallery import PICTURES
    from benchmarks.second_look import SecondLook

    names = guided()
    look, rows = SecondLook(names), []
    asked = json.loads((RESULTS / "quality-default.json").read_text(encoding="utf-8"))["rows"]
    for number, text in enumerate(row["prompt"] for row in asked):
        name = max((name for name in names if name in text), key=len)
        image = images.from_pil(images.read(PICTURES / f"{number:03d}.png"))[0]
        rows.append({"prompt": text, "rank": look.rank(image, name)})
    return {**shares([int(str(row["rank"])) for row in rows]), "among": len(names), "rows": rows}


def binding(models: Models) -> dict[str, object]:
    """How often the guide finds "a red cup" nearer than "a blue cup" to drawings of red cups on blue, and so on.

    On white the other colour is white. Half would be chance.
    """
    from training.data import load
    from training.views import Crops, make_bank, make_views

    assert isinstance(models.backend, VQGANBackend)
    guide, found = models.backend.guides[0], {}
    bank = make_bank(load(("noto", "openmoji"), "concepts").only(tuple(guided())), side=128, variants=4, seed=1)
    for title, white in (("on white", 1.0), ("on colours", 0.0)):
        rng = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(bank.truths), generator=rng)[:400]
        crops = Crops((1.0, 1.2), 3, 0.02, perspective=0, noise=0, erase=0, jitter=0, white=white)
        pictures, truths = make_views(bank, rows, crops, size=guide.size, rng=rng)
        rows = torch.tensor([place for place, truth in enumerate(truths) if truth.colour and truth.background])
        named = [truths[row] for row in rows.tolist()]
        with torch.no_grad():
            seen = torch.cat([guide.embed_image(part) for part in pictures[rows].split(50)])
        texts = [[f"a {getattr(truth, of)} {truth.name}" for truth in named] for of in ("colour", "background")]
        likeness = [(guide.embed_text(each) * seen).sum(1) for each in texts]
        share = (likeness[0] > likeness[1]).float().mean().item()
        found[title] = {"drawings": len(named), "right": round(share, 3)}
    return found


def main() -> None:
    """Run one check, print and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=("ceiling", "colours", "shapes", "binding"))
    arguments = parser.parse_args()
    settings = config.load(None, ["include=any"]).config
    models = load_models(settings, lambda _message: None)
    job = Job((Prompt("any"),), size=settings.size, steps=settings.steps)
    found = {
        "ceiling": lambda: ceiling(models, settings.size[0]),
        "colours": lambda: colours(models, job),
        "shapes": shapes,
        "binding": lambda: binding(models),
    }[arguments.check]()
    report = {"command": f"python -m benchmarks.starter {arguments.check}", **found}
    (RESULTS / f"starter-{arguments.check}.json").write_text(json.dumps(report, indent=1) + "\n")
    print({key: value for key, value in found.items() if key != "rows"})


if __name__ == "__main__":
    main()
