"""CLIP perceptors from openai-clip's classes: ViT and ResNet towers, the architecture read from the weights.

Owns tokenizer, image normalisation and precision. Reads no files.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqclip.generators.blank import blank
from vqclip.job import InputError, Reading, WeightsError
from vqclip.perceptors.openai_clip import CLIP, SimpleTokenizer
from vqclip.perceptors.towers import fast_image_tower
from vqclip.starter.reading import Read, Reader
from vqclip.starter.words import table, vocabulary

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures, RGB in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)
tokenizer = SimpleTokenizer()  # openai-clip's byte pairs, without state
_LARGEST = 1_500_000_000  # parameters; OpenAI's largest (RN50x64) has 623 million
_START, _END = "<|startoftext|>", "<|endoftext|>"


def build(state: Mapping[str, Tensor]) -> CLIP:
    """A frozen float32 `clip.model.CLIP` in eval mode with the weights of a state dict, loaded strictly.

    `state` has openai-clip's key names; `input_resolution`, `context_length` and `vocab_size`, which
    its archives carry as extra entries, are ignored.

    Raises:
        WeightsError: unknown layout, implausible size, missing or surplus keys.
    """
    weights = {
        k: v for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size", "token_ids")
    }
    total = sum(value.numel() for value in weights.values())
    if total > _LARGEST:
        raise WeightsError(f"a CLIP of {total / 1e6:.0f} million parameters; at most {_LARGEST / 1e6:.0f} are expected")
    try:
        with blank():
            model = CLIP(**infer_arguments(weights))
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()}, assign=True)
        # The causal mask is no weight: the class made it on the meta device, so make it again for real.
        for block in model.transformer.resblocks:
            block.attn_mask = model.build_attention_mask()
    except (KeyError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"not a CLIP of OpenAI's layout: {str(error).splitlines()[-1].strip()}") from error
    return model.eval().requires_grad_(requires_grad=False)


def infer_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor arguments of `clip.model.CLIP`, read from the shapes of a state dict."""
    text_width = state["ln_final.weight"].shape[0]
    arguments: dict[str, Any] = {
        "embed_dim": state["text_projection"].shape[1],
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "transformer_width": text_width,
        "transformer_heads": text_width // 64,
        "transformer_layers": _count(state, r"transformer\.resblocks\.(\d+)\."),
    }
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers: int | tuple[int, ...] = _count(state, r"visual\.transformer\.resblocks\.(\d+)\.")
        return arguments | {
            "image_resolution": side * patch,
            "vision_layers": layers,
            "vision_width": width,
            "vision_patch_size": patch,
        }
    side = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    return arguments | {
        "image_resolution": side * 32,  # a stem of stride 4 and three stages of stride 2
        "vision_layers": tuple(_count(state, rf"visual\.layer{i}\.(\d+)\.") for i in (1, 2, 3, 4)),
        "vision_width": state["visual.layer1.0.conv1.weight"].shape[0],
        "vision_patch_size": None,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for key in state if (match := re.match(pattern, key))})


class ClipPerceptor:
    """An openai-clip model as a Perceptor.

    Args:
        model: the frozen network, float32.
        device: where it runs. dtype: precision of the image tower; features come out float32 (float64 where
            it is that).
        token_ids: (K,) BPE ids of the embedding's rows when the vocabulary was cut to the tokens seen
            in training (starter models), None for the full vocabulary.
        too_long: "error" or "truncate", for texts over the context length.
        notice: called with one line when a text is truncated; what cannot be read is for `read` to tell.

    Raises:
        WeightsError: `token_ids` that do not rise.
    """

    def __init__(
        self,
        model: CLIP,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        token_ids: Tensor | None = None,
        too_long: str = "error",
        notice: Callable[[str], None] = warnings.warn,
    ) -> None:
        self._texts = _TextTower(model).to(device)
        self._tower = fast_image_tower(model.visual, dtype).to(device)  # the plain one goes with the caller's model
        self._size, self._context = int(model.visual.input_resolution), int(model.context_length)
        self._exact = torch.promote_types(dtype, torch.float32)
        self._device, self._too_long, self._notice = device, too_long, notice
        if token_ids is not None and bool((token_ids.diff() <= 0).any()):
            raise WeightsError("token_ids of a cut vocabulary are not in rising order")
        self._rows = None if token_ids is None else {int(i): row for row, i in enumerate(token_ids.tolist())}
        self._read = reading_of(token_ids)
        self._mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
        self._deviation = torch.tensor(STD, device=device).view(3, 1, 1)

    @property
    def scale(self) -> float:
        """The factor on cosines that made logits of them in its training."""
        return float(self._texts.logit_scale.exp())

    @property
    def size(self) -> int:
        """Side of the square pictures it looks at, in pixels."""
        return self._size

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        """T texts -> (T, E) float32, rows of length 1 or, without `unit`, as the text tower leaves them.

        Raises:
            InputError: a text has more tokens than the context holds and `too_long` is "error".
        """
        tokens = torch.stack([self._tokens(text) for text in texts]).to(self._device)  # (T, context)
        features: Tensor = self._texts(tokens).to(self._exact)
        return F.normalize(features, dim=-1) if unit else features

    def embed_image(self, crops: Tensor) -> Tensor:
        """(N, 3, size, size) nominally in [0, 1] -> (N, E) float32, unit rows, differentiable."""
        features = self._tower((crops.to(self._device) - self._mean) / self._deviation)
        return F.normalize(features.to(self._exact), dim=-1)

    def _tokens(self, text: str) -> Tensor:
        """Start token, words, end token, zeros: (context,) int64 row numbers of the token embedding.

        openai-clip takes the position of the largest number for the end of the text, so the end token
        keeps the highest row.
        """
        context = self._context
        body = tokenizer.encode(self.read(text).text)
        if len(body) > context - 2:
            given = f"{text[:60]!r} has {len(body)} tokens; this CLIP reads {context - 2}"
            if self._too_long == "error":
                raise InputError(f"prompt {given} (too_long: truncate would cut it)")
            self._notice(f"prompt {given}: the rest is cut off")
            body = body[: context - 2]
        row = torch.zeros(context, dtype=torch.int64)
        ids = [special_tokens()[0], *body, special_tokens()[1]]
        row[: len(ids)] = torch.tensor(ids if self._rows is None else [self._rows[i] for i in ids])
        return row

    def read(self, text: str) -> Reading:
        """What a cut vocabulary makes of a text (see `vqclip.starter.reading`); a full one reads it as it is."""
        return self._read(text)


class _TextTower(nn.Module):
    """What openai-clip's `encode_text` does, with its own parts; its class asks the image tower for a precision."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.token_embedding, self.positional_embedding = model.token_embedding, model.positional_embedding
        self.transformer, self.ln_final = model.transformer, model.ln_final
        self.text_projection, self.logit_scale = model.text_projection, model.logit_scale

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, context) int64 rows of the token embedding -> (T, E)."""
        x = self.token_embedding(tokens) + self.positional_embedding  # (T, context, width)
        x = self.ln_final(self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2))
        features: Tensor = x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ self.text_projection
        return features


def reading_of(token_ids: Tensor | None) -> Read:
    """How a text is read with a vocabulary that was cut to these BPE ids, (K,); None is the full vocabulary.

    A word is known when it has all its tokens and was one of the captions' words, or is one token that is no mere
    part of those.
    """
    if token_ids is None:
        return Reading
    rows, words = frozenset(token_ids.tolist()), vocabulary()["words"]
    spelt = [ids for ids in (tokenizer.encode(word) for word in words) if len(ids) > 1]
    parts = {number for ids in spelt for number in ids}

    def knows(word: str) -> bool:
        ids = tokenizer.encode(word)
        whole = word in words or (len(ids) == 1 and ids[0] not in parts)
        return whole and all(number in rows for number in ids)

    return Reader(knows, table())


@cache
def special_tokens() -> tuple[int, int]:
    """BPE ids of the start and the end of a text."""
    return tokenizer.encoder[_START], tokenizer.encoder[_END]


def token_ids(text: str) -> list[int]:
    """BPE ids of a text in the full vocabulary, without start and end."""
    ids: list[int] = tokenizer.encode(text)
    return ids
