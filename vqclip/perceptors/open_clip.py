"""CLIP perceptors from the optional package open_clip; the one file that imports it, and only when asked to.

The caller names the architecture: LAION's and DataComp's ViT-B-32 have the very keys of OpenAI's, but other
activations (GELU, not QuickGELU), and weights in the wrong one load well and see badly. Hence a config names
such a model by its catalogue name or as "open_clip:ViT-B-32-256:/path/file.safetensors", with the tag of
published weights where it matters: "open_clip:ViT-L-14@laion2b_s32b_b82k:/path/file.safetensors".

Owns tokenizer, image normalisation and precision. Reads no weight files and fetches nothing.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqclip.config.paths import OPEN_CLIP
from vqclip.job import InputError, Reading, WeightsError

PREFIX = OPEN_CLIP
_NAME = re.compile(r"open_clip:([^:@]+)(?:@([^:@]+))?:(.+)")
_FOREIGN = ("visual.trunk.", "visual.head.", "visual.attn_pool.", "text.", "text_decoder.", "logit_bias")
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # extra entries of OpenAI's archives


class Named(NamedTuple):
    """What a config value names: an architecture, the tag of published weights or None, and a path."""

    model: str
    tag: str | None
    path: str


def parse(name: str) -> Named:
    """The parts of "open_clip:MODEL:PATH" or "open_clip:MODEL@TAG:PATH"; anything else raises InputError."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} names no open_clip model; write {PREFIX}MODEL:PATH or {PREFIX}MODEL@TAG:PATH")
    return Named(match[1], match[2], match[3])


def looks_like_open_clip(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys of a state dict are ones that OpenAI's layout never has: timm trunks, text towers of their own.

    False proves nothing: open_clip's plain ViTs and ResNets have OpenAI's keys, and no tensor tells which
    activation they were trained with. There only the name of the architecture decides.
    """
    return any(key.removeprefix("module.").startswith(_FOREIGN) for key in state)


def build(state: Mapping[str, Tensor], *, model: str, tag: str | None = None) -> nn.Module:
    """A frozen float32 open_clip network in eval mode with the weights of `state`, loaded strictly.

    Args:
        state: a state dict in open_clip's layout of that architecture, of any float type.
        model: open_clip's name of the architecture, such as "ViT-B-32-256" or "ViT-B-32-quickgelu".
        tag: open_clip's name of the published weights, such as "datacomp_s34b_b86k". It decides mean and
            deviation of the pictures. Without it all published weights of that architecture must agree
            on them; where none are published, open_clip's own defaults hold.

    Raises:
        InputError: no package, no such architecture or tag, a tag trained with the other activation.
        WeightsError: keys or shapes are not those of the architecture.
    """
    package = _package()
    forced = _normalisation(package, _architecture(package, model), model=model, tag=tag)
    with _quiet(), torch.random.fork_rng(devices=[]):  # it draws weights, only to have them replaced
        network: nn.Module = package.create_model(
            model, load_weights=False, pretrained_image=False, pretrained_text=False, force_preprocess_cfg=forced
        )
    network.load_state_dict(_fitted(state, network.state_dict(), model), assign=True)
    return network.eval().requires_grad_(requires_grad=False)


class OpenClipPerceptor:
    """An open_clip network as a Perceptor.

    Mean, deviation and size come from the network's own preprocessing, the context from its tokenizer.
    How open_clip would resize pictures does not matter: crops arrive square and at the right size.

    Args:
        network: what `build` returned. model: the name of its architecture, which picks the tokenizer.
        device: where it runs. dtype: precision of the image tower, through autocast; features come out
            float32, and texts are read in float32.
        too_long: "error" or "truncate", for texts over the context length.
        notice: called with one line when a text is truncated.

    Raises InputError for a missing package, a tokenizer that is not here, a network for oblong pictures.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        model: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        too_long: str = "error",
        notice: Callable[[str], None] = warnings.warn,
    ) -> None:
        package = _package()
        self._network: Any = network.to(device)
        self._tokenizer = _tokenizer(package, model)
        self._device, self._dtype, self._too_long, self._notice = device, dtype, too_long, notice
        seen = package.get_model_preprocess_cfg(network)
        sides = {seen["size"]} if isinstance(seen["size"], int) else set(seen["size"])
        if len(sides) > 1:
            raise InputError(f"open_clip's {model} looks at pictures of {seen['size']}; only square ones are supported")
        self._size = int(sides.pop())
        self._mean = torch.tensor(seen["mean"], device=device).view(3, 1, 1)
        self._deviation = torch.tensor(seen["std"], device=device).view(3, 1, 1)

    @property
    def scale(self) -> float:
        """The factor on cosines that made logits of them in its training."""
        return float(self._network.logit_scale.exp())

    @property
    def size(self) -> int:
        """Side of the square pictures it looks at, in pixels."""
        return self._size

    def read(self, text: str) -> Reading:
        """The text as it is: a full vocabulary has a token for every word."""
        return Reading(text)

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        """T texts -> (T, E) float32, rows of length 1 or, without `unit`, as the text tower leaves them.

        InputError for one too long where `too_long` is "error".
        """
        features: Tensor = self._network.encode_text(self.tokens(texts).to(self._device)).float()
        return F.normalize(features, dim=-1) if unit else features

    def embed_image(self, crops: Tensor) -> Tensor:
        """(N, 3, size, size) nominally in [0, 1] -> (N, E) float32, unit rows, differentiable."""
        pixels = (crops.to(self._device) - self._mean) / self._deviation
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            features = self._network.encode_image(pixels)
        return F.normalize(features.float(), dim=-1)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """T texts -> (T, context) int64 on the CPU, by open_clip's tokenizer; InputError for one that is too long."""
        for text in texts:
            count, room = self._count(text)
            if count > room:
                given = f"{text[:60]!r} has {count} tokens; this CLIP reads {room}"
                if self._too_long == "error":
                    raise InputError(f"prompt {given} (too_long: truncate would cut it)")
                self._notice(f"prompt {given}: the rest is cut off")
        rows: Tensor = self._tokenizer(list(texts))
        return rows

    def _count(self, text: str) -> tuple[int, int]:
        """How many tokens the text has and how many fit, both without start, end and class tokens."""
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "encode"):  # open_clip's own byte pairs: a start and an end
            return len(tokenizer.encode(text)), tokenizer.context_length - 2
        split, cleaned = tokenizer.tokenizer, tokenizer.clean_fn(text)
        body, whole = (
            len(split(cleaned, add_special_tokens=special, padding=False, truncation=False).input_ids)
            for special in (False, True)
        )
        around = 3 if tokenizer.tokenizer_mode == "clips" else whole - body  # that mode adds its own three
        return body, tokenizer.context_length - around


def _package() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise InputError(f"open_clip models need a package more: pip install open-clip-torch ({error})") from error
    return open_clip


def _architecture(package: Any, model: str) -> dict[str, Any]:
    """open_clip's config of a built-in architecture. Names with a schema, which may fetch, are none."""
    known = package.list_models()
    if model not in known:
        near = ", ".join(difflib.get_close_matches(model, known, n=3, cutoff=0.3))
        raise InputError(f"open_clip has no architecture {model!r}; near: {near or ', '.join(known[:3])}")
    config: dict[str, Any] = package.get_model_config(model)
    if "hf_model_name" in config["text_cfg"]:
        raise InputError(f"open_clip's {model} takes its text tower from the Hugging Face hub, which is not supported")
    return config


def _normalisation(package: Any, config: Mapping[str, Any], *, model: str, tag: str | None) -> dict[str, Any]:
    """Mean and deviation of published weights: create_model alone gives OpenAI's to every architecture."""
    known = package.list_pretrained_tags_by_model(model)
    if tag is not None and tag not in known:
        raise InputError(f"open_clip has no weights {tag!r} of {model}; published: {', '.join(known) or 'none'}")
    published = [package.get_pretrained_cfg(model, each) for each in ([tag] if tag else known)]
    if tag and (quick := bool(published[0].get("quick_gelu"))) != bool(config.get("quick_gelu")):
        other = f"{model}-quickgelu" if quick else model.removesuffix("-quickgelu")
        raise InputError(f"{tag} was trained with another activation than {model} has; name {other}")
    if len({(tuple(each["mean"]), tuple(each["std"])) for each in published}) > 1:
        raise InputError(f"{model}: its weights differ in mean and deviation; write {model}@TAG, of {', '.join(known)}")
    return {key: tuple(published[0][key]) for key in ("mean", "std")} if published else {}


def _tokenizer(package: Any, model: str) -> Any:
    """The tokenizer of an architecture: open_clip's own, or the hub's as far as it lies in the hub's local cache.

    Hub tokenizers are read as a folder: even `local_files_only` with a name makes the hub's client connect.
    """
    text = _architecture(package, model)["text_cfg"]
    if not (hub := text.get("hf_tokenizer_name")):
        return package.get_tokenizer(model)
    try:
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(found := try_to_load_from_cache(hub, "tokenizer_config.json"), str):
            raise FileNotFoundError(hub)
        options = {"tokenizer_mode": text.get("tokenizer_mode")} | text.get("tokenizer_kwargs", {})
        return package.tokenizer.HFTokenizer(os.path.dirname(found), text["context_length"], **options)
    except (OSError, ImportError, ValueError) as error:
        way = f"pip install transformers, then once: python -c \"import open_clip; open_clip.get_tokenizer('{model}')\""
        raise InputError(f"open_clip's {model} needs the tokenizer {hub}, which is not here: {way}") from error


def _fitted(state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    """The tensors of `state` under the names and in the types of `own`; nothing is resized or left out."""
    weights = {key.removeprefix("module."): value for key, value in state.items() if key not in _NO_WEIGHTS}
    for key in ("logit_scale", "logit_bias"):  # of the training loss; saved as () or as (1,)
        if key in own and key in weights and weights[key].numel() == 1:
            weights[key] = weights[key].reshape(own[key].shape)
    shared = own.keys() & weights.keys()
    faults = {
        "missing": own.keys() - shared,
        "unknown": weights.keys() - shared,
        "misshapen": {key for key in shared if _form(own[key]) != _form(weights[key])},
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {fault} ({min(keys)[:60]!r})" for fault, keys in faults.items() if keys)
        raise WeightsError(f"not the weights of open_clip's {model}: {listed}")
    return {key: value.to(own[key].dtype) for key, value in weights.items()}


def _form(value: Tensor) -> tuple[torch.Size, bool]:
    return value.shape, value.is_floating_point()  # whole numbers in place of floats are a quantised model


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back that the weights are random, which they are not for long. open_clip logs through `logging` itself."""
    root, handler = logging.getLogger(), logging.NullHandler()  # without a handler it would be given one for good
    root.addHandler(handler)
    root.addFilter(others := lambda record: "open_clip" not in record.pathname)
    try:
        yield
    finally:
        root.removeFilter(others)
        root.removeHandler(handler)
