"""The nouns that every room shares: Prompt, Job, Step, Steps, Verdict, Result and the errors a user can meet.

Plain frozen values. Nothing here reads files, knows a config or runs a model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class InputError(ValueError):
    """The user asked for something that cannot be: one line, what was given, what is allowed. Exit code 2."""


class WeightsError(RuntimeError):
    """Weights are missing, damaged or of an unknown layout: one line, which file, what to do. Exit code 3."""


class ResourceError(RuntimeError):
    """Memory or disk ran out: one line, which setting to lower. Exit code 4."""


@dataclass(frozen=True)
class Prompt:
    """One text that the picture is pulled towards (include, extras) or pushed away from (exclude).

    `weight` is a finite factor >= 0 on the prompt's loss. `stop` is a spherical distance theta^2/2 in
    [0, pi^2/2]: an include or extra stops pulling once it is nearer than `stop`, an exclude stops
    pushing once it is farther. None means never stop. Raises InputError for no words and for numbers out of range.
    """

    text: str
    weight: float = 1.0
    stop: float | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("a prompt is empty; give it some words or leave it out")
        if not math.isfinite(self.weight) or self.weight < 0:
            raise InputError(f"prompt {self.text!r}: weight is {self.weight}; a finite number >= 0 is needed")
        if self.stop is not None and not 0 <= self.stop <= math.pi**2 / 2:
            raise InputError(f"prompt {self.text!r}: stop is {self.stop}; a distance from 0 to 4.93 is needed")


@dataclass(frozen=True)
class Job:
    """One picture to make. `size` is (width, height) in pixels, `steps` counts updates of the latent."""

    include: tuple[Prompt, ...]
    exclude: tuple[Prompt, ...] = ()
    extras: tuple[Prompt, ...] = ()
    size: tuple[int, int] = (128, 128)
    steps: int = 100
    seed: int = 0

    @property
    def title(self) -> str:
        """The include prompts as one line of text, for names, headings and the judge."""
        return ", ".join(prompt.text for prompt in self.include)

    def rng(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose ("start", "crops", "noise"), independent of the others.

        The streams are separated by hashing seed and purpose together, so that drawing more crops
        never changes the start picture.
        """
        import torch

        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Reading:
    """How a CLIP reads a text: `text` is what it is given to encode.

    `replaced` pairs words of the user with the known names that they were read as; `unread` are the content words
    (nouns, adjectives, numbers) that say nothing to the model. Both are empty for a model with the full vocabulary.
    """

    text: str
    replaced: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """What one iteration showed: number 0 is the untouched start, the last one is the result.

    `image` (3, H, W) float32 in [0, 1], detached and never written to again. `terms` maps the name
    of each loss term to its weighted value, a detached 0-d tensor (still on the device: reading it
    is a device sync, which is the consumer's choice).
    """

    index: int
    total: int
    image: torch.Tensor
    terms: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Steps:
    """One iteration of B pictures side by side: `images` (B, 3, H, W), `terms` name -> (B,), otherwise as a Step.

    `steps[row]` is the Step of one of them.
    """

    index: int
    total: int
    images: torch.Tensor
    terms: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Step:
        terms = {name: values[row] for name, values in self.terms.items()}
        return Step(self.index, self.total, self.images[row], terms)

    @classmethod
    def joined(cls, parts: Sequence[Steps]) -> Steps:
        """One batch of several, in their order."""
        import torch

        first = parts[0]
        if len(parts) == 1:
            return first
        terms = {name: torch.cat([each.terms[name] for each in parts]) for name in first.terms}
        return cls(first.index, first.total, torch.cat([each.images for each in parts]), terms)

    def rows(self, rows: torch.Tensor) -> Steps:
        """Those of the pictures whose numbers, (K,) int64 on their device, are given; the host does not wait."""
        terms = {name: values.index_select(0, rows) for name, values in self.terms.items()}
        return Steps(self.index, self.total, self.images.index_select(0, rows), terms)


@dataclass(frozen=True)
class Verdict:
    """What a judge that steered nothing sees in a picture.

    `rank` of the include text among `among` texts (1 is best; the others are its rivals), cosine
    similarities to the include and exclude texts, and `margin` = include minus the best rival. `self_scored` is
    True when the judge also steered the picture; such a score proves little. `exclude_margin` is include minus
    the nearest exclude, None without excludes. `parts` maps "thing", "colour" and "ground", where the prompt names
    them, to the rank among the texts that differ in nothing else and the number of those texts, its own included.
    """

    judge: str
    rank: int
    among: int
    include: float
    exclude: float | None
    margin: float
    self_scored: bool = False
    exclude_margin: float | None = None
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A finished picture with its numbers. `image` is (3, H, W) float32 in [0, 1] on the CPU."""

    job: Job
    image: torch.Tensor
    terms: Mapping[str, float]
    steps: int
    seconds: float
    verdict: Verdict | None = None
    folder: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
