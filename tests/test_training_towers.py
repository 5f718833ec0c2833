"""The fast towers give openai-clip's own numbers, gradients included, at tiny sizes."""

from __future__ import annotations

import pytest
import torch
from clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F

from training.towers import encode_image, encode_text, freeze_image_tower, normalise

TEXT = {"context_length": 12, "vocab_size": 40, "transformer_width": 64, "transformer_heads": 1}


def tiny(kind: str) -> CLIP:
    """A model in evaluation mode whose batch norms have seen something."""
    layers, width, patch = ((1, 1, 1, 1), 8, None) if kind == "resnet" else (2, 64, 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(32, 32, layers, width, patch, **TEXT, transformer_layers=2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["resnet", "transformer"])
def test_image_features_are_those_of_the_original(kind: str) -> None:
    model, image = tiny(kind), pictures()
    with torch.no_grad():
        expected = F.normalize(model.encode_image(normalise(image)), dim=-1)
        assert torch.allclose(encode_image(model, image), expected, atol=1e-4)
        assert torch.allclose(freeze_image_tower(model, torch.float32)(image), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["resnet", "transformer"])
def test_picture_gradients_are_those_of_the_original(kind: str) -> None:
    model, image = tiny(kind), pictures()
    goal = F.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(2)), dim=-1)

    def gradient(features: Tensor, leaf: Tensor) -> Tensor:
        return torch.autograd.grad((features * goal).sum(), leaf)[0]

    leaves = [image.clone().requires_grad_() for _ in range(2)]
    expected = gradient(F.normalize(model.encode_image(normalise(leaves[0])), dim=-1), leaves[0])
    found = gradient(freeze_image_tower(model, torch.float32)(leaves[1]), leaves[1])
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item() + 1e-7)


def test_text_features_are_those_of_the_original_without_its_padding() -> None:
    model = tiny("transformer")
    tokens = torch.tensor([[38, 3, 4, 39, 0], [38, 7, 39, 0, 0]])
    full = F.pad(tokens, (0, 12 - 5))
    with torch.no_grad():
        expected = F.normalize(model.encode_text(full), dim=-1)
        assert torch.allclose(encode_text(model, tokens), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["resnet", "transformer"])
def test_a_frozen_tower_leaves_no_gradient_on_the_weights(kind: str) -> None:
    model, image = tiny(kind), pictures().requires_grad_()
    freeze_image_tower(model, torch.float32)(image).sum().backward()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.visual.parameters())
    assert image.grad is not None
