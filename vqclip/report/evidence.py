"""Reads the numbers and facts of a run or comparison folder as files that nobody vouches for.

Hands on checked plain values. Pictures and films: `embedded`. Does not judge, average or draw.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from vqclip.config.document import clean
from vqclip.grammar import PARTS
from vqclip.job import InputError

MAX_JSON: Final = 16 << 20  # bytes of run.json or report.json
MAX_METRICS: Final = 64 << 20  # bytes of metrics.jsonl; a step with ten terms takes about 400
MAX_DEPTH: Final = 24
MAX_CURVES: Final = 64  # of the terms of one run, and of its scores; more would be looked at by nobody


class Facts:
    """One object of a JSON file. Every look is checked; InputError says which file and key was wrong.

    A key that is missing or null reads as None, "" or empty, so that older and half-made files can be
    shown; a value of another type is refused.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{where} is not an object; run.json and report.json are made of them")
        self.value: Mapping[str, Any] = value
        self.where = where

    def text(self, key: str) -> str:
        """A text, "" where there is none. InputError for another kind of value, as in the others."""
        return self._get(key, str, "a text") or ""

    def flag(self, key: str) -> bool:
        """True or False, which is also what is not there."""
        return bool(self._get(key, bool, "true or false"))

    def number(self, key: str) -> float | None:
        """A finite number, None where there is none."""
        value = self.value.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            self._refuse(key, "a number")
        return float(value)

    def whole(self, key: str) -> int | None:
        """A whole number, None when it is not there."""
        value = self.number(key)
        if value is not None and not (value.is_integer() and abs(value) < 1e18):
            self._refuse(key, "a whole number")
        return None if value is None else int(self.value[key])

    def inner(self, key: str) -> Facts:
        """The object at `key`, empty when it is not there."""
        return Facts(self._get(key, dict, "an object") or {}, f"{self.where}: {clean(key)}")

    def each(self, key: str) -> list[Facts]:
        """The objects of the list at `key`."""
        found = self._get(key, list, "a list") or []
        return [Facts(value, f"{self.where}: {clean(key)}[{number}]") for number, value in enumerate(found)]

    def texts(self, key: str) -> list[str]:
        """The texts of the list at `key`."""
        found = self._get(key, list, "a list") or []
        if not all(isinstance(value, str) for value in found):
            self._refuse(key, "a list of texts")
        return list(found)

    def wholes(self, key: str) -> list[int]:
        """The whole numbers of the list at `key`."""
        found = self._get(key, list, "a list") or []
        if not all(type(value) is int and abs(value) < 1e18 for value in found):
            self._refuse(key, "a list of whole numbers")
        return list(found)

    def words(self, key: str) -> dict[str, str]:
        """The object at `key` as text -> text, such as versions and hashes."""
        found = self.inner(key).value
        if not all(isinstance(value, str) for value in found.values()):
            self._refuse(key, "an object of texts")
        return dict(found)

    def _get(self, key: str, kind: type, allowed: str) -> Any:
        value = self.value.get(key)
        if value is not None and not isinstance(value, kind):
            self._refuse(key, allowed)
        return value

    def _refuse(self, key: str, allowed: str) -> NoReturn:
        raise InputError(f"{self.where}: {clean(key)} is not {allowed}")


class Point(NamedTuple):
    """One logged value. `value` is None where the number was not finite."""

    step: int
    seconds: float
    value: float | None


def parts(verdict: Facts) -> dict[str, tuple[int, int]]:
    """Rank and number of texts of thing, colour and ground, as far as a verdict has them; InputError for others."""
    found = verdict.inner("parts")
    places = {part: found.wholes(part) for part in PARTS}
    if wrong := next((part for part, place in places.items() if len(place) not in (0, 2)), None):
        raise InputError(f"{found.where}: {wrong} is not a rank and a number of texts")
    return {part: (place[0], place[1]) for part, place in places.items() if place}


@dataclass(frozen=True)
class Curves:
    """What metrics.jsonl tells: the weighted loss terms, their total, and the judge's scores, by name.

    Of more than `MAX_CURVES` terms or scores the first are kept; `cut` says so.
    """

    total: list[Point] = field(default_factory=list)
    terms: dict[str, list[Point]] = field(default_factory=dict)
    judge: dict[str, list[Point]] = field(default_factory=dict)
    cut: bool = False


def facts(path: Path) -> Facts:
    """The object in a JSON file of at most 16 MiB and 24 levels. Raises InputError, one line."""
    value = _parse(read_bytes(path, MAX_JSON), str(path))
    layer, depth = [value], 0
    while layer:  # level by level: depth costs no stack
        depth += 1
        if depth > MAX_DEPTH:
            raise InputError(f"{clean(str(path))}: nested deeper than {MAX_DEPTH} levels")
        inner = [v.values() if isinstance(v, dict) else v for v in layer if isinstance(v, dict | list)]
        layer = [item for items in inner for item in items]
    return Facts(value, clean(str(path)))


def curves(path: Path) -> Curves:
    """The lines of a metrics.jsonl; empty when there is no such file.

    A last line without its newline is what a killed run leaves behind and is passed over. Raises
    InputError for any other line that is not what the recorder writes.
    """
    found, cut = Curves(), False
    if not os.path.exists(path):
        return found
    lines = read_bytes(path, MAX_METRICS).split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        entry = Facts(_parse(line, where), clean(where))
        step, seconds = entry.whole("step"), entry.number("seconds")
        if step is None or seconds is None:
            raise InputError(f"{clean(where)}: step or seconds is missing")
        found.total.append(Point(step, seconds, entry.number("total")))
        for group, values in ((found.terms, entry.inner("terms")), (found.judge, entry.inner("judge"))):
            for name in values.value:
                if name not in group and len(group) >= MAX_CURVES:
                    cut = True
                    continue
                group.setdefault(name, []).append(Point(step, seconds, values.number(name)))
    return replace(found, cut=cut)


def read_bytes(path: Path, limit: int) -> bytes:
    """A regular file of at most `limit` bytes. Raises InputError, one line."""
    try:
        if not path.is_file():
            raise InputError(f"{clean(str(path))}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{clean(str(path))}: cannot be read ({error.strerror})") from error
    if len(data) > limit:
        raise InputError(f"{clean(str(path))}: larger than {limit} bytes")
    return data


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects as (dotted key, value); lists and empty objects are leaves."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _parse(data: bytes, where: str) -> object:
    try:
        return json.loads(data.decode(), parse_constant=_not_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{clean(where)}: not the JSON that vqclip writes") from error


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(text)
