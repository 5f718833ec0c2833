"""Prompts joined in the space of a guide's features: what is wanted as one target, what is not as one text.

The scheme of the course notebooks that this project set out from: an include and all extras are added as the text tower
leaves them, so that one with longer features counts more, and the excludes are one text, comma separated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import functional as F

from vqclip.job import Job, Prompt
from vqclip.perceptors import Perceptor

Joined = tuple[str, Prompt, list[Tensor]]


def as_one(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts of the same weight and stop as one comma-separated text; those that count 0 are left out."""
    alike: dict[tuple[float, float | None], list[str]] = {}
    for prompt in prompts:
        if prompt.weight > 0:
            alike.setdefault((prompt.weight, prompt.stop), []).append(prompt.text)
    return [Prompt(", ".join(texts), weight, stop) for (weight, stop), texts in alike.items()]


def texts(job: Job) -> list[str]:
    """Every text that the guides will read for a job."""
    return [prompt.text for prompt in (*job.include, *as_one(job.exclude), *as_one(job.extras))]


def targets(job: Job, guides: Sequence[Perceptor], *, extras: float) -> Iterator[Joined]:
    """What each term aims at: its kind, the prompt that it stands for and a unit row (1, E) per guide.

    An include's target is normalise(I + extras x (w S + ...)) with the unnormalised features I of the include and S of
    the extras, of weight w, added up for each guide in its own space: every include carries all extras, and its weight
    and stop are those of the term. Excludes stand alone.
    """
    added = [(prompt.text, extras * prompt.weight) for prompt in as_one(job.extras)]
    for prompt in job.include:
        yield "include", prompt, [_sum(guide, [(prompt.text, 1.0), *added]) for guide in guides]
    for prompt in as_one(job.exclude):
        yield "exclude", prompt, [guide.embed_text([prompt.text]) for guide in guides]


def _sum(guide: Perceptor, parts: Sequence[tuple[str, float]]) -> Tensor:
    features = guide.embed_text([text for text, _ in parts], unit=False)  # (P, E)
    weights = features.new_tensor([weight for _, weight in parts])
    return F.normalize(weights @ features, dim=-1)[None]
