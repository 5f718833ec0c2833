"""Says numbers and verdicts in words for a reader; plain text only, no markup and no arithmetic on results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

NOTHING: Final = "\u2013"  # en dash
MINUS: Final = "\u2212"  # the sign that is as wide as a plus
CUT: Final = 400  # characters of a config value that are shown
_TEENS: Final = {11, 12, 13}
_ENDS: Final = {1: "st", 2: "nd", 3: "rd"}


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant figures, whole from there on, without an exponent from 0.001 to 1e9."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10 ** (digits - 1):
        text = f"{size:,.0f}" if size < 1e9 else scientific(size, digits - 1)
    else:
        text = f"{size:#.{digits}g}".rstrip(".") if size >= 1e-3 else scientific(size, digits - 1)
    return MINUS + text if value < 0 else text


def scientific(value: float, places: int) -> str:
    """A number with an exponent, 2.1e-4, for what is very small or very large."""
    head, power = f"{value:.{min(places, 15)}e}".split("e")
    return f"{head}e{int(power)}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """0.254 as "25 %"."""
    return NOTHING if share is None else f"{round(share * 100)} %".replace("-", MINUS)


def points(share: float | None) -> str:
    """The difference of two shares, 0.254, as "25 points"."""
    return NOTHING if share is None else f"{round(share * 100)} points".replace("-", MINUS)


def signed(value: float | None, say: Callable[[float | None], str] = number) -> str:
    """A difference in the words of `say`, always with its sign."""
    return f"+{say(value)}" if value is not None and value > 0 else say(value)


def duration(seconds: float | None) -> str:
    """Seconds as "9.83 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds is None:
        return NOTHING
    if abs(seconds) < 100:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return MINUS + text if seconds < 0 else text


def size(count: float | None) -> str:
    """Bytes as bytes, kB, MB or GB, powers of 1000."""
    if count is None:
        return NOTHING
    power, unit = next(((p, u) for p, u in ((9, "GB"), (6, "MB"), (3, "kB")) if abs(count) >= 10**p), (0, ""))
    return f"{number(count / 10**power)} {unit}" if power else f"{count:.0f} bytes"


def ordinal(place: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    end = "th" if place % 100 in _TEENS else _ENDS.get(place % 10, "th")
    return f"{place}{end}"


def setting(value: Any) -> str:
    """A config value on one line: texts as they are, the rest as JSON; cut after 400 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and not value:
        text = '""'
    return text if len(text) <= CUT else f"{text[: CUT - 1]}\u2026"


REFUSAL: Final = "no verdict"  # how the line begins that says why the judge said nothing
_PARTS: Final[Mapping[str, str]] = {"thing": "the thing", "colour": "its colour", "ground": "the ground"}


def verdict(
    judge: str, *, rank: int, among: int, include: float | None, exclude: float | None, margin: float | None,
    exclude_margin: float | None = None, parts: Mapping[str, tuple[int, int]] | None = None, former: bool = False,
    self_scored: bool,
) -> list[str]:  # fmt: skip
    """What a judge saw, as sentences: place of the prompt in all and by part, similarities, how far to trust it.

    `former`: a verdict by older rules, whose rivals swapped the thing only and which had one margin of two meanings.
    """
    parts = parts or {}
    said = [f"Shown this picture and {among} texts, {judge or 'the judge'} puts the prompt {place(rank)}."]
    if parts:
        ranks = [f"{_PARTS[part]} {place(at)} of {count}" for part, (at, count) in parts.items()]
        said.append(f"Among the texts that differ in nothing else it puts {_listed(ranks)}.")
    if not former:
        said.append(rivals(among, parts))
    elif exclude is not None:
        margin, exclude_margin = None, margin
    gaps = ((margin, "the other text that fits best"), (exclude_margin, "the excluded text that fits best"))
    if include is not None and (told := [_gap(gap, rival) for gap, rival in gaps if gap is not None]):
        said.append(f"The prompt's similarity is {number(include)}, {_listed(told)}.")
    said.append(
        "This judge also steered the picture, so its score proves little."
        if self_scored
        else "This judge had no part in steering the picture."
    )
    return said


def place(rank: int) -> str:
    """A rank in words: "first", "2nd"."""
    return "first" if rank == 1 else ordinal(rank)


def places(parts: Mapping[str, tuple[int, int]]) -> list[str]:
    """The ranks of a prompt's parts in short: "thing 1 of 71"."""
    return [f"{part} {rank} of {count}" for part, (rank, count) in parts.items()]


def rivals(among: int, parts: Mapping[str, tuple[int, int]]) -> str:
    """What the other texts are, as a sentence."""
    swapped = [f"{_PARTS[part]} ({count - 1})" for part, (_, count) in parts.items()]
    rest = among - 1 - sum(count - 1 for _, count in parts.values())
    if not parts:
        return f"The {rest} other texts name other things."
    if len(swapped) == 1 and not rest:
        return f"The {among - 1} other texts are the prompt with {swapped[0].rpartition(' ')[0]} swapped."
    if rest:
        both = {"colour", "ground"} <= parts.keys()
        swapped.append(f"{'colour and ground at once' if both else 'another word'} ({rest})")
    return f"The {among - 1} other texts are the prompt with something swapped: {_listed(swapped)}."


def _gap(margin: float, rival: str) -> str:
    return f"{number(abs(margin))} {'above' if margin >= 0 else 'below'} {rival}"


def _listed(texts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(texts[:-1])] if texts[:-1] else []), *texts[-1:]])


ENDED: Final = "ended without a word: its process was killed; this is what was made until then"
STATUS: Final[Mapping[str, str]] = {
    "done": "finished",
    "interrupted": "interrupted; this is the result so far",
    "failed": "failed; this is what was made until then",
    "running": "still running, or killed before it could say more",
}
