"""Differentiable image models behind one protocol: Generator, from latent to picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@runtime_checkable
class Generator(Protocol):
    """A differentiable image model with a latent grid, its weights frozen.

    `decode` quantises, unless it is told to draw latents as they are, with a straight-through gradient:
    forward the nearest codebook rows, backward the identity onto the latent.
    """

    @property
    def device(self) -> torch.device:
        """Where it works."""

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along each axis."""

    @property
    def unit(self) -> float:
        """The deviation of its codes over that of the starter VQGAN's, with which the recipe's numbers were found."""

    def sample(self, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """A random latent (1, C, h, w) of codebook rows for a picture of `size` = (width, height)."""

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], sides multiples of `stride` -> latents (B, C, h, w) of codebook rows."""

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, H, W) float32 in [0, 1]."""

    def project(self, latent: Tensor) -> Tensor:
        """What an updated latent (B, C, h, w) becomes: the nearest in the codebook's range, where it is held there."""
