"""Several runs side by side, of which one goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from vqclip.job import Step


def leaders(runs: Sequence[Iterator[Step]], until: int) -> Iterator[Step]:
    """Advance all runs together, yielding the step of the one whose loss was lowest lately.

    After update `until` the leader goes on alone. Losses change with every draw of crops and noise, so the last
    few count, each by 0.7 of the one after it.
    """
    if len(runs) == 1:  # nothing to compare, so no loss is fetched from the device
        yield from runs[0]
        return
    recent = [0.0] * len(runs)
    for together in zip(*runs, strict=True):
        losses = _totals(together)
        recent = [0.7 * before + loss for before, loss in zip(recent, losses, strict=True)]
        leader = recent.index(min(recent))
        yield together[leader]
        if together[leader].index >= until:
            yield from runs[leader]
            return


def _totals(together: Sequence[Step]) -> list[float]:
    """The sum of each step's terms, all of them fetched from the device at once."""
    terms = [term for step in together for term in step.terms.values()]
    told = iter(torch.stack(terms).tolist() if terms else [])
    return [sum(islice(told, len(step.terms))) for step in together]
