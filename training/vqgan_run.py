"""A VQGAN training run as data: its recipe, how it starts, how it is saved and exported. Trains nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from taming.modules.diffusionmodules import model as taming_model
from torch import Tensor, nn
from torch.nn import functional as F

from training.checkpoint import Run as Common
from training.codebook import Usage, pass_on
from training.discriminator import Critics
from training.export import export_run
from training.loop import adam
from training.recipes import Autoencoder
from training.recipes import Vqgan as Recipe
from training.scenes import Stock
from vqclip.generators.vqgan import Architecture, VQModel, is_decoders

R = TypeVar("R", bound=Autoencoder)
M = TypeVar("M", bound=nn.Module)


@dataclass
class CodedRun(Common[R, M]):
    """What the runs of VQGAN and MoVQ keep: how often each code is chosen, and whether any are yet."""

    counted = "crops"

    usage: Usage
    quantised: bool = field(default=False, kw_only=True)

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The usage of the codes (K,), as a state dict, and whether they are used."""
        return {"usage": self.usage.counts}, {"quantised": self.quantised}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Puts back the state dict and values of `kept`."""
        self.usage.counts, self.quantised = tensors["usage"].to(self.device), state["quantised"]


@dataclass
class Run(CodedRun[Recipe, VQModel]):
    """The VQGAN's run."""

    stock: Stock
    critics: Critics | None = field(default=None, kw_only=True)

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The codes' usage and what the critics have learned, as one state dict."""
        tensors, state = super().kept()
        return tensors | ({} if self.critics is None else self.critics.state()), state

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Puts back the state dict and values of `kept`; critics that the checkpoint had none of begin anew."""
        super().restore(tensors, state)
        if self.critics is not None:
            self.critics.restore(tensors)


def start(recipe: Recipe, stock: Stock) -> Run:
    """A fresh run, its weights drawn from the recipe's seed."""
    device, shape = stock.pixels.device, Architecture(**recipe.shape)
    taming_model.nonlinearity = F.silu  # the same function in one kernel instead of two
    torch.manual_seed(recipe.seed)  # taming draws its weights from the global generator
    model = VQModel(shape)
    let_colours_through(model)
    model = model.to(device)
    return Run(recipe, model, adam(recipe, model.parameters()), device, Usage(shape.codes, device), stock)


def let_colours_through(model: VQModel) -> None:
    """Draws convolutions so that what comes in goes out, and blocks that add little to it."""
    pass_on(model)
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
        "num_res_blocks": shape.blocks, "resolution": run.recipe.scene, "z_channels": shape.z_channels,
        "embed_dim": shape.code_dim, "n_embed": shape.codes,
    }  # fmt: skip
    export_run(path, run, figures, kind="vqgan", architecture=architecture)


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
