"""Stable Diffusion 1.5 at tiny size with random weights: in memory, as one file, and as a folder."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from vqclip.backends.stable_diffusion.files import Models
from vqclip.backends.stable_diffusion.layout import Layout, write

TINY = Layout((32, 64, 64, 64), (32, 32, 64, 64), 2, 4, 32, 2, 4)

_UNET = [
    (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"conv_in", lambda _: "input_blocks.0.0"),
    (r"conv_norm_out", lambda _: "out.0"),
    (r"conv_out", lambda _: "out.2"),
    (r"down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0"),
    (r"down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1"),
    (r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    (r"mid_block\.attentions\.0", lambda _: "middle_block.1"),
    (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0"),
    (r"up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{1 if m[1] == '0' else 2}"),
]  # fmt: skip
_RESIDUAL = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.", "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
_VAE = [
    (r"encoder\.down_blocks\.(\d)\.resnets", lambda m: f"encoder.down.{m[1]}.block"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", lambda m: f"encoder.down.{m[1]}.downsample"),
    (r"decoder\.up_blocks\.(\d)\.resnets", lambda m: f"decoder.up.{3 - int(m[1])}.block"),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{3 - int(m[1])}.upsample"),
    (r"(\w+)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}"),
    (r"(\w+)\.mid_block\.attentions\.0", lambda m: f"{m[1]}.mid.attn_1"),
    (r"(\w+)\.conv_norm_out", lambda m: f"{m[1]}.norm_out"),
]  # fmt: skip
_ATTENTION = {"group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out."}


def parts(layout: Layout = TINY) -> dict[str, Any]:
    """The five parts with seeded random weights."""
    with tempfile.TemporaryDirectory() as made, torch.random.fork_rng():
        folder = Path(made)
        write(folder, layout)
        torch.manual_seed(0)
        return {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")).eval(),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")).eval(),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")).eval(),
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            "scheduler": PNDMScheduler.from_pretrained(folder, subfolder="scheduler"),
        }


def models() -> Models:
    return Models("tiny", {"tiny": "0" * 64}, parts())


def pipeline(own: dict[str, Any]) -> StableDiffusionPipeline:
    made = StableDiffusionPipeline(**own, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def single_file(own: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors under the names of the published single file, and what else it holds."""
    state = {f"model.diffusion_model.{_unet_name(k)}": v for k, v in own["unet"].state_dict().items()}
    for key, value in own["vae"].state_dict().items():
        name = _vae_name(key)
        is_matrix = ".attn_1." in name and value.ndim == 2  # published as convolutions of one pixel
        state[f"first_stage_model.{name}"] = value[..., None, None] if is_matrix else value
    text = own["text_encoder"].state_dict()
    state |= {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["betas"] = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square().float()
    state["model_ema.decay"] = torch.tensor(0.9999)
    return {key: value.detach().clone().contiguous() for key, value in state.items()}


def _unet_name(key: str) -> str:
    for pattern, name in _UNET:
        if match := re.match(pattern, key):
            rest = key[match.end() :]
            if ".resnets." in key:
                for new, old in _RESIDUAL.items():
                    rest = rest.replace(f".{new}", f".{old}")
            return name(match) + rest
    raise KeyError(key)


def _vae_name(key: str) -> str:
    for pattern, name in _VAE:
        if match := re.match(pattern, key):
            rest = key[match.end() :].replace("conv_shortcut.", "nin_shortcut.")
            if ".attentions." in key:
                for new, old in _ATTENTION.items():
                    rest = rest.replace(f".{new}", f".{old}")
            return name(match) + rest
    return key
