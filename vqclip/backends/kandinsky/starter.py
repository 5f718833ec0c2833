"""Opens the small Kandinsky 2.2 that ships with the package: both halves from starter files and the guide's own file.

Reads files through vqclip.weights.load alone, checks every constructor argument that a file names, and fetches
nothing. Does not run the pipelines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vqclip.backends.diffusion import quiet
from vqclip.job import WeightsError
from vqclip.perceptors import clip
from vqclip.starter.reading import Read
from vqclip.weights import convert, likeness
from vqclip.weights import load as weights
from vqclip.weights.load import Weights

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
        guide reads a text, None for the half that reads none. sketches: of the CLIP among them.
    """

    name: str
    hashes: Mapping[str, str]
    build: Callable[[], Any]
    read: Read | None = None
    sketches: Mapping[str, str] = field(default_factory=dict)

    def open(self, *, dtype: torch.dtype = torch.float32, device: torch.device = _CPU) -> Any:
        """The ready pipeline: a KandinskyV22PriorPipeline or a KandinskyV22Pipeline.

        Args:
            dtype: of all its networks.
            device: where they are put.

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
    sketches = {"guide": likeness.sketch(seer.state)}
    return Starter(file.name, hashes, lambda: _build_prior(file, arguments, seer, read), read, sketches)


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
    """The KandinskyV22PriorPipeline of the starter files, as `Starter.open`.

    Raises:
        WeightsError: as for `find_prior`.
    """
    return find_prior().open(dtype=dtype, device=device)


def open_decoder(
    *, dtype: torch.dtype = torch.float32, device: torch.device = _CPU, image_to_image: bool = False
) -> Any:
    """The KandinskyV22Pipeline of the starter files, or with the same parts the KandinskyV22Img2ImgPipeline.

    Raises:
        WeightsError: as for `find_decoder`.
    """
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

    from vqclip.backends.kandinsky import encoders

    model = clip.build(seer.state)
    wide, context = int(model.text_projection.shape[1]), int(model.context_length)
    for name, value in (("embedding_dim", wide), ("num_embeddings", context)):
        if arguments[name] != value:
            raise WeightsError(f"{file.path}: {name} is {arguments[name]}; {seer.path} has {value}")
    make: Any = KandinskyV22PriorPipeline
    make_noise: Any = UnCLIPScheduler
    return make(
        prior=_fill(PriorTransformer, arguments, file.state, str(file.path)),
        image_encoder=encoders.ImageEncoder(model.visual),
        text_encoder=encoders.text_encoder(model),
        tokenizer=encoders.Tokenizer(seer.state.get("token_ids"), context, read),
        scheduler=make_noise(**PRIOR_NOISE),
        image_processor=encoders.image_processor(model.visual.input_resolution),
    )


def _build_decoder(files: Mapping[str, Weights], arguments: Mapping[str, Mapping[str, Any]]) -> Any:
    from diffusers import DDPMScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel

    kinds: Mapping[str, Any] = {"unet": UNet2DConditionModel, "movq": VQModel}
    nets = {part: _fill(kinds[part], arguments[part], file.state, str(file.path)) for part, file in files.items()}
    make: Any = KandinskyV22Pipeline
    make_noise: Any = DDPMScheduler
    return make(**nets, scheduler=make_noise(**DECODER_NOISE))
