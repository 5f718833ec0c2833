"""What Stable Diffusion 1.5 consists of: writes its configuration files, and tells it from its relatives.

Reads no weights and builds no network. The numbers are those of the published model's configuration.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from vqclip.job import WeightsError

PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")  # of one file that holds all
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
CONTEXT = 77  # tokens of a prompt, with start and end
START, END = 49406, 49407  # those two tokens
REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
FILE = "v1-5-pruned-emaonly.safetensors"
NEEDED = f"Stable Diffusion 1.5 is needed, such as {FILE} (`hf download {REPOSITORY} {FILE} --local-dir weights`)"
# Time steps, and how noise grows over them: the square root of beta is linear.
NOISE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
}  # fmt: skip
_CONTEXTS = {1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL", 1280: "Stable Diffusion XL's refiner"}
_INPUTS = {9: "an inpainting model", 8: "a model that edits pictures", 5: "a depth model", 7: "an upscaler"}
_OTHERS = {
    "label_emb.": "Stable Diffusion XL", "joint_blocks.": "Stable Diffusion 3", "double_blocks.": "Flux",
    "down_blocks.": "a network of diffusers without its folder",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Widths and depths of the three networks; the defaults are Stable Diffusion 1.5.

    unet, vae: channels of each level, 4 levels either. layers: residual blocks a level. heads: of
    attention in the unet. context: width of the text encoder, which the unet attends to, with
    `text_layers` layers of `text_heads` heads and an inner width of 4 * `context`.
    """

    unet: tuple[int, int, int, int] = (320, 640, 1280, 1280)
    vae: tuple[int, int, int, int] = (128, 256, 512, 512)
    layers: int = 2
    heads: int = 8
    context: int = 768
    text_layers: int = 12
    text_heads: int = 12

    def configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of every part, by the name of its folder and file."""
        sampler = {"_class_name": "PNDMScheduler", **NOISE, "skip_prk_steps": True, "set_alpha_to_one": False}
        return {
            "scheduler/scheduler_config.json": {**sampler, "steps_offset": 1, "clip_sample": False},
            "unet/config.json": self._unet(),
            "vae/config.json": self._vae(),
            "text_encoder/config.json": self._text(),
            "tokenizer/tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT},
            "model_index.json": {
                "_class_name": "StableDiffusionPipeline",
                "scheduler": ["diffusers", "PNDMScheduler"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "safety_checker": [None, None],
                "feature_extractor": [None, None],
                "requires_safety_checker": False,
            },
        }

    def _unet(self) -> dict[str, Any]:
        return {
            "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
            "block_out_channels": list(self.unet), "layers_per_block": self.layers,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "attention_head_dim": self.heads,  # diffusers means the number of heads by it
            "cross_attention_dim": self.context,
        }  # fmt: skip

    def _vae(self) -> dict[str, Any]:
        return {
            "_class_name": "AutoencoderKL", "sample_size": 512, "in_channels": 3, "out_channels": 3,
            "block_out_channels": list(self.vae), "layers_per_block": self.layers, "latent_channels": 4,
            "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
            "scaling_factor": 0.18215,  # makes the latents' deviation 1
        }  # fmt: skip

    def _text(self) -> dict[str, Any]:
        return {
            "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu",
            "hidden_size": self.context, "projection_dim": self.context, "intermediate_size": 4 * self.context,
            "num_attention_heads": self.text_heads, "num_hidden_layers": self.text_layers,
            "max_position_embeddings": CONTEXT, "vocab_size": END + 1,
            "bos_token_id": START, "eos_token_id": END, "pad_token_id": END,
        }  # fmt: skip


def write(folder: Path, layout: Layout) -> None:
    """Write the configuration and the vocabulary into `folder`: all that diffusers asks the network for."""
    for name, content in layout.configs().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    tokens, merges = vocabulary()
    lines = "".join(f"{merge}\n" for merge in ("#version: 0.2", *merges))
    (folder / "tokenizer" / "merges.txt").write_text(lines, encoding="utf-8")
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """The 49,408 tokens by text, and the 48,894 merges in the order in which they apply.

    The text encoder is that of a CLIP of OpenAI, so both follow from the list of merges in openai-clip (MIT):
    a character for each byte, the same at the end of a word, one token for every merge, start and end. Printable
    bytes stand for themselves, the others for characters from 256 on.
    """
    spec = find_spec("clip")  # found, not imported: the package's start announces the end of another
    assert spec is not None  # it is a dependency
    (place,) = spec.submodule_search_locations or [""]
    packed = (Path(place) / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode("utf-8").split("\n")[1 : START - 2 * 256 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    return {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}, merges


def check_file(state: Mapping[str, Tensor], layout: Layout, wanted: Mapping[str, tuple[int, int]]) -> None:
    """Raise WeightsError, one line, unless `state` is one whole model of this layout.

    Args:
        state: the state dict of the published single file.
        layout: the widths to be found in it.
        wanted: by the prefix of each part, how many tensors it has and how many numbers they hold.
    """
    names = {key.removeprefix(UNET) for key in state if key.startswith(UNET)}
    for start, kind in _OTHERS.items():
        if any(name.startswith(start) for name in names):
            raise WeightsError(f"is {kind}; {NEEDED}")
    if "input_blocks.0.0.weight" not in names:
        raise WeightsError(f"has no image network (tensors {UNET}*): is it a part or an addition? {NEEDED}")
    reader = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    check_widths(_side(state, f"{UNET}input_blocks.0.0.weight"), _side(state, reader), layout.context)
    for prefix, (count, numbers) in wanted.items():
        own = [value for key, value in state.items() if key.startswith(prefix) and not is_surplus(key)]
        found = (len(own), sum(value.numel() for value in own))
        if found != (count, numbers):
            given = f"{found[0]} tensors {prefix}* with {found[1]:,} numbers" if own else f"no tensors {prefix}*"
            raise WeightsError(f"has {given}; {count} with {numbers:,} are needed: cut off, or another model. {NEEDED}")


def check_widths(inputs: Any, context: Any, wanted: Any) -> None:
    """Raise WeightsError for a unet of other input channels than 4, or that reads texts of another width.

    All three come from files that nobody vouches for, so that they may be anything.
    """
    if inputs != 4:
        kind = _INPUTS.get(inputs, "another model") if isinstance(inputs, int) else "another model"
        raise WeightsError(f"is {kind} (its unet takes {inputs!s:.20} channels, not 4); {NEEDED}")
    if context != wanted or context in _CONTEXTS:
        kind = _CONTEXTS.get(context, "another model") if isinstance(context, int) else "another model"
        raise WeightsError(f"is {kind} (its unet reads texts {context!s:.20} numbers wide); {NEEDED}")


def _side(state: Mapping[str, Tensor], key: str) -> int | None:
    shape = state[key].shape if key in state else ()
    return shape[1] if len(shape) > 1 else None


def is_surplus(key: str) -> bool:
    """Numbers that some files keep and no network needs: 0 .. 76, and losses of the autoencoder."""
    return key.endswith(".position_ids") or key.startswith((f"{VAE}loss.", f"{VAE}model_ema."))


def sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many tensors a state dict has, and how many numbers in them."""
    return len(state), sum(math.prod(value.shape) for value in state.values())
