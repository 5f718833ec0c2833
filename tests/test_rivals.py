"""The texts that a prompt has to beat: what they swap, how many, and that they mean something else."""

from __future__ import annotations

import pytest

from vqclip.grammar import COLOURS, parse, plural
from vqclip.judge.rivals import BOTH, WORD, grounded, rivals
from vqclip.starter import concepts

WHOLE = "a red apple on a white background"


def counts(text: str, count: int = 100) -> dict[str, int]:
    return {kind: len(texts) for kind, texts in rivals(text, count=count).items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WHOLE, {"thing": 70, "colour": 10, "ground": 10, BOTH: 10}),
        ("a red apple", {"thing": 90, "colour": 10}),
        ("an apple on white", {"thing": 90, "ground": 10}),
        ("apple", {"thing": 100}),
        ("something yellow on a grey background", {"colour": 10, "ground": 10, BOTH: 80}),
        ("yellow", {"colour": 10}),
        ("a yellow background", {"ground": 10}),
        ("sunset over Tokyo", {"thing": 50, WORD: 50}),
        ("a red lighthouse", {"thing": 90, "colour": 10}),
        ("\u65e5\u306e\u51fa", {WORD: 100}),
    ],
)
def test_there_are_a_hundred_by_what_they_swap(text: str, expected: dict[str, int]) -> None:
    assert counts(text) == expected


@pytest.mark.parametrize("text", [WHOLE, "red apples", "sunset over Tokyo", "yellow", "a bird", "an orange fox"])
def test_they_are_always_the_same_and_all_different(text: str) -> None:
    found = rivals(text)
    listed = [each for texts in found.values() for each in texts]
    assert found == rivals(text)
    assert len({each.lower() for each in [*listed, text]}) == len(listed) + 1


def test_each_differs_in_the_part_that_it_swaps_and_in_nothing_else() -> None:
    for kind, texts in rivals(WHOLE).items():
        for text in texts:
            found, asked = parse(text), parse(WHOLE)
            differing = {part for part in ("thing", "colour", "ground") if found.word(part) != asked.word(part)}
            assert differing == ({"colour", "ground"} if kind == BOTH else {kind}), text
            assert parse(text).replaced(thing="apple", colour="red", ground="white").endswith(WHOLE.removeprefix("a "))


def test_all_other_colours_and_the_exchange_are_among_them() -> None:
    found = rivals(WHOLE)
    assert {parse(text).word("colour") for text in found["colour"]} == set(COLOURS) - {"red"}
    assert {parse(text).word("ground") for text in found["ground"]} == set(COLOURS) - {"white"}
    assert found[BOTH][0] == "a white apple on a red background"


def test_grammar_gives_nothing_away() -> None:
    for text in rivals("an apple")["thing"]:
        name = parse(text).word("thing")
        assert name in concepts()
        assert text.startswith("an ") == (name[0] in "aeio" or name == "umbrella")
    assert {"a milk", "a grapes"}.isdisjoint(rivals("an apple", count=149)["thing"])
    names = concepts()
    assert all(text in {f"red {plural(name)}" for name in names} for text in rivals("red apples")["thing"])


def test_what_a_right_picture_may_show_is_no_rival() -> None:
    for text, kin in (("a bird", "an owl"), ("a rose", "a flower"), ("a cow", "a cow face"), ("a cow face", "a cow")):
        assert kin not in rivals(text, count=150)["thing"]
    assert "a tulip" in rivals("a rose", count=150)["thing"]
    assert "a house before a house" not in rivals("a dog before a house", count=150)["thing"]


def test_open_texts_keep_their_form() -> None:
    found = rivals("a photo of a sunset over Tokyo")
    assert all(text.endswith(" over Tokyo") and text.startswith("a photo of ") for text in found["thing"])
    assert all(text.startswith("a photo of a sunset over ") for text in found[WORD])
    assert "a photo of a tiger over Tokyo" in found["thing"]
    assert "a photo of a sunset over a tiger" in rivals("a photo of a sunset over Tokyo", count=290)[WORD]


@pytest.mark.parametrize("count", [1, 7, 20, 50])
def test_several_prompts_share_the_count(count: int) -> None:
    assert sum(counts(WHOLE, count).values()) == count
    assert sum(counts("apple", count).values()) == count


def test_a_colour_is_asked_on_every_ground() -> None:
    found = grounded("an orange fox")
    assert len(found) == len(COLOURS) - 1
    assert all(parse(text).word("ground") not in (None, "orange") for text in found)
    assert "an orange fox on a white background" in found
    assert len(grounded("yellow")) == 10
    for text in (WHOLE, "a fox", "a red lighthouse at night", "sunset over Tokyo"):
        assert grounded(text) == []
