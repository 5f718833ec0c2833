"""Trains the small CLIP models, two guides and a judge: `python -m training.clip NAME`.

Resumes from its checkpoint when started again; exports the averaged weights as it goes. `--restart` begins a new
cosine at the checkpoint (warm restarts, Loshchilov and Hutter 2017), for a loss that came after the rates had sunk.
What `python -m training.forgeries NAME` has left by then, or leaves while this runs, is learnt from as well.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from training import pool
from training.data import cache_folder, load
from training.export import export_run
from training.loop import Options, find, find_export, options_of, run_main, train, training_parser
from training.recipes import GUIDE_STYLES, RECIPES, Recipe
from training.retrieval import evaluate, make_exam
from training.steps import Run, start, update
from training.views import make_bank
from vqclip.job import InputError


def borrow_text(run: Run, path: Path) -> None:
    """Starts the text tower with that of an export; InputError for one that knows other tokens."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("visual.")}  # noqa: SIM118
    if not torch.equal(tensors.pop("token_ids"), run.tokens.ids):
        raise InputError(f"{path} was trained with other captions; train it again first")
    for model in (run.model, run.average):
        state = model.state_dict()
        for name, value in tensors.items():
            state[name].copy_(value)


def write_export(path: Path, name: str, run: Run, figures: dict[str, float]) -> None:
    """The averaged weights as a starter file, with the token ids of the table's rows."""
    export_run(
        path, run, figures, kind="clip", name=name,
        tensors=dict(run.average.state_dict()) | {"token_ids": run.tokens.ids},
        architecture=run.recipe.architecture(len(run.tokens.ids)), text_from=run.recipe.text_from,
        radius=round(run.radius, 3), concepts=len(run.codes.names),
    )  # fmt: skip


def prepare(recipe: Recipe, options: Options[Recipe]) -> Run:
    """A fresh run on the cached drawings, with a borrowed text tower where the recipe names one.

    Raises:
        InputError: no drawings, or a tower that is not there or knows other tokens.
    """
    icons = load(recipe.styles, "concepts").only(recipe.names)
    bank = make_bank(icons, side=recipe.size * 5 // 4, variants=recipe.variants, seed=recipe.seed)
    known = find(options.out, "vocabulary.json", "python -m training.data")
    run = start(recipe, bank, json.loads(known.read_text())["concepts"], options.device)
    if recipe.text_from:
        borrow_text(run, find_export(options.out, recipe.text_from))
    return run


def main() -> None:
    """Trains the CLIP that the command line names and exports it at every report."""
    parser = training_parser(__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    arguments = parser.parse_args()
    options = options_of(arguments, arguments.name, RECIPES[arguments.name])
    recipe, name = options.recipe, options.name
    run = prepare(recipe, options)
    options.go_on(run)
    pictures = cache_folder() / "forgeries" / f"{name}.safetensors"
    run.forged, run.redrawn = pool.read(pictures)
    exams = [make_exam("openmoji", ("openmoji",), run.codes.names, recipe.size)]
    if recipe.styles != GUIDE_STYLES:
        unseen = tuple(style for style in GUIDE_STYLES if style not in recipe.styles)
        exams.append(make_exam("unseen", unseen, run.codes.names, recipe.size))

    def report() -> dict[str, float]:
        figures = {key: value for exam in exams for key, value in evaluate(exam, run.average, run.tokens).items()}
        run.forged, run.redrawn = pool.read(pictures)
        write_export(options.export, name, run, figures)
        return figures

    train(run, options, update, report)


if __name__ == "__main__":
    run_main(main)
