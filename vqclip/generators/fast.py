"""Taming's networks in fewer passes over memory, with the same numbers: what runs inside the loop.

Tested against taming's own modules: channels last, GroupNorm and SiLU as one function, upsampling and its convolution
as one transposed convolution, attention that never holds its whole table. Gradients reach the input only, the weights
are frozen. Convolutions are the plain network's own, so that it costs no second copy of them. Reads no files and knows
no latents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEW = 2**14  # cells, of which torch's own sums in float32 are good to 1e-5
_BLOCK = 2**19  # numbers; what is computed of one block stays in the cache until the next step of it


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
        """Pictures in taming's range, nominally [-1, 1]."""
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
        """Hidden cells of pictures in [-1, 1], before the codes."""
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
        weight = plain.conv.weight.detach().double()  # (out, in, 3, 3)
        for axis in (2, 3):
            first, centre, last = weight.split(1, axis)
            weight = torch.cat([last, centre + last, first + centre, first], axis)
        kernel = weight.transpose(0, 1).contiguous().to(dtype)  # (in, out, 4, 4)
        self.kernel = nn.Parameter(kernel, requires_grad=False)
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
    """Keeps its input and two numbers a group; what lies between norm and SiLU is computed again on the way back.

    With n = scale x + shift and g the gradient of n, the gradient of x is scale g + slope x + level, where slope and
    level take off what moves the groups' means and deviations. Sums are taken in float32 or better over blocks that
    stay in the cache, which also keeps the many cells of a large picture from adding up their rounding.
    """

    @staticmethod
    def forward(  # noqa: PLR0917  # `apply` takes no names
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool  # noqa: FBT001
    ) -> Tensor:
        b, c, h, w = x.shape
        if x.device.type == "cpu" and h * w <= _FEW:
            x = x.contiguous(memory_format=torch.channels_last)
            out, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, h * w, groups, eps)
            out = F.silu(out, inplace=True) if silu else out
        else:
            cells = _cells(x)
            mean, rstd = _moments(cells, groups, eps, weight.dtype)
            scale, shift = _affine(mean, rstd, weight, bias)
            made = torch.empty_like(cells)
            for part, place in zip(_blocks(cells), _blocks(made), strict=True):
                normed = torch.addcmul(shift, part, scale)
                place.copy_(F.silu(normed, inplace=True) if silu else normed)
            out = _picture(made, x)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.silu = silu
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        cells = _cells(x)
        scale, shift = _affine(mean, rstd, weight, bias)
        out = torch.empty_like(cells)
        parts, places, sums = _blocks(cells), _blocks(out), []
        passed = list(places)  # g, block by block, where it is rounded to the precision of x
        for index, (part, grad) in enumerate(zip(parts, _blocks(_cells(grads[0])), strict=True)):
            exact, grad = part.to(scale.dtype), grad.to(scale.dtype)
            if ctx.silu:
                grad = torch.ops.aten.silu_backward(grad, torch.addcmul(shift, exact, scale))
            sums += [grad.sum(1), (grad * exact).sum(1)]
            if len(parts) == 1:
                passed[index] = grad
            else:
                places[index].copy_(grad)
        slope, level = _corrections(sums, mean, rstd, weight, cells)
        for part, grad, place in zip(parts, passed, places, strict=True):
            place.copy_(torch.addcmul(level, part, slope).addcmul_(grad, scale))
        return _picture(out, x), None, None, None, None, None


def _cells(x: Tensor) -> Tensor:
    """(B, C, H, W) in channels last -> (B, H W, C), the same memory."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])


def _picture(cells: Tensor, like: Tensor) -> Tensor:
    """The way back from `_cells`."""
    b, c, h, w = like.shape
    return cells.view(b, h, w, c).permute(0, 3, 1, 2)


def _blocks(cells: Tensor) -> tuple[Tensor, ...]:
    """Runs of cells, on the CPU so few that they stay in its cache."""
    if cells.device.type != "cpu":
        return (cells,)
    parts: tuple[Tensor, ...] = torch.split(cells, max(1, _BLOCK // (cells.shape[0] * cells.shape[2])), 1)
    return parts


def _moments(cells: Tensor, groups: int, eps: float, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean of each group and one over its deviation, (B, groups)."""
    sums = []
    for part in _blocks(cells):
        part = part.to(exact)
        sums += [part.sum(1), part.square().sum(1)]
    mean, square = _by_groups(sums, groups, cells)
    return mean, torch.addcmul(square, mean, mean, value=-1).clamp_min_(0).add_(eps).rsqrt_()


def _by_groups(sums: list[Tensor], groups: int, cells: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Means (B, groups) over each group of two things, from their sums (B, C) over every block in turn."""
    both = torch.stack(sums).unflatten(0, (-1, 2))
    both = both[0] if len(both) == 1 else both.sum(0)
    both = both if weight is None else both * weight
    first, second = (both.unflatten(2, (groups, -1)).sum(3) * (groups / cells[0].numel())).unbind()
    return first, second


def _affine(mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (B, 1, C) that the norm is, once the groups' moments are known."""
    groups = mean.shape[1]
    scale = rstd[:, :, None] * weight.view(groups, -1)  # (B, groups, C / groups)
    shift = bias.view(groups, -1) - mean[:, :, None] * scale
    return scale.flatten(1)[:, None], shift.flatten(1)[:, None]


def _corrections(
    sums: list[Tensor], mean: Tensor, rstd: Tensor, weight: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor]:
    """Slope and level (B, 1, C) of the gradient, from the sums (B, C) of g and of g x over every block."""
    groups = mean.shape[1]
    first, second = _by_groups(sums, groups, cells, weight)
    slope = torch.addcmul(second, first, mean, value=-1) * rstd.pow(3).neg_()
    level = torch.addcmul(first * rstd, slope, mean).neg_()
    wide = torch.stack([slope, level]).repeat_interleave(cells.shape[2] // groups, 2)[:, :, None]
    return wide[0], wide[1]
