"""Latents side by side between two updates: what is kept of them, and of what their optimizer remembers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqclip.backends.vqgan.backend import OPTIMIZERS
from vqclip.loop.state import State


def rngs(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def latents(count: int = 3) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(9))


def make(name: str, latent: Tensor) -> State:
    return State(latent, rngs(*range(len(latent))), optimizer=lambda moved: OPTIMIZERS[name](moved, lr=0.1))


def descend(state: State, hills: Tensor, *, updates: int = 4) -> None:
    for _ in range(updates):
        (state.latent - hills).square().sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)


def test_the_callers_latent_stays_and_the_start_too() -> None:
    latent = latents()
    state = make("adam", latent)
    descend(state, torch.zeros(1, 2, 4, 4))
    assert torch.equal(latent, latents())
    assert torch.equal(state.start, latents())
    assert not torch.equal(state.latent, latents())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_kept_moves_on_as_if_it_had_been_alone(name: str) -> None:
    hills = latents() * 2 + 1
    state, alone = make(name, latents()), make(name, latents()[[2, 0]])
    descend(state, hills)
    descend(alone, hills[[2, 0]])
    state.keep([2, 0])
    assert len(state) == 2
    descend(state, hills[[2, 0]])
    descend(alone, hills[[2, 0]])
    assert torch.allclose(state.latent, alone.latent, rtol=1e-6)


def test_gradients_averages_and_streams_are_kept_along() -> None:
    state = make("adam", latents())
    state.mean = latents() + 1
    (state.latent * torch.arange(3.0).view(3, 1, 1, 1)).sum().backward()
    state.keep([2])
    assert torch.equal(state.latent.grad, torch.full((1, 2, 4, 4), 2.0))
    assert torch.equal(state.mean, latents()[2:] + 1)
    assert torch.equal(state.start, latents()[2:])
    assert state.rngs[0].initial_seed() == 2
    assert state.optimizer.param_groups[0]["params"][0] is state.latent


def test_each_latent_needs_a_stream_of_its_own() -> None:
    with pytest.raises(ValueError, match="3 latents need as many generators; 2 were given"):
        State(latents(), rngs(0, 1), optimizer=torch.optim.Adam)
