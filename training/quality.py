"""Measures and shows what a VQGAN makes of drawings it was never trained on; trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from kornia.metrics import ssim
from PIL import Image
from torch import Tensor

from training.scenes import Stock, compose, draw_clouds, present
from vqclip.generators.quantize import look_up, nearest_codes
from vqclip.generators.vqgan import VQModel

_BATCH = 8


@torch.no_grad()
def reconstruct(model: VQModel, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) in [0, 1] -> the same through the codes, and the codes (B, h, w); float32 throughout."""
    codes = encode(model, image)
    return decode(model, look_up(codes, model.codebook)), codes


@torch.no_grad()
def encode(model: VQModel, image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, h, w) int64 codes."""
    hidden = model.quant_conv(model.encoder(image * 2 - 1))
    return nearest_codes(hidden, model.codebook, model.codebook.square().sum(1))


@torch.no_grad()
def decode(model: VQModel, rows: Tensor) -> Tensor:
    """(B, D, h, w) codebook rows -> (B, 3, H, W) in [0, 1]."""
    out: Tensor = model.decoder(model.post_quant_conv(rows))
    return ((out + 1) / 2).clamp(0, 1)


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio in dB of pictures (B, 3, H, W) in [0, 1]; 60 dB at most."""
    error = (first - second).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-6).log10()


def structure(first: Tensor, second: Tensor) -> Tensor:
    """(B,) SSIM of Wang et al. 2004, Gaussian window of 11 pixels, mean over pixels and channels."""
    return ssim(first, second, 11).flatten(1).mean(1)


def _sets(held_out: Stock, pictures: int) -> Iterator[tuple[str, Tensor]]:
    """The named held-out pictures, a quarter as many of the large ones; always the same ones."""
    for size, count in ((128, pictures), (256, max(1, pictures // 4))):
        for name, white in (("white", True), ("scene", False)):
            rng = torch.Generator().manual_seed(7)
            rows = torch.randperm(len(held_out.pixels), generator=rng)[:count]
            yield f"{name}_{size}", present(held_out, rows, size, rng, white=white)


def measure(model: VQModel, held_out: Stock, *, pictures: int) -> dict[str, float]:
    """Mean PSNR in dB and SSIM by set: held-out icons on white and on coloured grounds, at 128 and 256 px."""
    figures = {}
    for name, images in _sets(held_out, pictures):
        pairs = [(batch, reconstruct(model, batch)[0]) for batch in images.split(_BATCH)]
        figures[f"psnr_{name}"] = torch.cat([psnr(*pair) for pair in pairs]).mean().item()
        figures[f"ssim_{name}"] = torch.cat([structure(*pair) for pair in pairs]).mean().item()
    return {key: round(value, 4) for key, value in figures.items()}


def count_codes(model: VQModel, stock: Stock, *, pictures: int = 96) -> int:
    """How many codes occur at least once in the codes of fresh training pictures, 256 cells each."""
    rng, used = torch.Generator().manual_seed(11), torch.zeros(len(model.codebook), dtype=torch.bool)
    for _ in range(pictures // _BATCH):
        codes = encode(model, compose(stock, _BATCH, 128, rng))
        used[codes.cpu().flatten()] = True
    return int(used.sum())


def save_sheet(path: Path, model: VQModel, held_out: Stock, columns: int = 12) -> None:
    """A PNG of row pairs, original over reconstruction: icons on white, on grounds, clouds; below them random codes."""
    rng = torch.Generator().manual_seed(7)
    order = torch.randperm(len(held_out.pixels), generator=rng)
    rows = []
    for number, white in enumerate((True, False, False)):
        part = order[number * columns : (number + 1) * columns]
        image = present(held_out, part, 128, rng, white=white)
        rows += [image, reconstruct(model, image)[0]]
    clouds = draw_clouds(columns, 128, rng).to(model.codebook.device)
    codes = torch.randint(len(model.codebook), (columns, 16, 16), generator=rng).to(clouds.device)
    rows += [clouds, reconstruct(model, clouds)[0], decode(model, look_up(codes, model.codebook))]
    save_pictures(path, rows)


def save_pictures(path: Path, rows: Sequence[Tensor]) -> None:
    """A PNG with one line per row of pictures (B, 3, H, W) in [0, 1], all of one size."""
    sheet = torch.cat([torch.cat(list(row.cpu()), 2) for row in rows], 1)  # (3, rows x H, columns x W)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
