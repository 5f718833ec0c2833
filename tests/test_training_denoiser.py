"""The denoiser's training: windows, a falling error, exact resumption, and a file that the loop can use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from training.checkpoint import resume_run, save_run
from training.data import Icons
from training.denoiser import Run, draw, sample, start, update, window, write_export
from training.denoiser_data import DRAWN, Sketches, draw_codes
from training.export import describe_styles
from training.recipes import DENOISER, JUDGE_STYLES
from training.views import make_bank
from vqclip.generators.denoiser import Denoiser, build
from vqclip.generators.vqgan import Architecture, VQModel
from vqclip.weights import load as weights

SHAPE: dict[str, Any] = {"channels": 8, "width": 32, "multipliers": (1, 1), "groups": 4}
CPU = torch.device("cpu")
SMALL = replace(DENOISER, batch=8, rate=3e-3, held_out=4, shape=SHAPE)


@pytest.fixture
def sketches() -> Sketches:
    """Grids in which the left half holds one code and the right half another: easy to learn."""
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(6, (40, 2), generator=rng, dtype=torch.int16)

    def grids(side: int) -> torch.Tensor:
        return codes.repeat_interleave(side // 2, 1)[:, None].expand(-1, side, -1).contiguous()

    return Sketches(grids(16), grids(32), torch.randn(6, 8, generator=rng))


def fresh(sketches: Sketches) -> Run:
    return start(SMALL, sketches, CPU)


def test_windows_lie_inside_and_move() -> None:
    codes = torch.arange(32 * 32).view(1, 32, 32).expand(3, -1, -1)
    rng = torch.Generator().manual_seed(1)
    corners = {int(window(codes, 16, rng)[0, 0, 0]) for _ in range(20)}
    assert len(corners) > 10
    assert max(corner // 32 for corner in corners) <= 16
    assert torch.equal(window(codes[:, :16, :16], 16, rng), codes[:, :16, :16])


def test_fine_windows_are_shown_with_little_noise(sketches: Sketches) -> None:
    run = fresh(sketches)
    for _ in range(10):
        latents, levels = draw(run)
        assert latents.shape == (8, 8, 16, 16)
        assert levels[: round(SMALL.fine * 8)].max() <= SMALL.faint
        assert levels.max() < 1


def test_it_learns_what_its_pictures_look_like(sketches: Sketches) -> None:
    run = fresh(sketches)
    errors = [update(run, 0.0)["error"] for _ in range(150)]
    assert sum(errors[-10:]) < 0.7 * sum(errors[:10])


def test_a_resumed_run_goes_on_bit_for_bit(sketches: Sketches, tmp_path: Path) -> None:
    one = fresh(sketches)
    for _ in range(3):
        update(one, 0.1)
    save_run(tmp_path / "run.safetensors", one)
    other = fresh(sketches)
    resume_run(tmp_path / "run.safetensors", other)
    assert (other.steps, other.views) == (3, 24)
    assert update(one, 0.2) == update(other, 0.2)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_the_export_is_a_denoiser_of_its_vqgan(sketches: Sketches, tmp_path: Path) -> None:
    run = fresh(sketches)
    update(run, 0.0)
    path = tmp_path / "denoiser.safetensors"
    write_export(path, run, "digest", {"error": 0.5})
    file = weights.load(path, parts=("",))
    network = build(file.state, file.metadata)
    assert file.trained_with("vqgan") == "digest"
    drawn = sample(Denoiser(network, device=CPU), 2, 8, 16, steps=4, seed=0)
    assert drawn.shape == (2, 8, 16, 16)
    assert drawn.isfinite().all()
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["provenance"]) == describe_styles(DRAWN)


def test_its_drawings_are_none_of_the_judges() -> None:
    assert not set(DRAWN) & set(JUDGE_STYLES)


def test_codes_are_repeatable_and_of_the_asked_number() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vqgan = VQModel(Architecture(32, (1, 1, 2), 1, (2,), 3, 3, 32, 48, 32, gumbel=False)).eval()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (4, 64, 64, 4), dtype=np.uint8)
    bank = make_bank(Icons(pixels, ["disc"] * 4, ["noto"] * 4, ["disc"] * 4), side=32, variants=0, seed=0)
    one, same = (draw_codes(bank, vqgan, side=32, count=5, seed=2) for _ in range(2))
    assert one.shape == (5, 8, 8)
    assert one.dtype == torch.int16
    assert torch.equal(one, same)
    assert 0 <= one.min() <= one.max() < 48
