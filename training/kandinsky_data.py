"""Draws the pictures that the starter Kandinsky's UNet and prior learn from: `python -m training.kandinsky_data`.

Centred drawings of the guided names on plain grounds, kept as latents of the MoVQ's export, as small pictures for
the CLIP, and as what is true of them. Trains nothing. Latents stay until the MoVQ changes; image embeddings are made
again whenever the exported guide is another one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from training.captions import Meaning
from training.checkpoint import write_whole
from training.concepts import GUIDED
from training.data import load
from training.loop import device_and_folder, find_export, parser_of, run_main
from training.recipes import VIEWS
from training.steps import draw_rows
from training.views import Bank, make_bank, make_views
from vqclip.perceptors.clip import MEAN, STD, build
from vqclip.weights.convert import digest_of

SIDE, EYE = 128, 64  # pixels of the pictures, and of what the CLIP sees
_BATCH = 64


@dataclass(frozen=True)
class Views:
    """N pictures: (N, 4, 16, 16) float16 latents, (N, 3, 64, 64) uint8 small pictures, and their meanings."""

    latents: Tensor
    small: Tensor
    truths: list[Meaning]


@dataclass(frozen=True)
class Embeddings:
    """(N, E) float32 image embeddings of the views, unit features times sqrt(E), and (E,) that of the zero image."""

    views: Tensor
    zero: Tensor
    guide: str  # digest of the guide's tensors


def load_movq(path: Path) -> VQModel:
    """The exported MoVQ, float32, frozen."""
    with safe_open(path, "pt") as file:
        arguments: dict[str, Any] = json.loads(file.metadata()["architecture"])
    model = VQModel(**arguments)
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return model.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def draw_views(bank: Bank, movq: VQModel, count: int, seed: int) -> Views:
    """`count` pictures of the bank's drawings; one seed gives the same ones."""
    rng, latents, small, truths = torch.Generator().manual_seed(seed), [], [], []
    while len(truths) < count:
        rows = draw_rows(bank, min(_BATCH, count - len(truths)), rng)
        image, meanings = make_views(bank, rows, VIEWS.crops, size=SIDE, rng=rng)
        with torch.autocast(image.device.type, torch.bfloat16):
            latents.append(movq.encode(image * 2 - 1).latents.to(torch.float16).cpu())
        seen = F.interpolate(image, (EYE, EYE), mode="bicubic", antialias=True, align_corners=False)
        small.append((seen.clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        truths += meanings
    return Views(torch.cat(latents).contiguous(), torch.cat(small).contiguous(), truths)


def save_views(folder: Path, views: Views) -> None:
    """Writes what `load_views` reads."""
    write_whole(folder / "views.safetensors", {"latents": views.latents, "small": views.small})
    (folder / "truths.json").write_text(json.dumps([asdict(truth) for truth in views.truths]))


def load_views(folder: Path) -> Views:
    """The pictures of `save_views`."""
    tensors = load_file(folder / "views.safetensors")
    truths = [Meaning(**row) for row in json.loads((folder / "truths.json").read_text())]
    return Views(tensors["latents"], tensors["small"], truths)


@torch.no_grad()
def embed(small: Tensor, guide: Path, device: torch.device) -> Embeddings:
    """What an exported guide sees in pictures (N, 3, 64, 64) uint8, just as the pipeline's image encoder has it."""
    state = load_file(guide)
    tower = build(state).visual.to(device)
    side = tower.input_resolution
    mean, deviation = (torch.tensor(each, device=device).view(3, 1, 1) for each in (MEAN, STD))

    def see(pixels: Tensor) -> Tensor:
        feature = F.normalize(tower(pixels), dim=-1)
        return (feature * feature.shape[-1] ** 0.5).cpu()

    parts = [see((part.to(device).float() / 255 - mean) / deviation) for part in small.split(4 * _BATCH)]
    return Embeddings(torch.cat(parts), see(torch.zeros(1, 3, side, side, device=device))[0], digest_of(state))


def fresh_embeddings(folder: Path, small: Tensor, guide: Path, device: torch.device) -> Embeddings:
    """The stored embeddings of pictures (N, 3, 64, 64) uint8 where they are this guide's, else new ones, now stored."""
    path, wanted = folder / "embeddings.safetensors", digest_of(load_file(guide))
    if path.exists():
        with safe_open(path, "pt") as file:
            found = file.metadata()["guide"]
        tensors = load_file(path)
        if found == wanted and len(tensors["views"]) == len(small):
            return Embeddings(tensors["views"], tensors["zero"], found)
    made = embed(small, guide, device)
    write_whole(path, {"views": made.views, "zero": made.zero}, {"guide": made.guide})
    return made


def main() -> None:
    """Draws the views, and embeds them by the exported guide."""
    parser = parser_of(__doc__, seed=VIEWS.seed)
    parser.add_argument("--views", type=int, default=VIEWS.coarse, help="pictures to draw")
    arguments = parser.parse_args()
    device, out = device_and_folder(arguments)
    icons = load(VIEWS.styles, "concepts").only(GUIDED)
    bank = make_bank(icons, side=SIDE, variants=VIEWS.variants, seed=arguments.seed).to(device)
    movq = load_movq(find_export(out, "kandinsky-movq")).to(device)
    views = draw_views(bank, movq, arguments.views, arguments.seed)
    save_views(out / "kandinsky", views)
    made = fresh_embeddings(out / "kandinsky", views.small, find_export(out, "guide-rn"), device)
    latents = views.latents.float()
    print(f"{len(views.truths)} views of {len(bank.truths)} variants, latents' deviation {latents.std():.3f}")
    print(f"embeddings {tuple(made.views.shape)} of the guide {made.guide[:12]}")


if __name__ == "__main__":
    run_main(main)
