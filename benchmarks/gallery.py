"""Makes docs/gallery.md: `python -m benchmarks.gallery [--prompts N] [--shown M] [--finished F] [--steps S]`.

N prompts by the default recipe on the starter models, the first M of them shown, beside the same prompts and seeds
under the `reference` preset twice: stopped after as many seconds as the default recipe took for that picture, and, for
the first F, finished with its own number of steps (500). Nothing is picked or made twice. Also writes
benchmarks/results/quality-default.json, -reference.json and -reference-seconds.json, and leaves the N pictures in
outputs/gallery for other checks. A finished reference picture takes four and a half minutes of one thread: what is
there already is not made again, so the command can be stopped and goes on. `--trial FOLDER` writes everything there
instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks import quality
from benchmarks.quality import Row, draw_prompts, measure, save, summary
from vqclip import images
from vqclip.judge.statistics import wilson

DOCS = Path(__file__).parent.parent / "docs"
PICTURES = DOCS.parent / "outputs" / "gallery"
COLUMNS, TILE = 6, 160  # of the sheets; pixels
PAGE = """# Gallery

{count} prompts, drawn from the starter models' vocabulary by a fixed seed and shown as they came, each with its place
among {among} texts as the judge ranks it (1 is best; the judge steered nothing). Picture number n has seed n. In
brackets stand 95 % intervals (Wilson). Guide and judge are the starter models, which know these things and this style:
what other weights would make of the same recipes is not said here. Made by

    {command}

## The default recipe

{first}

![{count} pictures by the default recipe](gallery-default.png)

## The `reference` preset, finished

The first {finished_count} of these prompts with the same seeds, models and size under the settings of the 2021
scripts, all of their steps.
{finished}
{finished_duel}

![The first prompts under the reference preset, all steps](gallery-reference.png)

## The `reference` preset in the same seconds

All {count} prompts, each picture stopped after as many seconds as the default recipe took for it.
{stopped}
{stopped_duel}

![The same prompts under the reference preset, stopped](gallery-reference-seconds.png)
"""


def sheet(folder: Path, name: str, rows: list[Row], pictures: list[torch.Tensor]) -> None:
    """Write the contact sheet of one recipe."""
    labels = [f"{row['prompt']} #{row['rank']}" for row in rows]
    small = [F.interpolate(each[None], (TILE, TILE), mode="bilinear", antialias=True)[0] for each in pictures]
    images.grid(small, COLUMNS, labels=labels).save(folder / f"gallery-{name}.png", optimize=True)


def said(part: int, count: int) -> str:
    """ "12 of 16 (51 to 90 %)": a share with Wilson's 95 % interval."""
    low, high = wilson(part / count, count)
    return f"{part} of {count} ({100 * low:.0f} to {100 * high:.0f} %)"


def ranks(rows: list[Row]) -> list[int]:
    return [int(str(row["rank"])) for row in rows]


def told(rows: list[Row]) -> str:
    """What a recipe reached, with the steps and seconds of a picture."""
    first, among_five = (sum(rank <= most for rank in ranks(rows)) for most in (1, 5))
    steps = sorted(int(str(row["steps"])) for row in rows)
    middle = steps[len(steps) // 2]
    span = f"{middle}" if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]}, median {middle}"
    pace = f"{span} steps and {summary(rows)['median_seconds']:.1f} s a picture"
    return (
        f"{said(first, len(rows))} prompts first, {said(among_five, len(rows))} among the first five;\n"
        f"{pace} (medians; CPU threads: {torch.get_num_threads()})."
    )


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


def duel(rows: list[Row], others: list[Row]) -> str:
    """Which of two recipes the judge prefers, in words."""
    found, count = compare(rows, others), len(others)
    wins, losses, all_wins = (said(found[name], count) for name in ("wins", "losses", "all_wins"))
    return (
        f"By the prompt's rank the judge prefers the default picture in {wins} and the\n"
        f"reference's in {losses}; of the {found['ties']} with the same rank the default has the\n"
        f"larger margin in {found['tie_wins']}. Together {all_wins}."
    )


def write_page(folder: Path, command: str, rows: list[Row], others: dict[str, list[Row]], among: int) -> None:
    """Write gallery.md and the figures of the reference preset, from what was measured."""
    for name, found in others.items():
        against = compare(rows[: len(found)], found)
        save(name, command, found, {f"default_{key}": value for key, value in against.items()})
    finished, stopped = others["reference"], others["reference-seconds"]
    text = PAGE.format(
        count=len(stopped), finished_count=len(finished), among=among, command=command, first=told(rows),
        finished=told(finished), stopped=told(stopped), finished_duel=duel(rows[: len(finished)], finished),
        stopped_duel=duel(rows[: len(stopped)], stopped),
    )  # fmt: skip
    (folder / "gallery.md").write_text(text)


def main() -> None:
    """Draw, measure, write the page, the sheets and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=60, help="how many are measured")
    parser.add_argument("--shown", type=int, default=36, help="how many are shown and drawn by the reference preset")
    parser.add_argument("--finished", type=int, default=8, help="how many of these the reference preset finishes")
    parser.add_argument("--steps", type=int, default=500, help="of a finished picture of the reference preset")
    parser.add_argument("--trial", type=Path, help="folder for everything, instead of docs, results and outputs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all three")
    arguments = parser.parse_intermixed_args()
    folder, kept = arguments.trial or DOCS, arguments.trial or PICTURES
    if arguments.trial:
        quality.RESULTS = arguments.trial
    kept.mkdir(parents=True, exist_ok=True)
    options = " ".join(f"--{name} {getattr(arguments, name)}" for name in ("prompts", "shown", "finished", "steps"))
    command = " ".join(["python -m benchmarks.gallery", options, *arguments.overrides])
    texts = draw_prompts(arguments.prompts, 3)
    rows, pictures = measure(texts, arguments.overrides, kept=kept)
    save("default", command, rows)
    count = min(arguments.shown, len(texts))
    sheet(folder, "default", rows[:count], pictures[:count])
    height, width = pictures[0].shape[-2:]
    others: dict[str, list[Row]] = {}
    reference = [*arguments.overrides, "preset=reference", f"size={width},{height}", f"steps={arguments.steps}"]
    limits = [float(str(row["seconds"])) for row in rows[:count]]
    for name, number, ends in (("reference-seconds", count, limits), ("reference", arguments.finished, None)):
        others[name], drawn = measure(texts[: min(number, count)], reference, ends, kept / name)
        sheet(folder, name, others[name], drawn)
    write_page(folder, command, rows, others, int(str(rows[0]["among"])))


if __name__ == "__main__":
    main()
