"""Chains of pictures that are pulled towards a text: they move, start anew, are kept, and are worth rejecting."""

from __future__ import annotations

import pytest
import torch

from training.captions import Meaning
from training.mirages import Mirages, jigsaw, rejection, smooth

CPU = torch.device("cpu")
TRUTHS = [Meaning("apple", "red", "white", "flat"), Meaning("car", "blue", "", "flat")]


def chains(count: int = 40) -> Mirages:
    return Mirages.start(count, 16, TRUTHS, 3, CPU)


def test_starts_are_smooth_and_in_range() -> None:
    image = smooth(6, 32, torch.Generator().manual_seed(0))
    assert image.shape == (6, 3, 32, 32)
    assert 0 <= image.min() <= image.max() <= 1
    assert image.diff(dim=-1).abs().max() < 0.5


def test_a_jigsaw_keeps_the_colours_and_moves_the_places() -> None:
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    torn = jigsaw(image, torch.Generator().manual_seed(2))
    assert torch.equal(torn.flatten(1).sort().values, image.flatten(1).sort().values)
    assert not torch.equal(torn, image)


def test_moving_follows_the_gradient_and_stays_in_range() -> None:
    mirages = chains()
    image, wishes = mirages.draw(8, torch.rand(4, 3, 16, 16), TRUTHS)
    assert len(wishes) == len(image) == 8
    slope = torch.ones_like(image)
    delta = mirages.move(torch.zeros_like(image), slope)
    assert (delta >= 0).all()
    assert ((image + delta) <= 1 + 1e-6).all()
    rows = mirages.rows.clone()
    mirages.keep(delta)
    assert torch.allclose(mirages.pixels[rows], image + delta, atol=1e-6)


def test_few_chains_start_anew() -> None:
    mirages = chains(200)
    before = mirages.pixels.clone()
    mirages.draw(200, torch.rand(4, 3, 16, 16), TRUTHS)
    changed = (mirages.pixels != before).flatten(1).any(1).float().mean()
    assert 0 < changed < 0.15


def test_a_checkpoint_goes_on_with_the_same_draws() -> None:
    one, other = chains(), chains()
    one.draw(4, torch.rand(4, 3, 16, 16), TRUTHS)
    other.restore(*one.state())
    image = torch.rand(4, 3, 16, 16)
    left, right = one.draw(8, image, TRUTHS), other.draw(8, image, TRUTHS)
    assert torch.equal(left[0], right[0])
    assert left[1] == right[1]


def test_being_taken_for_the_real_thing_costs() -> None:
    scale, real = torch.tensor(20.0), torch.full((4, 4), -0.4).fill_diagonal_(0.6)
    costs = [float(rejection(torch.tensor([s]), real, scale)) for s in (-0.3, 0.1, 0.5)]
    assert costs[0] < 1e-3
    assert abs(costs[1] - 0.693) < 1e-2  # half-way between a picture's own caption and those of others
    assert costs[2] > 5


def test_what_a_chain_may_reach_moves_with_all_cosines() -> None:
    scale, real = torch.tensor(20.0), torch.full((4, 4), -0.4).fill_diagonal_(0.6)
    here, there = (float(rejection(torch.tensor([0.2 - down]), real - down, scale)) for down in (0.0, 0.5))
    assert here == pytest.approx(there, rel=1e-4)


def test_half_of_the_chains_move_areas() -> None:
    """Along white noise a blurred step differs far less between neighbouring pixels than a plain one."""
    some = chains()
    some.draw(8, torch.rand(4, 3, 16, 16), TRUTHS)
    gradient = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    some.pixels[:] = 0.5
    moved = some.move(torch.zeros(8, 3, 16, 16), gradient)
    rough = (moved.diff(dim=-1).square().mean((1, 2, 3)) / moved.square().mean((1, 2, 3)).clamp_min(1e-12)).tolist()
    broad = [one for one, row in zip(rough, some.rows.tolist(), strict=True) if row % 2]
    plain = [one for one, row in zip(rough, some.rows.tolist(), strict=True) if not row % 2]
    assert broad
    assert plain
    assert max(broad) < min(plain)
