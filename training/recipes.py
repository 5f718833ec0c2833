"""The one table of recipes: every size, rate, share and seed of every shipped model; trains nothing.

The command lines take their defaults from it, checkpoints and exported files say it. `minutes` are those of the shipped
file, whose recipe was partly changed by hand on the way (MODELS.md tells when).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from training.concepts import GUIDED
from training.sources import PERMISSIVE
from training.views import Crops

GUIDE_STYLES = (
    "noto",
    "fluent-emoji-flat",
    "fluent-emoji",
    "twemoji",
    "fxemoji",
    "fluent-emoji-high-contrast",
)
# Four sets of its own and two of the guides: the four alone have 616 drawings, which it learnt by heart.
JUDGE_STYLES = ("noto-v1", "emojione", "streamline-emojis", "emojione-monotone", "twemoji", "fluent-emoji")
ALL_STYLES = tuple(package.style for package in PERMISSIVE)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every training has to be told."""

    styles: tuple[str, ...]  # the sets of drawings it sees
    seed: int  # of the weights and of all that is drawn; no two models share one
    minutes: float  # training time in all, by the clock
    batch: int  # pictures, captions or latents a step on a CPU, where twice as many take twice as long
    gpu: int  # times as many on a GPU, which is idle with fewer
    rate: float  # largest learning rate
    betas: tuple[float, float] = (0.9, 0.99)  # of Adam: a short second memory, since few steps can be afforded
    decay: float = 0.0  # weight decay of AdamW; 0 is plain Adam
    norm: float = 1.0  # longest gradient, L2 over all weights
    smooth: float = 0.998  # largest share that the averaged weights keep at a step: about the last 500 steps
    every: float = 300.0  # seconds between two reports, checkpoints and exports

    def amount(self, device: torch.device) -> int:
        """The batch on this device."""
        return self.batch * (self.gpu if device.type == "cuda" else 1)


@dataclass(frozen=True, kw_only=True)
class Recipe(Training):
    """One CLIP: arguments of clip.model.CLIP, the drawings it sees and how it is trained."""

    batch: int = 64
    gpu: int = 4
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)  # those of CLIP's transformers
    decay: float = 0.05  # on matrices and convolutions alone
    every: float = 240.0
    minutes: float = 60.0
    embed: int = 256  # numbers of a feature
    size: int = 64  # side of what it sees
    layers: int | tuple[int, ...]  # blocks of a transformer, or of each stage of a ResNet
    width: int
    patch: int | None = None  # px; a ResNet has none
    text_layers: int
    text_width: int = 192
    context: int = 20  # tokens of a caption at most
    names: tuple[str, ...] = ()  # the concepts it learns, all of the vocabulary where empty
    focus: float = 1.0  # how many times as often as other names the guided ones are drawn
    variants: int = 4  # recoloured copies of a drawing
    crops: Crops
    text_from: str = ""  # a model whose exported text tower this one starts with
    text_weight: float = 0.5  # of the loss that finds pictures for captions, beside captions for pictures
    first_scale: float = 16.0  # factor on cosines at the start
    sharpest: float = 20.0  # the largest: a low one keeps real pictures and their captions far nearer than all else
    radius: float  # L2 in units of [0, 1] at `size`: the strongest attack, 0 for ordinary training
    first_radius: float = 0.2  # share of `radius` that the attack begins with
    reach: float = 0.7  # share of the radius that one step of the attack takes
    replays: int = 3  # steps taken on one attacked batch
    rejection: float = 1.0  # weight of the loss on chains (see mirages.py)
    chains: int = 768  # pictures of nothing that are kept
    chain_share: float = 0.25  # of a batch: chains beside it, and redrawn pictures in it where there are any

    def architecture(self, rows: int) -> dict[str, Any]:
        """Constructor arguments of clip.model.CLIP with a token table of `rows`."""
        return {
            "embed_dim": self.embed, "image_resolution": self.size, "vision_layers": self.layers,
            "vision_width": self.width, "vision_patch_size": self.patch, "context_length": self.context,
            "vocab_size": rows, "transformer_width": self.text_width,
            "transformer_heads": self.text_width // 64, "transformer_layers": self.text_layers,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Training):
    """What VQGAN and MoVQ have in common. Shares are of the whole time."""

    shape: dict[str, Any]
    styles: tuple[str, ...] = ALL_STYLES
    batch: int = 16
    gpu: int = 16
    rate: float = 1.5e-3
    crop: int = 64  # px of a training picture
    scene: int = 128  # px of what crops are cut from, and of a whole picture
    full_every: int  # every so many steps the pictures are whole scenes, not crops
    open_share: float  # at first nothing is quantised
    settle_share: float  # at last no row is moved any more
    cells: int  # latents that the codebook starts from
    rounds: int = 12  # of k-means over them
    restart_every: int = 40  # steps between two looks for rows that nothing chooses
    edges: float = 0.5  # weights of the loss, beside 1 for the L1 of pixels: of their differences,
    flat: float = 1.0  # of 8 x 8 means (and half of it of 4 x 4 ones),
    colour: float = 0.5  # and of colour differences, in which flat grounds stay slightly wrong for long


@dataclass(frozen=True, kw_only=True)
class Vqgan(Autoencoder):
    """The VQGAN and its critics, which only `--perceptual` and `--adversarial` call."""

    feature_share: float = 0.5  # length of the features' pull on the picture, in units of the pixel loss's
    patch_share: float = 0.2  # of the patch discriminator's
    patch_rate: float = 4e-4  # learning rate of the discriminator


@dataclass(frozen=True, kw_only=True)
class Movq(Autoencoder):
    """The small Kandinsky's MoVQ."""

    noise: float = 0.12  # on unit latents: what a sampler leaves over, and what keeps near latents near pictures
    coded_share: float = 0.25  # of a batch goes through the codes once they are open


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Drawings made once before a training: which ones, how many, and how they lie in the picture."""

    styles: tuple[str, ...]
    seed: int
    variants: int  # recoloured copies of a drawing
    coarse: int  # pictures of 128 px
    fine: int = 0  # pictures of 256 px
    crops: Crops


@dataclass(frozen=True, kw_only=True)
class Diffusion(Training):
    """What the three that learn to take noise away have in common."""

    shape: dict[str, Any]
    pictures: Pictures
    gpu: int = 8
    decay: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Denoiser(Diffusion):
    """The denoiser of the VQGAN's latents."""

    side: int = 16  # cells of a training latent: a coarse picture whole, a window of a fine one
    held_out: int = 256  # pictures of either size that are never trained on
    fine: float = 0.3  # share of windows of fine pictures
    faint: float = 0.6  # the highest level that these are shown at: under more noise a window says nothing
    gamma: float = 5.0  # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"


@dataclass(frozen=True, kw_only=True)
class Unet(Diffusion):
    """The small Kandinsky's UNet."""

    drop: float = 0.1  # of the embeddings become that of the zero image
    blur: float = 0.1  # noise on the embeddings in the network's form: the prior's are not exact either
    gamma: float = 5.0  # as the denoiser's


@dataclass(frozen=True, kw_only=True)
class Prior(Diffusion):
    """The small Kandinsky's prior."""

    drop: float = 0.1  # of the captions become ""


GUIDE_CROPS = Crops(haze=0.6)
RECIPES = {
    "guide-vit": Recipe(
        styles=GUIDE_STYLES, names=GUIDED, seed=11, rate=7e-4, layers=6, width=192, patch=8, text_layers=3,
        text_from="guide-rn", crops=GUIDE_CROPS, radius=4.0,
    ),
    "guide-rn": Recipe(
        styles=GUIDE_STYLES, names=GUIDED, seed=23, minutes=400, layers=(1, 1, 1, 1), width=32, text_layers=3,
        crops=GUIDE_CROPS, radius=3.0,
    ),
    "judge": Recipe(
        styles=JUDGE_STYLES, seed=37, minutes=190, layers=(1, 2, 2, 1), width=24, text_layers=2, focus=3.0,
        crops=Crops(scale=(0.85, 1.4), turn=14, shift=0.15, perspective=0.08, flip=0.5, noise=0.03, haze=0.4, fog=0.3),
        radius=1.5, replays=2, rejection=0.0,
    ),
}  # fmt: skip

VQGAN = Vqgan(
    seed=5, minutes=86, every=330, full_every=5, open_share=0.15, settle_share=0.1, cells=40_000,
    shape={
        "channels": 32, "multipliers": (1, 1, 2, 4), "blocks": 1, "attention": (), "in_channels": 3,
        "out_channels": 3, "z_channels": 64, "codes": 1024, "code_dim": 64, "gumbel": False, "groups": 8,
    },
)  # fmt: skip
MOVQ = Movq(
    seed=71, minutes=36, full_every=4, open_share=0.25, settle_share=0.15, cells=30_000,
    shape={
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "vq_embed_dim": 4, "num_vq_embeddings": 1024,
        "block_out_channels": [32, 32, 64, 128], "layers_per_block": 1, "norm_num_groups": 4, "norm_type": "spatial",
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
)  # fmt: skip

# None of the judge's sets, so that it does not meet drawings that it knows by heart. The whole drawing, upright, with
# a margin: what varies is which one, its colours and the ground.
SKETCHES = Pictures(
    styles=("noto", "fluent-emoji-flat", "fxemoji"), seed=61, variants=6, coarse=24_000, fine=5_000,
    crops=Crops(scale=(1.05, 1.3), turn=4, shift=0.03, perspective=0, flip=0.3, noise=0, erase=0, jitter=0.02,
                white=0.3, gradient=0.05),
)  # fmt: skip
# Flat or softly shaded, in several colours: a small network learns four hands in the time, not the guides' six.
VIEWS = Pictures(
    styles=("noto", "fluent-emoji-flat", "twemoji", "fxemoji"), seed=83, variants=4, coarse=20_000,
    crops=Crops(scale=(1.08, 1.2), turn=2, shift=0.015, perspective=0, flip=0, noise=0, erase=0, jitter=0.02,
                white=0.4, gradient=0),
)  # fmt: skip
DENOISER = Denoiser(
    styles=SKETCHES.styles, pictures=SKETCHES, seed=17, minutes=66, batch=64, rate=1.2e-3, smooth=0.999,
    shape={"channels": 64, "width": 64, "multipliers": (1, 2, 3), "groups": 8},
)  # fmt: skip
PRIOR = Prior(
    styles=VIEWS.styles, pictures=VIEWS, seed=97, minutes=66, batch=128, rate=1e-3, every=240,
    shape={
        "num_attention_heads": 4, "attention_head_dim": 48, "num_layers": 4, "embedding_dim": 256,
        "num_embeddings": 20, "additional_embeddings": 4,
    },
)  # fmt: skip
UNET = Unet(
    styles=VIEWS.styles, pictures=VIEWS, seed=91, minutes=90, batch=48, rate=1.5e-3, every=400,
    shape={
        "sample_size": 16, "in_channels": 4, "out_channels": 8, "addition_embed_type": "image",
        "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"],
        "up_block_types": ["SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "block_out_channels": [32, 64, 128], "layers_per_block": 1,
        "encoder_hid_dim": 256, "encoder_hid_dim_type": "image_proj", "cross_attention_dim": 64,
        "attention_head_dim": 32, "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 8,
    },
)  # fmt: skip

# Every exported model by its name.
TRAININGS: dict[str, Training] = {
    **RECIPES, "vqgan": VQGAN, "denoiser": DENOISER, "kandinsky-movq": MOVQ, "kandinsky-prior": PRIOR,
    "kandinsky-unet": UNET,
}  # fmt: skip


def describe(recipe: Training) -> dict[str, Any]:
    """The recipe as JSON knows it."""
    said: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return said


def strengthen(radius: float, right: float, recipe: Recipe) -> float:
    """The next batch's radius: larger while the model still names more than 40 % of the attacked pictures.

    A fixed schedule outran what the model had learned: its accuracy stood still. `right` is the share named right.
    """
    grown = radius * (1.01 if right > 0.4 else 0.985)
    return min(max(grown, 0.1 * recipe.radius), recipe.radius)


def pace(steps: int, progress: float, *, restarted: bool = False) -> float:
    """Share of the full learning rate: 100 steps of warm-up, then a cosine down to 2 %; half of it when begun anew."""
    top = 0.5 if restarted else 1.0
    return top * min(1.0, (steps + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
