"""The VQGAN's training: pictures by seed, a codebook that learns the right way, figures, critics, exact resumption."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from training import vqgan
from training.checkpoint import resume_run, save_run
from training.codebook import BETA, Usage, cluster, quantise, restart
from training.data import Icons
from training.discriminator import Critics, feature_distance, load_tower
from training.export import export
from training.quality import count_codes, measure, psnr, save_sheet, structure
from training.recipes import VQGAN
from training.scenes import Stock, compose, draw_clouds, make_stock, present
from training.vqgan_run import Run, keep_latents, start, write_export
from vqclip.generators.vqgan import Architecture, VQModel, build, groups_of
from vqclip.weights.convert import digest_of, latents_of

TINY = Architecture(
    channels=32, multipliers=(1, 1, 1, 1), blocks=1, attention=(), in_channels=3, out_channels=3,
    z_channels=8, codes=16, code_dim=8, gumbel=False, groups=4,
)  # fmt: skip
SMALL = replace(VQGAN, batch=2, cells=200, shape=asdict(TINY))


@pytest.fixture
def stock() -> Stock:
    """Six discs of different colours; the last two are one-colour drawings."""
    line = np.linspace(-1, 1, 128)
    disc = (line[:, None] ** 2 + line[None] ** 2 < 0.7).astype(np.uint8) * 255
    colours = np.random.default_rng(0).integers(0, 255, (6, 1, 1, 3), dtype=np.uint8)
    flat, shape = np.broadcast_to(colours, (6, 128, 128, 3)), np.broadcast_to(disc[None, ..., None], (6, 128, 128, 1))
    pixels = np.concatenate((flat, shape), -1)
    styles = ["noto"] * 4 + ["fluent-emoji-high-contrast"] * 2
    return make_stock(Icons(np.ascontiguousarray(pixels), ["disc"] * 6, styles, [""] * 6), torch.device("cpu"))


@pytest.fixture
def tiny(stock: Stock) -> Run:
    """A run that is over the unquantised stage after its first steps."""
    return start(SMALL, stock)


def test_pictures_follow_the_seed_alone_and_stay_in_range(stock: Stock) -> None:
    first, again, other = (compose(stock, 8, 32, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (8, 3, 32, 32)
    assert 0 <= first.min() < first.max() <= 1


def test_most_scenes_show_an_icon_and_grounds_differ(stock: Stock) -> None:
    image = compose(stock, 60, 64, torch.Generator().manual_seed(0), canvas=64)
    assert (image.flatten(1).std(1) > 0.02).float().mean() > 0.8
    assert image[:, :, 0, 0].unique(dim=0).shape[0] > 30


def test_icons_for_measuring_are_whole_and_on_white(stock: Stock) -> None:
    image = present(stock, torch.tensor([0, 1]), 64, torch.Generator(), white=True)
    assert torch.equal(image[:, :, 0, 0], torch.ones(2, 3))
    colour = stock.pixels[0, 64, 64, :3] / 255
    assert torch.allclose(image[0, :, 32, 32], colour, atol=1e-3)


def test_clouds_are_smooth_and_varied() -> None:
    clouds = draw_clouds(6, 64, torch.Generator().manual_seed(1))
    assert clouds.diff(dim=-1).abs().max() < 0.2
    assert clouds.flatten(2).std(-1).min() > 0.02


def test_each_part_of_the_code_loss_reaches_one_side_only() -> None:
    """Derivatives by hand: 2 (e - z) / n for the rows and BETA times 2 (z - e) / n for the encoder."""
    hidden = torch.tensor([[[[0.9]], [[0.2]]]], requires_grad=True)
    codebook = nn.Parameter(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    rows, codes, loss = quantise(hidden, codebook)
    assert codes.item() == 0
    assert torch.equal(rows, torch.tensor([[[[1.0]], [[0.0]]]]))
    loss.backward(retain_graph=True)
    difference = hidden.detach()[0, :, 0, 0] - codebook.detach()[0]
    assert torch.allclose(hidden.grad[0, :, 0, 0], BETA * difference)
    assert torch.allclose(codebook.grad, torch.stack((-difference, torch.zeros(2))))
    hidden.grad = codebook.grad = None
    rows.sum().backward()
    assert torch.equal(hidden.grad, torch.ones_like(hidden))
    assert codebook.grad is None


def test_clustering_finds_separate_clouds() -> None:
    rng = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    cells = (places[:, None] + 0.1 * torch.randn(4, 50, 2, generator=rng)).reshape(-1, 2)
    centres = cluster(cells, 8, rounds=10, rng=rng)
    assert torch.cdist(places, centres).min(1).values.max() < 0.5


def test_only_dead_rows_move_and_their_moments_are_cleared() -> None:
    table, average = nn.Parameter(torch.zeros(4, 3)), torch.zeros(4, 3)
    optimizer = torch.optim.Adam([table])
    table.sum().backward()
    optimizer.step()
    before = table.detach().clone()
    usage = Usage(4, torch.device("cpu"), decay=0.5)
    for _ in range(12):
        usage.note(torch.tensor([0, 1, 2, 0]))
    assert usage.dead().tolist() == [3]
    hidden = torch.full((1, 3, 2, 2), 7.0)
    assert restart(usage, [table, average], hidden, optimizer, torch.Generator()) == 1
    assert torch.equal(table[:3], before[:3])
    assert torch.equal(table[3], torch.full((3,), 7.0))
    assert torch.equal(average[3], torch.full((3,), 7.0))
    assert optimizer.state[table]["exp_avg"][3].abs().max() == 0
    assert optimizer.state[table]["exp_avg"][0].abs().max() > 0
    assert not len(usage.dead())


def test_figures_know_equal_from_different() -> None:
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert structure(image, image).min() > 0.999
    assert torch.allclose(psnr(image, (image + 0.1)), torch.full((2,), 20.0), atol=1e-3)
    assert structure(image, image.flip(-1)).max() < 0.5


def test_picture_loss_counts_a_wrong_flat_colour_more_than_noise() -> None:
    target = torch.zeros(1, 3, 32, 32)
    noise = torch.where(torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.5, -0.1, 0.1)
    still = replace(VQGAN, edges=0, colour=0)
    flat, _ = vqgan.picture_loss(target + 0.1, target, still)
    rough, plain = vqgan.picture_loss(target + noise, target, still)
    assert plain.item() == pytest.approx(0.1)
    assert flat > 1.5 * rough


def test_training_lowers_the_loss_and_opens_the_codebook_in_time(tiny: Run) -> None:
    first = [vqgan.update(tiny, 0.0)["l1"] for _ in range(4)]
    assert not tiny.quantised
    for _ in range(30):
        last = vqgan.update(tiny, 0.1)
    assert last["code_loss"] == 0
    assert last["l1"] < sum(first) / 4
    assert vqgan.update(tiny, 0.2)["code_loss"] > 0
    assert tiny.quantised
    assert tiny.views == 28 * 2 + 7 * 4  # every fifth step shows one whole scene, as many pixels as four crops


def test_a_resumed_run_goes_on_as_if_never_stopped(tiny: Run, stock: Stock, tmp_path: Path) -> None:
    for progress in (0.1, 0.2, 0.3):
        vqgan.update(tiny, progress)
    save_run(tmp_path / "run.safetensors", tiny)
    again = start(SMALL, stock)
    resume_run(tmp_path / "run.safetensors", again)
    assert again.quantised
    assert vqgan.update(again, 0.4) == vqgan.update(tiny, 0.4)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), tiny.model.parameters(), strict=True))


@pytest.mark.parametrize("criticised", [False, True])
def test_a_decoder_that_learns_alone_keeps_the_latents(
    tiny: Run, stock: Stock, guide: Path, tmp_path: Path, *, criticised: bool
) -> None:
    for progress in (0.1, 0.3):
        vqgan.update(tiny, progress)
    tiny.seconds = 60.0
    keep_latents(tiny)
    before = {name: value.clone() for name, value in tiny.average.state_dict().items()}
    tiny.critics = Critics(tiny.device, clip=guide, adversarial=True) if criticised else None
    for _ in range(3):
        vqgan.update(tiny, 0.5)
    after = tiny.average.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("decoder.", "post_quant_conv."))}
    assert latents_of(after) == latents_of(before)
    assert digest_of(after) != digest_of(before)
    save_run(tmp_path / "run.safetensors", tiny)
    again = start(SMALL, stock)
    again.critics = Critics(tiny.device, clip=guide, adversarial=True) if criticised else None
    resume_run(tmp_path / "run.safetensors", again)
    again.seconds = 90.0
    keep_latents(again)
    assert again.since == 60.0
    assert vqgan.update(again, 0.6) == vqgan.update(tiny, 0.6)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), tiny.model.parameters(), strict=True))


def test_the_export_builds_the_package_s_own_network(tiny: Run, tmp_path: Path) -> None:
    path = tmp_path / "vqgan.safetensors"
    write_export(path, tiny, {"psnr_white_128": 12.5})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["kind"]) == ("vqclip-1", "vqgan")
    assert json.loads(metadata["training"])["figures"] == {"psnr_white_128": 12.5}
    model = build(load_file(path), groups=groups_of(metadata))
    assert model.shape == TINY
    assert isinstance(model, VQModel)


def test_examining_gives_every_figure_and_a_sheet(tiny: Run, stock: Stock, tmp_path: Path) -> None:
    figures = measure(tiny.average, stock, pictures=2)
    assert set(figures) == {f"{m}_{s}_{n}" for m in ("psnr", "ssim") for s in ("white", "scene") for n in (128, 256)}
    assert 1 <= count_codes(tiny.average, stock, pictures=8) <= 16
    save_sheet(tmp_path / "sheet.png", tiny.average, stock, columns=2)
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """An exported CLIP with a ResNet tower of the smallest width."""
    arguments = {
        "embed_dim": 16, "image_resolution": 32, "vision_layers": (1, 1, 1, 1), "vision_width": 8,
        "vision_patch_size": None, "context_length": 8, "vocab_size": 10, "transformer_width": 64,
        "transformer_heads": 1, "transformer_layers": 1,
    }  # fmt: skip
    path = tmp_path / "guide-rn.safetensors"
    state = CLIP(**arguments).state_dict()
    export(path, state, kind="clip", name="guide-rn", styles=["noto"], architecture=arguments, training={})
    return path


def test_feature_distance_is_zero_for_equals_and_has_gradients(guide: Path) -> None:
    tower = load_tower(guide)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert feature_distance(tower, image, image).item() == pytest.approx(0, abs=1e-6)
    other = image.flip(-1).requires_grad_()
    distance = feature_distance(tower, other, image)
    distance.backward()
    assert distance > 0
    assert other.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_critics_pull_with_their_share_and_the_discriminator_learns(guide: Path) -> None:
    critics = Critics(torch.device("cpu"), clip=guide, adversarial=True, feature_share=0.5, patch_share=0.2)
    rng = torch.Generator().manual_seed(0)
    target = torch.rand(4, 3, 32, 32, generator=rng) * 2 - 1
    out = (target.mean((2, 3), keepdim=True).expand_as(target) + 0.0).requires_grad_()
    own = torch.autograd.grad((out - target).abs().mean(), out)[0]
    pull = critics.pull(out, target, (out - target).abs().mean())
    assert (pull - own).norm().item() == pytest.approx(0.5 * own.norm().item(), rel=1e-3)  # the patches are silent
    for _ in range(30):
        critics.learn(out, target)
    assert critics.patches is not None
    assert critics.patches(target).mean() > critics.patches(out).mean() + 0.5
    twin = Critics(torch.device("cpu"), clip=guide, adversarial=True)
    twin.restore(critics.state())
    assert twin.lessons == 30
    assert torch.equal(twin.patches(target), critics.patches(target))
    for each in (critics, twin):  # the moments are kept as well
        each.learn(out, target)
    assert torch.equal(twin.patches(target), critics.patches(target))


def test_training_with_critics_reaches_the_encoder(tiny: Run, guide: Path) -> None:
    tiny.critics = Critics(tiny.device, clip=guide, adversarial=True)
    before = tiny.model.encoder.conv_in.weight.detach().clone()
    for progress in (0.1, 0.3):
        vqgan.update(tiny, progress)
    assert not torch.equal(before, tiny.model.encoder.conv_in.weight)
