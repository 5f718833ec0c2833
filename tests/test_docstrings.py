"""Docstrings of vqclip/ and training/ give shapes, errors and parameters; what looks for them finds what is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docstrings import faults, gives_shape

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "vqclip").rglob("*.py"), *(ROOT / "training").glob("*.py")])
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
# The loop and what is built on it, while its latents become a batch.
# A file whose docstrings leave nothing out.
WHOLE = '''
class Tower(Protocol):
    """What looks at pictures."""

    def look(self, crops: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, E)."""

@dataclass(frozen=True)
class View:
    """One step: `latent` (B, C, h, w)."""

    latent: Tensor

    def at(self, row: int) -> Tensor:
        """One of them."""

class Facts:
    """Values of a file; InputError says which of them is wrong."""

    def text(self, key: str) -> str:
        """A text."""
        return self._get(key)

    def texts(self) -> list[str]:
        """All texts, as far as there are any."""
        try:
            return [_first(self)]
        except (KeyError, WeightsError):
            return []

    def _get(self, key: str) -> str:
        raise InputError(key)

def _first(facts: Facts) -> str:
    """One of them."""
    return _second(facts)

def _second(facts: Facts) -> str:
    raise WeightsError("none")

class Eye:
    """A tower of `weights`, a state dict; WeightsError for those of another model."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        if not weights:
            raise WeightsError("none")

    def look(self, crops: Tensor) -> Tensor:
        return crops

def blur(image: Tensor, sigma: float, *rest: str, **more: int) -> Tensor:
    """A softer picture.

    Args:
        image: (B, 3, H, W) in [0, 1].
        sigma: in pixels.
        *rest: ignored.
        **more: ignored.

    Raises:
        InputError: a sigma below 0.
    """
    if sigma < 0:
        raise InputError(f"sigma: {sigma}")

def unknown(name: str) -> InputError:
    """The error for a name."""

def find(name: str) -> None:
    """The file of a name; InputError for an unknown one."""
    def later():
        raise ResourceError("somebody else's")
    try:
        pass
    except OSError:
        raise
    raise unknown(name)

def look_up(name: str) -> None:
    """As `find`, with the same InputError."""
    find(name)

@group.command
def compare() -> None:
    """Help that ends in exit codes."""
    raise InputError("two are compared")

def main() -> None:
    """Another command line."""
    find("")

def _own(image: Tensor) -> None:
    raise InputError("private")
'''


def test_docstrings_give_shapes_errors_and_parameters() -> None:
    assert faults(SOURCES) == []


def test_a_file_that_leaves_nothing_out_has_no_fault() -> None:
    assert faults({"whole.py": WHOLE}) == []


@pytest.mark.parametrize(
    ("gone", "instead", "fault"),
    [
        ('"""(N, 3, S, S) -> (N, E)."""', '"""Pictures to features."""', "Tower.look: no shape"),
        ('"""(N, 3, S, S) -> (N, E)."""', "pass", "Tower.look: no docstring"),
        ("look(self, crops: Tensor) -> Tensor:\n        return", "look(self) -> Tensor:\n        return",
         "Eye.look: no docstring"),
        ("`latent` (B, C, h, w)", "`latent`", "View.latent: no shape"),
        ("`latent` (B, C, h, w)", "`latent`", "View.at: no shape"),
        ("`weights`, a state dict", "`weights`", "Eye.__init__: no shape"),
        ("WeightsError for those", "nothing for those", "Eye.__init__: raises WeightsError unsaid"),
        ('    """A tower of', '    name = """A tower of', "Eye: no docstring"),
        ("(B, 3, H, W) in", "a picture (of any size) in", "blur: no shape"),
        ("        sigma: in pixels.\n", "", "blur: Args leave out sigma"),
        ("        *rest: ignored.\n", "", "blur: Args leave out rest"),
        ("        **more: ignored.\n", "", "blur: Args leave out more"),
        ("sigma: in pixels.", "Sigma: in pixels.", "blur: Args leave out sigma"),
        ("        InputError: a sigma", "        ValueError: a sigma", "blur: raises InputError unsaid"),
        ("InputError for an unknown one", "nothing else", "find: raises InputError unsaid"),
        ("; InputError says which of them is wrong", "", "Facts.text: raises InputError unsaid"),
        ("(KeyError, WeightsError)", "KeyError", "Facts.texts: raises WeightsError unsaid"),
        ("            return []", "            raise", "Facts.texts: raises WeightsError unsaid"),
        ("with the same InputError", "likewise", "look_up: raises InputError unsaid"),
        ("    def later():\n        raise", "    if name:\n        raise", "find: raises ResourceError unsaid"),
        ("@group.command\n", "", "compare: raises InputError unsaid"),
        ("def _own", "def own", "own: no docstring"),
    ],
)  # fmt: skip
def test_whatever_is_left_out_is_found(gone: str, instead: str, fault: str) -> None:
    assert WHOLE.count(gone) == 1
    assert f"spoilt.py: {fault}" in faults({"spoilt.py": WHOLE.replace(gone, instead)})


def test_an_error_may_be_worded_in_another_file() -> None:
    words, _, use = WHOLE.partition("def find")
    found = faults({"words.py": words, "use.py": f"def find{use}".replace("InputError for an", "none for an")})
    assert found == ["use.py: find: raises InputError unsaid"]


@pytest.mark.parametrize(
    "words",
    [
        "(N, E)", "(E,)", "a latent (1, C, h, w)", "(B, 3, height, width)", "(4h, 4w)", "(B, h*w, C)", "(..., 3)",
        "(2B + names, E)", "(len(part), 3, size, size)", "(N, side/8, side/8) int16", "a scalar", "0-d", "of any shape",
        "the state dict",
    ],
)  # fmt: skip
def test_what_counts_as_a_shape(words: str) -> None:
    assert gives_shape(f"Something, {words}, of a model.")


@pytest.mark.parametrize(
    "words",
    ["", "(width, height)", "(N)", "(the first, the second)", "(of a batch, say)", "(see `decode`)", "shaped", "N x E"],
)
def test_what_does_not(words: str) -> None:
    assert not gives_shape(f"Something, {words}, of a model.")
