"""Networks without numbers: the same tensors as drawn ones, on no device, and no random stream moves."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_clip, tiny_vqgan_state
from torch import Tensor, nn

from vqclip.generators import vqgan
from vqclip.generators.blank import blank
from vqclip.perceptors import clip
from vqclip.perceptors.openai_clip import CLIP


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in state.items()}


@pytest.mark.parametrize("resnet", [False, True])
def test_a_clip_has_the_tensors_of_a_drawn_one_and_draws_nothing(*, resnet: bool) -> None:
    drawn = tiny_clip(resnet=resnet).state_dict()
    before = torch.get_rng_state()
    with blank():
        made = CLIP(**clip.infer_arguments(drawn))
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes(made.state_dict()) == shapes(drawn)
    assert {value.device.type for value in made.state_dict().values()} == {"meta"}


def test_a_vqgan_has_the_tensors_of_a_drawn_one() -> None:
    drawn = tiny_vqgan_state()
    with blank():
        made = vqgan.VQModel(vqgan.Architecture(32, (1, 1, 2), 1, (2,), 3, 3, 32, 48, 32, gumbel=False))
    assert shapes(made.state_dict()) == shapes(drawn)
    assert {value.device.type for value in made.state_dict().values()} == {"meta"}


def test_what_is_too_large_for_any_memory_can_be_made() -> None:
    with blank():
        assert nn.Linear(1 << 24, 1 << 24).weight.shape == (1 << 24, 1 << 24)


def test_outside_of_the_block_numbers_are_drawn_and_scaled_again() -> None:
    with blank():
        nn.Linear(2, 2)
    assert nn.Linear(8, 8).weight.std() > 0
    assert float(torch.ones(1) / 2.0) == 0.5
