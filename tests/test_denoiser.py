"""The denoiser: its noise schedule, pictures of any shape, and what its files may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from vqclip.generators.denoiser import SHIFT, Denoiser, build, guess, make_network, mixture
from vqclip.job import WeightsError

SHAPE: dict[str, Any] = {"channels": 8, "width": 32, "multipliers": (1, 1), "groups": 4}
CPU = torch.device("cpu")


def network(seed: int = 0, **changes: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_network(**(SHAPE | changes))


def metadata(**changes: object) -> dict[str, str]:
    return {"kind": "denoiser", "architecture": json.dumps(SHAPE | changes)}


def test_signal_and_noise_keep_unit_power_and_cross_where_the_shift_says() -> None:
    levels = torch.linspace(0, 0.999, 50)
    keep, loud = mixture(levels)
    assert torch.allclose(keep.square() + loud.square(), torch.ones(50), atol=1e-6)
    assert (keep[0], loud[0]) == (1, 0)
    assert (keep.diff() < 0).all()
    half = mixture(torch.tensor(0.5))
    assert float(half[1] / half[0]) == pytest.approx(SHIFT)


@pytest.mark.parametrize("side", [(16, 16), (5, 7), (1, 3), (12, 9)])
def test_any_grid_is_cleaned_and_keeps_its_shape(side: tuple[int, int]) -> None:
    noisy = torch.randn(1, 8, *side, generator=torch.Generator().manual_seed(0))
    clean = Denoiser(network(), device=CPU).clean(noisy, 0.4)
    assert clean.shape == noisy.shape
    assert clean.isfinite().all()


def test_cleaning_undoes_the_mixture_where_the_velocity_is_right() -> None:
    """x = keep z - noise v for v = keep e - noise x, whatever the network."""
    net = network()
    noisy, level = torch.randn(1, 8, 8, 8), 0.3
    keep, loud = mixture(torch.tensor(level))
    with torch.no_grad():
        velocity = guess(net, noisy, torch.tensor([level]))
    assert torch.allclose(Denoiser(net, device=CPU).clean(noisy, level), keep * noisy - loud * velocity, atol=1e-6)


def test_without_noise_nothing_is_changed() -> None:
    latent = torch.randn(1, 8, 8, 8)
    assert torch.equal(Denoiser(network(), device=CPU).clean(latent, 0.0), latent)


def test_a_file_gives_back_the_network() -> None:
    net = network()
    again = build({key: value.half() for key, value in net.state_dict().items()}, metadata())
    noisy, level = torch.randn(2, 8, 8, 8), torch.tensor([0.2, 0.8])
    with torch.no_grad():
        assert torch.allclose(guess(net, noisy, level), guess(again, noisy, level), atol=5e-3)


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({"kind": "vqgan"}, "'denoiser' is needed"),
        ({"kind": "denoiser"}, "no readable 'architecture'"),
        ({"kind": "denoiser", "architecture": "[1]"}, "no readable 'architecture'"),
        (metadata(width="x"), "no readable 'architecture'"),
        (metadata(width=100_000), "at most 512"),
        (metadata(width=0), "can not be built"),
        (metadata(multipliers=[]), "can not be built"),
        (metadata(multipliers=[1] * 9), "can not be built"),
        (metadata(groups=5), "do not fit"),
        (metadata(width=64), "do not fit"),
    ],
)
def test_a_file_of_another_make_is_refused_in_one_line(facts: dict[str, str], part: str) -> None:
    with pytest.raises(WeightsError, match=part) as caught:
        build(network().state_dict(), facts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", [0.1, 10.0])
def test_longer_latents_are_cleaned_as_the_network_knows_them(unit: float) -> None:
    noisy = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = Denoiser(network(), device=CPU).clean(noisy, 0.4)
    longer = Denoiser(network(), device=CPU, unit=unit).clean(unit * noisy, 0.4)
    assert torch.allclose(longer / unit, plain, atol=1e-5)
