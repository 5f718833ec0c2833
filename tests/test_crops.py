"""Crop geometry against chained kornia operations, seeds, colour, erasing, chunks, aspect."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import crop_spec
from kornia.geometry.transform import crop_and_resize, warp_perspective
from torch import Tensor
from torch.nn import functional as F

from vqclip.job import InputError
from vqclip.loop.augment import AUGMENTATIONS
from vqclip.loop.crops import Cropper, CropPlan, sample, sampling_grid


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blurred(height: int = 96, width: int = 96, seed: int = 0) -> Tensor:
    coarse = torch.rand(1, 3, 6, 6, generator=rng(seed))
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def cut_all(cropper: Cropper, image: Tensor, plan: CropPlan, size: int = 32) -> Tensor:
    return torch.cat([cropper.cut(image, plan, part, size=size) for part in plan.chunks])


def plain(**changes: object) -> Cropper:
    return Cropper(crop_spec(**({"rotate": 0.0, "perspective": 0.0, "colour": 0.0} | changes)))


def test_a_plain_crop_equals_kornias_crop_and_resize() -> None:
    image = blurred()
    cropper = plain(overview=0.0, count=6, chunk=6)
    plan = cropper.draw([rng(3)], width=96, height=96)
    crops = cut_all(cropper, image, plan, size=48)
    for crop, matrix, side in zip(crops, plan.homography[0], plan.side[0], strict=True):
        x, y = (float((matrix[i, 2] + 1) / 2 * 96) for i in (0, 1))
        # kornia's box corners are the centres of the outermost pixels, ours are the window's edges.
        half = float(side) / 2 * (1 - 1 / 48)
        left, top, right, bottom = x - half - 0.5, y - half - 0.5, x + half - 0.5, y + half - 0.5
        box = torch.tensor([[[left, top], [right, top], [right, bottom], [left, bottom]]])
        theirs = crop_and_resize(image, box, (48, 48), align_corners=True)
        assert (crop - theirs[0]).abs().max() < 1e-3


def test_one_homography_equals_the_chain_of_warps() -> None:
    image = blurred(seed=5)
    cropper = Cropper(crop_spec(overview=0.0, rotate=20.0, perspective=0.15, colour=0.0, scale=(0.5, 0.6), count=5))
    plan = cropper.draw([rng(1)], width=96, height=96)
    crops = cut_all(cropper, image, plan, size=48)
    for crop, matrix in zip(crops, plan.homography[0], strict=True):
        pixel = _to_pixels(48) @ torch.linalg.inv(matrix) @ torch.linalg.inv(_to_pixels(96))
        theirs = warp_perspective(image, pixel[None], (48, 48), align_corners=True, padding_mode="border")
        assert (crop - theirs[0]).abs().max() < 1e-3


def _to_pixels(size: int) -> Tensor:
    """Normalised [-1, 1] edges to pixel-centre coordinates."""
    return torch.tensor([[size / 2, 0, size / 2 - 0.5], [0, size / 2, size / 2 - 0.5], [0, 0, 1.0]])


def test_the_matrix_is_window_times_rotation_times_perspective() -> None:
    cropper = Cropper(crop_spec(overview=0.0, rotate=30.0, perspective=0.2, flip=1.0, count=3))
    plan = cropper.draw([rng(2)], width=120, height=80)
    for matrix, side in zip(plan.homography[0].double(), plan.side[0].double(), strict=True):
        tilt = torch.eye(3, dtype=torch.float64)
        tilt[2, :2] = matrix[2, :2]
        affine = matrix @ torch.linalg.inv(tilt)
        in_pixels = affine[:2, :2] * torch.tensor([[120 / 2], [80 / 2]], dtype=torch.float64)
        # A mirrored rotation scaled by half the window: orthogonal columns of that length, determinant negative.
        assert torch.allclose(
            in_pixels.T @ in_pixels, (side / 2).square() * torch.eye(2, dtype=torch.float64), rtol=1e-4, atol=1e-2
        )
        assert torch.linalg.det(in_pixels) < 0
        assert abs(math.atan2(in_pixels[1, 0] / -1, -in_pixels[0, 0])) <= math.radians(30) + 1e-6


def test_same_seed_same_crops_other_seed_other_crops() -> None:
    image, cropper = blurred(), Cropper(crop_spec(noise=0.1, erase=0.5))
    plans = [cropper.draw([rng(seed)], width=96, height=96) for seed in (0, 0, 1)]
    first, again, other = (cut_all(cropper, image, plan) for plan in plans)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_plan_can_be_cut_twice() -> None:
    image, cropper = blurred(), Cropper(crop_spec(noise=0.1, erase=0.5, chunk=3, augment=("affine", "colour_jitter")))
    plan = cropper.draw([rng()], width=96, height=96)
    assert torch.equal(cut_all(cropper, image, plan), cut_all(cropper, image, plan))


def test_chunk_borders_do_not_change_the_geometry() -> None:
    image = blurred()
    crops = []
    for chunk in (7, 3):
        cropper = Cropper(crop_spec(count=7, chunk=chunk, erase=0.5))
        plan = cropper.draw([rng()], width=96, height=96)
        assert [i for part in plan.chunks for i in part] == list(range(7))
        crops.append(cut_all(cropper, image, plan))
    assert torch.allclose(*crops, atol=1e-6)


def test_windows_are_square_in_pixels_whatever_the_aspect() -> None:
    """A disc stays a disc in every crop of a 2:1 picture, overviews included."""
    seen = 0
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), indexing="ij")
    disc = (((x - 63.5) ** 2 + (y - 31.5) ** 2) < 20**2).float().expand(1, 3, 64, 128)
    for cropper in (plain(overview=1.0, count=3), plain(overview=0.0, scale=(1.0, 1.0), count=3)):
        plan = cropper.draw([rng()], width=128, height=64)
        for crop in cut_all(cropper, disc, plan, size=64):
            mask = crop[0] > 0.5
            columns, rows = mask.any(0), mask.any(1)
            if not any(bool(edge) for edge in (columns[0], columns[-1], rows[0], rows[-1])):  # not cut off
                seen += 1
                assert abs(int(columns.sum()) - int(rows.sum())) <= 1
    assert seen >= 3


def test_overviews_show_all_four_corners() -> None:
    image = torch.zeros(1, 3, 64, 64)
    for y in (slice(0, 8), slice(56, 64)):
        for x in (slice(0, 8), slice(56, 64)):
            image[..., y, x] = 1
    cropper = plain(overview=1.0, count=8, chunk=8)
    for crop in cut_all(cropper, image, cropper.draw([rng()], width=64, height=64), size=64):
        halves = [crop[0, :32, :32], crop[0, :32, 32:], crop[0, 32:, :32], crop[0, 32:, 32:]]
        assert all(float(half.max()) > 0.9 for half in halves)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_the_share_of_overviews_is_exact_and_spread(share: float, expected: int) -> None:
    cropper = plain(overview=share, count=12, chunk=4, scale=(0.3, 0.5))
    plan = cropper.draw([rng()], width=64, height=64)
    whole = plan.side[0] >= 64
    assert int(whole.sum()) == expected
    if share == 0.5:
        assert all(int(whole[list(part)].sum()) == 2 for part in plan.chunks)


def test_colour_map_is_identity_at_strength_zero_and_keeps_greys_grey() -> None:
    cropper = Cropper(crop_spec(colour=0.3, count=50, chunk=50))
    colour = cropper.draw([rng()], width=32, height=32).colour[0]
    grey = torch.einsum("nij,j->ni", colour[:, :, :3], torch.full((3,), 0.4)) + colour[:, :, 3]
    assert torch.allclose(grey, grey.mean(1, keepdim=True).expand_as(grey), atol=1e-5)
    assert float((colour[:, :, :3] - torch.eye(3)).abs().max()) > 0.1
    none = plain(count=4).draw([rng()], width=32, height=32).colour[0]
    assert torch.allclose(none, torch.cat([torch.eye(3), torch.zeros(3, 1)], 1).expand(4, 3, 4), atol=1e-6)


def test_erased_rectangles_are_uniform_and_carry_no_gradient() -> None:
    image = blurred().requires_grad_()
    cropper = plain(overview=1.0, erase=1.0, count=6, chunk=6)
    plan = cropper.draw([rng()], width=96, height=96)
    crops = cut_all(cropper, image, plan, size=64)
    for crop, box, fill in zip(crops, plan.erased[0], plan.fill[0], strict=True):
        left, top, right, bottom = ((box + 1) / 2 * 64).round().int().tolist()
        inside = crop[:, top + 1 : bottom - 1, left + 1 : right - 1]
        assert inside.numel() > 0
        assert torch.allclose(inside, fill.expand_as(inside), atol=1e-6)
        area = (right - left) * (bottom - top) / 64**2
        assert 0.03 < area < 0.3


def test_gradient_reaches_the_whole_picture_without_aliasing() -> None:
    """At 4x minification every pixel still gets gradient, through the pyramid."""
    image = torch.rand(1, 3, 256, 256, generator=rng()).requires_grad_()
    grid = sampling_grid(torch.eye(3)[None], 64)
    sample(image, grid, [256.0], outside="border").sum().backward()
    assert float((image.grad.abs() > 0).float().mean()) == 1.0


def test_grey_padding_fills_the_outside_with_the_drawn_grey() -> None:
    cropper = plain(overview=1.0, pad="grey", count=2)
    plan = cropper.draw([rng()], width=128, height=64)
    crops = cut_all(cropper, torch.zeros(1, 3, 64, 128), plan, size=64)
    assert torch.allclose(crops[:, 0, 1, 32], plan.fill[0], atol=1e-6)
    assert float(crops[:, 0, 32, 32].abs().max()) < 1e-6


def test_noise_has_the_drawn_deviation() -> None:
    cropper = plain(noise=0.2, count=8, chunk=8)
    plan = cropper.draw([rng()], width=64, height=64)
    crops = cut_all(cropper, torch.full((1, 3, 64, 64), 0.5), plan, size=64)
    assert torch.allclose((crops - 0.5).std(dim=(1, 2, 3)), plan.noise[0], rtol=0.05, atol=1e-4)


def test_pooled_crops_are_the_mean_of_average_and_maximum() -> None:
    cropper = plain(method="pooled", count=3, chunk=3)
    image = blurred()
    crops = cut_all(cropper, image, cropper.draw([rng()], width=96, height=96), size=32)
    expected = (F.avg_pool2d(image, 3) + F.max_pool2d(image, 3)) / 2
    assert torch.allclose(crops, expected.expand(3, -1, -1, -1), atol=1e-6)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_every_named_augmentation_is_seeded_and_differentiable(name: str) -> None:
    cropper = plain(augment=(name,), count=6, chunk=6)
    image = blurred(64, 64).requires_grad_()
    state = torch.random.get_rng_state()
    plan = cropper.draw([rng()], width=64, height=64)
    crops = cut_all(cropper, image, plan)
    assert crops.shape == (6, 3, 32, 32)
    assert torch.equal(crops, cut_all(cropper, image, plan))
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is left as it was
    crops.sum().backward()
    assert float(image.grad.abs().sum()) > 0
    others = [cut_all(cropper, image, cropper.draw([rng(s)], width=64, height=64)) for s in (5, 6, 7)]
    assert any(not torch.equal(crops, other) for other in others)


def test_an_unknown_augmentation_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'blur' is unknown; allowed: affine"):
        Cropper(crop_spec(augment=("blur",)))


@pytest.mark.parametrize("changes", [
    {"noise": 0.1, "erase": 0.5, "flip": 0.5}, {"pad": "grey", "scale": (0.2, 1.0)}, {"pad": "reflection"},
    {"method": "pooled", "augment": ("affine", "gaussian_noise")}, {"method": "padded", "flip": 0.5, "shift": 0.1},
], ids=str)  # fmt: skip
def test_each_picture_of_a_batch_is_cut_as_if_it_were_alone(changes: dict[str, object]) -> None:
    cropper = Cropper(crop_spec(**({"count": 5, "chunk": 3} | changes)))
    images = torch.cat([blurred(64, 96, seed) for seed in range(3)])
    plan = cropper.draw([rng(seed) for seed in (4, 5, 6)], width=96, height=64, progress=0.5)
    assert plan.count == 5
    for part in plan.chunks:
        together = cropper.cut(images, plan, part, size=32).unflatten(0, (3, len(part)))
        for row, seed in enumerate((4, 5, 6)):
            own = cropper.draw([rng(seed)], width=96, height=64, progress=0.5)
            assert torch.equal(together[row], cropper.cut(images[row : row + 1], own, part, size=32))
