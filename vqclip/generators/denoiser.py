"""A small network that guesses the clean latent behind a noisy one: it knows what drawings look like, and no words.

The network is taming-transformers' own U-Net with step embeddings, its shape read from the weights. Knows
latents; not pictures, prompts or files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from taming.modules.diffusionmodules.model import Model
from torch import Tensor, nn
from torch.nn import functional as F

from vqclip.generators.blank import blank
from vqclip.job import WeightsError

SHIFT = 3.0  # neighbouring cells and channels say much the same, so that noise must be louder to hide a thing
_STEPS = 1000.0  # what the network reads is this many times the level
_CHANNELS = 512  # of a layer, at most


def mixture(level: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the clean latent and of the noise at a level in [0, 1), of any shape; their squares add up to 1.

    Their ratio is `SHIFT` times a cosine schedule's (Nichol and Dhariwal 2021; the shift as in Hoogeboom et al. 2023,
    "simple diffusion").
    """
    ratio = SHIFT * torch.tan(level * (math.pi / 2))
    keep = (1 + ratio.square()).rsqrt()
    return keep, ratio * keep


def make_network(channels: int, width: int, multipliers: tuple[int, ...], groups: int) -> nn.Module:
    """A fresh U-Net over latents of `channels`, `width` features wide at the first level."""
    network: nn.Module = Model(
        ch=width, out_ch=channels, ch_mult=multipliers, num_res_blocks=1, attn_resolutions=[], dropout=0.0,
        in_channels=channels, resolution=16, use_timestep=True,
    )  # fmt: skip
    regroup(network, groups)
    return network


def regroup(model: nn.Module, groups: int) -> None:
    """Give every GroupNorm another number of groups; taming knows only 32, too many for narrow nets."""
    for name, child in model.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(model, name, nn.GroupNorm(groups, child.num_channels, eps=child.eps))
        else:
            regroup(child, groups)


def guess(network: nn.Module, noisy: Tensor, level: Tensor) -> Tensor:
    """The velocity (Salimans and Ho 2022) that the network sees in noisy latents (B, C, h, w) at levels (B,).

    Any h and w: the last row and column are repeated up to whole cells of the U-Net's last level.
    """
    height, width = noisy.shape[-2:]
    whole = 2 ** (len(network.down) - 1)  # type: ignore[arg-type]  # a ModuleList of taming's
    padded = F.pad(noisy, (0, -width % whole, 0, -height % whole), mode="replicate")
    found: Tensor = network(padded, level * _STEPS)
    return found[..., :height, :width]


class Denoiser:
    """A frozen network, ready to clean latents.

    Args:
        network: of `make_network`. device, dtype: where and how precisely it computes; latents stay float32.
        unit: length of 1 to the network, in the latents that it is given: `Generator.unit`.
    """

    def __init__(
        self, network: nn.Module, *, device: torch.device, dtype: torch.dtype = torch.float32, unit: float = 1.0
    ) -> None:
        self.device, self.dtype, self.unit = device, dtype, unit
        self._net = network.eval().requires_grad_(requires_grad=False).to(device)

    @torch.no_grad()
    def clean(self, noisy: Tensor, level: float) -> Tensor:
        """The latent (1, C, h, w) float32 that most likely lies behind a noisy one at a level in [0, 1)."""
        at = torch.full((len(noisy),), level, device=noisy.device)
        keep, noise = (factor[:, None, None, None] for factor in mixture(at))
        exact = self.dtype == torch.float32
        # taming makes its table of frequencies on the device in force: from the CPU it would be copied, and waited for.
        with noisy.device, torch.autocast(noisy.device.type, self.dtype, enabled=not exact):
            velocity = guess(self._net, noisy / self.unit, at).float()
        return keep * noisy - noise * velocity * self.unit


def build(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> nn.Module:
    """The network of a weight file, from its state dict and metadata, loaded strictly as float32.

    Raises:
        WeightsError: another kind of file, sizes out of bounds, or weights that do not fit them.
    """
    if metadata.get("kind") != "denoiser":
        raise WeightsError(f"holds {ascii(metadata.get('kind'))[:60]}; 'denoiser' is needed")
    shape = _read_shape(metadata)
    try:
        with blank():
            network = make_network(**shape)
        network.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:160]
        raise WeightsError(f"the weights do not fit their architecture ({said})") from error
    return network


def _read_shape(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        read = json.loads(metadata["architecture"])
        sizes = {name: int(read[name]) for name in ("channels", "width", "groups")}
        levels = tuple(int(each) for each in read["multipliers"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError("its metadata has no readable 'architecture'") from error
    widest = sizes["width"] * max(levels, default=0)
    if not (1 <= len(levels) <= 5 and min(levels) > 0 and min(sizes.values()) > 0):
        raise WeightsError(f"architecture: {sizes} with levels {levels} can not be built")
    if max(widest, sizes["channels"]) > _CHANNELS:
        raise WeightsError(f"architecture: a layer of {max(widest, sizes['channels'])} channels; at most {_CHANNELS}")
    return sizes | {"multipliers": levels}
