"""Windows of the padded picture against an implementation by loops, their distribution, and every shape of picture."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from conftest import crop_spec
from torch import Tensor
from torch.nn import functional as F

from vqclip.loop.crops import Cropper
from vqclip.loop.padded import Windows, cut_windows, draw_windows

SIZES = [(64, 64), (96, 40), (40, 96), (16, 16), (17, 33), (128, 16), (50, 51)]  # width, height


def uniform(count: int, seed: int = 0) -> list[Tensor]:
    return list(torch.rand(count, 7, generator=torch.Generator().manual_seed(seed)).unbind(1))


def drawn(width: int, height: int, *, count: int = 32, seed: int = 0, **changes: float) -> Windows:
    settings = {"flip": 0.5, "rotate": 30.0, "shift": 0.2} | changes
    return draw_windows(uniform(count, seed), width=width, height=height, **settings)


def by_loops(image: Tensor, windows: Windows, size: int) -> list[Tensor]:
    """The same crops pixel by pixel: each output pixel of the whole asks where it came from."""
    margin = windows.margin
    channels, height, width = image.shape[1], image.shape[2] + 2 * margin, image.shape[3] + 2 * margin
    padded = torch.zeros(channels, height, width, dtype=image.dtype)
    padded[:, margin : height - margin, margin : width - margin] = image[0]
    if windows.mirrored:
        padded = padded.flip(-1)
    moved = torch.zeros_like(padded)
    turn = complex(math.cos(windows.angle), math.sin(windows.angle))  # clockwise: the imaginary axis points down
    centre = complex((width - 1) / 2, (height - 1) / 2)
    for y in range(height):
        for x in range(width):
            source = (complex(x, y) - centre - complex(*windows.shift)) / turn + centre
            column, row = round(source.real), round(source.imag)
            if 0 <= row < height and 0 <= column < width:
                moved[:, y, x] = padded[:, row, column]
    crops = []
    for left, top, side in zip(windows.left.tolist(), windows.top.tolist(), windows.side.tolist(), strict=True):
        window = moved[None, :, top : top + side, left : left + side]
        crops.append(F.interpolate(window, (size, size), mode="bilinear", align_corners=True)[0])
    return crops


@pytest.mark.parametrize(("width", "height"), [(24, 24), (40, 20), (16, 28)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_are_those_of_the_loops(*, width: int, height: int, mirrored: bool) -> None:
    rng = torch.Generator().manual_seed(width)
    image = torch.rand(1, 3, height, width, dtype=torch.float64, generator=rng)
    for seed in range(3):
        windows = drawn(width, height, count=5, seed=seed, flip=float(mirrored))
        assert windows.mirrored is mirrored
        crops = cut_windows(image, windows, slice(0, 5), size=12)
        for crop, expected in zip(crops, by_loops(image, windows, 12), strict=True):
            assert torch.allclose(crop, expected, rtol=0, atol=1e-12)


def test_gradients_are_those_of_slices() -> None:
    image = torch.rand(1, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    windows, grads = drawn(24, 24, count=6, rotate=0.0, shift=0.0, flip=0.0), []
    for way in ("grid", "slices"):
        x = image.clone().requires_grad_()
        if way == "grid":
            crops = cut_windows(x, windows, slice(0, 6), size=8)
        else:
            padded = F.pad(x, [12] * 4)
            cut = zip(windows.left.tolist(), windows.top.tolist(), windows.side.tolist(), strict=True)
            crops = torch.cat([
                F.interpolate(padded[..., t : t + s, a : a + s], (8, 8), mode="bilinear", align_corners=True)
                for a, t, s in cut
            ])  # fmt: skip
        crops.square().sum().backward()
        grads.append(x.grad)
    assert float(grads[0].abs().max()) > 0
    assert torch.allclose(*grads, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_no_window_is_empty_or_leaves_the_padded_picture(width: int, height: int) -> None:
    u = uniform(4000)
    u[0][:3], u[1][:3], u[2][:3] = (torch.tensor([0.0, 0.5, 1 - 2**-24]) for _ in range(3))  # the ends of a draw
    windows = draw_windows(u, width=width, height=height, flip=0.5, rotate=30.0, shift=0.2)
    short = min(width, height)
    assert windows.margin == short // 2
    assert int(windows.side.min()) == int(0.43 * short) > 0
    assert int(windows.side.max()) == int(1.9 * short)
    for begin, length in ((windows.left, width), (windows.top, height)):
        assert int(begin.min()) == 0
        assert bool((begin + windows.side < length + 2 * (short // 2)).all())
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    assert cut_windows(image, windows, slice(0, 8), size=7).shape == (8, 3, 7, 7)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_pixel_of_every_shape_is_looked_at(width: int, height: int) -> None:
    """The far end of an oblong picture too: the whole of a long side lies under windows of the short one."""
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for seed in range(8):
        cut_windows(image, drawn(width, height, seed=seed), slice(0, 32), size=64).sum().backward()
    assert image.grad is not None
    assert float((image.grad != 0).float().mean()) > 0.99


def test_a_square_has_the_schemes_distribution() -> None:
    windows, side = drawn(1000, 1000, count=100_000), 1000
    scale = windows.side.double() / side
    normal = NormalDist(1.2, 0.3)
    for level in (0.5, 0.9, 1.2, 1.5, 1.8):
        assert float((scale < level).double().mean()) == pytest.approx(normal.cdf(level), abs=0.006)
    assert float((windows.side == 1900).double().mean()) == pytest.approx(1 - normal.cdf(1.9), abs=0.002)
    for begin in (windows.left, windows.top):  # uniform in [0, 2H - side), whatever the side
        share = begin.double() / (2 * side - windows.side)
        assert float(share.mean()) == pytest.approx(0.5, abs=0.006)
        assert float(share.std()) == pytest.approx(12**-0.5, abs=0.006)
        assert abs(float(torch.corrcoef(torch.stack([share, scale]))[0, 1])) < 0.015


def test_the_whole_is_moved_within_its_bounds_and_once_a_step() -> None:
    moves = [drawn(100, 60, count=2, seed=seed) for seed in range(3000)]
    angles = torch.tensor([move.angle for move in moves]).rad2deg()
    assert 29.9 < float(angles.abs().max()) <= 30
    assert abs(float(angles.mean())) < 1
    assert sum(move.mirrored for move in moves) / 3000 == pytest.approx(0.5, abs=0.04)
    assert max(abs(move.shift[0]) for move in moves) == 32  # a fifth of 160 and 120
    assert max(abs(move.shift[1]) for move in moves) == 24
    still = drawn(100, 60, flip=0.0, rotate=0.0, shift=0.0)
    assert (still.mirrored, still.angle, still.shift) == (False, 0.0, (0, 0))


def test_a_cropper_cuts_them_with_noise_of_the_drawn_deviation() -> None:
    cropper = Cropper(crop_spec(method="padded", count=6, chunk=4, flip=0.5, rotate=30.0, shift=0.2, noise=0.22))
    plan = cropper.draw([torch.Generator().manual_seed(0)], width=48, height=32)
    image = torch.full((1, 3, 32, 48), 0.5)
    crops = torch.cat([cropper.cut(image, plan, part, size=64) for part in plan.chunks])
    again = torch.cat([cropper.cut(image, plan, part, size=64) for part in plan.chunks])
    assert torch.equal(crops, again)
    noise = crops - cut_windows(image, plan.windows[0], slice(0, 6), size=64)
    assert torch.allclose(noise.std(dim=(1, 2, 3)), plan.noise[0], rtol=0.05)
    assert 0 <= float(plan.noise.min()) < float(plan.noise.max()) < 0.22


def test_other_methods_draw_no_windows_and_keep_their_numbers() -> None:
    plain, padded = (
        Cropper(crop_spec(method=method)).draw([torch.Generator().manual_seed(3)], width=64, height=48)
        for method in ("homography", "padded")
    )
    assert (len(plain.windows), len(padded.windows)) == (0, 1)
    assert torch.equal(plain.noise, padded.noise)
    assert plain.seeds == padded.seeds
