"""Quantisation: exact codes, straight-through gradient, clamp with gradient on its three cases."""

from __future__ import annotations

import pytest
import torch

from vqclip.generators.quantize import clamp_with_grad, deviation, look_up, nearest_codes, straight_through


def test_codes_are_the_float64_argmin_everywhere() -> None:
    rng = torch.Generator().manual_seed(0)
    codebook = torch.randn(300, 16, generator=rng)
    latent = torch.randn(2, 16, 9, 7, generator=rng)
    codes = nearest_codes(latent, codebook, codebook.square().sum(1))
    cells = latent.double().movedim(1, -1).reshape(-1, 16)
    expected = torch.cdist(cells, codebook.double()).argmin(1).view(2, 9, 7)
    assert torch.equal(codes, expected)


def test_a_codebook_row_finds_itself() -> None:
    codebook = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    codes = torch.arange(50).view(1, 5, 10)
    assert torch.equal(nearest_codes(look_up(codes, codebook), codebook, codebook.square().sum(1)), codes)


def test_straight_through_gives_the_gradient_at_the_codebook_row() -> None:
    rng = torch.Generator().manual_seed(0)
    source = torch.randn(1, 4, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    row = torch.randn(1, 4, 3, 3, generator=rng, dtype=torch.float64)
    straight_through(source, row).pow(3).sum().backward()
    assert torch.equal(straight_through(source, row), row)
    assert torch.allclose(source.grad, 3 * row.square(), rtol=1e-15)


def test_clamp_with_grad_passes_inside_and_only_what_returns_outside() -> None:
    value = torch.tensor([0.5, 1.5, 1.5, -0.5, -0.5], dtype=torch.float64, requires_grad=True)
    clamped = clamp_with_grad(value, 0.0, 1.0)
    assert torch.equal(clamped.detach(), torch.tensor([0.5, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    gradient = torch.tensor([2.0, 3.0, -3.0, -4.0, 4.0], dtype=torch.float64)
    clamped.backward(gradient)
    # Descent subtracts the gradient: above the range a positive one brings the value back, below a negative one.
    assert torch.equal(value.grad, torch.tensor([2.0, 3.0, 0.0, -4.0, 0.0], dtype=torch.float64))


def test_the_deviation_of_equal_steps_from_the_mean_is_that_step() -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert deviation(3 * signs + torch.tensor([7.0, -2.0])) == pytest.approx(3, rel=1e-12)
    assert deviation(torch.ones(5, 4)) == 0


@pytest.mark.parametrize("factor", [1e-3, 0.1, 10.0])
def test_the_deviation_grows_with_the_codes_and_not_with_the_unused_ones(factor: float) -> None:
    rng = torch.Generator().manual_seed(0)
    used = torch.randn(1000, 16, generator=rng)
    used -= used.mean(0)
    plain = deviation(used)
    assert plain == pytest.approx(1, abs=0.1)
    assert deviation(factor * used.double()) == pytest.approx(factor * plain, rel=1e-12)
    unused = (torch.rand(15_000, 16, generator=rng) - 0.5) / 8192  # as taming draws codes at first
    assert deviation(torch.cat((used, unused))) == pytest.approx(plain, rel=1e-3)
