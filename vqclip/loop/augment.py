"""kornia's augmentations by name, made repeatable: they draw from torch's global generator only.

What they draw is drawn on the CPU; on an accelerator it goes over in one copy, and what is as large as the crops is
drawn there. No augmentation then waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from vqclip.job import InputError
from vqclip.loop.devices import WITHOUT_GRID_SAMPLE, in_one_copy, seeded

# Name -> kornia class and arguments: the set of nerdyrodent's script with its strengths; `translate`
# is written as the vertical shift that its scalar 0.1 came to.
AUGMENTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "affine": ("RandomAffine", {"degrees": 15, "translate": (0.0, 0.1), "shear": 5, "p": 0.7}),
    "perspective": ("RandomPerspective", {"distortion_scale": 0.7, "p": 0.7}),
    "colour_jitter": ("ColorJitter", {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1, "p": 0.7}),
    "erasing": ("RandomErasing", {"scale": (0.1, 0.4), "ratio": (0.3, 1 / 0.3), "same_on_batch": True, "p": 0.7}),
    "sharpness": ("RandomSharpness", {"sharpness": 0.3, "p": 0.5}),
    "gaussian_noise": ("RandomGaussianNoise", {"mean": 0.0, "std": 1.0, "p": 0.5}),
    "rotation": ("RandomRotation", {"degrees": 15, "p": 0.7}),
    "elastic": ("RandomElasticTransform", {"p": 0.7}),
    "thin_plate": ("RandomThinPlateSpline", {"scale": 0.8, "same_on_batch": True, "p": 0.7}),
    "crop": ("RandomCrop", {"padding_mode": "reflect", "p": 0.5}),
    "resized_crop": ("RandomResizedCrop", {"scale": (0.1, 1.0), "ratio": (0.75, 4 / 3), "p": 0.5}),
    "flip": ("RandomHorizontalFlip", {"p": 0.5}),
}
_SIZED: Final = {"crop", "resized_crop"}  # classes whose first argument is the output size
# Drawn numbers that kornia itself reads on the host; with them stays what it computes of them.
_READ: Final = {
    "colour_jitter": {"order", "brightness_factor", "contrast_factor", "saturation_factor", "hue_factor"},
    "erasing": {"widths", "heights", "xs", "ys"},
    "crop": {"src", "dst", "input_size", "output_size", "padding_size"},
    "resized_crop": {"src", "dst", "input_size", "output_size"},
}
_LARGE: Final = {"gaussian_noise", "elastic"}  # what they draw is as large as the crops
_WARPS: Final = ("affine", "perspective", "rotation", "elastic", "thin_plate")  # through torch's grid_sample
Drawn = dict[str, Tensor]


class Chain:
    """The named augmentations in order.

    Raises:
        InputError: a name that is not in `AUGMENTATIONS`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in AUGMENTATIONS]
        if unknown:
            raise InputError(f"crops.augment: {unknown[0]!r} is unknown; allowed: {', '.join(AUGMENTATIONS)}")
        self._names = tuple(names)
        self._made = cache(self._make)

    def __call__(self, crops: Tensor, seed: int) -> Tensor:
        """(N, 3, S, S) float32 -> the same, changed; on the CPU and on an accelerator one seed gives other noise.

        Raises:
            InputError: a warp on a device where torch has no gradient of it.
        """
        device = crops.device
        if device.type == "cpu":
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                for augment in self._made(crops.shape[-1]):
                    crops = augment(crops)
            return crops
        self._check(device)
        drawn = self._moved(self.draw(crops.shape, seed), device)
        for number, (name, augment) in enumerate(zip(self._names, self._made(crops.shape[-1]), strict=True)):
            if name in _LARGE:
                drawn[number] |= _noise(name, crops, seed + number)
            crops = augment(crops, params=drawn[number])
        return crops

    def draw(self, shape: Sequence[int], seed: int) -> list[Drawn]:
        """What each augmentation draws for crops of a shape, on the CPU, but for what is as large as they are."""
        found = []
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for name, augment in zip(self._names, self._made(shape[-1]), strict=True):
                size = (*shape[:2], 1, 1) if name in _LARGE else tuple(shape)
                drawn = augment.forward_parameters(torch.Size(size))
                found.append({key: value for key, value in drawn.items() if name not in _LARGE or value.dim() < 4})
        return found

    def _moved(self, drawn: Sequence[Drawn], device: torch.device) -> list[Drawn]:
        """All that is not read on the host, on the device in one copy."""
        host = [_READ.get(name, set()) | {"forward_input_shape"} for name in self._names]
        keys = [(number, key) for number, each in enumerate(drawn) for key in each if key not in host[number]]
        made: list[Drawn] = [dict(each) for each in drawn]
        for (number, key), value in zip(keys, in_one_copy([drawn[n][k] for n, k in keys], device), strict=True):
            made[number][key] = value
        return made

    def _check(self, device: torch.device) -> None:
        warps = [name for name in self._names if name in _WARPS]
        if warps and device.type in WITHOUT_GRID_SAMPLE:
            raise InputError(
                f"crops.augment: {warps[0]!r} cannot be differentiated on {device.type}; leave out "
                f"{', '.join(_WARPS)}, or set device=cpu"
            )

    def _make(self, side: int) -> list[Any]:
        from kornia import augmentation  # a second of import time, only for those who ask for it

        made = []
        for name in self._names:
            kind, arguments = AUGMENTATIONS[name]
            sized = {"size": (side, side)} if name in _SIZED else {}
            made.append(getattr(augmentation, kind)(**sized, **arguments))
        return made


def _noise(name: str, crops: Tensor, seed: int) -> Drawn:
    """The large draws under kornia's names for them: normal for noise, uniform in [-1, 1] for elastic shifts."""
    count, channels, height, width = crops.shape
    rng, device = seeded(crops.device, seed), crops.device
    if name == "elastic":
        return {"noise": torch.rand((count, 2, height, width), generator=rng, device=device) * 2 - 1}
    _, arguments = AUGMENTATIONS[name]
    normal = torch.randn((count, channels, height, width), generator=rng, device=device)
    return {"gaussian_noise": arguments["mean"] + arguments["std"] * normal}
