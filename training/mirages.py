"""Pictures of nothing that are being turned into whatever the model takes for something, to be learnt as negatives.

An attack on real pictures stays near them; the optimization loop starts far away and goes wherever the
similarity rises. Training against such chains as well (RATIO, Augustin et al. 2020; persistent chains as in Du and
Mordatch 2019) makes the way to a high similarity lead through real shapes. Knows pictures and captions; not models
or files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.captions import Meaning, leave_out, say
from training.contrast import climb

_FRESH = 0.05  # share of the chains that start anew at each use: 20 uses of 3 steps on average
_FRESH_FORGED = 0.2  # the same where there are forgeries, which need no long way
_FORGED = 0.75  # share of these that start with one
_STEP = 1.0  # L2 length of a step over 64 x 64 pixels; black to white is 111
_BROAD = 2.0  # the same along a blurred gradient
_FAR = 1e6  # no ball around the start
_TILES = 4  # a jigsaw's pieces along a side


@dataclass
class Mirages:
    """`count` chains: their pictures (N, 3, S, S) in [0, 1] and what each is being pulled towards."""

    pixels: Tensor
    meant: list[Meaning]
    rng: torch.Generator
    words: np.random.Generator
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @classmethod
    def start(cls, count: int, size: int, truths: list[Meaning], seed: int, device: torch.device) -> Mirages:
        """Chains that all begin with smooth colours, pulled towards any of the `truths`."""
        rng, words = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        chains = cls(smooth(count, size, rng).to(device), [Meaning()] * count, rng, words)
        chains.meant = [leave_out(truths[words.integers(len(truths))], words) for _ in range(count)]
        return chains

    def draw(
        self, count: int, image: Tensor, truths: list[Meaning], forged: tuple[Tensor, list[Meaning]] | None = None
    ) -> tuple[Tensor, list[str]]:
        """`count` chains and their captions; a few begin anew, from smooth colours or a jigsaw of real pictures.

        Args:
            count: how many.
            image: (B, 3, S, S) in [0, 1], a fresh batch of real pictures.
            truths: what is true of them.
            forged: pictures that the loop made and what they were to show. Where given, more chains begin anew
                and most of these with them.
        """
        self.rows = torch.randperm(len(self.pixels), generator=self.rng)[:count]
        fresh = torch.rand(count, generator=self.rng) < (_FRESH if forged is None else _FRESH_FORGED)
        for row in self.rows[fresh].tolist():
            picture, meant = self._begin(image, truths, forged)
            self.pixels[row], self.meant[row] = picture.to(self.pixels.device), meant
        return self.pixels[self.rows], [say(self.meant[row], self.words) for row in self.rows.tolist()]

    def _begin(
        self, image: Tensor, truths: list[Meaning], forged: tuple[Tensor, list[Meaning]] | None
    ) -> tuple[Tensor, Meaning]:
        """A picture (3, S, S) and what it shall be taken for."""
        if forged is not None and self.words.random() < _FORGED:
            pick = int(self.words.integers(len(forged[1])))
            return forged[0][pick], forged[1][pick]
        pick = int(self.words.integers(len(image)))
        torn = self.words.random() < 0.35
        picture = jigsaw(image[pick], self.rng) if torn else smooth(1, image.shape[-1], self.rng)[0]
        return picture, leave_out(truths[int(self.words.integers(len(truths)))], self.words)

    def move(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """The disturbance (B, 3, S, S) of the drawn chains after one step up the gradient of that shape.

        Half of them take a longer step along a blurred one: a VQGAN's latent moves areas rather than pixels.
        """
        broad = (self.rows % 2 == 1).to(gradient.device)[:, None, None, None]
        cells = int(torch.randint(6, 17, (), generator=self.rng))
        blurred = F.interpolate(F.adaptive_avg_pool2d(gradient, cells), gradient.shape[-2:], mode="bicubic")
        one, other = (
            climb(self.pixels[self.rows], delta, slope, radius=_FAR, step=step)
            for slope, step in ((gradient, _STEP), (blurred, _BROAD))
        )
        return torch.where(broad, other, one)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A state dict and JSON values from which `restore` goes on."""
        tensors = {"mirages.pixels": self.pixels, "mirages.rng": self.rng.get_state()}
        meant = [[one.name, one.colour, one.background, one.style] for one in self.meant]
        return tensors, {"mirages": meant, "mirages_words": self.words.bit_generator.state}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take what `state` gave out of a checkpoint's state dict."""
        self.pixels = tensors.pop("mirages.pixels").to(self.pixels.device)
        self.rng.set_state(tensors.pop("mirages.rng"))
        self.meant = [Meaning(*one) for one in state["mirages"]]
        self.words.bit_generator.state = state["mirages_words"]

    def keep(self, delta: Tensor) -> None:
        """Go on from here, by the disturbance (B, 3, S, S), the next time these chains are drawn."""
        self.pixels[self.rows] = (self.pixels[self.rows] + delta).clamp(0, 1)


def rejection(similarity: Tensor, real: Tensor, scale: Tensor) -> Tensor:
    """Mean over chains of softplus(scale x (s - h)): not to be taken for the real thing.

    h is half-way between what real pictures reach with their own captions and with those of other pictures:
    cosines of a contrastive model mean nothing by themselves, and all of them drift below 0 here.

    Args:
        similarity: (N,) cosines of chains and the captions they are pulled towards.
        real: (B, B) cosines of real pictures and captions, a picture's own on the diagonal.
        scale: 0-d temperature.
    """
    own, count = real.detach().diagonal().mean(), len(real)
    others = (real.detach().sum() - own * count) / max(1, count * count - count)
    return F.softplus(scale.detach() * (similarity - (own + others) / 2)).mean()


def smooth(count: int, size: int, rng: torch.Generator) -> Tensor:
    """(N, 3, S, S) blurred random colours of any strength: what the optimization loop starts from."""
    cells = int(torch.randint(2, 8, (), generator=rng))
    coarse = torch.rand(count, 3, cells, cells, generator=rng)
    strength = torch.rand(count, 1, 1, 1, generator=rng)
    grown = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return (0.5 + strength * (grown - 0.5)).clamp(0, 1)


def jigsaw(image: Tensor, rng: torch.Generator) -> Tensor:
    """(3, S, S) with its tiles shuffled: the texture of a thing without its shape."""
    side = image.shape[-1] // _TILES
    tiles = image.unfold(1, side, side).unfold(2, side, side).reshape(3, -1, side, side)
    tiles = tiles[:, torch.randperm(tiles.shape[1], generator=rng).to(image.device)]
    rows = tiles.reshape(3, _TILES, _TILES, side, side)
    return rows.permute(0, 1, 3, 2, 4).reshape(3, _TILES * side, _TILES * side)
