"""How the weights of the starter Kandinsky's MoVQ begin, and fast forms of its layers; trains nothing.

The classes are diffusers' own, so that its pipelines take the trained weights as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, SpatialNorm
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F

from training.codebook import pass_on


def normalise(x: Tensor, groups: int, eps: float) -> Tensor:
    """Group normalisation of (B, C, ...) without scale and shift, as layer norm: backward 20 times faster on a CPU."""
    rows = x.reshape(len(x), groups, -1)
    return F.layer_norm(rows, rows.shape[-1:], eps=eps).view_as(x)


class FastGroupNorm(nn.GroupNorm):
    """The same function and the same weights as nn.GroupNorm; a 64 px step of the MoVQ takes a third of the time.

    Where pictures are small (16 x 16) it gains nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape and dtype."""
        shape = (1, -1) + (1,) * (input.ndim - 2)
        plain = normalise(input, self.num_groups, self.eps)
        weight, bias = (each.to(plain.dtype).view(shape) for each in (self.weight, self.bias))
        return torch.addcmul(bias, plain, weight)


class FastSpatialNorm(SpatialNorm):
    """SpatialNorm whose inner scale and shift stay 1 and 0 (conv_y and conv_b say the same), convolved before the
    latents are enlarged instead of after."""

    def forward(self, f: Tensor, zq: Tensor) -> Tensor:
        """Features (B, C, H, W) and latents (B, D, h, w), with H a multiple of h -> (B, C, H, W)."""
        plain = normalise(f, self.norm_layer.num_groups, self.norm_layer.eps)
        scale, shift = (F.interpolate(conv(zq), f.shape[-2:], mode="nearest") for conv in (self.conv_y, self.conv_b))
        return torch.addcmul(shift, plain, scale)


def use_fast_norms(model: nn.Module) -> None:
    """Exchanges the normalisations for their fast forms, in place; state dicts keep their keys."""
    for layer in model.modules():
        if isinstance(layer, SpatialNorm):
            layer.norm_layer.requires_grad_(requires_grad=False)
            layer.__class__ = FastSpatialNorm
        elif isinstance(layer, nn.GroupNorm):
            layer.__class__ = FastGroupNorm


def make_movq(arguments: dict[str, Any], seed: int) -> VQModel:
    """A fresh MoVQ that passes colours on from the first step."""
    torch.manual_seed(seed)  # the layers draw from the global generator
    model = VQModel(**arguments)
    let_colours_through(model)
    use_fast_norms(model)
    return model


def let_colours_through(model: VQModel) -> None:
    """As the VQGAN's begin; and every SpatialNorm as a plain norm to which the latents themselves are added."""
    pass_on(model)
    for block in model.modules():
        if isinstance(block, ResnetBlock2D):
            block.conv2.weight.data.mul_(0.2)
        elif isinstance(block, Attention):
            block.to_out[0].weight.data.mul_(0.1)
        elif isinstance(block, SpatialNorm):
            block.conv_y.weight.data.mul_(0.1)
            nn.init.ones_(block.conv_y.bias)
            block.conv_b.weight.data.mul_(0.3)


@torch.no_grad()
def shift_latents(model: VQModel, mean: Tensor, deviation: Tensor) -> None:
    """The same MoVQ with latents (z - mean) / deviation, (D,) each: no pipeline scales the latents it gets.

    What goes into the latent space is changed, what comes out of it changed back; codes move along.
    """
    quant, post = model.quant_conv, model.post_quant_conv
    quant.weight.div_(deviation[:, None, None, None])
    quant.bias.sub_(mean).div_(deviation)
    book = model.quantize.embedding.weight
    book.sub_(mean).div_(deviation)
    readers = [conv for norm in model.modules() if isinstance(norm, SpatialNorm) for conv in (norm.conv_y, norm.conv_b)]
    for conv in (post, *readers):
        conv.bias.add_(conv.weight[:, :, 0, 0] @ mean)
        conv.weight.mul_(deviation[None, :, None, None])
