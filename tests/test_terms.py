"""What the guides are to see: prompts set apart from what all names have in common."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.backends.vqgan.exclusion import away, roles
from vqclip.backends.vqgan.terms import Guidance, areas
from vqclip.job import Job, Prompt, Reading
from vqclip.loop.losses import View, spherical_distance
from vqclip.perceptors.clip import ClipPerceptor
from vqclip.starter import concepts


class Cone:
    """A guide whose captions all lie near one direction, each with a little of its own."""

    size, scale = 8, 20.0

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def read(self, text: str) -> Reading:
        return Reading(text)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        self.asked.append(list(texts))
        own = [torch.randn(16, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
        return F.normalize(torch.stack(own) * 0.1 + torch.eye(16)[0], dim=1)

    def embed_image(self, crops: Tensor) -> Tensor:
        return F.normalize(crops.flatten(1)[:, :16], dim=1)


def value_at(guidance: Guidance, job: Job, embeds: Tensor) -> dict[str, Tensor]:
    view = View(0, torch.zeros(1, 4, 1, 1), torch.zeros(1, 3, 8, 8), [embeds[None]])
    terms = guidance.pulls("include", job.include) | guidance.pulls("extras", job.extras) | guidance.pushes(job, 1.0)
    return {name: term(view) for name, term in terms.items()}


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
            guidance.pulls("include", (Prompt(text),))
    assert plain.asked == [["apple"], ["pear"]]
    assert apart.asked == [["apple"], list(concepts()), ["pear"]]


def test_pictures_to_resemble_keep_their_embedding() -> None:
    cone, picture = Cone(), torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    view = View(0, torch.zeros(1, 4, 1, 1), picture, [cone.embed_image(picture)[None]])
    terms = Guidance([cone], [1.0], 1.0).resembles([(picture, 1.0)])
    assert float(terms["image 1"](view)) == pytest.approx(0, abs=1e-6)


YELLOW, WHITE = (torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 64, 64) for rgb in ((1.0, 0.82, 0.2), (1.0, 1.0, 1.0)))


def roles_at(embeds: Tensor, exclude: Prompt, *, step: int = 5, image: Tensor = YELLOW) -> Tensor:
    """The value of an exclude beside "apple" for pictures of a `Cone`; its gradient goes to `embeds`."""
    job = Job((Prompt("apple"),), (exclude,))
    view = View(step, torch.zeros(1, 4, 1, 1), image, [embeds[None]])
    (term,) = Guidance([Cone()], [1.0], 1.0).roles_off(job, 1.0, settled=5).values()
    return term(view)


def lines(text: str) -> Tensor:
    """(R, E): the directions of an exclude beside "apple", as the guidance takes them."""
    cone = Cone()
    apple = F.normalize(cone.embed_text(["apple"]) - cone.embed_text(concepts()).mean(0), dim=1)
    return away(cone, roles(text, ["apple"]), apple).directions


@pytest.mark.parametrize("text", ["yellow", "a moon"])
def test_an_exclude_is_nothing_where_it_is_not_and_pushes_where_it_is(text: str) -> None:
    away_from = lines(text)
    aside = F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(3)), dim=0)
    for row, there in [(-away_from.sum(0), False), *((line + 0.3 * aside, True) for line in away_from)]:
        embeds = F.normalize(row, dim=0)[None].clone().requires_grad_()
        value = roles_at(embeds, Prompt(text))
        value.backward()
        assert embeds.grad is not None
        assert (float(value.detach()) > 0.05) == there == bool(embeds.grad.any())


def test_a_colour_that_no_pixel_has_is_not_pushed_whatever_a_guide_sees() -> None:
    for line in lines("yellow"):
        assert float(roles_at(line[None], Prompt("yellow"), image=WHITE)) == 0
    assert float(roles_at(lines("a moon")[:1], Prompt("a moon"), image=WHITE)) > 0


def test_an_exclude_leaves_the_include_alone() -> None:
    cone = Cone()
    apple = F.normalize(cone.embed_text(["apple"])[0] - cone.embed_text(concepts()).mean(0), dim=0)
    for text in ("yellow", "a moon"):
        assert (lines(text) @ apple).abs().max() < 1e-5


def test_a_colour_has_a_role_as_ground_and_one_as_every_included_thing() -> None:
    assert [role.caption for role in roles("yellow", ["a red apple", "a star on white"])] == [
        "a yellow background", "a yellow apple", "a yellow star",
    ]  # fmt: skip
    assert [role.caption for role in roles("orange", ["sunset over Tokyo"])] == [
        "an orange background", "something orange",
    ]  # fmt: skip


def test_pushes_begin_when_the_picture_has_its_shape() -> None:
    for text in ("a moon", "yellow"):
        there = lines(text)[:1]
        assert [float(roles_at(there, Prompt(text), step=step)) > 0 for step in (4, 5)] == [False, True]
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0] = 0.8
    (term,) = areas(Job((Prompt("a"),), (Prompt("red"),)), exclude=1.0, extras=1.0, settled=5).values()
    assert [float(term(View(step, image, image))) > 0 for step in (4, 5)] == [False, True]


def test_what_is_no_colour_is_pushed_on_to_less_than_nothing() -> None:
    (line,) = lines("a moon")
    apart = F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(2)), dim=0)
    none = F.normalize(apart - (apart @ line) * line, dim=0)[None]  # a right angle: not there
    assert float(roles_at(none, Prompt("a moon"))) > 0
    ground, thing = lines("yellow")
    rest = torch.linalg.qr(torch.stack((ground, thing, apart), 1)).Q[:, 2][None]  # at right angles to both
    assert float(roles_at(rest, Prompt("yellow"))) == 0


def test_a_stop_of_its_own_replaces_both_ends() -> None:
    (line,) = lines("a moon")
    embeds = line[None]
    for stop in (0.5, 2.0):
        assert float(roles_at(embeds, Prompt("a moon", stop=stop), step=9)) == pytest.approx(stop, abs=1e-3)
    assert float(roles_at(embeds, Prompt("a moon", weight=3.0, stop=0.5))) == pytest.approx(1.5, abs=1e-3)


def test_areas_are_of_excluded_colours_alone() -> None:
    job = Job((Prompt("apple"),), (Prompt("red and green", 2.0), Prompt("a yellow star"), Prompt("blue", 0.0)))
    found = areas(job, exclude=1.0, extras=1.0, settled=0)
    assert list(found) == ["exclude: red (area)", "exclude: green (area)"]
    red = torch.zeros(1, 3, 64, 64)
    red[:, 0] = 0.8
    values = {name: float(term(View(0, red, red))) for name, term in found.items()}
    assert values["exclude: red (area)"] > 0 == values["exclude: green (area)"]


def test_extras_of_several_colours_are_a_palette() -> None:
    extras = (Prompt("red and yellow"), Prompt("blue"), Prompt("a blue background"), Prompt("red, blue", 0.0))
    found = areas(Job((Prompt("apple"),), (), extras), exclude=1.0, extras=1.0, settled=0)
    assert list(found) == ["extras: red and yellow (area)"]
    (term,) = found.values()
    for rgb, inside in (((0.84, 0.14, 0.16), True), ((1.0, 0.82, 0.2), True), ((0, 0, 1), False), ((1, 1, 1), False)):
        image = torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        assert (float(term(View(0, image, image))) == 0) == inside


def test_looks_are_asked_of_the_picture_and_not_of_a_guide() -> None:
    job = Job((Prompt("apple"),), (), (Prompt("flat"), Prompt("oil"), Prompt("oil"), Prompt("black and white")))
    guidance = Guidance([Cone()], [1.0], 1.0)
    assert list(guidance.extras(job, 1.0)) == ["extras: oil", "extras: oil (2)"]
    found = areas(job, exclude=1.0, extras=1.0, settled=0)
    assert list(found) == ["extras: flat (area)", "extras: black and white (area)"]


def test_an_exclude_or_extra_of_which_nothing_is_read_does_not_steer() -> None:
    class Starter(Cone):
        def read(self, text: str) -> Reading:
            return Reading({"zyx": "", "crimson": "red"}.get(text, text))

    guidance = Guidance([Starter()], [1.0], 1.0)
    job = Job((Prompt("apple"),), (Prompt("zyx"), Prompt("crimson")), (Prompt("zyx"), Prompt("oil")))
    assert list(guidance.roles_off(job, 1.0, settled=0)) == list(guidance.pushes(job, 1.0)) == ["exclude: crimson"]
    assert list(guidance.extras(job, 1.0)) == ["extras: oil"]
    assert list(areas(job, exclude=1.0, extras=1.0, settled=0, said=guidance.said)) == ["exclude: red (area)"]
