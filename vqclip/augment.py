"""kornia's augmentations by name, made repeatable: they draw from torch's global generator only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vqclip.job import InputError

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
_SIZED = {"crop", "resized_crop"}  # classes whose first argument is the output size


def kornia_chain(names: Sequence[str]) -> Callable[[Tensor, int], Tensor]:
    """The named augmentations in order, as a function of (crops (N, 3, S, S) float32, seed).

    Raises:
        InputError: a name that is not in `AUGMENTATIONS`.
    """
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise InputError(f"crops.augment: {unknown[0]!r} is unknown; allowed: {', '.join(AUGMENTATIONS)}")
    from kornia import augmentation  # a second of import time, only for those who ask for it

    @cache
    def chain(side: int) -> list[Any]:
        made = []
        for name in names:
            kind, arguments = AUGMENTATIONS[name]
            sized = {"size": (side, side)} if name in _SIZED else {}
            made.append(getattr(augmentation, kind)(**sized, **arguments))
        return made

    def apply(crops: Tensor, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for augment in chain(crops.shape[-1]):
                crops = augment(crops)
        return crops

    return apply
