"""Between the loop's updates: drown the latent in a little less noise each time, and let a denoiser denoise it.

Guided diffusion seen from the loop's side (Dhariwal and Nichol 2021, section 4; DDIM of Song et al. 2021 for the
walk): the guides pull a clean latent, the denoiser brings it back to what drawings look like.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vqclip.generators.denoiser import Denoiser, mixture
from vqclip.loop.devices import seeded


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
    """One run's walk from noise to a clean latent; call it once after every update.

    Args:
        denoiser: of the generator's latents. levels: how loud the noise is when. rng: CPU generator of the noise;
            on an accelerator its seed alone counts, and the noise is drawn there.
    """

    def __init__(self, denoiser: Denoiser, levels: Levels, rng: torch.Generator) -> None:
        self._denoiser, self._levels, self._rng = denoiser, levels, rng
        self._last: tuple[Tensor, Tensor, Tensor] | None = None  # the noisy latent and its two factors

    def __call__(self, latent: Tensor, progress: float) -> Tensor:
        """What the denoiser makes of an updated latent (1, C, h, w); `progress` is the share of updates made."""
        level = self._levels.at(progress)
        if level <= 0:
            return latent
        keep, loud = mixture(torch.tensor(level))
        noisy = keep * latent + loud * self._noise(latent)
        self._last = (noisy, keep, loud)
        return self._denoiser.clean(noisy, level)

    def _noise(self, latent: Tensor) -> Tensor:
        """Fresh noise, mixed with the old noise as it looks from the updated latent."""
        if self._rng.device.type != latent.device.type:
            self._rng = seeded(latent.device, self._rng.initial_seed())
        fresh = self._denoiser.unit * torch.randn(latent.shape, generator=self._rng, device=latent.device)
        if self._last is None:
            return fresh
        noisy, keep, loud = self._last
        old = (noisy - keep * latent) / loud
        churn = self._levels.churn
        return float((1 - churn**2) ** 0.5) * old + churn * fresh
