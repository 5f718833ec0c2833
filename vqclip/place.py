"""What travels between the rooms that load models: where they work, and what was made. Loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from vqclip.backends import Backend
from vqclip.job import Reading


@dataclass(frozen=True)
class Place:
    """Where models work: device and precision, what to do with long prompts, who takes warnings."""

    device: torch.device
    dtype: torch.dtype
    too_long: str
    note: Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A backend, the SHA-256 of its weights by role and the names of its models for people.

    `readers` tell how the models that steer read a text. `eyes`: sketches, as of `models.likeness`, of the CLIPs that
    look at pictures or stand for them, by role.
    """

    backend: Backend
    hashes: Mapping[str, str]
    models: tuple[str, ...]
    readers: tuple[Callable[[str], Reading], ...] = ()
    eyes: Mapping[str, str] = field(default_factory=dict)
