"""Short forms: what is split, what stays words, and that no text takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqclip.config.shorthand import Part, is_bracketed, is_literal, split


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("apple:2", [Part("apple", "2")]),
        ("apple:2:.5", [Part("apple", "2", ".5")]),
        ("apple :-1e-3", [Part("apple", "-1e-3")]),
        ("a: b:3", [Part("a: b", "3")]),
        ("a |b:2| c", [Part("a"), Part("b", "2"), Part("c")]),
        ("a\nb:2", [Part("a\nb", "2")]),
        ("|", [Part(""), Part("")]),
        ("100 %:2", [Part("100 %", "2")]),
    ],
)
def test_trailing_numbers_and_bars_are_read(text: str, parts: list[Part]) -> None:
    assert split(text) == parts
    assert not is_literal(text)


@pytest.mark.parametrize(
    "text",
    ["", "a", " a ", "16:9", "at 10:30", "a 1:2:3", "a:b", "a:", ":2", " :2", "a: 2", "a:2 ", "a:0x1", "a:inf", "a:nan",
     "a:1_0", "a:\u0661", "a, b", "a:2:b", "http://x:y"],
)  # fmt: skip
def test_everything_else_is_words(text: str) -> None:
    assert split(text) == [Part(text)]
    assert is_literal(text)


def test_brackets_are_told() -> None:
    assert [is_bracketed(text) for text in ("[a", " {a", "a]", "(a", "")] == [True, True, False, False, False]
    assert not is_literal("[a")


@given(st.text(alphabet="ab1.:-| ", max_size=30))
def test_nothing_is_lost(text: str) -> None:
    """The parts, written out again, are the text but for blanks at bars and numbers."""
    again = "|".join(":".join(each for each in part if each is not None) for part in split(text))
    assert again.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("text", ["1" * 60000, "a:" + "1" * 60000 + "x", ":" * 60000, "a:1" * 20000, "a|" * 30000])
def test_long_texts_take_no_time(text: str) -> None:
    taken = []
    for _ in range(3):  # the quickest counts: others may hold a collection of all that earlier tests left
        begun = time.process_time()
        split(text)
        taken.append(time.process_time() - begun)
    assert min(taken) < 0.5
