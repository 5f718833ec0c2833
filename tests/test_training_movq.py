"""The MoVQ's training: fast forms that change nothing, colours from the start, unit latents, exact resumption."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from safetensors import safe_open

from training import movq
from training.checkpoint import resume_run, save_run
from training.data import Icons
from training.kandinsky_data import load_movq
from training.kandinsky_parts import make_movq, shift_latents, use_fast_norms
from training.movq import Run, examine, open_codebook, start, update, write_export
from training.recipes import MOVQ
from training.scenes import Stock, make_stock

TINY: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "vq_embed_dim": 4, "num_vq_embeddings": 16,
    "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "norm_num_groups": 4, "norm_type": "spatial",
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip

SMALL = dataclasses.replace(MOVQ, batch=8, cells=300, crop=32, scene=64, shape=TINY)


@pytest.fixture
def stock() -> Stock:
    """Six discs of different colours."""
    line = np.linspace(-1, 1, 128)
    disc = (line[:, None] ** 2 + line[None] ** 2 < 0.7).astype(np.uint8) * 255
    colours = np.random.default_rng(0).integers(0, 255, (6, 1, 1, 3), dtype=np.uint8)
    flat, shape = np.broadcast_to(colours, (6, 128, 128, 3)), np.broadcast_to(disc[None, ..., None], (6, 128, 128, 1))
    pixels = np.ascontiguousarray(np.concatenate((flat, shape), -1))
    return make_stock(Icons(pixels, ["disc"] * 6, ["noto"] * 6, ["disc"] * 6), torch.device("cpu"))


@pytest.fixture
def tiny(stock: Stock) -> Run:
    """Pictures a quarter as large as in earnest."""
    return start(SMALL, (stock, stock))


def picture(seed: int = 0, side: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_fast_normalisation_is_the_same_function() -> None:
    torch.manual_seed(0)
    plain = VQModel(**TINY)
    fast = copy.deepcopy(plain)
    use_fast_norms(fast)
    with torch.no_grad():
        assert torch.allclose(plain(picture()).sample, fast(picture()).sample, atol=1e-4)
    assert plain.state_dict().keys() == fast.state_dict().keys()


def test_a_fresh_movq_lets_colours_through() -> None:
    """Flat pictures of different colours stay apart in the latents, as they do not with PyTorch's own draw."""
    flat = torch.eye(3)[:, :, None, None].expand(3, 3, 32, 32) * 2 - 1
    own = VQModel(**TINY)
    made = make_movq(TINY, seed=1)
    with torch.no_grad():
        spread = [model.encode(flat).latents.mean((2, 3)).std(0).mean() for model in (made, own)]
    assert spread[0] > 4 * spread[1]


def test_shifted_latents_give_the_same_pictures() -> None:
    model = make_movq(TINY, seed=1)
    changed = copy.deepcopy(model)
    mean, deviation = torch.tensor([0.3, -1.0, 0.0, 2.0]), torch.tensor([0.5, 2.0, 1.0, 3.0])
    shift_latents(changed, mean, deviation)
    with torch.no_grad():
        before, after = (each.encode(picture()).latents for each in (model, changed))
        assert torch.allclose((before - mean[:, None, None]) / deviation[:, None, None], after, atol=1e-4)
        first, second = (m.decode(z, force_not_quantize=True).sample for m, z in ((model, before), (changed, after)))
    assert torch.allclose(first, second, atol=1e-3)


def test_training_lowers_the_loss_and_opens_the_codebook_in_time(tiny: Run) -> None:
    first = [update(tiny, 0.0)["l1"] for _ in range(3)]
    for _ in range(25):
        last = update(tiny, 0.1)
    assert not tiny.quantised
    assert last["code_loss"] == 0
    assert last["l1"] < 0.7 * sum(first) / 3
    assert update(tiny, 0.5)["code_loss"] > 0
    assert tiny.quantised
    assert tiny.views == 29 * SMALL.batch


def test_opening_the_codebook_gives_latents_unit_deviation(tiny: Run) -> None:
    tiny.recipe = dataclasses.replace(SMALL, cells=3000)
    for _ in range(3):
        update(tiny, 0.0)
    open_codebook(tiny)
    with torch.no_grad():
        latents = torch.cat(
            [movq.encode(tiny, movq.draw(tiny) * 2 - 1).movedim(1, -1).flatten(0, 2) for _ in range(12)]
        )
    assert latents.std(0).tolist() == pytest.approx([1] * 4, abs=0.3)
    book = tiny.model.quantize.embedding.weight
    assert torch.equal(book, tiny.average.quantize.embedding.weight)
    assert torch.cdist(latents, book).min(1).values.mean() < 0.7 * latents.norm(dim=1).mean()


def test_a_resumed_run_goes_on_as_if_never_stopped(tiny: Run, stock: Stock, tmp_path: Path) -> None:
    for progress in (0.1, 0.5):
        update(tiny, progress)
    save_run(tmp_path / "run.safetensors", tiny)
    again = start(SMALL, (stock, stock))
    resume_run(tmp_path / "run.safetensors", again)
    assert again.quantised
    assert update(again, 0.6) == update(tiny, 0.6)


def test_the_export_opens_with_unit_latents_and_its_arguments(tiny: Run, stock: Stock, tmp_path: Path) -> None:
    update(tiny, 0.0)
    path = tmp_path / "kandinsky-movq.safetensors"
    write_export(path, tiny, {"psnr": 12.5})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["kind"] == "kandinsky-movq"
    assert json.loads(metadata["architecture"]) == TINY
    assert json.loads(metadata["training"])["figures"] == {"psnr": 12.5}
    model = load_movq(path)
    image = movq.compose(stock, 64, SMALL.scene, torch.Generator().manual_seed(3))
    with torch.no_grad():
        latents = model.encode(image * 2 - 1).latents
    assert latents.mean((0, 2, 3)).abs().max() < 0.05
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.05


def test_examining_gives_figures_and_a_sheet(tiny: Run, stock: Stock, tmp_path: Path) -> None:
    figures = examine(tiny, stock, tmp_path / "sheet.png", pictures=2)
    sets, kinds = ("held_out", "guided"), ("plain", "codes")
    assert set(figures) == {f"{m}_{s}_{k}" for m in ("psnr", "ssim") for s in sets for k in kinds}
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
