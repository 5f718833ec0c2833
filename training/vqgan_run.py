"""A VQGAN training run as data: its recipe, how it starts, how it is saved and exported. Trains nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from taming.modules.diffusionmodules import model as taming_model
from torch import nn
from torch.nn import functional as F

from training import checkpoint
from training.codebook import Usage
from training.discriminator import Critics
from training.export import export, machine
from training.scenes import Stock
from training.sources import PERMISSIVE
from vqclip.models.vqgan import Architecture, VQModel, is_decoders

SHAPE = Architecture(
    channels=32, multipliers=(1, 1, 2, 4), blocks=1, attention=(), in_channels=3, out_channels=3,
    z_channels=64, codes=1024, code_dim=64, gumbel=False, groups=8,
)  # fmt: skip
STYLES = tuple(package.style for package in PERMISSIVE)
CROP, SCENE = 64, 128  # pixels
_COUNTERS = ("seconds", "processor", "steps", "crops", "quantised", "since")


@dataclass(frozen=True)
class Recipe:
    """How it is trained. Shares are of the whole time; `batch` is for a CPU, a GPU takes sixteen times as much."""

    seed: int = 5
    batch: int = 16
    rate: float = 1.5e-3
    open_share: float = 0.15  # at first nothing is quantised
    settle_share: float = 0.1  # at last no row is moved any more
    full_every: int = 5  # every so many steps the pictures are whole scenes, not crops
    edges: float = 0.5
    flat: float = 1.0
    colour: float = 0.5


@dataclass
class Run:
    """Everything that changes while training, and the fixed parts it needs at every step."""

    recipe: Recipe
    model: VQModel
    average: VQModel
    optimizer: torch.optim.Optimizer
    usage: Usage
    stock: Stock
    device: torch.device
    rng: torch.Generator
    seconds: float = 0.0
    processor: float = 0.0  # seconds of CPU time
    steps: int = 0
    crops: int = 0
    quantised: bool = False
    since: float = 0.0  # seconds spent when the present cosine of rates began
    critics: Critics | None = None


def start(recipe: Recipe, stock: Stock, shape: Architecture = SHAPE) -> Run:
    """A fresh run, its weights drawn from the recipe's seed."""
    device = stock.pixels.device
    taming_model.nonlinearity = F.silu  # the same function in one kernel instead of two
    torch.manual_seed(recipe.seed)  # taming draws its weights from the global generator
    model = VQModel(shape)
    let_colours_through(model)
    model = model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate, betas=(0.9, 0.99))
    average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    rng = torch.Generator().manual_seed(recipe.seed)
    return Run(recipe, model, average, optimizer, Usage(shape.codes, device), stock, device, rng)


def let_colours_through(model: VQModel) -> None:
    """Draw convolutions so that what comes in goes out: orthogonal centre taps, small surroundings, quiet blocks.

    With PyTorch's own draw brightness was learnt in 100 steps and colour not at all in 240 (R^2 of 8 x 8 means
    below 0.1); with this one the second colour axis stood at 0.84 after 120.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
            if layer.kernel_size[0] == 3:
                centre = nn.init.orthogonal_(torch.empty(layer.weight.shape[:2]))
                layer.weight.data.mul_(0.3)[:, :, 1, 1] += centre
    for block in model.modules():
        if isinstance(block, taming_model.ResnetBlock):
            block.conv2.weight.data.mul_(0.2)
        if isinstance(block, taming_model.AttnBlock):
            block.proj_out.weight.data.mul_(0.1)


def write_export(path: Path, run: Run, figures: dict[str, float]) -> None:
    """The averaged weights as a starter file."""
    shape = run.average.shape
    architecture = {
        "norm_groups": shape.groups, "ch": shape.channels, "ch_mult": list(shape.multipliers),
        "num_res_blocks": shape.blocks, "resolution": SCENE, "z_channels": shape.z_channels,
        "embed_dim": shape.code_dim, "n_embed": shape.codes,
    }  # fmt: skip
    training = {
        "minutes": round(run.seconds / 60, 1), "cpu_minutes": round(run.processor / 60, 1),
        "machine": machine(run.device),
        "steps": run.steps, "crops": run.crops, "seed": run.recipe.seed, "figures": figures,
    }  # fmt: skip
    tensors = dict(run.average.state_dict())
    export(path, tensors, kind="vqgan", name="vqgan", styles=STYLES, architecture=architecture, training=training)


def save_run(path: Path, run: Run) -> None:
    """A checkpoint from which `resume_run` goes on."""
    tensors = checkpoint.pack(run.model, run.average, run.optimizer)
    tensors |= {"rng": run.rng.get_state(), "usage": run.usage.counts}
    if run.critics is not None:
        tensors |= run.critics.state()
    state = {name: getattr(run, name) for name in _COUNTERS}
    checkpoint.save(path, tensors, state)


def resume_run(path: Path, run: Run) -> None:
    """Puts a checkpoint of `save_run` back, if there is one."""
    if path.exists():
        tensors, state = checkpoint.load(path)
        run.rng.set_state(tensors.pop("rng"))
        run.usage.counts = tensors.pop("usage").to(run.device)
        if run.critics is not None:
            run.critics.restore(tensors)
        checkpoint.unpack(tensors, run.model, run.average, run.optimizer)
        for name in _COUNTERS:
            setattr(run, name, state.get(name, getattr(run, name)))


def keep_latents(run: Run) -> None:
    """From here on the decoder alone learns: what was trained on the latents of this VQGAN stays right.

    The first time it sets out from the averaged weights, whose codes are the exported ones, with a fresh cosine of
    rates; a resumed run goes on where it was.
    """
    if not run.since:
        run.model.load_state_dict(run.average.state_dict())
        run.since = run.seconds
    for name, weight in run.model.named_parameters():
        weight.requires_grad_(is_decoders(name))
