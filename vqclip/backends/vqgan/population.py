"""Several starts of each picture side by side, of which one goes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vqclip.job import Steps


class Leaders:
    """Whose loss was lowest lately, among the tries of each of several pictures.

    Losses change with every draw of crops and noise, so the last few count, each by 0.7 of the one after it. Who leads
    is known to the device alone until `rows` asks.

    Args:
        tries: how many latents belong to a picture; they lie one after the other in a batch.
        recent: (B,) what an earlier one remembered.
    """

    def __init__(self, tries: int, recent: Tensor | None = None) -> None:
        self._tries = tries
        self.recent = torch.zeros(()) if recent is None else recent  # (B,) once a step was seen
        self._leaders = torch.zeros(0, dtype=torch.long)

    def of(self, steps: Steps) -> Steps:
        """What the leader of each picture shows in a step of all tries."""
        now = totals(steps)  # (pictures * tries,)
        self.recent = 0.7 * self.recent + now if self.recent.dim() else now
        # One without numbers leads none with some.
        first = self.recent.nan_to_num(nan=torch.inf).view(-1, self._tries).argmin(1)
        self._leaders = first + self._tries * torch.arange(len(first), device=first.device)
        return steps.rows(self._leaders)

    def rows(self) -> list[int]:
        """The leaders' numbers in the batch; waits for the device."""
        return [int(row) for row in self._leaders.tolist()]

    def keep(self, pictures: Sequence[int]) -> list[int]:
        """Go on with the tries of some of the pictures; returns their numbers in the batch."""
        rows = [picture * self._tries + number for picture in pictures for number in range(self._tries)]
        if self.recent.dim():
            self.recent = torch.stack([self.recent[row] for row in rows])
        return rows


def totals(steps: Steps) -> Tensor:
    """(B,): the sum of each latent's terms, on the device, as precise as it can."""
    images = steps.images
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    return sum(steps.terms.values(), images.new_zeros(len(images), dtype=exact))
