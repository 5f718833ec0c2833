"""Sampling by looking pixels up against torch's grid_sample, and one copy for many tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.loop.devices import gathered, in_one_copy, sample_at, seeded

CPU = torch.device("cpu")


@pytest.mark.parametrize("padding", ["border", "reflection", "zeros"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("corners", [False, True])
def test_looked_up_pixels_are_grid_samples(padding: str, mode: str, corners: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    for height, width in ((7, 5), (1, 6), (16, 16)):
        image = torch.rand(1, 3, height, width, dtype=torch.float64, generator=rng)
        grid = 5 * torch.rand(4, 9, 8, 2, dtype=torch.float64, generator=rng) - 2.5  # far outside too
        made: list[tuple[Tensor, Tensor]] = []
        for way in (gathered, None):
            x = image.clone().requires_grad_()
            if way is None:
                spread = x.expand(4, -1, -1, -1)
                out = F.grid_sample(spread, grid, mode, padding, align_corners=corners)
            else:
                out = way(x, grid, mode, padding, align_corners=corners)
            out.square().sum().backward()
            assert x.grad is not None
            made.append((out.detach(), x.grad))
        assert float(made[1][1].abs().max()) > 0
        for ours, theirs in zip(*made, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-10)


def test_devices_without_the_gradient_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    image, grid = torch.rand(1, 3, 8, 8), torch.rand(2, 4, 4, 2)
    expected = sample_at(image, grid, "bilinear", "border", align_corners=False)
    monkeypatch.setattr("vqclip.loop.devices.WITHOUT_GRID_SAMPLE", {"cpu"})
    monkeypatch.setattr(F, "grid_sample", None)
    assert torch.allclose(sample_at(image, grid, "bilinear", "border", align_corners=False), expected, atol=1e-6)


def test_one_copy_keeps_order_shapes_and_whole_numbers() -> None:
    given = [torch.rand(2, 3, 3), torch.tensor([3, 16_777_215]), torch.tensor(0.25)]
    made = in_one_copy(given, CPU)
    assert [tuple(each.shape) for each in made] == [(2, 3, 3), (2,), ()]
    assert all(torch.equal(ours, theirs.float()) for ours, theirs in zip(made, given, strict=True))
    assert len({each.untyped_storage().data_ptr() for each in made}) == 1


def test_a_seed_is_a_seed() -> None:
    first, again, other = (torch.rand(3, generator=seeded(CPU, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
