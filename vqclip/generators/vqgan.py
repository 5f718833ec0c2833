"""VQGAN generators from taming-transformers' Encoder and Decoder, the architecture read from the weights.

A plain and a Gumbel codebook are two constructors of the same network. Training losses and
discriminators of a checkpoint are dropped by the loader; nothing here reads files.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from taming.modules.diffusionmodules.model import Decoder, Encoder
from torch import Tensor, nn

from vqclip.generators.blank import blank
from vqclip.generators.denoiser import regroup
from vqclip.generators.fast import FastDecoder, FastEncoder
from vqclip.generators.quantize import clamp_with_grad, deviation, look_up, nearest_codes, straight_through
from vqclip.job import InputError, WeightsError

PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
_LARGEST = 400_000_000  # parameters; the largest public VQGAN has about 90 million
_TAMING_GROUPS = 32  # hard-coded in taming's Normalize
_STARTERS = 1.1976711955947599  # `deviation` of the starter VQGAN's codes
_WIDE = 64  # channels from which on the fast forms pay in bfloat16 on a CPU; float32 gains from them at any width
_CLIPS: dict[str, Callable[[Tensor, float, float], Tensor]] = {"inward": clamp_with_grad, "plain": torch.clamp}


@dataclass(frozen=True)
class Architecture:
    """What a VQGAN state dict says about its shape; `groups` is the one thing that it cannot say."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]  # levels that carry attention
    in_channels: int
    out_channels: int
    z_channels: int
    codes: int
    code_dim: int
    gumbel: bool
    groups: int = _TAMING_GROUPS

    @property
    def stride(self) -> int:
        """Pixels per latent cell."""
        return int(2 ** (len(self.multipliers) - 1))


def infer_architecture(state: Mapping[str, Tensor], *, groups: int = _TAMING_GROUPS) -> Architecture:
    """Read the architecture from the shapes of a state dict (keys as in taming's VQModel / GumbelVQ).

    Raises:
        WeightsError: keys of that layout are missing.
    """
    try:
        channels = state["encoder.conv_in.weight"].shape[0]
        levels = 1 + max(_numbers(state, r"encoder\.down\.(\d+)\.block\."))
        gumbel = "quantize.proj.weight" in state
        codebook = state["quantize.embed.weight" if gumbel else "quantize.embedding.weight"]
        return Architecture(
            channels=channels,
            multipliers=tuple(
                state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] // channels for i in range(levels)
            ),
            blocks=1 + max(_numbers(state, r"encoder\.down\.0\.block\.(\d+)\.")),
            attention=tuple(i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in state),
            in_channels=state["encoder.conv_in.weight"].shape[1],
            out_channels=state["decoder.conv_out.weight"].shape[0],
            z_channels=state["encoder.conv_out.weight"].shape[0],
            codes=codebook.shape[0],
            code_dim=codebook.shape[1],
            gumbel=gumbel,
            groups=groups,
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"not a VQGAN of taming's layout: {error} is missing") from error


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    found = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    if not found:
        raise KeyError(pattern.replace("\\", ""))
    return found


class _Codebook(nn.Module):
    """Holds the code rows under the key names of taming's quantizers."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        if shape.gumbel:
            self.proj = nn.Conv2d(shape.z_channels, shape.codes, 1)
            self.embed = nn.Embedding(shape.codes, shape.code_dim)
        else:
            self.embedding = nn.Embedding(shape.codes, shape.code_dim)


class VQModel(nn.Module):
    """The network: taming's encoder and decoder around a codebook, with taming's parameter names."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        resolution = 256  # only decides at which level taming puts attention
        arguments = {
            "ch": shape.channels, "ch_mult": shape.multipliers, "num_res_blocks": shape.blocks, "dropout": 0.0,
            "attn_resolutions": [resolution >> level for level in shape.attention], "resolution": resolution,
            "in_channels": shape.in_channels, "out_ch": shape.out_channels, "z_channels": shape.z_channels,
            "double_z": False,
        }  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):  # taming's Decoder prints its shape
            self.encoder = Encoder(**arguments)
            self.decoder = Decoder(**arguments)
        self.quantize = _Codebook(shape)
        self.quant_conv = nn.Conv2d(shape.z_channels, shape.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(shape.code_dim, shape.z_channels, 1)
        self.shape = shape
        if shape.groups != _TAMING_GROUPS:
            regroup(self, shape.groups)

    @property
    def codebook(self) -> Tensor:
        """(K, D) code rows."""
        rows = self.quantize.embed if self.shape.gumbel else self.quantize.embedding
        weight: Tensor = rows.weight
        return weight


def is_decoders(name: str) -> bool:
    """Whether a weight of this name is on the way from latents to pictures, not on the way to latents."""
    return name.startswith(("decoder.", "post_quant_conv."))


def build(state: Mapping[str, Tensor], *, groups: int = _TAMING_GROUPS) -> VQModel:
    """A frozen network in eval mode with the weights of a state dict, loaded strictly as float32.

    Raises:
        WeightsError: unknown layout, implausible size, missing or surplus keys.
    """
    kept = {key: value for key, value in state.items() if key.startswith(PARTS) and key != "quantize.used"}
    total = sum(value.numel() for value in kept.values())
    if total > _LARGEST:
        raise WeightsError(
            f"a VQGAN of {total / 1e6:.0f} million parameters; at most {_LARGEST / 1e6:.0f} are expected"
        )
    shape = infer_architecture(kept, groups=groups)
    try:
        with blank():
            model = VQModel(shape)
        model.load_state_dict({key: value.float() for key, value in kept.items()}, strict=True, assign=True)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"VQGAN weights do not fit their own architecture: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.eval().requires_grad_(requires_grad=False)


def cells(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(height, width) of the latent grid for a picture of `size` = (width, height) at `stride` pixels a cell.

    Raises:
        InputError: a side is not a positive multiple of the stride.
    """
    width, height = size
    if width % stride or height % stride or min(size) < stride:
        near = tuple(max(1, round(side / stride)) * stride for side in size)
        raise InputError(
            f"size: {width}x{height} is not a multiple of {stride}, this generator's stride; "
            f"nearest is {near[0]}x{near[1]}"
        )
    return height // stride, width // stride


class VQGAN:
    """A VQGAN as a Generator: latents are grids of code vectors, pictures come out in [0, 1].

    Args:
        model: the frozen network.
        device: where it runs. dtype: precision of encoder and decoder; latents, code search and pictures are float32
            (float64 where the models are).
        pull, bounded: see `project`; pull is in [0, 1].
        quantise: whether latents are drawn through their nearest codes; False draws them as they are.
        clip: gradient of colours out of range: "inward" (what leads back into it) or "plain" (none).
        fast: whether the network computes in the forms of `vqclip.generators.fast`, or in taming's own; None for what
            is quicker on the CPU, and taming's elsewhere, where nobody has measured them.
    """

    def __init__(
        self, model: VQModel, *, device: torch.device, dtype: torch.dtype = torch.float32, pull: float = 0.0,
        bounded: bool = True, quantise: bool = True, clip: str = "inward", fast: bool | None = None,
    ) -> None:  # fmt: skip
        self.shape, self.pull, self.bounded = model.shape, pull, bounded
        self.quantise, self._clip = quantise, _CLIPS[clip]
        self.device, self.dtype = device, dtype
        self._exact = torch.promote_types(dtype, torch.float32)
        self.codebook = model.codebook.detach().to(device, self._exact)  # (K, D)
        self._square_norms = self.codebook.square().sum(1)
        self._low, self._high = (bound[None, :, None, None] for bound in self.codebook.aminmax(dim=0))
        narrow = dtype == torch.bfloat16 and model.shape.channels < _WIDE
        fast = device.type == "cpu" and not narrow if fast is None else fast
        self._encoder = FastEncoder(model.encoder, dtype) if fast else model.encoder
        self._decoder = FastDecoder(model.decoder, dtype) if fast else model.decoder
        self._net = model.to(device, dtype)
        for part in (self._encoder, self._decoder) if fast else ():  # what they have beside the network's own
            part.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's hints

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along each axis."""
        return self.shape.stride

    @cached_property
    def unit(self) -> float:
        """The deviation of its codes over that of the starter VQGAN's; 1 where all codes are the same."""
        return deviation(self.codebook.cpu()) / _STARTERS or 1.0

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the latent grid for a picture of `size` = (width, height).

        Raises:
            InputError: a side is not a positive multiple of the stride.
        """
        return cells(size, self.stride)

    def sample(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Uniformly drawn codebook rows: (1, D, h, w)."""
        height, width = self.grid(size)
        codes = torch.randint(self.shape.codes, (1, height, width), generator=rng)
        return look_up(codes.to(self.device), self.codebook)

    @torch.no_grad()
    def codes(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, h, w) code indices; deterministic, for Gumbel models too."""
        hidden = self._net.quant_conv(self._encoder((image * 2 - 1).to(self.device, self.dtype)))
        if self.shape.gumbel:
            scores: Tensor = self._net.quantize.proj(hidden)
            return scores.argmax(1)
        return nearest_codes(hidden.to(self._exact), self.codebook, self._square_norms)

    def encode(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, D, h, w) codebook rows."""
        self.grid((image.shape[-1], image.shape[-2]))
        return look_up(self.codes(image), self.codebook)

    def decode(self, latent: Tensor) -> Tensor:
        """(1, D, h, w) -> (1, 3, H, W) float32 in [0, 1], through the nearest codes unless told not to quantise."""
        if self.quantise:
            codes = nearest_codes(latent, self.codebook, self._square_norms)
            latent = straight_through(latent, look_up(codes, self.codebook))
        out = self._decoder(self._net.post_quant_conv(latent.to(self.dtype)))  # nominally [-1, 1]
        return self._clip((out.to(self._exact) + 1) / 2, 0, 1)

    def project(self, latent: Tensor) -> Tensor:
        """Clamp each channel of a latent (B, C, h, w) to the codebook's range and pull it towards its nearest codes.

        It goes the share `pull` of the way. The box of the channel ranges is much larger than the set of codes: without
        a pull, latents drift to corners far from every code, where moving them changes no picture any more. Latents
        that are not bounded are only pulled.
        """
        inside = latent.clamp(self._low, self._high) if self.bounded else latent
        if not self.pull:
            return inside
        codes = nearest_codes(inside, self.codebook, self._square_norms)
        return inside.lerp(look_up(codes, self.codebook), self.pull)


def groups_of(metadata: Mapping[str, object]) -> int:
    """GroupNorm groups from a file's metadata ("architecture" JSON, key norm_groups); 32 where it says nothing.

    Raises:
        WeightsError: no JSON object, or no whole number from 1 to 64.
    """
    try:
        groups = json.loads(str(metadata.get("architecture", "{}"))).get("norm_groups", _TAMING_GROUPS)
    except (ValueError, AttributeError) as error:
        raise WeightsError("VQGAN metadata: 'architecture' is not a JSON object") from error
    if not isinstance(groups, int) or not 1 <= groups <= 64:
        raise WeightsError(f"VQGAN metadata: norm_groups is {groups!r}; 1 to 64 is expected")
    return groups
