"""The guide's CLIP in the form that Kandinsky's prior pipeline takes: tokenizer, text encoder and image encoder.

Converts a network that is already built; reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BatchEncoding, CLIPImageProcessor, CLIPTextConfig, CLIPTextModelWithProjection

from vqclip.job import WeightsError
from vqclip.perceptors import clip
from vqclip.perceptors.clip import tokenizer as byte_pairs
from vqclip.starter.reading import Read


class Tokenizer:
    """openai-clip's byte-pair tokens as rows of a cut token table, called as the pipelines call a CLIPTokenizer.

    Args:
        token_ids: (K,) rising BPE ids of the table's rows; None for the full table.
        context: the longest sequence, start and end included.
        read: how the guide reads a text, in words whose tokens all have a row.

    Raises:
        WeightsError: ids that do not rise.
    """

    def __init__(self, token_ids: Tensor | None, context: int, read: Read) -> None:
        if token_ids is not None and bool((token_ids.diff() <= 0).any()):
            raise WeightsError("token_ids of a cut vocabulary are not in rising order")
        ids = range(clip.special_tokens()[1] + 1) if token_ids is None else token_ids.tolist()
        self._ids = list(ids)
        self._rows = {number: row for row, number in enumerate(self._ids)}
        self._read = read
        self.model_max_length = context

    def __call__(
        self, text: str | Sequence[str], *, padding: str = "longest", max_length: int | None = None,
        truncation: bool = False, return_tensors: str = "pt",
    ) -> BatchEncoding:  # fmt: skip
        """Texts -> `input_ids` (B, L) int64 and `attention_mask` (B, L), 1 up to the end token.

        `padding` is "longest" or "max_length" (of `max_length`, or the context); `truncation` cuts at that length and
        keeps the end token.
        """
        if padding not in ("longest", "max_length") or return_tensors != "pt":
            raise ValueError(f"padding {padding!r}, return_tensors {return_tensors!r}: longest or max_length, and pt")
        limit = max_length or self.model_max_length
        lines = [self._encode(each) for each in ([text] if isinstance(text, str) else text)]
        if truncation:
            lines = [line if len(line) <= limit else [*line[: limit - 1], line[-1]] for line in lines]
        length = limit if padding == "max_length" else max(map(len, lines))
        table, mask = torch.zeros(2, len(lines), max(length, *map(len, lines), 1), dtype=torch.int64)
        for row, line in enumerate(lines):
            table[row, : len(line)], mask[row, : len(line)] = torch.tensor(line), 1
        return BatchEncoding({"input_ids": table, "attention_mask": mask})

    def batch_decode(self, rows: Tensor, **_options: Any) -> list[str]:
        """The texts of table rows (B, L)."""
        return [byte_pairs.decode([self._ids[row] for row in line]) for line in rows.tolist()]

    def _encode(self, text: str) -> list[int]:
        start, end = clip.special_tokens()
        return [self._rows[number] for number in (start, *byte_pairs.encode(self._read(text).text), end)]


class TextEncoder(CLIPTextModelWithProjection):  # type: ignore[no-untyped-call]  # what transformers runs for subclasses
    """A text tower whose hidden states leave through the text projection too.

    PriorTransformer has one width for embeddings and hidden states; the small tower's states are narrower.
    """

    def forward(self, input_ids: Tensor | None = None, **options: Any) -> Any:
        """(B, L) rows -> `text_embeds` (B, E) and `last_hidden_state` (B, L, E)."""
        out = super().forward(input_ids, **options)
        out.last_hidden_state = self.text_projection(out.last_hidden_state)
        return out


def text_encoder(model: Any) -> TextEncoder:
    """The text tower of a clip.model.CLIP, float32, frozen."""
    rows, width = model.token_embedding.weight.shape
    config = CLIPTextConfig(
        vocab_size=rows, hidden_size=width, projection_dim=model.text_projection.shape[1], intermediate_size=4 * width,
        num_attention_heads=width // 64, num_hidden_layers=model.transformer.layers, hidden_act="quick_gelu",
        max_position_embeddings=model.context_length, bos_token_id=rows - 2, eos_token_id=rows - 1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        encoder = TextEncoder(config)
    encoder.load_state_dict(_rename(model.state_dict()))
    encoder.train(mode=False).requires_grad_(requires_grad=False)
    return encoder


def _rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """openai-clip's text tower under the names of transformers; its joint q, k, v are taken apart."""
    names = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    made = {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.final_layer_norm.weight": state["ln_final.weight"],
        "text_model.final_layer_norm.bias": state["ln_final.bias"],
        "text_projection.weight": state["text_projection"].T,
    }
    for key, value in state.items():
        found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", key)
        if found is None:
            continue
        layer, place = f"text_model.encoder.layers.{found[1]}", found[2]
        if place == "attn.in_proj":
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                made[f"{layer}.self_attn.{letter}_proj.{found[3]}"] = part
        else:
            made[f"{layer}.{names[place]}.{found[3]}"] = value
    return {key: value.clone().contiguous() for key, value in made.items()}


class ImageEncoder(nn.Module):
    """A CLIP image tower that answers like a CLIPVisionModelWithProjection.

    Its embeddings have unit length times sqrt(E), so that their numbers are of order 1 as a diffusion model needs.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.config = SimpleNamespace(image_size=int(tower.input_resolution))  # type: ignore[arg-type]  # an int

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """(B, 3, size, size) pictures, normalised with CLIP's mean and deviation -> {"image_embeds": (B, E)}."""
        features = F.normalize(self.tower(pixel_values).float(), dim=-1)
        return {"image_embeds": (features * features.shape[-1] ** 0.5).to(self.dtype)}


def image_processor(size: int) -> CLIPImageProcessor:
    """PIL pictures -> the pixel values that `ImageEncoder` takes: shorter side to `size`, centre, normalised."""
    crop = {"height": size, "width": size}
    return CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size=crop, image_mean=list(clip.MEAN), image_std=list(clip.STD)
    )
