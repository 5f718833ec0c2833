"""Tensors, pictures and PNG files: exact round trips, sizes asked for, sheets of many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vqclip import images
from vqclip.job import InputError


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (rows * 255 // (height - 1), columns * 255 // (width - 1), (rows + columns) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


class TestTensors:
    def test_every_8_bit_value_survives_both_ways(self) -> None:
        values = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16).float() / 255
        assert torch.equal(images.from_pil(images.to_pil(values)), values)

    def test_layout_is_rows_columns_channels(self) -> None:
        image = torch.zeros(3, 2, 5)
        image[0, 1, 4] = 1.0
        pixels = images.to_uint8(image)
        assert pixels.shape == (2, 5, 3)
        assert pixels.flags.c_contiguous
        assert pixels[1, 4].tolist() == [255, 0, 0]
        assert pixels.sum() == 255

    def test_values_are_rounded_and_clipped(self) -> None:
        image = torch.tensor([-3.0, 0.4 / 255, 0.6 / 255, 1.5]).view(1, 1, 4).expand(3, 1, 4)
        assert images.to_uint8(image)[0, :, 0].tolist() == [0, 0, 1, 255]

    def test_half_precision_and_gradients_are_taken(self) -> None:
        image = torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
        assert images.to_uint8(image).tolist() == [[[128] * 3] * 2] * 2

    @pytest.mark.parametrize(
        "image",
        [torch.zeros(2, 3, 4, 4), torch.zeros(4, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4)],
    )
    def test_other_shapes_and_types_are_refused(self, image: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="is needed"):
            images.to_uint8(image)

    def test_not_a_number_is_never_a_pixel(self) -> None:
        with pytest.raises(ValueError, match="NaN"):
            images.to_uint8(torch.full((3, 2, 2), float("nan")))

    def test_a_tensor_from_a_picture_may_be_written_to(self) -> None:
        image = images.from_pil(gradient())
        assert image.shape == (1, 3, 16, 24)
        assert image.dtype == torch.float32
        image.add_(1)


class TestPng:
    def test_pixels_and_texts_come_back(self, tmp_path: Path) -> None:
        texts = {"vqclip": '{"a": "ü 猫 \\" \n"}', "parameters": "plain"}
        images.save_png(tmp_path / "a.png", images.from_pil(gradient()), texts)
        with Image.open(tmp_path / "a.png") as found:
            assert found.info == texts
            assert found.tobytes() == gradient().tobytes()

    def test_same_input_same_bytes(self) -> None:
        image = images.from_pil(gradient())
        assert images.to_png(image, {"k": "v"}) == images.to_png(image, {"k": "v"})

    @pytest.mark.parametrize(
        "texts", [{"k" * 80: "v"}, {"": "v"}, {" k": "v"}, {"k\n": "v"}, {"k": "a\0b"}, {"ж": "v"}]
    )
    def test_texts_outside_the_standard_are_refused(self, texts: dict[str, str]) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  # one of several messages
            images.to_png(torch.zeros(3, 2, 2), texts)

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.png"
        images.replace_file(path, b"old")

        def refuse(_source: object, _target: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="No space"):
            images.replace_file(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_files_get_the_permissions_of_any_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_bytes(b"")
        images.replace_file(tmp_path / "replaced", b"")
        assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


class TestFit:
    @given(
        st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40),
        st.sampled_from(["cover", "contain", "stretch"]),
    )  # fmt: skip
    @settings(max_examples=60, deadline=None)
    def test_the_size_is_the_one_asked_for(self, w: int, h: int, width: int, height: int, how: Any) -> None:
        assert images.fit(Image.new("RGB", (w, h)), (width, height), how).size == (width, height)

    def test_cover_crops_contain_pads_stretch_distorts(self) -> None:
        wide = Image.new("RGB", (40, 20), (255, 0, 0))
        wide.paste((0, 0, 255), (10, 0, 30, 20))  # the middle square is blue
        blue = np.asarray(images.fit(wide, (10, 10), "cover"), dtype=int) - (0, 0, 255)
        assert np.abs(blue).max() < 20  # the filter rings a little at the crop's border
        assert images.fit(wide, (10, 10), "contain").getpixel((5, 0)) == (255, 255, 255)
        assert images.fit(wide, (10, 10), "stretch").getpixel((0, 5))[0] > 230

    def test_unknown_ways_and_sizes_are_refused(self) -> None:
        with pytest.raises(InputError, match="'squash'"):
            images.fit(gradient(), (4, 4), cast(Any, "squash"))
        with pytest.raises(InputError, match="0x4"):
            images.fit(gradient(), (0, 4))


class TestGrid:
    def test_cells_lie_row_by_row_with_gaps(self) -> None:
        tiles = [torch.full((3, 8, 8), level / 10) for level in range(5)]
        sheet = images.grid(tiles, 2, gap=4)
        assert sheet.size == (2 * 12 + 4, 3 * 12 + 4)
        assert [sheet.getpixel(at)[0] for at in ((4, 4), (16, 4), (4, 16), (16, 16), (4, 28))] == [0, 26, 51, 76, 102]
        assert sheet.getpixel((16, 28)) == (255, 255, 255)

    def test_labels_have_ink_inside_their_cell_and_the_same_pixels_each_time(self) -> None:
        tiles = [torch.ones(3, 32, 64)] * 2
        long, odd = "a very long label " * 20, "\x07\n猫"
        sheet = images.grid(tiles, 2, [long, odd])
        assert sheet.tobytes() == images.grid(tiles, 2, [long, odd]).tobytes()
        ink = np.argwhere(np.asarray(sheet)[:, :, 0] < 128)
        assert len(ink) > 30
        assert ink[:, 0].min() >= 4 + 32
        assert not ((ink[:, 1] >= 68) & (ink[:, 1] < 72)).any(), "a label runs into the gap"

    def test_unlike_sizes_are_centred(self) -> None:
        sheet = images.grid([torch.zeros(3, 8, 8), Image.new("RGB", (4, 4))], 2, gap=0)
        assert [sheet.getpixel((x, 4))[0] for x in (9, 10, 13, 14)] == [255, 0, 0, 255]

    def test_nothing_to_show_is_refused(self) -> None:
        for given_images, columns, labels in (([], 1, None), ([torch.zeros(3, 1, 1)], 0, None)):
            with pytest.raises(ValueError, match="least"):
                images.grid(given_images, columns, labels)
        with pytest.raises(ValueError, match="2 labels for 1"):
            images.grid([torch.zeros(3, 1, 1)], 1, ["a", "b"])
