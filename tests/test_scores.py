"""Scores of one picture and of a set: known answers, a naive reference, limits and refusals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import kornia
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.job import Reading, Verdict
from vqclip.judge.judge import Judge
from vqclip.judge.scores import (
    LOWER_WINS,
    METRICS,
    OF_THE_JUDGE,
    SHARES,
    diversity,
    ms_ssim,
    picture_scores,
    structural_diversity,
)

WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])


def verdict(rank: int) -> Verdict:
    return Verdict("judge", rank, 101, 0.3, None, -0.05)


def noise(seed: int, height: int = 64, width: int = 64) -> Tensor:
    """A picture with coarse and fine structure (3, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(1, 3, 5, 5, generator=rng), (height, width), mode="bicubic")[0]
    return (0.8 * coarse + 0.2 * torch.rand(3, height, width, generator=rng)).clamp(0, 1)


def naive_ms_ssim(first: Tensor, second: Tensor, scales: int) -> float:
    """The definition, window by window, in numpy."""
    x, y = first.double().numpy(), second.double().numpy()
    offsets = np.arange(11) - 5
    bell = np.exp(-(offsets**2) / 4.5)
    window = np.outer(bell, bell) / bell.sum() ** 2
    weights = WEIGHTS[:scales] / WEIGHTS[:scales].sum()
    result = np.ones(3)
    for scale in range(scales):
        kinds = np.array([[_window(x[c], y[c], window) for c in range(3)]])[0]  # (3, 2)
        result *= np.maximum(kinds[:, 0 if scale == scales - 1 else 1], 0) ** weights[scale]
        x, y = _halve(x), _halve(y)
    return float(result.mean())


def _window(x: np.ndarray, y: np.ndarray, window: np.ndarray) -> tuple[float, float]:
    wholes, structures = [], []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (each[top : top + 11, left : left + 11] for each in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            shared = (window * (a - mean_a) * (b - mean_b)).sum()
            structures.append((2 * shared + 0.0009) / (var_a + var_b + 0.0009))
            wholes.append(structures[-1] * (2 * mean_a * mean_b + 0.0001) / (mean_a**2 + mean_b**2 + 0.0001))
    return float(np.mean(wholes)), float(np.mean(structures))


def _halve(x: np.ndarray) -> np.ndarray:
    height, width = (-(-side // 2) for side in x.shape[1:])
    cells = [[x[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((1, 2)) for c in range(width)] for r in range(height)]
    return np.array(cells).transpose(2, 0, 1)


class TestPictureScores:
    @pytest.mark.parametrize(("rank", "top1", "top5"), [(1, 1, 1), (2, 0, 1), (5, 0, 1), (6, 0, 0), (101, 0, 0)])
    def test_ranks(self, rank: int, top1: float, top5: float) -> None:
        found = picture_scores(verdict(rank), seconds=None, peak_memory_bytes=None)
        assert found == {"top1": top1, "top5": top5, "margin": -0.05}

    def test_times_and_memory(self) -> None:
        found = picture_scores(None, seconds=4.0, peak_memory_bytes=3)
        assert found == {"seconds": 4.0, "peak_memory_bytes": 3.0}

    def test_what_is_not_known_is_left_out(self) -> None:
        assert picture_scores(None, seconds=None, peak_memory_bytes=None) == {}
        assert picture_scores(None, seconds=0.0, peak_memory_bytes=None) == {"seconds": 0.0}

    def test_every_number_is_a_known_metric(self) -> None:
        against = replace(verdict(1), exclude=0.1, exclude_margin=0.2)
        found = picture_scores(against, seconds=4.0, peak_memory_bytes=3)
        assert (found["margin"], found["exclude_margin"]) == (-0.05, 0.2)
        assert {*found, "diversity", "ms_ssim"} == set(METRICS)
        assert set(METRICS) >= LOWER_WINS | OF_THE_JUDGE | SHARES


    def test_a_margin_that_an_older_run_does_not_tell_is_left_out(self) -> None:
        found = picture_scores(replace(verdict(1), margin=math.nan), seconds=None, peak_memory_bytes=None)
        assert set(found) == {"top1", "top5"}


class TestDiversity:
    def test_known_angles(self) -> None:
        right = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        assert diversity(right) == pytest.approx(1.0)
        assert diversity(torch.tensor([[1.0, 0.0]] * 3)) == pytest.approx(0.0)
        assert diversity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(2.0)
        sixty = torch.tensor([[1.0, 0.0], [0.5, 3**0.5 / 2]])
        assert diversity(sixty) == pytest.approx(0.5, abs=1e-6)

    def test_it_is_the_mean_over_pairs_in_any_order(self) -> None:
        rows = F.normalize(torch.randn(6, 9, generator=torch.Generator().manual_seed(1)), dim=1)
        pairs = [1 - float(rows[a] @ rows[b]) for a in range(6) for b in range(a)]
        assert diversity(rows) == pytest.approx(np.mean(pairs), abs=1e-6)
        assert diversity(rows.flip(0)) == pytest.approx(diversity(rows))

    @pytest.mark.parametrize("count", [0, 1])
    def test_one_picture_has_none(self, count: int) -> None:
        assert diversity(torch.ones(count, 4)) is None


class TestMsSsim:
    @pytest.mark.parametrize(
        ("height", "width", "scales"), [(11, 30, 1), (20, 20, 1), (21, 40, 2), (45, 41, 3), (84, 82, 4)]
    )
    def test_it_is_the_definition(self, height: int, width: int, scales: int) -> None:
        """Also for odd sides, whose last row or column is halved alone."""
        first, second = noise(1, height, width), noise(2, height, width)
        near = (first + 0.2 * second) / 1.2
        for pair in ((first, near), (first, second)):
            assert ms_ssim(*pair) == pytest.approx(naive_ms_ssim(*pair, scales), abs=1e-9)

    def test_five_scales_from_161_pixels_on(self) -> None:
        first, second = noise(1, 161, 161), noise(2, 161, 161)
        assert ms_ssim(first, second) == pytest.approx(naive_ms_ssim(first, second, 5), abs=1e-9)

    def test_one_scale_is_plain_ssim(self) -> None:
        first = noise(1, 20, 19)
        second = (first + 0.3 * noise(2, 20, 19)) / 1.3  # alike enough that no channel is negative
        known = kornia.metrics.ssim(first[None].double(), second[None].double(), 11, padding="valid").mean()
        assert ms_ssim(first, second) == pytest.approx(float(known), abs=1e-4)  # kornia's eps is 1e-12

    def test_equal_pictures_have_one(self) -> None:
        assert ms_ssim(noise(1), noise(1)) == pytest.approx(1.0, abs=1e-12)

    def test_it_does_not_depend_on_the_order(self) -> None:
        assert ms_ssim(noise(1), noise(2)) == pytest.approx(ms_ssim(noise(2), noise(1)), abs=1e-12)

    def test_it_falls_with_noise(self) -> None:
        first, grain = noise(1), torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(3))
        values = [ms_ssim(first, (first + amount * grain).clamp(0, 1)) for amount in (0, 0.02, 0.05, 0.1, 0.3)]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.7 < values[1]

    def test_the_negative_is_nothing_alike_and_no_error(self) -> None:
        first = noise(1)
        assert ms_ssim(first, 1 - first) == 0.0

    @pytest.mark.parametrize("shapes", [((3, 10, 40), (3, 10, 40)), ((3, 40, 40), (3, 40, 41)), ((1, 40, 40),) * 2])
    def test_what_cannot_be_compared_is_refused(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        with pytest.raises(ValueError, match="px|are needed"):
            ms_ssim(*(torch.zeros(shape) for shape in shapes))


class TestStructuralDiversity:
    def test_it_is_the_mean_over_pairs(self) -> None:
        pictures = [noise(seed) for seed in (1, 2, 3)]
        pairs = [ms_ssim(pictures[a], pictures[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        assert structural_diversity(pictures) == pytest.approx(1 - np.mean(pairs))

    def test_equal_pictures_have_none(self) -> None:
        assert structural_diversity([noise(1)] * 3) == pytest.approx(0.0, abs=1e-12)

    @pytest.mark.parametrize("sizes", [[], [(64, 64)], [(64, 64), (64, 32)], [(8, 64), (8, 64)]])
    def test_none_where_nothing_can_be_compared(self, sizes: Sequence[tuple[int, int]]) -> None:
        assert structural_diversity([noise(1, *size) for size in sizes]) is None


class Colours:
    """A perceptor whose embedding is the mean colour."""

    size = 16
    asked = 0

    def read(self, text: str) -> Reading:
        return Reading(text)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        self.asked += len(texts)
        return F.normalize(torch.ones(len(texts), 3), dim=1)

    def embed_image(self, crops: Tensor) -> Tensor:
        return F.normalize(crops.mean((2, 3)) + 1e-6, dim=1)


def test_the_judge_embeds_a_picture_whatever_the_prompts() -> None:
    picture = torch.tensor([0.6, 0.8, 0.0])[:, None, None].expand(3, 20, 30).requires_grad_()
    embeds = [Judge(Colours(), "test", [text], rivals=[{"thing": ["b", "c"]}]).embed(picture) for text in ("a", "z")]
    assert torch.equal(*embeds)
    assert torch.allclose(embeds[0], torch.tensor([0.6, 0.8, 0.0]), atol=1e-4)
    assert not embeds[0].requires_grad
    assert diversity(torch.stack(embeds)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("size", [(11, 11), (16, 21), (20, 13)])
def test_one_scale_is_the_library_s_ssim_of_whole_windows(size: tuple[int, int]) -> None:
    """Its map of the picture, without the border that it fills by reflection."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    rng = torch.Generator().manual_seed(3)
    first, second = (torch.rand(3, *size, generator=rng, dtype=torch.float64) for _ in range(2))
    second = 0.7 * first + 0.3 * second
    _, full = structural_similarity_index_measure(first[None], second[None], data_range=1.0, return_full_image=True)
    assert ms_ssim(first, second) == pytest.approx(float(full[..., 5:-5, 5:-5].mean()), abs=1e-9)
