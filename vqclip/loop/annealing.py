"""Between the loop's updates: drown the latents in a little less noise each time, and let a denoiser denoise them.

Guided diffusion seen from the loop's side (Dhariwal and Nichol 2021, section 4; DDIM of Song et al. 2021 for the
walk): the guides pull a clean latent, the denoiser brings it back to what drawings look like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqclip.generators.denoiser import Denoiser, mixture
from vqclip.loop.devices import seeded
from vqclip.loop.state import follow, streams


@dataclass(frozen=True)
class Levels:
    """Noise levels in [0, 1): from `noise` at the first step to `end` at the last, falling ever more slowly.

    churn: share of the noise that is drawn anew at each step, in [0, 1]; 0 is DDIM, 1 forgets all noise before.
    """

    noise: float
    end: float
    churn: float

    def at(self, progress: float) -> float:
        """The level at a share of the run."""
        left: float = (1 - progress) ** 1.5
        return self.end + (self.noise - self.end) * left


CALM = Levels(noise=0.0, end=0.0, churn=0.0)


class Annealing:
    """The walk of a batch from noise to clean latents; call it once after every update.

    Args:
        denoiser: of the generator's latents. levels: how loud the noise is when. rngs: a CPU generator of each latent's
            noise; on an accelerator their seeds alone count, and the noise is drawn there.
    """

    def __init__(self, denoiser: Denoiser, levels: Levels, rngs: Sequence[torch.Generator]) -> None:
        self._denoiser, self._levels, self._rngs = denoiser, levels, list(rngs)
        self._last: tuple[Tensor, Tensor, Tensor] | None = None  # the noisy latent and its two factors

    def __call__(self, latent: Tensor, progress: float) -> Tensor:
        """What the denoiser makes of updated latents (B, C, h, w); `progress` is the share of updates made."""
        level = self._levels.at(progress)
        if level <= 0:
            return latent
        keep, loud = mixture(torch.tensor(level))
        noisy = keep * latent + loud * self._noise(latent)
        self._last = (noisy, keep, loud)
        return self._denoiser.clean(noisy, level)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the latents, by their numbers."""
        self._rngs = [self._rngs[row] for row in rows]
        if self._last is not None:
            noisy, keep, loud = self._last
            self._last = (torch.stack([noisy[row] for row in rows]), keep, loud)

    def saved(self, rows: slice) -> dict[str, Tensor]:
        """Where the streams of some of the latents stand, and these as they were drowned last, (b, C, h, w)."""
        made = streams("noise", self._rngs[rows])
        if self._last is not None:
            noisy, keep, loud = self._last
            made |= {"noisy": noisy[rows], "keep": keep, "loud": loud}
        return made

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from what was saved, tensors of any shape; KeyError where something is missing."""
        self._last = None
        if "noisy" in saved:
            noisy, keep, loud = (saved[name].clone() for name in ("noisy", "keep", "loud"))
            self._last = (noisy.to(self._denoiser.device), keep, loud)
        if saved["noise.stream.0"].numel() != self._rngs[0].get_state().numel():  # an accelerator's
            self._rngs = [seeded(self._denoiser.device, 0) for _ in self._rngs]
        follow(self._rngs, saved, "noise")

    def _noise(self, latent: Tensor) -> Tensor:
        """Fresh noise, mixed with the old noise as it looks from the updated latents."""
        if self._rngs[0].device.type != latent.device.type:
            self._rngs = [seeded(latent.device, rng.initial_seed()) for rng in self._rngs]
        own = [torch.randn(latent[:1].shape, generator=rng, device=latent.device) for rng in self._rngs]
        fresh = self._denoiser.unit * torch.cat(own)
        if self._last is None:
            return fresh
        noisy, keep, loud = self._last
        old = (noisy - keep * latent) / loud
        churn = self._levels.churn
        return float((1 - churn**2) ** 0.5) * old + churn * fresh
