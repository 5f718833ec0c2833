"""Counts of networks for a forecast."""

from __future__ import annotations

import torch
from tiny_kandinsky import tiny_decoder

from vqclip.backends.pieces import multiple, nbytes


def test_weights_are_counted_in_a_precision() -> None:
    layers = [torch.nn.Linear(3, 5), torch.nn.Linear(7, 1, bias=False)]
    assert nbytes(layers, torch.float32) == 4 * (15 + 5 + 7)
    assert nbytes(layers, torch.bfloat16) == 2 * (15 + 5 + 7)


def test_a_unet_halves_at_every_level_but_the_first() -> None:
    unet = tiny_decoder().unet
    side = multiple(unet)
    assert side == 2 ** (len(unet.config.block_out_channels) - 1)
