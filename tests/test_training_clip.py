"""A tiny model learns two shapes, resumes bit for bit, is harder to fool when attacked, and exports what CLIP reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip.model import CLIP
from safetensors import safe_open

from training.checkpoint import resume_run, save_run
from training.clip import borrow_text, write_export
from training.data import SIDE, Icons
from training.recipes import GUIDE_STYLES, JUDGE_STYLES, RECIPES, Recipe, pace, strengthen
from training.retrieval import Exam, evaluate
from training.sources import STYLES
from training.steps import Run, draw_rows, start, update
from training.views import Bank, Crops, make_bank

CALM = Crops(scale=(1.0, 1.0), turn=0, shift=0.02, perspective=0, erase=0)
TINY = Recipe(
    embed=32, size=32, layers=(1, 1, 1, 1), width=8, text_layers=1, styles=("noto",), seed=5, crops=CALM, radius=0.0,
    batch=8, text_width=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def bank() -> Bank:
    """A disc and a cross in two colour styles."""
    line = np.linspace(-1, 1, SIDE)
    disc = np.hypot(line[:, None], line[None]) < 0.7
    cross = (np.abs(line[:, None]) < 0.2) | (np.abs(line[None]) < 0.2)
    pixels = np.zeros((4, SIDE, SIDE, 4), np.uint8)
    for place, (shape, colour) in enumerate([(disc, 200), (cross, 200), (disc, 120), (cross, 120)]):
        pixels[place, ..., 0], pixels[place, ..., 3] = colour, shape * 255
    names = ["disc", "cross"] * 2
    return make_bank(Icons(pixels, names, ["noto", "noto", "twemoji", "twemoji"], names), side=40, variants=2, seed=0)


def run(bank: Bank, recipe: Recipe = TINY) -> Run:
    with torch.random.fork_rng():
        return start(recipe, bank, ["disc", "cross", "apple"], torch.device("cpu"))


def test_the_judge_has_drawings_of_its_own_and_nothing_is_share_alike() -> None:
    assert len(set(JUDGE_STYLES) - set(GUIDE_STYLES)) == 4
    assert len(set(GUIDE_STYLES) - set(JUDGE_STYLES)) == 4
    assert not any("SA" in STYLES[style].licence for style in (*GUIDE_STYLES, *JUDGE_STYLES))
    assert RECIPES["judge"].rejection == 0 < RECIPES["guide-rn"].rejection
    assert len({recipe.seed for recipe in RECIPES.values()}) == len(RECIPES)


def test_the_attack_follows_what_the_model_can_bear_and_the_rate_falls() -> None:
    recipe = replace(TINY, radius=2.0)
    assert strengthen(1.0, 0.5, recipe) > 1.0 > strengthen(1.0, 0.1, recipe)
    assert strengthen(2.0, 1.0, recipe) == 2.0
    assert strengthen(0.2, 0.0, recipe) == 0.2
    assert pace(0, 0.0) < pace(100, 0.0) == 1.0 > pace(1000, 0.5) > pace(1000, 1.0) > 0


def test_originals_are_drawn_about_as_often_as_all_recoloured_variants(bank: Bank) -> None:
    rows = draw_rows(bank, 4000, torch.Generator().manual_seed(0))
    assert bank.original.sum() == 4
    assert 0.4 < bank.original[rows].float().mean() < 0.6


def test_guided_names_are_drawn_more_often_where_asked(bank: Bank) -> None:
    truths = [replace(truth, name={"disc": "apple"}.get(truth.name, truth.name)) for truth in bank.truths]
    named = replace(bank, truths=truths)  # an apple is guided, a cross is not
    counts = []
    for focus in (1.0, 3.0):
        rows = draw_rows(named, 4000, torch.Generator().manual_seed(0), focus=focus)
        counts.append(sum(truths[row].name == "apple" for row in rows.tolist()) / 4000)
    assert counts == pytest.approx([0.5, 0.75], abs=0.05)


def test_it_learns_two_shapes_and_the_exam_sees_it(bank: Bank) -> None:
    pupil = run(bank)
    first = [update(pupil, 0.0)["loss"] for _ in range(5)]
    for _ in range(60):
        last = update(pupil, 0.0)["loss"]
    picture = bank.pixels[bank.original].permute(0, 3, 1, 2).float() / 255
    image = torch.nn.functional.interpolate(picture[:, :3] + 1 - picture[:, 3:], (32, 32), mode="area")
    answers = torch.tensor([pupil.codes.names.index(name) for name in ("disc", "cross") * 2])
    figures = evaluate(Exam("seen", image, answers, pupil.codes.names), pupil.average, pupil.tokens, radius=0.5)
    assert last < sum(first) / 5 - 0.5
    assert figures["seen_top1"] == 1.0
    assert figures["seen_attacked"] <= figures["seen_top1"]
    assert pupil.views == 65 * 8


def test_an_attacked_batch_is_replayed_and_text_learns_once(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    pupil, seen = run(bank, replace(TINY, radius=1.0, replays=3)), []
    step = pupil.optimizer.step

    def watch() -> None:
        seen.append(pupil.model.text_projection.grad is not None)
        step()

    monkeypatch.setattr(pupil.optimizer, "step", watch)
    radius = update(pupil, 0.5)["radius"]
    assert radius == pytest.approx(0.2)
    assert pupil.radius != radius
    assert seen == [False, False, True]
    assert pupil.model.training
    assert (pupil.steps, pupil.views) == (1, 8)


def test_a_resumed_run_repeats_the_same_step(bank: Bank, tmp_path: Path) -> None:
    first = run(bank, replace(TINY, radius=1.0, replays=2))
    update(first, 0.0)
    save_run(tmp_path / "run", first)
    second = run(bank, replace(TINY, radius=1.0, replays=2))
    resume_run(tmp_path / "run", second)
    assert (second.steps, second.views) == (1, 8)
    assert update(first, 0.0) == update(second, 0.0)
    for one, two in zip(first.average.state_dict().values(), second.average.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_new_cosine_begins_half_as_high_and_is_remembered(bank: Bank, tmp_path: Path) -> None:
    first = run(bank)
    first.steps = 200  # past the warm-up
    update(first, 0.0)
    full = first.optimizer.param_groups[0]["lr"]
    first.since = first.seconds = 60.0
    update(first, 0.0)
    assert first.optimizer.param_groups[0]["lr"] == pytest.approx(full / 2)
    save_run(tmp_path / "run", first)
    second = run(bank)
    resume_run(tmp_path / "run", second)
    assert second.since == 60.0


def test_an_export_loads_into_openai_clip_and_lends_its_text_tower(bank: Bank, tmp_path: Path) -> None:
    pupil, path = run(bank), tmp_path / "tiny.safetensors"
    update(pupil, 0.0)
    write_export(path, "tiny", pupil, {"seen_top1": 0.5})
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    ids, architecture = tensors.pop("token_ids"), json.loads(metadata["architecture"])
    assert len(ids) == len(tensors["token_embedding.weight"])
    assert {"architecture", "provenance", "training"} <= set(metadata)
    CLIP(**architecture | {"vision_layers": tuple(architecture["vision_layers"])}).load_state_dict(tensors)

    other = run(bank, replace(TINY, seed=6))
    image_before = other.model.visual.conv1.weight.clone()
    borrow_text(other, path)
    assert torch.equal(other.model.text_projection, tensors["text_projection"].float())
    assert torch.equal(other.model.visual.conv1.weight, image_before)
