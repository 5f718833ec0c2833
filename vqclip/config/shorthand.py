"""The short forms in which one text says several prompts, or a prompt with its numbers. Checks no range.

`a | b` is two texts; `text:weight` and `text:weight:stop` end in numbers, written without spaces. Words that end in a
digit keep the colon behind them, so that "at 10:30" and "in 16:9" stay as they are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_DIGITS = tuple("0123456789")


class Part(NamedTuple):
    """One prompt of a text: its words, and its numbers as they were written, or None."""

    text: str
    weight: str | None = None
    stop: str | None = None


def split(text: str) -> list[Part]:
    """The prompts that a text stands for, never none; words are "" where nothing stands beside a bar."""
    if "|" not in text:
        return [_weighted(text)]
    return [_weighted(each.strip()) for each in text.split("|")]


def is_literal(text: str) -> bool:
    """Whether the text, wherever it stands for prompts, is one prompt with exactly these words."""
    return split(text) == [Part(text)] and not is_bracketed(text)


def is_bracketed(text: str) -> bool:
    """Whether the text begins like a list or a mapping of JSON or YAML."""
    return text.lstrip().startswith(("[", "{"))


def _weighted(text: str) -> Part:
    """`words:weight:stop`, where at least words and one number are there."""
    words, numbers = text, list[str]()
    while len(numbers) < 2:
        head, _, tail = words.rpartition(":")
        if not _NUMBER.fullmatch(tail):
            break
        words, numbers = head, [tail, *numbers]
    if not numbers or not words.strip() or words.endswith(_DIGITS):
        return Part(text)
    return Part(words.strip(), *numbers)
