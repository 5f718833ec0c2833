"""Steps of a fixed size: length, direction, standing still."""

from __future__ import annotations

import pytest
import torch

from vqclip.descent import Normalised


def test_a_step_is_as_long_as_the_rate_and_follows_the_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    start, slope = torch.randn(2, 3, 5, generator=rng), torch.randn(2, 3, 5, generator=rng) * 1e-4
    tensor = start.clone().requires_grad_()
    tensor.grad = slope
    Normalised([tensor], lr=0.25).step()
    moved = (tensor - start).detach()
    assert moved.square().mean().sqrt() == pytest.approx(0.25, rel=1e-5)
    assert torch.cosine_similarity(moved.flatten(), -slope.flatten(), dim=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("gradient", [None, torch.zeros(4)])
def test_nothing_to_descend_moves_nothing(gradient: torch.Tensor | None) -> None:
    tensor = torch.ones(4, requires_grad=True)
    tensor.grad = gradient
    Normalised([tensor], lr=1.0).step()
    assert tensor.tolist() == [1, 1, 1, 1]


def test_decay_alone_leads_to_zero() -> None:
    tensor = torch.full((4,), 2.0, requires_grad=True)
    tensor.grad = torch.zeros(4)
    optimizer = Normalised([tensor], lr=0.5, weight_decay=0.1)
    optimizer.step()
    assert tensor.tolist() == [1.5] * 4
    optimizer.zero_grad(set_to_none=False)
    assert tensor.grad.tolist() == [0.0] * 4
    optimizer.zero_grad()
    assert tensor.grad is None
