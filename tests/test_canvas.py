"""Pictures of every kind and size end on the canvas a pipeline needs, and come back in the size asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vqclip.backends.canvas import FEATHER, Canvas, crop, prepare, surround, whole
from vqclip.job import InputError

SIDE = st.integers(1, 90)


@given(SIDE, SIDE, st.sampled_from([1, 8, 64]))
@settings(max_examples=40, deadline=None)
def test_crop_undoes_surround_for_every_size(width: int, height: int, multiple: int) -> None:
    image = torch.rand(1, 3, height, width)
    canvas = whole((width, height), multiple)
    wide = surround(image, canvas)
    assert wide.shape == (1, 3, canvas[1], canvas[0])
    assert canvas[0] % multiple == canvas[1] % multiple == 0
    assert canvas[0] - width < multiple and canvas[1] - height < multiple
    assert torch.equal(crop(wide, (width, height)), image)
    assert wide.min() == image.min() and wide.max() == image.max()  # the border repeats, nothing new appears


def test_pictures_of_every_kind_mean_the_same() -> None:
    grey = np.full((20, 30), 51, np.uint8)
    clear = np.dstack([grey, grey, grey, np.full_like(grey, 0)])
    solid = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    for picture in (
        Image.fromarray(grey), Image.fromarray(solid), grey, grey[..., None].repeat(3, 2), solid, grey[::-1],
        grey.astype(np.float32) / 255, grey.astype(np.float64)[::-1] / 255, torch.full((1, 20, 30), 0.2),
        torch.full((1, 3, 20, 30), 0.2, dtype=torch.float64),
    ):  # fmt: skip
        made = prepare(picture, (30, 20))
        assert made.shape == (1, 3, 20, 30) and made.dtype == torch.float32
        assert torch.allclose(made, torch.full_like(made, 0.2), atol=1e-6)
    for picture in (Image.fromarray(clear), clear, torch.cat([torch.full((3, 20, 30), 0.2), torch.zeros(1, 20, 30)])):
        assert torch.equal(prepare(picture, (30, 20)), torch.ones(1, 3, 20, 30))  # alpha on white


def test_a_picture_of_the_right_size_is_not_touched_and_others_are_filled_not_distorted() -> None:
    image = torch.rand(1, 3, 24, 40)
    assert torch.equal(prepare(image, (40, 24)), image)
    stripes = torch.zeros(1, 3, 40, 40)
    stripes[..., 20:] = 1
    tall = prepare(stripes, (20, 60))  # enlarged to 60x60, of which the middle 20 columns stay
    assert tall.shape == (1, 3, 60, 20)
    assert tall[..., :8].max() < 0.1 and tall[..., 12:].min() > 0.9
    assert 0 <= tall.min() and tall.max() <= 1  # bicubic overshoots


@pytest.mark.parametrize(
    "picture",
    [torch.rand(1, 2, 8, 8), torch.rand(2, 3, 8, 8), torch.rand(8, 8), torch.full((3, 8, 8), 2.0),
     torch.full((3, 8, 8), float("nan")), torch.zeros(3, 8, 8, dtype=torch.uint8), np.full((8, 8), 255, np.int64)],
    ids=["two channels", "two pictures", "no channels", "above 1", "nan", "integers", "integer array"],
)  # fmt: skip
def test_what_is_no_picture_is_refused(picture: torch.Tensor) -> None:
    with pytest.raises(InputError, match="a picture"):
        prepare(picture, (8, 8))


def canvas_with_hole(size: tuple[int, int] = (100, 70)) -> tuple[Canvas, torch.Tensor, torch.Tensor]:
    width, height = size
    image, mask = torch.rand(1, 3, height, width), torch.zeros(1, 1, height, width)
    mask[..., 30:40, 40:60] = 1
    return Canvas(size, 64, 8, image=image, mask=mask), image, mask


def test_kept_pixels_are_the_pictures_own_and_the_hole_is_all_new() -> None:
    canvas, image, mask = canvas_with_hole()
    painted = torch.rand(1, 3, canvas.size[1], canvas.size[0])
    made = canvas.finish(painted)
    new = crop(painted, (100, 70))[0]
    hole = mask[0, 0] > 0.5
    assert made.shape == (3, 70, 100)
    assert torch.equal(made[:, hole], new[:, hole])
    reach = 2 * FEATHER
    far = torch.ones(70, 100, dtype=torch.bool)
    far[30 - reach : 40 + reach, 40 - reach : 60 + reach] = False
    assert torch.equal(made[:, far], image[0][:, far])
    seam = ~far & ~hole
    assert ((made[:, seam] - image[0][:, seam]).abs() > 0).any()  # there it fades


def test_the_seam_fades_evenly() -> None:
    canvas, image, _ = canvas_with_hole()
    share = canvas.finish(torch.ones(1, 3, canvas.size[1], canvas.size[0])) - image[0]
    share = (share / (1 - image[0])).mean(0)[35, 60 : 60 + 2 * FEATHER + 1]  # to the right of the hole
    assert (share[1:] <= share[:-1] + 1e-4).all()
    assert share[0] > 0.8 and share[-1].abs() < 1e-4


def test_every_latent_cell_with_a_white_pixel_is_repainted_as_a_whole() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[0, 0, 13, 29] = 0.51  # a pipeline looks at pixels 0, 8, 16, ... only
    canvas = Canvas((64, 64), 64, 8, image=torch.rand(1, 3, 64, 64), mask=mask)
    wanted = torch.zeros(64, 64)
    wanted[8:16, 24:32] = 1
    assert canvas.cells is not None
    assert torch.equal(canvas.cells[0, 0], wanted)


def test_a_mask_that_vanishes_is_refused() -> None:
    mask = torch.zeros(1, 1, 640, 640)
    mask[..., 3, 3] = 1
    with pytest.raises(InputError, match="64x64"):
        Canvas((64, 64), 64, 8, image=torch.rand(1, 3, 640, 640), mask=mask)
    Canvas((640, 640), 64, 8, image=torch.rand(1, 3, 640, 640), mask=mask)


def test_a_canvas_without_a_picture_only_has_a_size() -> None:
    canvas = Canvas((100, 70), 64, 8)
    assert (canvas.size, canvas.start, canvas.image, canvas.cells) == ((128, 128), None, None, None)
    assert canvas.finish(torch.full((1, 3, 128, 128), 1.7)).eq(1).all()
