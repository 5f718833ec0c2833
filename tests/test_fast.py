"""The fast forms: the numbers of taming's own modules, in every precision, and gradients to the input only."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from conftest import CPU
from torch import Tensor, nn
from torch.nn import functional as F

from tests.accelerator import CUDA, backward, card
from vqclip.generators import fast, vqgan
from vqclip.generators.denoiser import regroup

LAYOUTS = {
    "f16": vqgan.Architecture(32, (1, 1, 2, 2, 4), 2, (4,), 3, 3, 64, 50, 64, gumbel=False),
    "gumbel f8": vqgan.Architecture(32, (1, 1, 2, 4), 2, (3,), 3, 3, 64, 50, 64, gumbel=True),
    "f4": vqgan.Architecture(32, (1, 2, 4), 1, (), 3, 3, 3, 50, 3, gumbel=False),
    "8 groups": vqgan.Architecture(32, (1, 2), 1, (1,), 3, 3, 16, 50, 16, gumbel=False, groups=8),
    "1 group": vqgan.Architecture(32, (1, 2), 1, (), 3, 3, 16, 50, 16, gumbel=False, groups=1),
}


def network(name: str) -> vqgan.VQModel:
    """With norms that do something: torch makes them with weights of one and without a bias."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = vqgan.VQModel(LAYOUTS[name]).eval().requires_grad_(requires_grad=False)
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
    return model


def both_ways(work: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient of a fixed mixture of it to what went in."""
    given = given.detach().requires_grad_()
    out = work(given)
    mixture = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (slope,) = torch.autograd.grad(out, given, mixture.to(out.dtype))
    return out.detach(), slope


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The length of what is between them, in lengths of the second."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def latent(shape: vqgan.Architecture, cells: tuple[int, int], count: int = 1) -> Tensor:
    return torch.randn(count, shape.z_channels, *cells, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("cells", [(3, 5), (1, 1), (4, 2)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_decoder_draws_as_tamings(name: str, cells: tuple[int, int]) -> None:
    model = network(name)
    given = latent(LAYOUTS[name], cells, 2)
    for dtype, near in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        plain = copy.deepcopy(model.decoder).to(dtype)
        expected = both_ways(plain, given.to(dtype))
        made = both_ways(fast.FastDecoder(plain, dtype), given.to(dtype))
        assert made[0].is_contiguous()
        for ours, theirs in zip(made, expected, strict=True):
            assert ours.dtype == dtype
            assert apart(ours, theirs) < near


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_encoder_reads_as_tamings(name: str) -> None:
    model = network(name)
    stride = model.shape.stride
    pictures = torch.rand(2, 3, 3 * stride, stride, generator=torch.Generator().manual_seed(4)) * 2 - 1
    expected = both_ways(model.encoder, pictures)
    made = both_ways(fast.FastEncoder(model.encoder, torch.float32), pictures)
    for ours, theirs in zip(made, expected, strict=True):
        assert apart(ours, theirs) < 1e-4


@pytest.mark.parametrize("name", ["f16", "gumbel f8"])
def test_bfloat16_points_where_float32_does(name: str) -> None:
    """As near as taming's own modules come in that precision."""
    model = network(name)
    given = latent(LAYOUTS[name], (4, 4))
    exact = both_ways(model.decoder, given)
    half = vqgan.VQGAN(copy.deepcopy(model), device=CPU, dtype=torch.bfloat16, fast=True)
    ours = both_ways(half._decoder, given.bfloat16())
    theirs = both_ways(copy.deepcopy(model.decoder).bfloat16(), given.bfloat16())
    near, usual = (
        float(F.cosine_similarity(each[1].flatten().float(), exact[1].flatten(), dim=0)) for each in (ours, theirs)
    )
    assert near > max(0.996, usual - 0.0005)  # full-size networks, whose norms are tamer, come to 0.9988
    assert apart(ours[0], exact[0]) < 1.05 * apart(theirs[0], exact[0])


def test_a_generator_without_fast_forms_draws_the_same() -> None:
    model = network("f16")
    made = [vqgan.VQGAN(copy.deepcopy(model), device=CPU, fast=each) for each in (True, False)]
    codes = torch.cat([made[0].sample((64, 48), torch.Generator().manual_seed(seed)) for seed in (0, 1, 2)])
    ours, theirs = (both_ways(each.decode, codes) for each in made)
    assert ours[0].shape == (3, 3, 48, 64)
    assert apart(ours[0], theirs[0]) < 1e-4
    assert apart(ours[1], theirs[1]) < 1e-4
    assert torch.equal(made[0].codes(ours[0]), made[1].codes(ours[0]))


@pytest.mark.parametrize(("dtype", "quick"), [(torch.float32, True), (torch.bfloat16, False)])
def test_narrow_networks_keep_tamings_form_in_bfloat16(*, dtype: torch.dtype, quick: bool) -> None:
    made = vqgan.VQGAN(network("8 groups"), device=CPU, dtype=dtype)
    assert isinstance(made._decoder, fast.FastDecoder) == quick


@pytest.mark.parametrize("groups", [1, 8, 32])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("few", [0, fast._FEW])
@pytest.mark.parametrize("block", [300, fast._BLOCK])
def test_a_norm_is_tamings_whatever_the_blocks(
    *, groups: int, silu: bool, few: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd sides, several pictures, and a mean far from zero, where sums of squares lose most."""
    monkeypatch.setattr(fast, "_FEW", few)
    monkeypatch.setattr(fast, "_BLOCK", block)
    rng = torch.Generator().manual_seed(1)
    norm = nn.GroupNorm(groups, 32, eps=1e-6).requires_grad_(requires_grad=False)
    norm.weight.uniform_(0.5, 1.5, generator=rng)
    norm.bias.normal_(generator=rng)
    given = torch.randn(2, 32, 7, 9, generator=rng) + torch.randn(2, 32, 1, 1, generator=rng) * 4
    exact = copy.deepcopy(norm).double()
    expected = both_ways(lambda x: F.silu(exact(x)) if silu else exact(x), given.double())
    for dtype, near in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        made = both_ways(fast._Norm(norm, dtype, silu=silu), given.to(dtype))
        for ours, theirs in zip(made, expected, strict=True):
            assert apart(ours, theirs) < near


def test_many_cells_do_not_add_up_their_rounding() -> None:
    """Torch's own sums over this picture in channels last are wrong by a hundred times as much."""
    rng = torch.Generator().manual_seed(1)
    norm = nn.GroupNorm(8, 32, eps=1e-6).requires_grad_(requires_grad=False)
    given = torch.randn(1, 32, 256, 256, generator=rng) + 3
    expected = both_ways(copy.deepcopy(norm).double(), given.double())
    made = both_ways(fast._Norm(norm, torch.float32, silu=False), given)
    for ours, theirs in zip(made, expected, strict=True):
        assert apart(ours, theirs) < 2e-6


@pytest.mark.parametrize("size", itertools.product((1, 2, 5), (1, 4)))
def test_upsampling_and_its_convolution_are_one(size: tuple[int, int]) -> None:
    """To all digits of float64 at every pixel, those of the borders too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(6, 6, 3, padding=1).double().requires_grad_(requires_grad=False)
    plain = nn.Module()
    plain.conv = conv
    given = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(0)).double()
    expected = both_ways(lambda x: conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), given)
    for ours, theirs in zip(both_ways(fast._Up(plain, torch.float64), given), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


def test_convolutions_are_the_networks_own_and_frozen() -> None:
    model = network("f16")
    made = fast.FastDecoder(model.decoder, torch.float32)
    theirs = {id(weight) for weight in model.decoder.parameters()}
    own = [name for name, weight in made.named_parameters() if id(weight) not in theirs]
    assert all("norm" in name or name.endswith("kernel") for name in own)
    assert not any(weight.requires_grad for weight in made.parameters())


def test_on_cuda_nothing_is_mixed_or_waited_for() -> None:
    """Shapes and devices, there and back, without a card."""
    model = network("f16")
    with card() as made:
        given = torch.zeros(2, 64, 3, 2, device=CUDA, requires_grad=True)
        generator = vqgan.VQGAN(model, device=CUDA, dtype=torch.bfloat16, quantise=False)
        made.waits.clear()
        image = generator.decode(given)
        backward(image.sum())
        assert given.grad is not None
        assert (image.shape, image.device, given.grad.shape) == ((2, 3, 48, 32), CUDA, given.shape)
        assert made.waits == []


def test_regrouped_networks_keep_their_groups() -> None:
    model = network("f4")
    regroup(model, 4)
    made = fast.FastDecoder(model.decoder, torch.float32)
    assert {module.groups for module in made.modules() if isinstance(module, fast._Norm)} == {4}
    given = latent(model.shape, (3, 4))
    assert apart(both_ways(made, given)[1], both_ways(model.decoder, given)[1]) < 1e-4
