"""Trains the small CLIP models, two guides and a judge: `python -m training.clip NAME`.

Resumes from its checkpoint when started again; exports the averaged weights as it goes. `--restart` begins a new
cosine at the checkpoint (warm restarts, Loshchilov and Hutter 2017), for a loss that came after the rates had sunk.
What `python -m training.forgeries NAME` has left by then, or leaves while this runs, is learnt from as well.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors import safe_open

from training import checkpoint, pool
from training.data import cache_folder, load
from training.export import export, machine
from training.recipes import GUIDE_STYLES, RECIPES
from training.retrieval import Exam, make_exam, sit_exam
from training.steps import Run, start, update
from training.views import make_bank


def borrow_text(run: Run, path: Path) -> None:
    """Starts the text tower with that of an export, which must know the same tokens."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith("visual.")}  # noqa: SIM118
    if not torch.equal(tensors.pop("token_ids"), run.tokens.ids):
        raise ValueError(f"{path} was trained with other captions; train it again first")
    for model in (run.model, run.average):
        state = model.state_dict()
        for name, value in tensors.items():
            state[name].copy_(value)


def write_export(path: Path, name: str, run: Run, figures: dict[str, float]) -> None:
    """The averaged weights as a starter file, with the token ids of the table's rows."""
    recipe = run.recipe
    figures = {key: round(value, 4) for key, value in figures.items()}
    training = {"minutes": round(run.seconds / 60, 1), "machine": machine(run.device), "views": run.views,
                "seed": recipe.seed, "text_from": recipe.text_from,
                "radius": round(run.radius, 3), "concepts": len(run.codes.names), "figures": figures}  # fmt: skip
    tensors = dict(run.average.state_dict()) | {"token_ids": run.tokens.ids}
    architecture = recipe.architecture(len(run.tokens.ids))
    export(
        path,
        tensors,
        kind="clip",
        name=name,
        styles=recipe.styles,
        architecture=architecture,
        training=training,
    )


def save_run(path: Path, run: Run) -> None:
    """A checkpoint from which `resume_run` goes on."""
    tensors = checkpoint.pack(run.model, run.average, run.optimizer) | {"rng": run.rng.get_state()}
    state = {
        "seconds": run.seconds,
        "since": run.since,
        "radius": run.radius,
        "steps": run.steps,
        "views": run.views,
        "words": run.words.bit_generator.state,
    }
    if run.mirages is not None:
        kept, said = run.mirages.state()
        tensors, state = tensors | kept, state | said
    checkpoint.save(path, tensors, state)


def resume_run(path: Path, run: Run) -> None:
    """Puts a checkpoint of `save_run` back, if there is one."""
    if path.exists():
        tensors, state = checkpoint.load(path)
        run.rng.set_state(tensors.pop("rng"))
        if run.mirages is not None:
            run.mirages.restore(tensors, state)
        checkpoint.unpack(tensors, run.model, run.average, run.optimizer)
        run.words.bit_generator.state = state["words"]
        for field in ("seconds", "radius", "steps", "views"):
            setattr(run, field, state[field])
        run.since = state.get("since", 0.0)


def train(run: Run, name: str, minutes: float, exams: list[Exam], folder: Path) -> None:
    """Trains until `minutes` are spent in all, examining, saving and exporting every four of them."""
    saved, last, stale = run.seconds, time.monotonic(), []
    total = 60 * minutes
    while run.seconds < total:
        stale.append(update(run, (run.seconds - run.since) / (total - run.since)))
        run.seconds, last = run.seconds + time.monotonic() - last, time.monotonic()
        if run.seconds - saved > 240 or run.seconds >= total:
            figures = {key: value for exam in exams for key, value in sit_exam(exam, run.average, run.tokens).items()}
            means = {key: sum(row[key] for row in stale) / len(stale) for key in stale[0]}
            speed = len(stale) * (run.views / run.steps) / (run.seconds - saved)
            line = {"minutes": round(run.seconds / 60, 2), "views": run.views, "views_per_s": round(speed, 1)}
            log(folder / "logs" / f"{name}.jsonl", line | means | figures)
            save_run(folder / "runs" / f"{name}.safetensors", run)
            run.forged, run.redrawn = pool.read(folder / "forgeries" / f"{name}.safetensors")
            write_export(folder / "export" / f"{name}.safetensors", name, run, figures)
            saved, last, stale = run.seconds, time.monotonic(), []


def log(path: Path, line: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: round(value, 4) for key, value in line.items()})
    with path.open("a") as file:
        file.write(text + "\n")
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--minutes", type=float, default=60, help="training time in all, earlier runs included")
    parser.add_argument(
        "--restart", action="store_true", help="begin a new cosine of rates, half as high; resume it without"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    recipe, folder = RECIPES[arguments.name], cache_folder()
    device = torch.device(arguments.device)
    icons = load(recipe.styles, "concepts").only(recipe.names)
    bank = make_bank(icons, side=recipe.size * 5 // 4, variants=4, seed=recipe.seed)
    vocabulary = json.loads((folder / "vocabulary.json").read_text())["concepts"]
    run = start(recipe, bank, vocabulary, device)
    if recipe.text_from:
        borrow_text(run, folder / "export" / f"{recipe.text_from}.safetensors")
    resume_run(folder / "runs" / f"{arguments.name}.safetensors", run)
    run.forged, run.redrawn = pool.read(folder / "forgeries" / f"{arguments.name}.safetensors")
    if arguments.restart:
        run.since = run.seconds
    exams = [make_exam("openmoji", ("openmoji",), run.codes.names, recipe.size)]
    if recipe.styles != GUIDE_STYLES:
        unseen = tuple(style for style in GUIDE_STYLES if style not in recipe.styles)
        exams.append(make_exam("unseen", unseen, run.codes.names, recipe.size))
    train(run, arguments.name, arguments.minutes, exams, folder)


if __name__ == "__main__":
    main()
