"""Texts are taken apart into words, numbers and emoji; plurals have few singulars."""

from __future__ import annotations

import pytest

from vqclip.starter.words import singulars, split, table, vocabulary

EMOJI = {"\U0001f34e": "red apple", "\U0001f408\u200d\u2b1b": "black cat", "\U0001f408": "cat"}


def parts(text: str) -> list[tuple[str, bool]]:
    return [(item.plain, item.cut) for item in split(text, EMOJI)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A red-apple", [("a", False), ("red", False), ("apple", False)]),
        ("apple, pear", [("apple", False), ("pear", True)]),
        ('a "big" cat\u2019s', [("a", False), ("big", False), ("cat", False)]),
        ("caf\u00e9 \u0442\u0435\u0441\u0442", [("cafe", False), ("\u0442\u0435\u0441\u0442", False)]),
        ("x\U0001f34e\U0001f34e", [("x", False), ("\U0001f34e", False), ("\U0001f34e", False)]),
        ("\U0001f408\u200d\u2b1b", [("\U0001f408\u200d\u2b1b", False)]),
        ("\U0001f408\ufe0f", [("\U0001f408", False)]),
        ("\U0001f5fc\U0001f34e", [("\U0001f5fc", False), ("\U0001f34e", False)]),
        (" \t.,!", []),
    ],
)
def test_splitting(text: str, found: list[tuple[str, bool]]) -> None:
    assert parts(text) == found


@pytest.mark.parametrize(
    ("plural", "singular"),
    [("apples", "apple"), ("fire trucks", "fire truck"), ("puppies", "puppy"), ("loaves", "loaf"), ("knives", "knife"),
     ("buses", "bus"), ("foxes", "fox"), ("potatoes", "potato"), ("mice", "mouse"), ("firemen", "fireman")],
)  # fmt: skip
def test_plurals(plural: str, singular: str) -> None:
    assert singular in singulars(plural)


@pytest.mark.parametrize("word", ["glass", "gas", "apple", "us", "s", ""])
def test_no_plurals(word: str) -> None:
    assert singulars(word) == []


def test_the_files_are_read_once() -> None:
    assert table() is table()
    assert {"apple", "background", "one"} <= vocabulary()["words"]
