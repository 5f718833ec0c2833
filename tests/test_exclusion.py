"""Roles of an exclude: captions against captions that differ in one place."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vqclip.backends.vqgan.exclusion import GONE, THERE, away, colours_in, roles
from vqclip.grammar import COLOURS, parse
from vqclip.perceptors.clip import ClipPerceptor
from vqclip.starter import concepts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("yellow", ("yellow",)),
        ("Yellow", ("yellow",)),
        ("something gray", ("grey",)),
        ("red, green and blue", ("red", "green", "blue")),
        ("black or black", ("black",)),
        ("a yellow star", ()),
        ("yellow stars", ()),
        ("an orange", ()),
        ("red and a moon", ()),
        ("a face", ()),
        (",", ()),
    ],
)
def test_colours_are_read_from_texts_that_name_nothing_else(text: str, found: tuple[str, ...]) -> None:
    assert colours_in(text) == found


@pytest.mark.parametrize("colour", COLOURS)
def test_rivals_say_every_other_colour_in_the_same_place(colour: str) -> None:
    for role in roles(colour, ["a red owl on a blue background", "snow"]):
        assert len({role.caption, *role.rivals}) == len(COLOURS) == len(role.rivals) + 1
        assert all("a o" not in text and "an r" not in text for text in (role.caption, *role.rivals))
        words = [set(text.replace("an ", "a ").split()) for text in (role.caption, *role.rivals)]
        assert all(len(words[0] ^ other) == 2 for other in words[1:])


@pytest.mark.parametrize(
    ("text", "include", "caption", "rival"),
    [
        ("a cactus", ["a grey key on a blue background"], "a grey cactus on a blue background",
         "a grey owl on a blue background"),
        ("an umbrella", ["a red whale"], "a red umbrella", "a red owl"),
        ("umbrellas.", ["two keys", "an owl"], "two umbrellas", "two frogs"),
        ("an apple", ["snow on a table", "a red whale"], "a red apple", "a red owl"),
        ("coffee", ["an orange key"], "orange coffee", "an orange owl"),
    ],
)  # fmt: skip
def test_a_bare_thing_stands_in_the_first_included_things_place(
    text: str, include: list[str], caption: str, rival: str
) -> None:
    (role,) = roles(text, include)
    assert role.caption == caption
    assert rival in role.rivals


def test_what_is_included_is_no_rival() -> None:
    (role,) = roles("a cactus", ["a grey key", "a red owl"])
    others = set(concepts()) - {"cactus", "key", "owl"}
    assert {parse(text).word("thing") for text in role.rivals} == others
    assert len(role.rivals) == len(others)
    assert all(parse(text).word("colour") == "grey" for text in role.rivals)


@pytest.mark.parametrize(
    ("text", "include"),
    [
        ("a moon", ["snow"]),  # no place for it
        ("a moon", []),
        ("watermark", ["a frog"]),  # no thing
        ("a yellow star", ["a frog"]),  # more than a thing
        ("a moon on a blue background", ["a frog"]),
        ("an apple tree", ["a frog"]),
        ("a star", ["a red frog", "a star"]),  # asked for as well
    ],
)
def test_without_a_place_a_text_is_set_against_the_names_of_all_other_things(text: str, include: list[str]) -> None:
    (role,) = roles(text, include)
    assert role.caption == text
    assert set(role.rivals) == set(concepts()) - {parse(text).word("thing")}


def test_a_direction_is_the_contrast_without_what_the_includes_ask(guide: ClipPerceptor) -> None:
    found, keep = roles("yellow", ["a frog"]), guide.embed_text(["a frog", "a star"])
    way = away(guide, found, keep)
    for role, line, slope in zip(found, way.directions, way.slopes, strict=True):
        contrast = guide.embed_text([role.caption])[0] - guide.embed_text(role.rivals).mean(0)
        share = torch.linalg.lstsq(keep.T.double(), contrast.double()).solution
        rest = contrast.double() - keep.T.double() @ share
        assert torch.allclose(line.double(), F.normalize(rest, dim=0), atol=1e-4)
        assert float(slope) == pytest.approx(guide.scale * float(rest.norm()), rel=1e-3)
    assert (way.directions @ keep.T).abs().max() < 1e-5


def test_stops_are_the_distances_of_pictures_with_so_many_logits(guide: ClipPerceptor) -> None:
    way = away(guide, roles("yellow", ["a frog"]), guide.embed_text(["a frog"]))
    there, gone = way.stops(THERE), way.stops(GONE)
    assert (there < gone).all()
    assert torch.allclose((2 * there).sqrt().cos() * way.slopes, torch.full_like(there, THERE), atol=1e-3)
