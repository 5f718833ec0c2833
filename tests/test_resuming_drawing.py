"""What a drawing saved between two Steps leads to the very bits that it would have reached itself."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import CPU, crop_spec
from test_denoiser import network
from test_vqgan_backend import JOB, RECIPE

from vqclip.backends.vqgan.backend import Drawing, VQGANBackend
from vqclip.generators.denoiser import Denoiser
from vqclip.generators.vqgan import VQGAN
from vqclip.job import Job
from vqclip.loop.annealing import Levels
from vqclip.perceptors.clip import ClipPerceptor

STEPS = 9
EVERY = product(
    ("adam", "radam", "normalised"), (0.0, 0.9), ((), ("affine", "colour_jitter")), (False, True), (1, 3),
    (1, STEPS // 2, STEPS - 2, STEPS - 1),
)  # fmt: skip
CELLS = list(EVERY)
if os.environ.get("VQCLIP_SOAK", "1") == "1":
    CELLS = CELLS[::7]  # 7 divides no number of values, so that each value of each setting comes


def maker(generator: VQGAN, guide: ClipPerceptor, *, denoised: bool = False, **changes: object) -> VQGANBackend:
    recipe = replace(RECIPE, coarse=0.5, tries_share=0.3, levels=Levels(0.5, 0.1, 0.4), **changes)  # type: ignore[arg-type]
    cleaner = Denoiser(network(channels=32), device=CPU) if denoised else None
    return VQGANBackend(generator, [guide], [1.0], recipe=recipe, denoiser=cleaner)


def jobs(*seeds: int) -> list[Job]:
    return [replace(JOB, size=(64, 64), steps=STEPS, seed=seed) for seed in seeds]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_drawing_goes_on_bit_for_bit(
    generator: VQGAN, guide: ClipPerceptor, cell: tuple[str, float, tuple[str, ...], bool, int, int]
) -> None:
    optimizer, average, augment, denoised, tries, at = cell
    crops = crop_spec(count=2, chunk=2, noise=0.1, augment=augment)
    settings = {"optimizer": optimizer, "average": average, "crops": crops, "tries": tries}
    backend = maker(generator, guide, denoised=denoised, **settings)
    whole = Drawing(backend, jobs(3))
    seen = []
    for steps in whole:
        seen.append(steps)
        if steps.index == at:
            saved = whole.saved(0)
    rest = list(Drawing(backend, jobs(3), saved=saved))
    assert [steps.index for steps in rest] == list(range(at + 1, STEPS + 1))
    for steps, before in zip(rest, seen[at + 1 :], strict=True):
        assert torch.equal(steps.images, before.images)
        assert all(torch.equal(steps.terms[name], before.terms[name]) for name in before.terms)


@pytest.mark.parametrize("at", [1, 4, 6])
def test_one_of_several_goes_on_alone(generator: VQGAN, guide: ClipPerceptor, at: int) -> None:
    backend = maker(generator, guide, tries=2)
    whole = Drawing(backend, jobs(3, 4, 5))
    for steps in whole:
        if steps.index == at:
            whole.keep([2, 0])
            saved = [whole.saved(row) for row in (0, 1)]
    for row, seed in enumerate((5, 3)):
        *_, last = Drawing(backend, jobs(seed), saved=saved[row])
        assert torch.allclose(last.images[0], steps.images[row], atol=1e-3)  # sums of a batch may be rounded otherwise


def test_saving_changes_nothing_and_what_is_saved_stays(generator: VQGAN, guide: ClipPerceptor) -> None:
    backend = maker(generator, guide, denoised=True, tries=2)
    *_, untouched = Drawing(backend, jobs(3))
    drawing, kept = Drawing(backend, jobs(3)), []
    for steps in drawing:
        if steps.index < STEPS:
            saved = drawing.saved(0)
            kept.append((saved, {name: value.clone() for name, value in saved.items()}))
    assert torch.equal(steps.images, untouched.images)
    assert all(torch.equal(saved[name], copy[name]) for saved, copy in kept for name in copy)
    assert all(value.device.type == "cpu" for saved, _ in kept for value in saved.values())


def test_what_was_saved_of_something_else_is_refused(generator: VQGAN, guide: ClipPerceptor) -> None:
    drawing = Drawing(maker(generator, guide), jobs(3))
    next(iter(drawing))
    saved = drawing.saved(0)
    with pytest.raises(ValueError, match="another number of pictures than 2"):
        next(iter(Drawing(maker(generator, guide), jobs(3, 4), saved=saved)))
    for name in ("state.latent", "state.crops.stream.0", "late"):
        with pytest.raises(KeyError):
            next(iter(Drawing(maker(generator, guide), jobs(3), saved={k: v for k, v in saved.items() if k != name})))


@pytest.mark.parametrize("at", [2, 4, 6])
def test_tries_that_outlast_the_coarse_part_end_with_it(generator: VQGAN, guide: ClipPerceptor, at: int) -> None:
    recipe = replace(maker(generator, guide, tries=3).recipe, coarse=0.3, tries_share=0.6)
    backend = VQGANBackend(generator, [guide], [1.0], recipe=recipe)
    whole = Drawing(backend, jobs(3, 4))
    for steps in whole:
        if steps.index == at:
            whole.keep([1])
            saved = whole.saved(0)
    *_, last = Drawing(backend, jobs(4), saved=saved)
    assert torch.allclose(last.images, steps.images, atol=1e-3)
