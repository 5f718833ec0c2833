"""Chains of pictures that are pulled towards a text: they move, start anew, are kept, and are worth rejecting."""

from __future__ import annotations

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
    real, scale = torch.full((4,), 0.6), torch.tensor(20.0)
    costs = [float(rejection(torch.tensor([s]), real, scale)) for s in (-0.2, 0.3, 0.6)]
    assert costs[0] < 1e-3
    assert abs(costs[1] - 0.693) < 1e-2  # at half of what real pictures reach
    assert costs[2] > 5
