"""Makes docs/gallery.md: `python -m benchmarks.gallery [--prompts N] [--shown M]`. Nothing is picked or made twice.

N prompts by the default recipe on the starter models, the first M of them shown, beside the same prompts and seeds
under the `reference` preset, which gets as many seconds for each picture as the default recipe took. Also writes
benchmarks/results/quality-default.json and quality-reference.json, with how often the judge prefers which, and leaves
the N pictures in outputs/gallery for other checks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.quality import Row, draw_prompts, measure, save, summary
from vqclip import images

DOCS = Path(__file__).parent.parent / "docs"
PICTURES = DOCS.parent / "outputs" / "gallery"
COLUMNS, TILE = 6, 160  # of the sheets; pixels
PAGE = """# Gallery

{count} prompts, drawn from the starter models' vocabulary by a fixed seed and shown as they came, each with its place
among 101 texts as the judge ranks it (1 is best; the judge steered nothing). Picture number n has seed n. Made by

    {command}

## The default recipe

{top1} of {pictures} prompts first, {top5} among the first five; {seconds} s a picture (CPU threads: {threads}).

![{count} pictures by the default recipe](gallery-default.png)

## The `reference` preset

The same prompts, seeds, models and seconds under the settings of the 2021 scripts, at the same size:
{reference_top1} of {count} first, {reference_top5} among the first five. By the prompt's rank the judge prefers the
default picture in {wins} of {count} and the reference's in {losses}; of the {ties} with the same rank the default has
the larger margin in {tie_wins}. Together {all_wins} of {count}.

![The same prompts under the reference preset](gallery-reference.png)
"""


def sheet(name: str, rows: list[Row], pictures: list[torch.Tensor]) -> None:
    """Write the contact sheet of one recipe."""
    labels = [f"{row['prompt']} #{row['rank']}" for row in rows]
    small = [F.interpolate(each[None], (TILE, TILE), mode="bilinear", antialias=True)[0] for each in pictures]
    images.grid(small, COLUMNS, labels=labels).save(DOCS / f"gallery-{name}.png", optimize=True)


def share(rows: list[Row], within: int) -> int:
    """How many prompts the judge ranks so high."""
    return sum(int(str(row["rank"])) <= within for row in rows)


def compare(rows: list[Row], others: list[Row]) -> dict[str, int]:
    """How often the judge ranks the prompt higher in the first picture, in the second, and in neither.

    `tie_wins`: of the latter, where the first has the larger margin, which is the similarity over the best rival's.
    """
    found = dict.fromkeys(("wins", "losses", "ties", "tie_wins"), 0)
    for one, two in zip(rows, others, strict=True):
        first, second = int(str(one["rank"])), int(str(two["rank"]))
        found["wins" if first < second else "losses" if first > second else "ties"] += 1
        found["tie_wins"] += first == second and float(str(one["margin"])) > float(str(two["margin"]))
    return found | {"all_wins": found["wins"] + found["tie_wins"]}


def write_page(command: str, rows: list[Row], others: list[Row]) -> None:
    """Write docs/gallery.md and the figures of the reference preset, from what was measured."""
    found = compare(rows[: len(others)], others)
    save("reference", command, others, {f"default_{name}": value for name, value in found.items()})
    text = PAGE.format(
        count=len(others), command=command, pictures=len(rows), top1=share(rows, 1), top5=share(rows, 5), **found,
        seconds=summary(rows)["median_seconds"], threads=torch.get_num_threads(),
        reference_top1=share(others, 1), reference_top5=share(others, 5),
    )  # fmt: skip
    (DOCS / "gallery.md").write_text(text)


def main() -> None:
    """Draw, measure, write the page, the sheets and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=60, help="how many are measured")
    parser.add_argument("--shown", type=int, default=36, help="how many are shown and drawn by the reference preset")
    arguments = parser.parse_args()
    command = f"python -m benchmarks.gallery --prompts {arguments.prompts} --shown {arguments.shown}"
    texts = draw_prompts(arguments.prompts, 3)
    rows, pictures = measure(texts, [])
    save("default", command, rows)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        images.save_png(PICTURES / f"{number:03d}.png", picture)
    count = min(arguments.shown, len(texts))
    sheet("default", rows[:count], pictures[:count])
    limits = [float(str(row["seconds"])) for row in rows[:count]]
    side = f"size={pictures[0].shape[-1]},{pictures[0].shape[-2]}"
    others, rivals = measure(texts[:count], ["preset=reference", side], limits)
    sheet("reference", others, rivals)
    write_page(command, rows, others)


if __name__ == "__main__":
    main()
