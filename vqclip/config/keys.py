"""What the schema says of one key: type, default, limits, documentation, and what is wanted in words."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


def key(default: Any, doc: str, **limits: Any) -> Any:
    """A dataclass field with its doc line and its limits, which are the fields of `Key` from `low` on."""
    return field(default=default, metadata={"doc": doc, **limits})


@dataclass(frozen=True)
class Key:
    """One leaf of the schema: `kind` is the type of its value or elements, `shape` is one, pair or list.

    `file` says that the text is or may be a path, see `config.paths.resolve`: "", "file", "weights" or "pipeline".
    """

    path: str
    kind: Any
    shape: str
    default: Any
    doc: str
    optional: bool = False
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    nonempty: bool = False
    file: str = ""

    @property
    def allowed(self) -> str:
        """What the key accepts in a few words, for a table."""
        if dataclasses.is_dataclass(self.kind) and isinstance(self.kind, type):
            names = ", ".join(each.name for each in dataclasses.fields(self.kind))
            return f"texts or {{{names}}}"
        nouns = {int: "a whole number", float: "a number", bool: "true or false"}
        texts = {"file": "a path", "weights": "a name or a path", "pipeline": "a name or a folder"}
        each = ", ".join(self.choices) or self.form
        each = each or nouns.get(self.kind, texts.get(self.file, "text")) + self._range()
        lead = {"one": "", "pair": "two, each ", "list": "any of " if self.choices else "several, each "}[self.shape]
        return f"{lead}{each.removesuffix(',')}{' or none' if self.optional else ''}"

    @property
    def wanted(self) -> str:
        """What the key accepts, as the second half of an error message."""
        each = self.element.removesuffix(" is needed")
        lead = {"one": "", "pair": "a list of two, each ", "list": "a list, each "}[self.shape]
        return f"{lead}{each}{' or none' if self.optional else ''}{',' if lead else ''} is needed"

    @property
    def element(self) -> str:
        """What one element of a list accepts, as the second half of an error message."""
        if self.form:
            return f"{self.form} is needed"
        if self.choices:
            return f"one of {', '.join(self.choices)} is needed"
        nouns = {int: "a whole number", float: "a finite number", bool: "true or false"}
        return f"{nouns.get(self.kind, 'a line of text without ${')}{self._range()} is needed"

    def _range(self) -> str:
        if self.low == -math.inf == self.above:
            return ""
        floor = f" above {self.above:g}" if self.above > -math.inf else f" from {self.low:g}"
        ceiling = f", below {self.below:g}," if self.below < math.inf else f" to {_digits(self.high)}"
        return floor + ceiling


def _digits(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
