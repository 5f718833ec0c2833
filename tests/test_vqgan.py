"""VQGAN: architecture from weights, parity with taming's modules, codes, sizes, errors."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
import torch
from conftest import CPU, scaled, tiny_vqgan_state
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import VectorQuantizer

from vqclip.generators import Generator, vqgan
from vqclip.job import InputError, WeightsError
from vqclip.weights import load as weights

LAYOUTS = {
    "imagenet f16": vqgan.Architecture(32, (1, 1, 2, 2, 4), 2, (4,), 3, 3, 64, 100, 64, gumbel=False),
    "gumbel f8": vqgan.Architecture(32, (1, 1, 2, 4), 2, (3,), 3, 3, 64, 100, 64, gumbel=True),
    "ldm f4": vqgan.Architecture(32, (1, 2, 4), 2, (), 3, 3, 3, 100, 3, gumbel=False),
    "starter f8": vqgan.Architecture(32, (1, 1, 2, 4), 1, (), 3, 3, 64, 100, 64, gumbel=False, groups=8),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_architecture_is_read_from_the_weights(name: str) -> None:
    shape = LAYOUTS[name]
    state = vqgan.VQModel(shape).state_dict()
    assert vqgan.infer_architecture(state, groups=shape.groups) == shape


@pytest.mark.parametrize("name", ["imagenet f16", "gumbel f8", "ldm f4"])
def test_decode_equals_tamings_decoder(name: str) -> None:
    shape = LAYOUTS[name]
    torch.manual_seed(0)
    state = vqgan.VQModel(shape).state_dict()
    arguments = {
        "ch": shape.channels, "out_ch": 3, "ch_mult": shape.multipliers, "num_res_blocks": shape.blocks,
        "attn_resolutions": [256 >> level for level in shape.attention], "in_channels": 3, "resolution": 256,
        "z_channels": shape.z_channels, "double_z": False,
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        decoder, encoder = Decoder(**arguments), Encoder(**arguments)
    decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")})
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")})
    model = vqgan.VQGAN(vqgan.build(state), device=CPU)
    latent = model.sample((64, 64), torch.Generator().manual_seed(0))
    weight, bias = state["post_quant_conv.weight"], state["post_quant_conv.bias"]
    with torch.no_grad():
        expected = decoder(torch.conv2d(latent, weight, bias))
        ours = model.decode(latent)
        assert torch.allclose(ours, ((expected + 1) / 2).clamp(0, 1), atol=1e-5)
        picture = torch.rand(1, 3, 64, 64)
        hidden = torch.conv2d(encoder(picture * 2 - 1), state["quant_conv.weight"], state["quant_conv.bias"])
        if shape.gumbel:
            scores = torch.conv2d(hidden, state["quantize.proj.weight"], state["quantize.proj.bias"])
            assert torch.equal(model.codes(picture), scores.argmax(1))
        else:
            theirs = VectorQuantizer(shape.codes, shape.code_dim, 0.25)
            theirs.embedding.weight.data.copy_(state["quantize.embedding.weight"])
            assert torch.equal(model.codes(picture).flatten(), theirs(hidden)[2][2].flatten())


def test_it_is_a_generator_and_its_weights_are_frozen(generator: vqgan.VQGAN) -> None:
    assert isinstance(generator, Generator)
    latent = generator.sample((32, 48), torch.Generator().manual_seed(0))
    assert latent.shape == (1, 32, 12, 8)
    image = generator.decode(latent.requires_grad_())
    assert image.shape == (1, 3, 48, 32)
    assert 0 <= float(image.detach().min()) <= float(image.detach().max()) <= 1
    image.sum().backward()
    assert float(latent.grad.abs().sum()) > 0
    assert not any(p.requires_grad for p in vqgan.build(tiny_vqgan_state()).parameters())


def test_encode_gives_codebook_rows(generator: vqgan.VQGAN) -> None:
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latent = generator.encode(picture)
    rows = latent.movedim(1, -1).reshape(-1, 32)
    assert bool((rows[:, None] == generator.codebook).all(-1).any(1).all())
    assert torch.equal(latent, generator.encode(picture))


def test_project_clamps_to_the_codebooks_range(generator: vqgan.VQGAN) -> None:
    low, high = generator.codebook.aminmax(dim=0)
    far = torch.full((1, 32, 2, 2), 100.0)
    assert torch.equal(generator.project(far)[0, :, 0, 0], high)
    assert torch.equal(generator.project(-far)[0, :, 0, 0], low)
    inside = generator.sample((8, 8), torch.Generator().manual_seed(0))
    assert torch.equal(generator.project(inside), inside)


def test_latents_that_are_not_bounded_are_only_pulled(generator: vqgan.VQGAN) -> None:
    far = torch.full((1, 32, 2, 2), 100.0)
    free = vqgan.VQGAN(vqgan.build(tiny_vqgan_state()), device=CPU, bounded=False)
    assert torch.equal(free.project(far), far)
    pulled = vqgan.VQGAN(vqgan.build(tiny_vqgan_state()), device=CPU, bounded=False, pull=0.25)
    nearest = (generator.codebook - 100).square().sum(1).argmin()
    assert torch.allclose(pulled.project(far)[0, :, 0, 0], 75 + generator.codebook[nearest] / 4)


def test_without_quantising_the_latent_itself_is_drawn(generator: vqgan.VQGAN) -> None:
    plain = vqgan.VQGAN(vqgan.build(tiny_vqgan_state()), device=CPU, quantise=False)
    codes = generator.sample((16, 16), torch.Generator().manual_seed(0))
    assert torch.equal(plain.decode(codes), generator.decode(codes))
    between = codes + 1e-3 * torch.randn(codes.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(generator.decode(between), generator.decode(codes))
    latent = between.double().requires_grad_()
    network = vqgan.build(tiny_vqgan_state()).double()
    exact = vqgan.VQGAN(network, device=CPU, dtype=torch.float64, quantise=False, clip="plain")
    assert torch.allclose(exact.decode(latent).float(), plain.decode(between), atol=1e-5)
    ahead = torch.randn(codes.shape, generator=torch.Generator().manual_seed(2)).double()
    (slope,) = torch.autograd.grad(exact.decode(latent).sum(), latent)
    with torch.no_grad():
        rise = exact.decode(latent + 1e-6 * ahead).sum() - exact.decode(latent - 1e-6 * ahead).sum()
    assert float((slope * ahead).sum()) == pytest.approx(float(rise) / 2e-6, rel=1e-5)  # no straight-through


@pytest.mark.parametrize("clip", ["inward", "plain"])
def test_clipped_colours_get_the_gradient_of_their_clip(clip: str) -> None:
    """Everything too bright: descending may darken it under the inward clip, and moves nothing under the plain one."""
    state = tiny_vqgan_state()
    bright = state | {"decoder.conv_out.bias": torch.full((3,), 9.0)}
    model = vqgan.VQGAN(vqgan.build(bright), device=CPU, clip=clip)
    moved = []
    for sign in (1, -1):
        latent = model.sample((16, 16), torch.Generator().manual_seed(0)).requires_grad_()
        image = model.decode(latent)
        assert bool((image == 1).all())
        (sign * image.sum()).backward()
        moved.append(bool(latent.grad.any()))
    assert moved == [clip == "inward", False]


def test_sampling_is_seeded(generator: vqgan.VQGAN) -> None:
    draws = [generator.sample((64, 64), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("size", [(30, 32), (32, 2), (0, 32)])
def test_sizes_off_the_stride_are_refused_with_the_nearest(generator: vqgan.VQGAN, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="not a multiple of 4.*nearest is"):
        generator.sample(size, torch.Generator())


def test_bfloat16_stays_close(generator: vqgan.VQGAN) -> None:
    half = vqgan.VQGAN(vqgan.build(tiny_vqgan_state()), device=CPU, dtype=torch.bfloat16)
    latent = generator.sample((32, 32), torch.Generator().manual_seed(0))
    ours, exact = half.decode(latent), generator.decode(latent)
    assert ours.dtype == torch.float32
    assert float((ours - exact).abs().mean()) < 0.02


def test_lightning_extras_are_dropped_and_gaps_are_refused() -> None:
    state = tiny_vqgan_state()
    extra = {"loss.discriminator.main.0.weight": torch.zeros(3), "quantize.used": torch.zeros(3)}
    vqgan.build(state | extra)
    state.pop("decoder.conv_out.bias")
    with pytest.raises(WeightsError, match="do not fit their own architecture"):
        vqgan.build(state)
    with pytest.raises(WeightsError, match="not a VQGAN"):
        vqgan.build({"encoder.weight": torch.zeros(3)})


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"norm_groups": "8"}), json.dumps({"norm_groups": 0})])
def test_odd_metadata_is_refused(text: str) -> None:
    with pytest.raises(WeightsError, match="VQGAN metadata"):
        vqgan.groups_of({"architecture": text})


def test_groups_come_from_metadata_and_default_to_tamings() -> None:
    assert vqgan.groups_of({}) == 32
    assert vqgan.groups_of({"architecture": json.dumps({"norm_groups": 8})}) == 8


def test_the_starters_codes_are_one_unit_apart() -> None:
    """To all digits of float32, so that a rate in units is the same rate."""
    file = weights.load(weights.STARTER / "vqgan.safetensors")
    model = vqgan.VQGAN(vqgan.build(file.state, groups=vqgan.groups_of(file.metadata)), device=CPU)
    assert model.unit == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("gumbel", [False, True])
@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_scaled_vqgan_draws_the_same_in_another_unit(*, gumbel: bool, factor: float) -> None:
    state = tiny_vqgan_state(gumbel=gumbel)
    plain, other = (vqgan.VQGAN(vqgan.build(each), device=CPU) for each in (state, scaled(state, factor)))
    assert other.unit == pytest.approx(factor * plain.unit, rel=1e-6)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.codes(picture), plain.codes(picture))
    assert torch.allclose(other.encode(picture), factor * plain.encode(picture))
    assert torch.allclose(other.decode(other.encode(picture)), plain.decode(plain.encode(picture)), atol=1e-5)


def test_codes_that_are_all_the_same_leave_the_unit_as_it_is() -> None:
    state = tiny_vqgan_state()
    flat = state | {"quantize.embedding.weight": torch.ones_like(state["quantize.embedding.weight"])}
    assert vqgan.VQGAN(vqgan.build(flat), device=CPU).unit == 1
