"""The walk from noise to a clean latent: levels, repeatability, and which noise stays."""

from __future__ import annotations

import pytest
import torch
from test_denoiser import CPU, network
from torch import Tensor, nn

from vqclip.generators.denoiser import Denoiser, mixture
from vqclip.loop.annealing import Annealing, Levels


def still() -> Denoiser:
    """A denoiser that sees no velocity, so that what comes back is the noisy latent times `keep`."""
    net = network()
    for value in net.conv_out.parameters():  # type: ignore[union-attr]
        nn.init.zeros_(value)
    return Denoiser(net, device=CPU)


def walk(levels: Levels, seed: int, latent: Tensor, *, denoiser: Denoiser | None = None) -> list[Tensor]:
    denoise = Annealing(denoiser or still(), levels, [torch.Generator().manual_seed(seed)])
    return [denoise(latent, progress) for progress in (0.0, 0.5, 1.0)]


def noises(levels: Levels, seed: int = 0) -> list[Tensor]:
    """The noise in each call of `walk`, computed back from what came out of it."""
    latent, found = torch.full((1, 8, 4, 4), 0.5), []
    for progress, seen in zip((0.0, 0.5, 1.0), walk(levels, seed, latent), strict=True):
        keep, loud = mixture(torch.tensor(levels.at(progress)))
        found.append((seen / keep - keep * latent) / loud)
    return found


def test_levels_fall_ever_more_slowly() -> None:
    levels = Levels(noise=0.9, end=0.1, churn=0.0)
    assert [levels.at(progress) for progress in (0, 0.75, 1)] == pytest.approx([0.9, 0.2, 0.1])
    fallen = [levels.at(k / 4) - levels.at((k + 1) / 4) for k in range(4)]
    assert fallen == sorted(fallen, reverse=True)


def test_no_noise_leaves_the_latent() -> None:
    latent = torch.randn(1, 8, 4, 4)
    assert all(torch.equal(each, latent) for each in walk(Levels(0.0, 0.0, 0.5), 0, latent))


def test_one_seed_one_walk() -> None:
    latent, levels, denoise = torch.randn(1, 8, 4, 4), Levels(0.9, 0.1, 0.5), Denoiser(network(1), device=CPU)
    one, same, other = (walk(levels, seed, latent, denoiser=denoise) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_without_churn_the_same_noise_stays_under_an_unmoved_latent() -> None:
    first, second, third = noises(Levels(0.9, 0.2, churn=0.0))
    assert torch.allclose(first, second, atol=1e-4)
    assert torch.allclose(first, third, atol=1e-4)


def test_churn_draws_noise_anew_and_keeps_its_strength() -> None:
    first, second, _ = noises(Levels(0.9, 0.2, churn=1.0))
    assert abs(float(torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1])) < 0.3
    some, more, _ = noises(Levels(0.9, 0.2, churn=0.6))
    assert 0.5 < float(torch.corrcoef(torch.stack((some.flatten(), more.flatten())))[0, 1]) < 0.95
    assert float(more.std()) == pytest.approx(1, abs=0.2)


def test_noise_is_as_long_as_the_latents() -> None:
    latent, levels = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(5)), Levels(0.9, 0.1, 0.5)
    plain = walk(levels, 0, latent, denoiser=Denoiser(network(), device=CPU))
    longer = walk(levels, 0, 10 * latent, denoiser=Denoiser(network(), device=CPU, unit=10.0))
    assert all(torch.allclose(long / 10, short, atol=1e-5) for long, short in zip(longer, plain, strict=True))


def test_each_latent_has_noise_of_its_own_and_keeps_it() -> None:
    levels, latent = Levels(0.9, 0.2, churn=0.5), torch.randn(3, 8, 4, 4)
    denoise = Annealing(still(), levels, [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)])
    first = denoise(latent, 0.0)
    denoise.keep([2, 0])
    then = denoise(latent[[2, 0]], 0.5)
    for row, kept, seed in ((2, 0, 7), (0, 1, 5)):
        own = walk(levels, seed, latent[row : row + 1])
        assert torch.allclose(first[row], own[0][0], atol=1e-6)
        assert torch.allclose(then[kept], own[1][0], atol=1e-6)
