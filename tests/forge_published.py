"""Stand-ins for the two published files that `rehearsal` fetches, in their own formats and at any size.

A CLIP as OpenAI publishes it, a traced model in half precision with three extra tensors; a VQGAN as a training
checkpoint. Their weights are random, or chosen so that the facts of trained ones hold: a text projection that puts the
captions where they belong, and a network that carries colours through.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from clip.model import CLIP
from test_full_size import random_state
from torch import Tensor

from vqclip.generators import vqgan
from vqclip.perceptors import clip
from vqclip.run.rehearsal import CAPTIONS, drawing

TINY_CLIP = (32, 32, 2, 64, 8, 77, 49408, 64, 1, 1)
TINY_VQGAN = vqgan.Architecture(32, (1, 1, 1, 1, 2), 1, (4,), 3, 3, 32, 512, 32, gumbel=False)
EXTRA = ("input_resolution", "context_length", "vocab_size")
_CARRIERS = ("conv_in", "conv_out", "downsample.conv", "upsample.conv", "nin_shortcut", "quant_conv")
_LIFT = 5.0  # before the last swish, which is a straight line there


def clip_state(shape: Sequence[int], *, seeing: bool = False, seed: int = 1) -> dict[str, Tensor]:
    """Half-precision weights of `clip.model.CLIP(*shape)`; a `seeing` one ranks the captions of the drawing right."""
    state = random_state(lambda: CLIP(*shape), seed, torch.float16)
    state["logit_scale"] = torch.tensor(math.log(100))
    if not seeing:
        return state
    network = clip.build(state)
    eye = clip.ClipPerceptor(network, device=torch.device("cpu"))
    seen = eye.embed_image(drawing(eye.size)).double()  # (1, E), of length 1
    network.text_projection = torch.nn.Parameter(torch.eye(network.text_projection.shape[0]))
    reader = clip.ClipPerceptor(network, device=torch.device("cpu"))
    hidden = reader.embed_text(CAPTIONS, unit=False).double()  # (T, W)
    rng = torch.Generator().manual_seed(seed)
    aside = torch.randn(len(CAPTIONS), seen.shape[1], generator=rng, dtype=torch.float64)
    aside = torch.nn.functional.normalize(aside - aside @ seen.T * seen, dim=1)
    cosines = torch.tensor([[0.3]] + [[0.2]] * (len(CAPTIONS) - 1), dtype=torch.float64)
    wanted = cosines * seen + (1 - cosines**2).sqrt() * aside  # (T, E)
    state["text_projection"] = (torch.linalg.pinv(hidden) @ wanted).half()
    return state


def vqgan_state(shape: vqgan.Architecture, *, carrying: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Weights of `vqgan.VQModel(shape)`; a `carrying` one gives a picture's colours back, cell by cell."""
    state = random_state(lambda: vqgan.VQModel(shape), seed, torch.float32)
    if not carrying:
        return state
    for key, value in state.items():
        if value.dim() == 4:
            state[key] = torch.zeros_like(value)
            if any(name in key for name in _CARRIERS):
                _carry(state[key], halved="downsample" in key)
    for half in ("encoder", "decoder"):
        state[f"{half}.norm_out.bias"] += _LIFT
        state[f"{half}.conv_out.bias"] -= _LIFT
    state["decoder.conv_out.weight"] *= 0.2
    state["decoder.conv_out.bias"] *= 0.2
    side = round(shape.codes ** (1 / 3) - 0.5 + 1e-9)
    levels = torch.linspace(-3.5, 3.5, side)
    codes = torch.zeros(shape.codes, shape.code_dim)
    codes[: side**3, :3] = torch.cartesian_prod(levels, levels, levels)
    state["quantize.embedding.weight"] = codes
    return state


def _carry(weight: Tensor, *, halved: bool) -> None:
    """Let the first three channels of a convolution (O, I, k, k) through as they are, or as means of 2x2."""
    middle = weight.shape[-1] // 2
    for channel in range(3):
        if halved:
            weight[channel, channel, :2, :2] = 0.25
        else:
            weight[channel, channel, middle, middle] = 1


def write_clip(path: Path, shape: Sequence[int], state: dict[str, Tensor]) -> Path:
    """The archive that torch.jit makes of a CLIP with these weights."""
    model = CLIP(*shape).eval()
    model.load_state_dict({key: value.float() for key, value in state.items()})
    for key, value in zip(EXTRA, (shape[1], shape[5], shape[6]), strict=True):
        vars(model).pop(key, None)
        model.register_buffer(key, torch.tensor(value))
    example = (torch.zeros(1, 3, shape[1], shape[1]), torch.zeros(1, shape[5], dtype=torch.int32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, example, check_trace=False).half().save(str(path))
    return path


def write_vqgan(path: Path, state: dict[str, Tensor]) -> Path:
    """A checkpoint of a training: the weights among those of the loss, and what else a trainer keeps."""
    loss = {"loss.perceptual_loss.scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    trainer = {"epoch": 21, "global_step": 216601, "pytorch-lightning_version": "0.9.0", "optimizer_states": []}
    torch.save({"state_dict": {**state, **loss}, **trainer}, path)
    return path
