"""Every key of a run: its type, default, limits and the one line that documents it. Reads no file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from vqclip.config.keys import Key, key
from vqclip.job import Prompt

MAX_KEPT_FROM = 64  # seeds that run side by side until the best of them are kept; each has its record open
MAX_PROMPTS = 256  # in all; keeps every resolved config within the size limits of a config file
MAX_SEED = 2**63 - 1
BACKENDS = ("vqgan", "kandinsky", "stable-diffusion")
AUGMENTATIONS = (
    "affine", "perspective", "colour_jitter", "erasing", "sharpness", "gaussian_noise",
    "rotation", "elastic", "thin_plate", "crop", "resized_crop", "flip",
)  # fmt: skip
# One folder name on every system: no separators, no hidden files, no device names of Windows.
_NAME = r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$))(?!\.)[A-Za-z0-9._-]{1,80}"


@dataclass(frozen=True)
class Guide:
    """A CLIP model that steers the picture."""

    model: str = key("starter", '"starter", a name of `vqclip models list` or a path', file="weights")
    weight: float = key(1.0, "share of this model among the guides", above=0.0, high=1000.0)


@dataclass(frozen=True)
class Reference:
    """A picture that the result should resemble."""

    image: str = key("", "path of the picture", nonempty=True, file="file")
    weight: float = key(1.0, "factor, as for a prompt", low=0.0, high=1e6)


@dataclass(frozen=True)
class Variant:
    """One column of a comparison: the config with some settings of its own."""

    backend: str = key("vqgan", "what draws", choices=BACKENDS, nonempty=True)
    name: str | None = key(None, "its heading; none = the backend")
    set: tuple[str, ...] = key((), "settings of its own, each key=value as on the command line")


@dataclass(frozen=True)
class Picture:
    """The prompts of one picture; `seed` None is the config's seed plus the place in the list."""

    include: tuple[Prompt, ...] = key((), "what the picture shows", nonempty=True)
    exclude: tuple[Prompt, ...] = key((), "what it must not show, besides the shared exclude")
    extras: tuple[Prompt, ...] = key((), "style and mood, besides the shared extras")
    seed: int | None = key(None, "seed of this picture", low=0, high=MAX_SEED)


@dataclass(frozen=True)
class Start:
    """The latent, or for diffusion the picture, before the first step."""

    kind: str = key(
        "smooth", "what it begins with; diffusion backends take image and backend, else pure noise",
        choices=("smooth", "noise", "mean", "sine", "image", "backend"),
    )  # fmt: skip
    image: str | None = key(None, "path of the start picture, for kind image", file="file")
    backend: str | None = key(None, "which backend makes the start picture, for kind backend", choices=BACKENDS)
    cells: int = key(4, "cells of smooth noise along the picture's side", low=1, high=256)
    contrast: float = key(0.3, "strength of the smooth noise", low=0.0, high=10.0)


@dataclass(frozen=True)
class Optimizer:
    """How the latent descends."""

    name: str = key(
        "normalised", "torch optimizer, or normalised: steps of a fixed size",
        choices=("adam", "adamw", "radam", "adamax", "rmsprop", "adagrad", "normalised"),
    )  # fmt: skip
    lr: float | None = key(None, "learning rate at first; none = 2 with a denoiser, 0.3 without", above=0.0, high=100.0)
    lr_end: float | None = key(None, "the same at the last step; none = 0.1 or 0.01", low=0.0, high=100.0)
    unit: str = key(
        "codebook", "what rates, anchor and decay count in: the codes' deviation (starter: 1), or the latent",
        choices=("codebook", "absolute"),
    )  # fmt: skip
    pull: float = key(0.0, "share of the way back to its nearest code in each update", low=0.0, high=1.0)
    weight_decay: float = key(0.0, "weight decay of the latent", low=0.0, high=10.0)


@dataclass(frozen=True)
class Latent:
    """How the latent becomes a picture, and where it may go."""

    quantise: bool = key(default=True, doc="draw the nearest codes of the latent; false = the latent itself")
    bounded: bool = key(default=True, doc="hold it within the codebook's range after each update")
    clip: str = key(
        "inward", "gradient of colours out of range: what leads back in, or none", choices=("inward", "plain")
    )


@dataclass(frozen=True)
class Crops:
    """What the guides look at in each step."""

    method: str = key(
        "homography", "one warp per crop, the whole picture pooled, or windows of the padded picture",
        choices=("homography", "pooled", "padded"),
    )  # fmt: skip
    count: int = key(8, "crops a step", low=1, high=4096)
    chunk: int = key(8, "crops embedded at a time; bounds memory, part of the result", low=1, high=4096)
    overview: float = key(0.35, "share of crops that show the whole picture", low=0.0, high=1.0)
    scale: tuple[float, float] = key(
        (0.7, 1.0), "range of a detail crop's side over the picture's short side", low=0.01, high=1.0
    )
    rotate: float = key(10.0, "largest rotation in degrees", low=0.0, high=180.0)
    perspective: float = key(0.12, "largest perspective distortion", low=0.0, high=0.4)
    flip: float = key(0.25, "probability of a mirrored crop", low=0.0, high=1.0)
    shift: float = key(0.0, "padded: largest shift of the whole, over its padded sides", low=0.0, high=1.0)
    colour: float = key(0.05, "strength of brightness, contrast, saturation and hue shifts", low=0.0, high=0.5)
    erase: float = key(0.0, "share of crops with an erased rectangle", low=0.0, high=1.0)
    noise: float = key(0.5, "largest standard deviation of added noise", low=0.0, high=1.0)
    noise_end: float | None = key(0.2, "the same at the last step; none = no change", low=0.0, high=1.0)
    pad: str = key("border", "what lies outside the picture", choices=("border", "reflection", "grey"))
    augment: tuple[str, ...] = key((), "kornia augmentations, applied last and in order", choices=AUGMENTATIONS)


@dataclass(frozen=True)
class Denoiser:
    """What brings the latent back to what drawings look like, after each update."""

    model: str = key(
        "auto", '"auto": the starter one for the starter generator, else none; "none"; or a path', file="weights"
    )
    noise: float = key(0.95, "noise level of the latent at first; 1 would be noise alone", low=0.0, below=1.0)
    noise_end: float = key(0.2, "the same at the last step", low=0.0, below=1.0)
    strength: float = key(0.5, "with a start picture: share of that noise", low=0.0, high=1.0)
    churn: float = key(1.0, "share of the noise that is drawn anew at each step", low=0.0, high=1.0)


@dataclass(frozen=True)
class Losses:
    """Section weights; include is 1 and 0 leaves a term out."""

    exclude: float = key(1.0, "weight of the exclude prompts", low=0.0, high=1000.0)
    roles: bool = key(default=True, doc="read excludes and looks by what their words can mean; false = as texts")
    area: float = key(5.0, "weight of areas: excluded colours, extras of several colours", low=0.0, high=1000.0)
    exclude_stop: float | None = key(
        None, "distance where excludes without their own stop end; none = where nothing is left", low=0.0, high=4.93
    )  # fmt: skip
    extras: float = key(1.0, "weight of the extras prompts", low=0.0, high=1000.0)
    emphasis: float | None = key(None, "how far prompts are set apart; none = 1 for starter guides", low=0.0, high=2.0)
    distance: str = key(
        "spherical", "what a prompt's term measures between it and a crop", choices=("spherical", "cosine")
    )
    join: str = key(
        "apart", "a term for each prompt, or extras added to include's features and excludes one text",
        choices=("apart", "features"),
    )  # fmt: skip
    smooth: float = key(0.0, "weight of total variation: fewer fine edges", low=0.0, high=1000.0)
    anchor: float = key(0.0, "weight that holds the latent near the start", low=0.0, high=1000.0)
    decay: float = key(0.0, "weight that pulls the latent towards zero", low=0.0, high=1000.0)


@dataclass(frozen=True)
class Kandinsky:
    """Backend kandinsky: a prior makes an image embedding of the prompts, a decoder draws it."""

    prior: str = key("starter", '"starter", a folder or a hub name of the prior pipeline', file="pipeline")
    decoder: str = key("starter", '"starter", a folder or a hub name of the decoder pipeline', file="pipeline")
    inpaint: str | None = key(
        None, "a folder or a hub name of the inpainting decoder; needed with a mask", file="pipeline"
    )
    prior_steps: int = key(25, "denoising steps of the prior", low=2, high=1000)
    prior_guidance: float = key(4.0, "guidance scale of the prior", low=0.0, high=100.0)
    prior_seed: int | None = key(None, "seed of the prior; none = from the picture's seed", low=0, high=MAX_SEED)
    steps: int = key(50, "denoising steps of the decoder", low=1, high=1000)
    guidance: float = key(4.0, "guidance scale of the decoder", low=0.0, high=100.0)
    scheduler: str = key("ddpm", "sampler of the decoder", choices=("ddpm", "ddim", "dpm++"))
    strength: float = key(0.6, "with a start picture: share of the noise that is added", above=0.0, high=1.0)
    mask: str | None = key(None, "path of a mask for the start picture; white is drawn anew", file="file")
    offload: bool = key(default=False, doc="keep models in main memory, one at a time on the GPU")


@dataclass(frozen=True)
class StableDiffusion:
    """Backend stable-diffusion: Stable Diffusion 1.5."""

    model: str | None = key(None, "a .safetensors or .ckpt file, or a folder; needed", file="file")
    steps: int = key(50, "denoising steps", low=1, high=1000)
    guidance: float = key(7.5, "guidance scale", low=0.0, high=100.0)
    scheduler: str = key("ddpm", "sampler", choices=("ddpm", "ddim", "dpm++", "pndm", "euler", "euler_a", "unipc"))
    strength: float = key(0.8, "with a start picture: share of the noise that is added", above=0.0, high=1.0)
    offload: bool = key(default=False, doc="keep models in main memory, one at a time on the GPU")


@dataclass(frozen=True)
class Video:
    """The progress video."""

    seconds: float = key(8.0, "length in all", low=0.1, high=600.0)
    fps: int | None = key(None, "frames a second; none = 25", low=1, high=120)
    every: int | None = key(None, "steps between the pictures it is made of; none = 240 or more", low=1, high=100000)
    hold: float = key(1.5, "seconds of it in which the final picture stays; half of it at most", low=0.0, high=60.0)
    smooth: float = key(1.0, "averaging over neighbouring steps; 0 = each step as it is", low=0.0, high=10.0)
    scale: int = key(1, "factor by which it is larger than the picture", low=1, high=4)
    formats: tuple[str, ...] = key(("mp4",), "files to write; [] = no video", choices=("mp4", "gif", "webp"))
    keep: bool = key(default=True, doc="keep the frames in progress/, to remake the video")


@dataclass(frozen=True)
class Checkpoint:
    """What an interrupted run goes on from. With both 0 there is none."""

    every: int = key(0, "steps between two checkpoints; 0 = by time alone", low=0, high=100000)
    seconds: float = key(15.0, "seconds between two, 1 % of the time at most; 0 = by steps", low=0.0, high=86400.0)


@dataclass(frozen=True)
class Config:
    """One run, complete and checked. Built by `vqclip.config.load` or `from_mapping`."""

    preset: str = key("default", "recipe underneath the file", choices=("default", "reference", "seed"))
    name: str | None = key(
        None, "name of the run folder; none = time, slug and hash", pattern=_NAME,
        form="a plain name of 1 to 80 letters, digits, `.`, `_`, `-`, without a leading dot,",
    )  # fmt: skip
    include: tuple[Prompt, ...] = key((), "what the picture shows: texts, text:weight:stop, {text, weight, stop}")
    exclude: tuple[Prompt, ...] = key((), "what no picture may show; same forms as include")
    extras: tuple[Prompt, ...] = key((), "style and mood of every picture; same forms as include")
    images: tuple[Reference, ...] = key((), "pictures to resemble: paths and {image, weight}")
    prompts: tuple[Picture, ...] = key((), "several pictures: texts or {include, exclude, extras, seed}")
    seed: int = key(0, "seed of the first picture; the next ones count up", low=0, high=MAX_SEED)
    size: tuple[int, int] = key((256, 256), "width and height in pixels", low=16, high=4096)
    steps: int = key(60, "updates of the latent", low=0, high=100000)
    backend: str = key("vqgan", "what draws", choices=BACKENDS)
    variants: tuple[Variant, ...] = key((), "what `compare` compares: backends and {backend, name, set}")
    seeds: int = key(1, "pictures of each prompt, seeds counting up", low=1, high=1000)
    keep: int | None = key(None, "how many of the seeds go on to the end; none = all", low=1, high=64)
    keep_by: str = key("guides", "who says which: the lowest loss, or the judge", choices=("guides", "judge"))
    keep_share: float = key(0.5, "share of the steps that all seeds run", low=0.0, high=1.0)
    batch: int = key(4, "latents decoded and looked at together; more take more memory", low=1, high=64)
    outputs: str = key("outputs", "folder of the run folders, as seen from the current one")
    device: str = key(
        "auto", "where to compute", pattern=r"auto|cpu|mps|cuda(:[0-9]{1,2})?",
        form="auto, cpu, cuda, cuda:N or mps",
    )  # fmt: skip
    precision: str = key("auto", "number format of the models", choices=("auto", "fp32", "bf16"))
    generator: str = key("starter", 'VQGAN: "starter", a name of `vqclip models list` or a path', file="weights")
    guides: tuple[Guide, ...] = key((Guide(),), "CLIP models that steer: texts or {model, weight}", nonempty=True)
    judge: str | None = key("starter", "CLIP model that scores and never steers; none = no score", file="weights")
    too_long: str = key("error", "prompts over CLIP's context length", choices=("error", "truncate"))
    start: Start = Start()
    optimizer: Optimizer = Optimizer()
    coarse: float = key(0.7, "share of the steps made at half the size first; 0 = none", low=0.0, high=1.0)
    tries: int = key(3, "starts side by side; the guides' favourite goes on", low=1, high=64)
    tries_share: float = key(0.35, "share of the steps all tries run; excludes and looks begin then", low=0.0, high=1.0)
    average: float = key(0.0, "decay of the moving average of latents; 0 = off", low=0.0, below=1.0)
    latent: Latent = Latent()
    denoiser: Denoiser = Denoiser()
    crops: Crops = Crops()
    losses: Losses = Losses()
    kandinsky: Kandinsky = Kandinsky()
    stable_diffusion: StableDiffusion = StableDiffusion()
    log_every: int = key(1, "steps between metric lines", low=1, high=100000)
    score_every: int = key(10, "steps between the judge's scores; 0 = only the end", low=0, high=100000)
    video: Video = Video()
    checkpoint: Checkpoint = Checkpoint()
    threads: int | None = key(None, "CPU threads at most, part of the result; none = one a core", low=1, high=4096)
    preflight: bool = key(default=True, doc="measure the memory first, and refuse what cannot fit")


@cache
def keys(section: Any = Config, prefix: str = "") -> dict[str, Key | type]:
    """The names directly inside a section: each a Key, or the dataclass of a section below."""
    hints = get_type_hints(section)
    found: dict[str, Key | type] = {}
    for each in dataclasses.fields(section):
        hint = hints[each.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found[each.name] = hint
            continue
        parts = get_args(hint)
        optional = NoneType in parts
        shape = "one" if get_origin(hint) is not tuple else "list" if Ellipsis in parts else "pair"
        kind = parts[0] if parts else hint
        limits = dict(each.metadata)
        found[each.name] = Key(prefix + each.name, kind, shape, each.default, optional=optional, **limits)
    return found


def leaves(section: Any = Config, prefix: str = "") -> Iterator[Key]:
    """Every leaf key below a section, in the order of the schema."""
    for name, entry in keys(section, prefix).items():
        if isinstance(entry, Key):
            yield entry
        else:
            yield from leaves(entry, f"{prefix}{name}.")
