"""Prompts joined in the space of features: whose length counts, one text of excludes, ensembles, weights and stops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.backends.vqgan.joined import as_one, texts
from vqclip.backends.vqgan.terms import Guidance
from vqclip.job import Job, Prompt, Reading
from vqclip.loop.losses import View
from vqclip.starter import concepts


class Reader:
    """A guide whose features have lengths of their own, in a space of its own size."""

    size = 8

    def __init__(self, width: int) -> None:
        self.width = width
        self.asked: list[str] = []

    def raw(self, text: str) -> Tensor:
        rng = torch.Generator().manual_seed(sum(map(ord, text)) * 31 + self.width)
        return torch.randn(self.width, generator=rng, dtype=torch.float64) * (1 + len(text) % 5)

    def read(self, text: str) -> Reading:
        return Reading(text)

    def embed_text(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        self.asked += texts
        rows = torch.stack([self.raw(text) for text in texts])
        return F.normalize(rows, dim=1) if unit else rows

    def embed_image(self, crops: Tensor) -> Tensor:
        return F.normalize(crops.flatten(1)[:, : self.width], dim=1)


def rows(width: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(7, width, generator=rng, dtype=torch.float64), dim=1)


def terms(guidance: Guidance, job: Job, embeds: Sequence[Tensor], **factors: float) -> dict[str, Tensor]:
    view = View(0, torch.zeros(1), torch.zeros(1, 3, 8, 8, dtype=torch.float64), [each[None] for each in embeds])
    wishes = guidance.joined(job, **({"exclude": 0.5, "extras": 1.0} | factors))
    return {name: term(view) for name, term in wishes.items()}


def cosine(target: Tensor, embeds: Tensor) -> float:
    """Mean cosine of a raw target with rows, in plain numbers."""
    return sum(float(row @ target) / math.hypot(*row) / math.hypot(*target) for row in embeds) / len(embeds)


def test_extras_are_added_to_every_include_as_they_are_and_excludes_are_one_text() -> None:
    eye, embeds = Reader(12), rows(12)
    job = Job(
        (Prompt("apple"), Prompt("a pear", 2.0)), (Prompt("text"), Prompt("a face")), (Prompt("oil"), Prompt("calm"))
    )
    found = terms(Guidance([eye], [1.0], distance="cosine"), job, [embeds], extras=0.7)
    style = 0.7 * eye.raw("oil, calm")
    assert list(found) == ["include: apple", "include: a pear", "exclude: text, a face"]
    assert float(found["include: apple"]) == pytest.approx(-cosine(eye.raw("apple") + style, embeds), abs=1e-12)
    assert float(found["include: a pear"]) == pytest.approx(-2 * cosine(eye.raw("a pear") + style, embeds), abs=1e-12)
    assert float(found["exclude: text, a face"]) == pytest.approx(0.5 * cosine(eye.raw("text, a face"), embeds))
    assert set(eye.asked) == set(texts(job))


def test_each_guide_of_an_ensemble_joins_in_its_own_space() -> None:
    eyes, embeds = [Reader(12), Reader(5)], [rows(12), rows(5, 1)]
    job = Job((Prompt("apple"),), (), (Prompt("oil"),))
    found = terms(Guidance(eyes, [3.0, 1.0], distance="cosine"), job, embeds)
    each = [cosine(eye.raw("apple") + eye.raw("oil"), seen) for eye, seen in zip(eyes, embeds, strict=True)]
    assert float(found["include: apple"]) == pytest.approx(-(0.75 * each[0] + 0.25 * each[1]), abs=1e-12)


def test_prompts_of_other_weights_stay_apart_and_those_of_none_are_left_out() -> None:
    prompts = [Prompt("a"), Prompt("b", 2.0), Prompt("c"), Prompt("d", 0.0), Prompt("e", 2.0, 1.2)]
    assert as_one(prompts) == [Prompt("a, c"), Prompt("b", 2.0), Prompt("e", 2.0, 1.2)]
    eye, embeds = Reader(12), rows(12)
    job = Job((Prompt("x"),), (Prompt("a", 2.0),), (Prompt("y", 3.0), Prompt("z")))
    found = terms(Guidance([eye], [1.0], distance="cosine"), job, [embeds[None]])
    target = eye.raw("x") + 3 * eye.raw("y") + eye.raw("z")
    assert float(found["include: x"]) == pytest.approx(-cosine(target, embeds), abs=1e-12)
    assert float(found["exclude: a"]) == pytest.approx(cosine(eye.raw("a"), embeds), abs=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "spherical"])
def test_without_extras_an_include_alone_is_the_same_either_way(distance: str) -> None:
    embeds, job = rows(12), Job((Prompt("apple", 1.5, 1.0),), (Prompt("text"),))
    guidance = Guidance([Reader(12)], [1.0], 0.5, distance=distance)
    features = terms(guidance, job, [embeds], exclude=1.0)
    view = View(0, torch.zeros(1), torch.zeros(1, 3, 8, 8, dtype=torch.float64), [embeds[None]])
    alone = guidance.pulls("include", job.include) | guidance.pushes(job, 1.0)
    apart = {name: term(view) for name, term in alone.items()}
    assert apart.keys() == features.keys()
    for name, value in apart.items():
        assert torch.allclose(value, features[name], rtol=1e-12)


def test_emphasis_is_taken_off_the_joined_target() -> None:
    eye, embeds = Reader(12), rows(12)
    job = Job((Prompt("apple"),), (), (Prompt("oil"),))
    found = terms(Guidance([eye], [1.0], 0.8, distance="cosine"), job, [embeds[None]])
    names = [eye.raw(name) / eye.raw(name).norm() for name in concepts()]
    joined = eye.raw("apple") + eye.raw("oil")
    target = joined / joined.norm() - 0.8 * torch.stack(names).mean(0)
    assert float(found["include: apple"]) == pytest.approx(-cosine(target, embeds), abs=1e-12)
