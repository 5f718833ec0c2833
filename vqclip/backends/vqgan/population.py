"""Several runs side by side, of which one goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vqclip.job import Step


def leading(runs: Sequence[Iterator[Step]], until: int) -> Iterator[Step]:
    """Advance all runs together, yielding the step of the one whose loss was lowest lately.

    After update `until` the leader goes on alone. Losses change with every draw of crops and noise, so the last
    few count, each by 0.7 of the one after it. Who leads is known to the device alone until one goes on.
    """
    if len(runs) == 1:  # nothing to compare
        yield from runs[0]
        return
    recent: Tensor | float = 0.0
    for together in zip(*runs, strict=True):
        recent = 0.7 * recent + _totals(together)
        leader = recent.nan_to_num(nan=torch.inf).argmin()  # a run without numbers leads none with some
        yield _chosen(together, leader[None])
        if together[0].index >= until:
            yield from runs[int(leader)]  # device sync, once in a run
            return


def _totals(together: Sequence[Step]) -> Tensor:
    """(R,): the sum of each step's terms, on the device, as precise as it can."""
    image = together[0].image
    exact = torch.float32 if image.device.type == "mps" else torch.float64
    sums = [sum(step.terms.values(), image.new_zeros((), dtype=exact)) for step in together]
    return torch.stack(sums)


def _chosen(together: Sequence[Step], leader: Tensor) -> Step:
    """The step of the run whose number, (1,), lies on the device."""
    first = together[0]

    def pick(values: list[Tensor]) -> Tensor:
        return torch.stack(values).index_select(0, leader)[0]

    terms = {name: pick([step.terms[name] for step in together]) for name in first.terms}
    return Step(first.index, first.total, pick([step.image for step in together]), terms)
