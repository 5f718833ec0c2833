"""Opens the small Kandinsky 2.2 that ships with the package: both halves from starter files and the guide's own file.

Reads files through vqclip.weights.load alone, checks every constructor argument that a file names, and fetches
nothing. Does not run the pipelines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BatchEncoding, CLIPImageProcessor, CLIPTextConfig, CLIPTextModelWithProjection

from vqclip.backends.diffusion import quiet
from vqclip.job import WeightsError
from vqclip.perceptors import clip
from vqclip.perceptors.clip import tokenizer as byte_pairs
from vqclip.starter.reading import Read
from vqclip.weights import convert, likeness
from vqclip.weights import load as weights
from vqclip.weights.load import Weights


class Tokenizer:
    """openai-clip's byte-pair tokens as rows of a cut token table, called as the pipelines call a CLIPTokenizer.

    Args:
        token_ids: (K,) rising BPE ids of the table's rows; None for the full table.
        context: the longest sequence, start and end included.
        read: how the guide reads a text, in words whose tokens all have a row.
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


Check = Callable[[Any], bool]

GUIDE = "starter/guide-rn"
PRIOR, UNET, MOVQ = "starter/kandinsky-prior", "starter/kandinsky-unet", "starter/kandinsky-movq"
_CPU = torch.device("cpu")
# The decoder's noise schedule is Kandinsky 2.2's. Unlike there the network guesses velocity, which a small one learns
# sooner, and nothing is clipped at 1, since the latents have unit deviation.
DECODER_NOISE: Mapping[str, Any] = {
    "num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012,
    "prediction_type": "v_prediction", "clip_sample": False, "steps_offset": 1,
}  # fmt: skip
PRIOR_NOISE: Mapping[str, Any] = {
    "num_train_timesteps": 1000, "variance_type": "fixed_small_log", "prediction_type": "sample",
    "clip_sample": True, "clip_sample_range": 10.0,
}  # fmt: skip


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _one(*allowed: Any) -> Check:
    return lambda value: any(type(value) is type(each) and value == each for each in allowed)


def _several(check: Check, most: int = 6) -> Check:
    return lambda value: isinstance(value, list) and 1 <= len(value) <= most and all(check(each) for each in value)


# Every constructor argument that a file may give, and the values that it may have.
_ARGUMENTS: Mapping[str, Mapping[str, Check]] = {
    "kandinsky-prior": {
        "num_attention_heads": _whole(1, 32), "attention_head_dim": _whole(4, 128), "num_layers": _whole(1, 24),
        "embedding_dim": _whole(4, 2048), "num_embeddings": _whole(2, 77), "additional_embeddings": _one(4),
    },
    "kandinsky-unet": {
        "sample_size": _whole(1, 128), "in_channels": _one(4), "out_channels": _one(8),
        "addition_embed_type": _one("image"), "encoder_hid_dim_type": _one("image_proj"),
        "resnet_time_scale_shift": _one("scale_shift"), "mid_block_type": _one("UNetMidBlock2DSimpleCrossAttn"),
        "down_block_types": _several(_one("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")),
        "up_block_types": _several(_one("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D")),
        "block_out_channels": _several(_whole(4, 768)), "layers_per_block": _whole(1, 4),
        "encoder_hid_dim": _whole(4, 2048), "cross_attention_dim": _whole(4, 1024),
        "attention_head_dim": _whole(2, 128), "norm_num_groups": _whole(1, 32),
    },
    "kandinsky-movq": {
        "in_channels": _one(3), "out_channels": _one(3), "latent_channels": _one(4), "vq_embed_dim": _one(4),
        "num_vq_embeddings": _whole(1, 16384), "block_out_channels": _several(_whole(32, 512)),
        "layers_per_block": _whole(1, 4), "norm_num_groups": _whole(1, 32), "norm_type": _one("spatial"),
        "down_block_types": _several(_one("DownEncoderBlock2D", "AttnDownEncoderBlock2D")),
        "up_block_types": _several(_one("UpDecoderBlock2D", "AttnUpDecoderBlock2D")),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Starter:
    """One half of the small Kandinsky, read and not yet built.

    name: for people and as the key of what was made with it. hashes: SHA-256 of its files, by part. read: how its
        guide reads a text, None for the half that reads none. eyes: sketches of the CLIP among them.
    """

    name: str
    hashes: Mapping[str, str]
    build: Callable[[], Any]
    read: Read | None = None
    eyes: Mapping[str, str] = field(default_factory=dict)

    def open(self, *, dtype: torch.dtype = torch.float32, device: torch.device = _CPU) -> Any:
        """The ready pipeline: a KandinskyV22PriorPipeline or a KandinskyV22Pipeline.

        Args:
            dtype: of all its networks. device: where they are put.

        Raises:
            WeightsError: weights that do not fit what their file says of them.
        """
        with quiet():  # every move to a precision is commented on, also where nothing is at stake
            return self.build().to(device, dtype)


def find_prior(prior: str = PRIOR, guide: str = GUIDE) -> Starter:
    """The half that turns texts and pictures into image embeddings; both are names or paths of weight files.

    Raises:
        InputError: no such starter model. WeightsError: a missing or damaged file, another kind of file, arguments
            out of bounds, or a prior that was trained with another guide.
    """
    seer, file = _load(guide), _load(prior)
    arguments = _read_arguments(file, "kandinsky-prior")
    given, wanted = file.trained_with("guide"), convert.digest_of(seer.state)
    if given != wanted:
        raise WeightsError(f"{file.path}: was trained with another guide than {seer.path}; the two belong together")
    hashes = {"prior": file.sha256, "guide": seer.sha256}
    read = clip.reading_of(seer.state.get("token_ids"))
    eyes = {"guide": likeness.sketch(seer.state)}
    return Starter(file.name, hashes, lambda: _build_prior(file, arguments, seer, read), read, eyes)


def find_decoder(unet: str = UNET, movq: str = MOVQ) -> Starter:
    """The half that turns image embeddings into pictures of at least 64 pixels; both are names or paths.

    Raises:
        InputError: no such starter model. WeightsError: as for `find_prior`.
    """
    files = {"unet": _load(unet), "movq": _load(movq)}
    arguments = {part: _read_arguments(file, f"kandinsky-{part}") for part, file in files.items()}
    hashes = {part: file.sha256 for part, file in files.items()}
    return Starter(files["unet"].name, hashes, lambda: _build_decoder(files, arguments))


def open_prior(*, dtype: torch.dtype = torch.float32, device: torch.device = _CPU) -> Any:
    """The KandinskyV22PriorPipeline of the starter files; see `Starter.open`."""
    return find_prior().open(dtype=dtype, device=device)


def open_decoder(
    *, dtype: torch.dtype = torch.float32, device: torch.device = _CPU, image_to_image: bool = False
) -> Any:
    """The KandinskyV22Pipeline of the starter files, or with the same parts the KandinskyV22Img2ImgPipeline."""
    pipe = find_decoder().open(dtype=dtype, device=device)
    return as_image_to_image(pipe) if image_to_image else pipe


def as_image_to_image(pipe: Any) -> Any:
    """A KandinskyV22Img2ImgPipeline that shares the networks of a KandinskyV22Pipeline."""
    from diffusers import KandinskyV22Img2ImgPipeline

    make: Any = KandinskyV22Img2ImgPipeline
    return make(**pipe.components)


def _load(name: str) -> Weights:
    return weights.load(weights.find(name, role="kandinsky"), parts=("",))


def _read_arguments(file: Weights, kind: str) -> dict[str, Any]:
    """The constructor arguments in a file's metadata; nothing but the listed names and values passes."""
    found = file.metadata.get("kind")
    if found != kind:
        raise WeightsError(f"{file.path}: holds {ascii(found)[:60]}; {kind!r} is needed")
    given, checks = _read_json(file, "architecture"), _ARGUMENTS[kind]
    for name, value in given.items():
        if name not in checks:
            raise WeightsError(f"{file.path}: architecture names {ascii(name)[:60]}, which is no argument of {kind}")
        if not checks[name](value):
            raise WeightsError(f"{file.path}: architecture.{name} is {ascii(value)[:60]}, which {kind} can not have")
    if missing := sorted(set(checks) - set(given)):
        raise WeightsError(f"{file.path}: architecture lacks {', '.join(missing)}")
    return given


def _read_json(file: Weights, key: str) -> dict[str, Any]:
    try:
        read = json.loads(file.metadata[key])
    except (KeyError, TypeError, ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise WeightsError(f"{file.path}: its metadata has no readable {key!r}")
    return read


def _fill(make: Callable[..., Any], arguments: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Any:
    """A frozen float32 network in eval mode with exactly these weights; the global random numbers stay untouched."""
    values = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            model = make(**arguments)
        model.load_state_dict(values)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as error:
        said = " ".join(str(error).split())[:160]
        raise WeightsError(f"{where}: the weights do not fit their architecture ({said})") from error
    return model.eval().requires_grad_(requires_grad=False)


def _build_prior(file: Weights, arguments: Mapping[str, Any], seer: Weights, read: Read) -> Any:
    from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler

    from vqclip.backends.kandinsky import starter as eyes

    model = clip.build(seer.state)
    wide, context = int(model.text_projection.shape[1]), int(model.context_length)
    for name, value in (("embedding_dim", wide), ("num_embeddings", context)):
        if arguments[name] != value:
            raise WeightsError(f"{file.path}: {name} is {arguments[name]}; {seer.path} has {value}")
    make: Any = KandinskyV22PriorPipeline
    make_noise: Any = UnCLIPScheduler
    return make(
        prior=_fill(PriorTransformer, arguments, file.state, str(file.path)),
        image_encoder=eyes.ImageEncoder(model.visual),
        text_encoder=eyes.text_encoder(model),
        tokenizer=eyes.Tokenizer(seer.state.get("token_ids"), context, read),
        scheduler=make_noise(**PRIOR_NOISE),
        image_processor=eyes.image_processor(model.visual.input_resolution),
    )


def _build_decoder(files: Mapping[str, Weights], arguments: Mapping[str, Mapping[str, Any]]) -> Any:
    from diffusers import DDPMScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel

    kinds: Mapping[str, Any] = {"unet": UNet2DConditionModel, "movq": VQModel}
    nets = {part: _fill(kinds[part], arguments[part], file.state, str(file.path)) for part, file in files.items()}
    make: Any = KandinskyV22Pipeline
    make_noise: Any = DDPMScheduler
    return make(**nets, scheduler=make_noise(**DECODER_NOISE))
