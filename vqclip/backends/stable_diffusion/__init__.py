"""Stable Diffusion 1.5 as a backend."""
