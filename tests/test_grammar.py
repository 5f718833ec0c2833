"""Reading a prompt's parts and saying it with other words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqclip.grammar import COLOURS, is_colour, nouns, parse, plural, swap, with_article
from vqclip.starter import concepts

VOCABULARY = Path(__file__).parent.parent / "vqclip" / "starter" / "vocabulary.json"


def parts(text: str) -> tuple[str | None, ...]:
    found = parse(text)
    return tuple(found.word(part) for part in ("thing", "colour", "ground"))


def test_the_colours_are_those_of_the_captions() -> None:
    assert list(COLOURS) == json.loads(VOCABULARY.read_text(encoding="utf-8"))["colours"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apple", ("apple", None, None)),
        ("a red apple", ("apple", "red", None)),
        ("A Gray Cat on a White Background!", ("cat", "grey", "white")),
        ("a red apple on white", ("apple", "red", "white")),
        ("an apple on a plain white background", ("apple", None, "white")),
        ("a star, in front of a blue backdrop", ("star", None, "blue")),
        ("a heart, the background is black", ("heart", None, "black")),
        ("an apple on a black table", ("apple", None, None)),
        ("a drawing of a red and white cow", ("cow", "white", None)),
        ("an apple in green, on pink", ("apple", "green", "pink")),
        ("the star is yellow", ("star", "yellow", None)),
        ("red apples", ("apple", "red", None)),
        ("three wolves and a blue house", ("wolf", None, None)),  # the colour is another thing's
        ("a dog in a house", ("dog", None, None)),
        ("an apple tree", ("tree", None, None)),
        ("a cow face", ("cow face", None, None)),  # not "cow"
        ("a star-shaped cake", ("cake", None, None)),
        ("a heart shaped balloon", ("balloon", None, None)),
        ("a blue-eyed cat", ("cat", None, None)),
        ("pineapple", (None, None, None)),
        ("a blue drop", (None, "blue", None)),
        ("something yellow on a grey background", (None, "yellow", "grey")),
        ("green background", (None, None, "green")),
        ("a white star on a white background", ("star", "white", "white")),
        ("a photo of an orange", (None, None, None)),  # the fruit
        ("an orange fox", ("fox", "orange", None)),
        ("a red lighthouse at night", (None, "red", None)),
        ("", (None, None, None)),
        ("日の出", (None, None, None)),
    ],
)
def test_parts_are_found(text: str, expected: tuple[str | None, ...]) -> None:
    assert parts(text) == expected


def test_a_list_of_names_may_be_given() -> None:
    assert parse("a red lighthouse at night", ["lighthouse"]).word("thing") == "lighthouse"
    assert parse("a red apple", []).thing is None


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("an orange apple", {"colour": "red"}, "a red apple"),
        ("a red apple on a white background", {"colour": "orange"}, "an orange apple on a white background"),
        ("a red apple on a white background", {"ground": "orange"}, "a red apple on an orange background"),
        ("a red apple on white", {"colour": "white", "ground": "red"}, "a white apple on red"),
        ("A red apple", {"thing": "grapes"}, "red grapes"),
        ("an old apple", {"thing": "house"}, "an old house"),
        ("a drawing of an apple", {"thing": "milk"}, "a drawing of milk"),
        ("a drawing of an apple", {"thing": "house"}, "a drawing of a house"),
        ("a drawing of a red and white cow", {"thing": "grapes"}, "a drawing of red and white grapes"),
        ("An apple", {"thing": "umbrella"}, "An umbrella"),
        ("An apple", {"thing": "unicorn"}, "A unicorn"),
        ("red apples", {"thing": "wolf"}, "red wolves"),
        ("apple", {"thing": "house"}, "house"),
        ("the gray cat", {"colour": "red"}, "the red cat"),
        ("something red", {"colour": "orange"}, "something orange"),
    ],
)
def test_one_part_is_said_with_another_word(text: str, words: dict[str, str], expected: str) -> None:
    assert parse(text).replaced(**words) == expected


def test_what_is_not_named_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="names no ground"):
        parse("a red apple").replaced(ground="white")


def test_every_part_of_every_caption_is_found_again() -> None:
    """Whatever is put into a caption is read from it, for all names and colours."""
    for number, name in enumerate(concepts()):
        colour, ground = COLOURS[number % 11], COLOURS[(number + 3) % 11]
        text = parse("a red apple on a white background").replaced(thing=name, colour=colour, ground=ground)
        assert parts(text) == (name, colour, ground), text
        assert parts(f"{colour} {plural(name)}") == (name, colour, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yellow", True), ("Yellow!", True), ("something yellow", True), ("a grey", True), ("gray", True),
        ("the colour red", True), ("orange", True), ("a yellow thing", True), ("an orange", False),
        ("a yellow background", False), ("a yellow star", False), ("yellowish", False), ("", False),
    ],
)  # fmt: skip
def test_bare_colours_are_told(text: str, *, expected: bool) -> None:
    assert is_colour(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sunset over Tokyo", ["sunset", "Tokyo"]),
        ("a watercolor painting of a lighthouse in a storm, trending, 4k", ["lighthouse", "storm"]),
        ("an astronaut riding a bicycle", ["astronaut", "bicycle"]),
        ("an old castellan", ["castellan"]),
        ("a red lighthouse on a white background", ["lighthouse"]),
        ("red", []),
        ("日の出", []),
        ("", []),
    ],
)
def test_open_texts_are_about_their_nouns(text: str, expected: list[str]) -> None:
    assert [text[slice(*span)] for span in nouns(text)] == expected


def test_words_are_swapped_where_they_stand() -> None:
    text = "an astronaut over Tokyo"
    first, last = nouns(text)
    assert swap(text, first, "house") == "a house over Tokyo"
    assert swap(text, first, "grapes") == "grapes over Tokyo"
    assert swap(text, last, with_article("apple")) == "an astronaut over an apple"


def test_plurals() -> None:
    assert [plural(name) for name in ("apple", "bus", "church", "wolf", "candy", "monkey", "snowman", "mouse")] == [
        "apples", "buses", "churches", "wolves", "candies", "monkeys", "snowmen", "mice",
    ]  # fmt: skip
    assert [plural(name) for name in ("grapes", "cow face", "tomato", "leaf")] == [
        "grapes", "cow faces", "tomatoes", "leaves",
    ]  # fmt: skip
