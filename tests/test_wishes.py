"""What the guides are to see: prompts set apart from what all names have in common."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.backends.wishes import Guidance
from vqclip.job import Job, Prompt
from vqclip.losses import View, spherical_distance
from vqclip.models.clip import ClipPerceptor
from vqclip.starter import concepts


class Cone:
    """A guide whose captions all lie near one direction, each with a little of its own."""

    size = 8

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        self.read.append(list(texts))
        own = [torch.randn(16, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
        return F.normalize(torch.stack(own) * 0.1 + torch.eye(16)[0], dim=1)

    def embed_image(self, crops: Tensor) -> Tensor:
        return F.normalize(crops.flatten(1)[:, :16], dim=1)


def value_at(guidance: Guidance, job: Job, embeds: Tensor) -> dict[str, Tensor]:
    view = View(0, torch.zeros(1, 4, 1, 1), torch.zeros(1, 3, 8, 8), [embeds])
    return {name: term(view) for name, term in guidance.wishes(job, (), exclude=1.0, extras=1.0).items()}


def pull(emphasis: float) -> Tensor:
    """Where one step along the gradient of "apple" moves pictures (64, 16) of a `Cone`, as unit rows."""
    crops = F.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(1)), dim=1).requires_grad_()
    (term,) = value_at(Guidance([Cone()], [1.0], emphasis), Job((Prompt("apple"),)), crops).values()
    term.backward()
    assert crops.grad is not None
    return -F.normalize(crops.grad, dim=1)


def test_without_emphasis_the_target_is_the_prompt_itself(guide: ClipPerceptor) -> None:
    embeds = F.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    found = value_at(Guidance([guide], [1.0]), Job((Prompt("apple"),)), embeds)
    wanted = spherical_distance(embeds, guide.embed_text(["apple"])).mean()
    assert torch.allclose(found["include: apple"], wanted, atol=1e-6)


@pytest.mark.parametrize("emphasis", [0.5, 1.0, 2.0])
def test_the_mean_of_names_is_taken_off_every_kind_of_prompt(guide: ClipPerceptor, emphasis: float) -> None:
    embeds = F.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    job = Job((Prompt("apple"),), (Prompt("pear"),), (Prompt("oil"),))
    found = value_at(Guidance([guide], [1.0], emphasis), job, embeds)
    shared = guide.embed_text(list(concepts())).mean(0)
    for name, sign in (("include: apple", 1), ("exclude: pear", -1), ("extras: oil", 1)):
        target = guide.embed_text([name.partition(": ")[2]])[0] - emphasis * shared
        angle = (embeds @ (target / target.norm())).clamp(-1, 1).arccos()
        assert torch.allclose(found[name], sign * angle.square().mean() / 2, atol=1e-4)


def test_emphasis_pulls_towards_the_prompt_instead_of_towards_everything() -> None:
    apple, names = Cone().embed_text(["apple"])[0], Cone().embed_text(concepts())
    gain = [float((pull(emphasis) @ (apple - names.mean(0))).mean()) for emphasis in (0.0, 0.5, 1.0)]
    common = [float((pull(emphasis) @ names.T).mean()) for emphasis in (0.0, 0.5, 1.0)]
    assert gain[0] < gain[1] < gain[2]
    assert common[0] > common[1] > common[2]


def test_names_are_read_once_for_many_pictures_and_never_without_emphasis() -> None:
    plain, apart = Cone(), Cone()
    for cone, emphasis in ((plain, 0.0), (apart, 1.0)):
        guidance = Guidance([cone], [1.0], emphasis)
        for text in ("apple", "pear"):
            guidance.wishes(Job((Prompt(text),)), (), exclude=1.0, extras=1.0)
    assert plain.read == [["apple"], ["pear"]]
    assert apart.read == [["apple"], list(concepts()), ["pear"]]


def test_pictures_to_resemble_keep_their_embedding() -> None:
    cone, picture = Cone(), torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    view = View(0, torch.zeros(1, 4, 1, 1), picture, [cone.embed_image(picture)])
    terms = Guidance([cone], [1.0], 1.0).wishes(Job((Prompt("apple"),)), [(picture, 1.0)], exclude=1.0, extras=1.0)
    assert float(terms["image 1"](view)) == pytest.approx(0, abs=1e-6)
