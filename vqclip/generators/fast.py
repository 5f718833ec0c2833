"""Taming's networks in fewer passes over memory, with the same numbers: what runs inside the loop.

Tested against taming's own modules: channels last, GroupNorm and SiLU as one function, upsampling and its convolution
as one transposed convolution, attention that never holds its whole table. Gradients reach the input only, the weights
are frozen. Convolutions are the plain network's own, so that it costs no second copy of them. Reads no files and knows
no latents.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FastDecoder(nn.Module):
    """(B, z, h, w) -> (B, 3, H, W), as `taming.modules.diffusionmodules.model.Decoder`.

    Args:
        plain: the frozen network, whose convolutions are used as they are: cast and move them with it.
        dtype: what its convolutions compute in; norms keep at least float32 for what they sum up.
    """

    def __init__(self, plain: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv_in, self.conv_out = plain.conv_in, plain.conv_out
        stages: list[nn.Module] = _middle(plain.mid, dtype)
        for level in reversed(plain.up):
            stages += _level(level, dtype)
            if hasattr(level, "upsample"):
                stages.append(_Up(level.upsample, dtype))
        self.stages = nn.ModuleList(stages)
        self.norm_out = _Norm(plain.norm_out, dtype)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.conv_in(latent.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        picture: Tensor = self.conv_out(self.norm_out(x))
        return picture.contiguous()


class FastEncoder(nn.Module):
    """(B, 3, H, W) -> (B, z, h, w), as `taming.modules.diffusionmodules.model.Encoder`; arguments of `FastDecoder`."""

    def __init__(self, plain: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv_in, self.conv_out = plain.conv_in, plain.conv_out
        stages: list[nn.Module] = []
        for level in plain.down:
            stages += _level(level, dtype)
            if hasattr(level, "downsample"):
                stages.append(level.downsample)
        self.stages = nn.ModuleList(stages + _middle(plain.mid, dtype))
        self.norm_out = _Norm(plain.norm_out, dtype)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.conv_in(picture.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        hidden: Tensor = self.conv_out(self.norm_out(x))
        return hidden.contiguous()


def _middle(mid: Any, dtype: torch.dtype) -> list[nn.Module]:
    return [_Block(mid.block_1, dtype), _Attention(mid.attn_1, dtype), _Block(mid.block_2, dtype)]


def _level(level: Any, dtype: torch.dtype) -> list[nn.Module]:
    """Residual blocks, each with the attention behind it where the level has some."""
    made: list[nn.Module] = []
    for index, block in enumerate(level.block):
        made.append(_Block(block, dtype))
        if len(level.attn):
            made.append(_Attention(level.attn[index], dtype))
    return made


class _Block(nn.Module):
    """Two normalised convolutions beside a shortcut; `given` (B, C', 1, 1) is added between them."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = _Norm(block.norm1, dtype), _Norm(block.norm2, dtype)
        self.conv_1, self.conv_2 = block.conv1, block.conv2
        self.short = getattr(block, "nin_shortcut", None) or getattr(block, "conv_shortcut", None)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        out = self.conv_1(self.norm_1(x))
        if given is not None:
            out = out + given
        out = self.conv_2(self.norm_2(out))
        summed: Tensor = out + (x if self.short is None else self.short(x))
        return summed


class _Attention(nn.Module):
    """Every cell looks at every cell, one head."""

    def __init__(self, plain: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = _Norm(plain.norm, dtype, silu=False)
        self.q, self.k, self.v, self.out = plain.q, plain.k, plain.v, plain.proj_out

    def forward(self, x: Tensor) -> Tensor:
        cells = self.norm(x)
        q, k, v = (part(cells).flatten(2).mT[:, None] for part in (self.q, self.k, self.v))  # (B, 1, h w, C)
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].mT.unflatten(2, x.shape[2:])
        out: Tensor = x + self.out(seen)
        return out


class _Up(nn.Module):
    """Nearest upsampling by 2 and a 3 x 3 convolution as one transposed convolution of 4 x 4.

    Of the nine neighbours that a pixel of the enlarged picture has, four are different ones: the others' weights are
    summed up beforehand. The same at the borders, where both see zeros.
    """

    def __init__(self, plain: Any, dtype: torch.dtype) -> None:
        super().__init__()
        weight = plain.conv.weight.detach()  # (out, in, 3, 3)
        for axis in (2, 3):
            first, centre, last = weight.split(1, axis)
            weight = torch.cat([last, centre + last, first + centre, first], axis)
        self.kernel = nn.Parameter(weight.transpose(0, 1).contiguous().to(dtype), requires_grad=False)  # (in, out, 4, 4)
        self.conv = plain.conv  # for its bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.kernel, self.conv.bias, stride=2, padding=1)


class _Norm(nn.Module):
    """GroupNorm, and SiLU behind it, of (B, C, H, W) in channels last."""

    def __init__(self, norm: nn.GroupNorm, dtype: torch.dtype, *, silu: bool = True) -> None:
        super().__init__()
        exact = torch.promote_types(dtype, torch.float32)
        self.weight = nn.Parameter(norm.weight.detach().to(exact), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach().to(exact), requires_grad=False)
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _NormSiLU.apply(x, self.weight, self.bias, self.groups, self.eps, self.silu)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
        return out


class _NormSiLU(torch.autograd.Function):
    """Keeps its input and two numbers a group; what lies between norm and SiLU is computed again on the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        b, c, h, w = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        out, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, h * w, groups, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.silu = silu
        return F.silu(out, inplace=True) if silu else out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        b, c, h, w = x.shape
        groups = mean.shape[1]
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        per = c // groups
        mean_c, rstd_c = (part.repeat_interleave(per, 1) for part in (mean, rstd))
        scale = weight * rstd_c  # (B, C)
        if ctx.silu:
            shift = bias - mean_c * scale
            mid = torch.addcmul(shift[:, :, None, None].to(x.dtype), x, scale[:, :, None, None].to(x.dtype))
            grad = torch.ops.aten.silu_backward(grad, mid)
        s1 = grad.sum((2, 3), dtype=mean.dtype)
        s2 = (grad * x).sum((2, 3), dtype=mean.dtype)
        n = per * h * w
        p = (weight * s1).view(b, groups, per).sum(2) / n
        q = (weight * s2).view(b, groups, per).sum(2) / n - p * mean
        k = -(rstd**3) * q
        m = -rstd * p - k * mean
        k, m = (part.repeat_interleave(per, 1)[:, :, None, None].to(x.dtype) for part in (k, m))
        dx = torch.addcmul(m, x, k)
        dx.addcmul_(grad, scale[:, :, None, None].to(x.dtype))
        return dx, None, None, None, None, None
