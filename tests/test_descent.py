"""Steps of a fixed size: length, direction, standing still; and any steps in other units."""

from __future__ import annotations

import pytest
import torch

from vqclip.backends.vqgan.backend import OPTIMIZERS
from vqclip.loop.descent import Normalised, counted_in


def test_a_step_is_as_long_as_the_rate_and_follows_the_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    start, slope = torch.randn(2, 3, 5, generator=rng), torch.randn(2, 3, 5, generator=rng) * 1e-4
    slope[1] *= 1e3  # each of a batch by its own gradient
    tensor = start.clone().requires_grad_()
    tensor.grad = slope
    Normalised([tensor], lr=0.25).step()
    for moved, against in zip((tensor - start).detach(), slope, strict=True):
        assert moved.square().mean().sqrt() == pytest.approx(0.25, rel=1e-5)
        assert torch.cosine_similarity(moved.flatten(), -against.flatten(), dim=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("gradient", [None, torch.zeros(1, 4)])
def test_nothing_to_descend_moves_nothing(gradient: torch.Tensor | None) -> None:
    tensor = torch.ones(1, 4, requires_grad=True)
    tensor.grad = gradient
    Normalised([tensor], lr=1.0).step()
    assert tensor.tolist() == [[1, 1, 1, 1]]


def test_decay_alone_leads_to_zero() -> None:
    tensor = torch.full((1, 4), 2.0, requires_grad=True)
    tensor.grad = torch.zeros(1, 4)
    optimizer = Normalised([tensor], lr=0.5, weight_decay=0.1)
    optimizer.step()
    assert tensor.tolist() == [[1.5] * 4]
    optimizer.zero_grad(set_to_none=False)
    assert tensor.grad.tolist() == [[0.0] * 4]
    optimizer.zero_grad()
    assert tensor.grad is None


def walk(name: str, unit: float, *, aware: bool = True) -> torch.Tensor:
    """Where ten updates by an optimizer lead a tensor whose loss is small and counts it in lengths of `unit`."""
    rng = torch.Generator().manual_seed(1)
    hills = torch.randn(2, 50, generator=rng, dtype=torch.float64)
    tensor = (hills[:1] * unit).requires_grad_()
    optimizer = OPTIMIZERS[name]([tensor], lr=0.1, weight_decay=0.2)  # type: ignore[call-arg]  # all take both
    for _ in range(10):
        (1e-7 * (tensor / unit - hills[1]).square().sum()).backward()  # near Adam's 1e-8
        with counted_in(unit if aware else 1.0, tensor):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return tensor.detach() / unit


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("unit", [0.1, 10.0])
def test_every_optimizer_goes_the_same_way_in_any_unit(name: str, unit: float) -> None:
    plain = walk(name, 1.0)
    assert torch.allclose(walk(name, unit), plain, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(walk(name, unit, aware=False), plain, rtol=1e-2)


def test_a_unit_of_one_is_no_rounding_and_a_missing_gradient_no_matter() -> None:
    tensor = torch.randn(999, generator=torch.Generator().manual_seed(0))
    before = tensor.clone()
    with counted_in(1.0, tensor):
        pass
    assert torch.equal(tensor, before)
    with counted_in(3.0, tensor):
        assert torch.equal(tensor, before / 3)
    assert torch.allclose(tensor, before)
