"""The prior's and the UNet's training: pictures, embeddings of any guide in one form, samples, exports, resumption."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from training import kandinsky_prior, kandinsky_unet
from training.captions import Meaning, Tokens
from training.checkpoint import resume_run, save_run
from training.data import Icons
from training.kandinsky_data import (
    Embeddings,
    draw_views,
    embed,
    fresh_embeddings,
    load_views,
    save_views,
)
from training.kandinsky_parts import make_movq
from training.kandinsky_reading import translate, whiten
from training.recipes import PRIOR, UNET
from training.views import make_bank
from vqclip.backends.kandinsky import starter as kandinsky_starter
from vqclip.weights.convert import digest_of

CPU = torch.device("cpu")
WIDE = 16
UNET_SHAPE: dict[str, Any] = {
    "sample_size": 4, "in_channels": 4, "out_channels": 8, "addition_embed_type": "image",
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "block_out_channels": [16, 32], "layers_per_block": 1,
    "encoder_hid_dim": WIDE, "encoder_hid_dim_type": "image_proj", "cross_attention_dim": 8,
    "attention_head_dim": 8, "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 4,
}  # fmt: skip
PRIOR_SHAPE: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "embedding_dim": WIDE,
    "num_embeddings": 12, "additional_embeddings": 4,
}  # fmt: skip
MOVQ: dict[str, Any] = {
    "latent_channels": 4, "vq_embed_dim": 4, "norm_type": "spatial", "block_out_channels": [32] * 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 4,
}  # fmt: skip


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def embeddings() -> Embeddings:
    """Forty embeddings that vary much in some directions and little in others, off the origin."""
    views = noise(40, WIDE) * torch.logspace(0, -2, WIDE) @ noise(WIDE, WIDE, seed=1) + 3
    return Embeddings(views, noise(WIDE, seed=2), "a")


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """An exported CLIP of the smallest size that knows a few words."""
    ids = Tokens(["a", "an", "red", "blue", "disc", "on", "white", "background", "something"]).ids
    torch.manual_seed(0)
    model = CLIP(WIDE, 32, (1, 1, 1, 1), 8, None, 12, len(ids), 64, 1, 1)
    path = tmp_path / "guide-rn.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()} | {"token_ids": ids}, path)
    return path


@pytest.fixture
def run(embeddings: Embeddings) -> kandinsky_unet.Run:
    recipe = dataclasses.replace(UNET, batch=16, shape=UNET_SHAPE)
    return kandinsky_unet.start(recipe, noise(40, 4, 4, 4, seed=3), embeddings, CPU)


@pytest.fixture
def prior(embeddings: Embeddings, guide: Path) -> kandinsky_prior.Run:
    truths = [Meaning("disc", ("red", "blue")[row % 2], "white") for row in range(40)]
    reader = kandinsky_prior.open_reader(guide, CPU)
    recipe = dataclasses.replace(PRIOR, batch=16, shape=PRIOR_SHAPE)
    return kandinsky_prior.start(recipe, truths, embeddings, reader)


def test_views_are_centred_follow_the_seed_and_come_back_from_disk(tmp_path: Path) -> None:
    pixels = np.zeros((1, 128, 128, 4), np.uint8)
    pixels[0, 32:96, 32:96] = (215, 35, 40, 255)
    bank = make_bank(Icons(pixels, ["square"], ["noto"], ["square"]), side=128, variants=1, seed=0)
    movq = make_movq(MOVQ, 0)
    first, again, other = (draw_views(bank, movq, 6, seed) for seed in (1, 1, 2))
    assert torch.equal(first.small, again.small)
    assert not torch.equal(first.small, other.small)
    assert first.latents.shape == (6, 4, 16, 16)
    assert first.small.shape == (6, 3, 64, 64)
    assert first.small[:, :, 32, 32].float().sub(first.small[:, :, 2, 2].float()).abs().amax(1).min() > 20
    assert {truth.name for truth in first.truths} == {"square"}
    assert all(truth.background for truth in first.truths)
    save_views(tmp_path, first)
    loaded = load_views(tmp_path)
    assert torch.equal(loaded.latents, first.latents)
    assert loaded.truths == first.truths


def test_embeddings_are_made_again_only_for_another_guide(guide: Path, tmp_path: Path) -> None:
    small = torch.randint(0, 255, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = fresh_embeddings(tmp_path, small, guide, CPU)
    assert made.views.norm(dim=1).tolist() == pytest.approx([WIDE**0.5] * 3, rel=1e-4)
    stamp = (tmp_path / "embeddings.safetensors").stat().st_mtime_ns
    assert torch.equal(fresh_embeddings(tmp_path, small, guide, CPU).views, made.views)
    assert (tmp_path / "embeddings.safetensors").stat().st_mtime_ns == stamp
    state = load_file(guide)
    state["visual.conv1.weight"] = state["visual.conv1.weight"] * -1
    save_file(state, guide)
    changed = fresh_embeddings(tmp_path, small, guide, CPU)
    assert changed.guide == digest_of(load_file(guide)) != made.guide
    assert not torch.allclose(changed.views, made.views)


def test_embeddings_are_those_of_the_pipeline_s_image_encoder(guide: Path) -> None:
    from vqclip.backends.kandinsky.encoders import ImageEncoder
    from vqclip.perceptors.clip import build

    made = embed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), guide, CPU)
    encoder = ImageEncoder(build(load_file(guide)).visual)
    assert torch.allclose(made.zero, encoder(torch.zeros(1, 3, 32, 32))["image_embeds"][0], atol=1e-5)


def test_whitening_gives_strong_directions_unit_deviation_and_is_linear(embeddings: Embeddings) -> None:
    reading = whiten(embeddings)
    assert reading.views.mean(0).abs().max() < 1e-4
    values = torch.linalg.eigvalsh(torch.cov(reading.views.T))
    assert values.max() < 1.01
    assert values.max() > 0.9
    assert torch.allclose(reading.matrix @ embeddings.zero + reading.offset, reading.zero, atol=1e-4)


def test_another_guide_s_embeddings_are_brought_into_the_same_form(embeddings: Embeddings) -> None:
    form = whiten(embeddings).views
    turn = torch.linalg.qr(noise(WIDE, WIDE, seed=5))[0]
    other = dataclasses.replace(embeddings, views=embeddings.views @ turn + 1, guide="b")
    reading = translate(other, form)
    assert reading.guide == "b"
    assert (reading.views - form).square().mean() < 0.1 * form.square().mean()
    with pytest.raises(ValueError, match="knows 39 views, there are 40"):
        translate(other, form[:39])


def test_the_folded_network_reads_plain_embeddings(run: kandinsky_unet.Run, embeddings: Embeddings) -> None:
    for _ in range(3):
        kandinsky_unet.update(run, 0.1)
    folded, latents = kandinsky_unet.fold(run.model, run.reading), noise(2, 4, 4, 4)
    pairs = ((run.model, run.reading.views[:2]), (folded, embeddings.views[:2]))
    with torch.no_grad():
        own, plain = (model(latents, 5, None, added_cond_kwargs={"image_embeds": each}).sample for model, each in pairs)
    assert own.abs().max() > 1e-3
    assert torch.allclose(own, plain, atol=1e-4)


def test_the_unet_learns_which_picture_an_embedding_means(embeddings: Embeddings) -> None:
    """Two flat pictures, one embedding each: samples lie nearer to the asked one."""
    latents = torch.cat((torch.full((20, 4, 4, 4), -1.0), torch.full((20, 4, 4, 4), 1.0)))
    views = torch.cat((torch.zeros(20, WIDE), torch.ones(20, WIDE))) + 0.01 * noise(40, WIDE)
    pair = dataclasses.replace(embeddings, views=views, zero=torch.full((WIDE,), 0.5))
    recipe = dataclasses.replace(UNET, batch=32, rate=3e-3, shape=UNET_SHAPE)
    run = kandinsky_unet.start(recipe, latents, pair, CPU)
    losses = [kandinsky_unet.update(run, step / 120)["loss"] for step in range(120)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    form = run.reading.views[[0, 39]]
    made = kandinsky_unet.sample(run.average, form, run.reading.zero, guidance=2.0, seed=1).mean((1, 2, 3))
    assert made[1] > made[0] + 0.5


def test_a_resumed_unet_goes_on_and_takes_another_guide(
    run: kandinsky_unet.Run, embeddings: Embeddings, tmp_path: Path
) -> None:
    kandinsky_unet.update(run, 0.1)
    path = tmp_path / "run.safetensors"
    save_run(path, run)

    def again(seen: Embeddings) -> kandinsky_unet.Run:
        fresh = kandinsky_unet.start(run.recipe, run.latents, seen, CPU)
        resume_run(path, fresh)
        return fresh

    turned = again(dataclasses.replace(embeddings, views=-embeddings.views, zero=-embeddings.zero, guide="b"))
    same = again(embeddings)
    assert kandinsky_unet.update(same, 0.2) == kandinsky_unet.update(run, 0.2)
    assert turned.reading.guide == "b"
    assert turned.steps == 1
    assert (turned.reading.views - run.reading.views).abs().mean() < 0.3


def test_the_prior_learns_captions_and_goes_on_after_a_stop(
    prior: kandinsky_prior.Run, embeddings: Embeddings, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    losses = [kandinsky_prior.update(prior, 0.2)["loss"] for _ in range(60)]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    save_run(path, prior)
    again = kandinsky_prior.start(prior.recipe, prior.truths, embeddings, prior.reader)
    resume_run(path, again)
    assert kandinsky_prior.update(again, 0.3) == kandinsky_prior.update(prior, 0.3)
    other = dataclasses.replace(embeddings, views=embeddings.views + 1, guide="b")
    fresh = kandinsky_prior.start(prior.recipe, prior.truths, other, prior.reader)
    resume_run(path, fresh)
    assert (fresh.steps, fresh.guide) == (60, "b")
    assert torch.allclose(fresh.average.clip_mean[0], other.views.mean(0))


def test_the_prior_says_how_well_it_guesses(prior: kandinsky_prior.Run) -> None:
    figures = kandinsky_prior.examine(prior, count=6)
    assert set(figures) == {"cosine", "name", "colour", "background"}
    assert figures["name"] == 1.0  # there is but one name
    guess = kandinsky_prior.guess_embeddings(prior, ["a red disc"], seed=1)
    assert torch.equal(guess, kandinsky_prior.guess_embeddings(prior, ["a red disc"], seed=1))


def test_exports_open_as_the_package_s_pipelines(
    prior: kandinsky_prior.Run, guide: Path, embeddings: Embeddings, tmp_path: Path
) -> None:
    path = tmp_path / "kandinsky-prior.safetensors"
    prior.guide = digest_of(load_file(guide))
    kandinsky_prior.write_export(path, prior, {"cosine": 0.51234567})
    pipe = kandinsky_starter.find_prior(str(path), str(guide)).open()
    assert torch.allclose(pipe.prior.clip_mean[0], embeddings.views.mean(0), atol=1e-2)
    texts, states, mask = pipe._encode_prompt("a red disc", CPU, 1, False)
    ours = prior.reader(["a red disc"])
    for one, two in zip((texts, states, mask), ours, strict=True):
        assert torch.allclose(one.float(), two.float(), atol=1e-5)


def test_the_unet_s_export_says_with_which_guide_it_was_trained(run: kandinsky_unet.Run, tmp_path: Path) -> None:
    path = tmp_path / "kandinsky-unet.safetensors"
    kandinsky_unet.write_export(path, run, {})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["training"])["guide"] == "a"
    assert json.loads(metadata["architecture"]) == UNET_SHAPE
    assert F.mse_loss(load_file(path)["conv_in.weight"].float(), run.average.conv_in.weight) < 1e-6


def test_sheets_of_samples_are_drawn(run: kandinsky_unet.Run, tmp_path: Path) -> None:
    figures = kandinsky_unet.examine(run, make_movq(MOVQ, 0), tmp_path / "sheet.png", columns=2)
    assert figures["deviation"] > 0
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
