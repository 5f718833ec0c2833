"""The loop, driven with tiny real models and no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from conftest import crop_spec
from torch import Tensor

from vqclip.generators.vqgan import VQGAN
from vqclip.job import Step
from vqclip.loop import losses
from vqclip.loop.crops import Cropper
from vqclip.loop.losses import Losses
from vqclip.loop.optimize import optimize
from vqclip.loop.state import State
from vqclip.perceptors.clip import ClipPerceptor

SIZE = (32, 32)


def adam(tensors: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(tensors, lr=0.1)


def loop(
    generator: VQGAN, guide: ClipPerceptor, terms: Losses, *, steps: int = 5, seed: int = 0, **changes: object
) -> Iterator[Step]:
    options: dict[str, object] = {"rate": lambda _: 0.1, "chunk": 4} | changes
    cropper = Cropper(crop_spec(count=4, chunk=options.pop("chunk")))
    latent: Any = options.pop("latent", None)
    if latent is None:
        latent = generator.sample(SIZE, torch.Generator().manual_seed(seed))
    state = State(latent, [torch.Generator().manual_seed(seed)], optimizer=adam, denoise=options.pop("denoise", None))  # type: ignore[arg-type]
    run = optimize(generator, state, [guide], terms, cropper=cropper, steps=steps, **options)  # type: ignore[arg-type]
    return (each[0] for each in run)


def include(guide: ClipPerceptor, text: str = "apple") -> Losses:
    return Losses({"include": losses.attract([guide.embed_text([text])], [1.0], weight=1.0, stop=None)})


def exclude(guide: ClipPerceptor, text: str = "apple") -> Losses:
    return Losses({"exclude": losses.repel([guide.embed_text([text])], [1.0], weight=1.0, stop=None)})


def test_yields_steps_plus_one_and_numbers_them(generator: VQGAN, guide: ClipPerceptor) -> None:
    for steps in (0, 1, 4):
        seen = list(loop(generator, guide, include(guide), steps=steps))
        assert [step.index for step in seen] == list(range(steps + 1))
        assert all(step.total == steps for step in seen)


def test_step_zero_is_the_untouched_start(generator: VQGAN, guide: ClipPerceptor) -> None:
    latent = generator.sample(SIZE, torch.Generator().manual_seed(7))
    first = next(loop(generator, guide, include(guide), latent=latent))
    assert torch.equal(first.image, generator.decode(latent)[0])


def test_same_seed_same_bits_other_seed_other_picture(generator: VQGAN, guide: ClipPerceptor) -> None:
    runs = [list(loop(generator, guide, include(guide), seed=seed))[-1].image for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_include_falls_and_exclude_rises_in_distance(generator: VQGAN, guide: ClipPerceptor) -> None:
    drawn = [float(step.terms["include"]) for step in loop(generator, guide, include(guide), steps=25)]
    assert min(drawn[-5:]) < drawn[0] - 0.01
    pushed = [float(step.terms["exclude"]) for step in loop(generator, guide, exclude(guide), steps=25)]
    assert min(pushed[-5:]) < pushed[0] - 0.01  # the term is minus the distance


def test_chunks_give_the_same_result_as_one_piece(generator: VQGAN, guide: ClipPerceptor) -> None:
    whole, parts = (list(loop(generator, guide, include(guide), steps=2, chunk=chunk)) for chunk in (4, 1))
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one.image, other.image, atol=1e-3)
        assert float(one.terms["include"]) == pytest.approx(float(other.terms["include"]), abs=1e-5)


def test_the_callers_latent_stays_as_it_was(generator: VQGAN, guide: ClipPerceptor) -> None:
    latent = generator.sample(SIZE, torch.Generator().manual_seed(7))
    before = latent.clone()
    list(loop(generator, guide, include(guide), latent=latent))
    assert torch.equal(latent, before)
    assert not latent.requires_grad


def test_a_consumer_under_no_grad_changes_nothing(generator: VQGAN, guide: ClipPerceptor) -> None:
    expected = list(loop(generator, guide, include(guide)))[-1].image
    with torch.no_grad():
        seen = list(loop(generator, guide, include(guide)))[-1].image
    assert torch.equal(expected, seen)
    iterator = loop(generator, guide, include(guide))
    next(iterator)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        next(iterator)
        assert not torch.is_grad_enabled()  # the loop's own mode does not leak


def test_yielded_pictures_do_not_change_afterwards(generator: VQGAN, guide: ClipPerceptor) -> None:
    kept, copies = [], []
    for step in loop(generator, guide, include(guide)):
        kept.append(step.image)
        copies.append(step.image.clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert not any(image.requires_grad for image in kept)


def test_latents_stay_inside_the_codebooks_range(generator: VQGAN, guide: ClipPerceptor) -> None:
    """With a huge rate every cell hits the bounds; the picture must still be decodable codes."""
    seen: list[Tensor] = []
    terms = Losses(include(guide).crops, {"watch": watched(seen)})
    list(loop(generator, guide, terms, steps=3, rate=lambda _: 50.0))
    low, high = generator.codebook.aminmax(dim=0)
    for latent in seen:
        assert bool((latent >= low[None, :, None, None]).all())
        assert bool((latent <= high[None, :, None, None]).all())
    assert not torch.equal(seen[0], seen[-1])


def watched(seen: list[Tensor]) -> losses.Loss:
    def watch(view: losses.View) -> Tensor:
        seen.append(view.latent.detach().clone())
        return view.image.sum((1, 2, 3)) * 0

    return watch


def test_averaged_latents_trail_the_live_ones(generator: VQGAN, guide: ClipPerceptor) -> None:
    travelled = []
    for average in (0.0, 0.9):
        seen: list[Tensor] = []
        terms = Losses(include(guide).crops, {"watch": watched(seen)})
        list(loop(generator, guide, terms, steps=4, average=average))
        assert torch.equal(seen[0], generator.sample(SIZE, torch.Generator().manual_seed(0)))
        travelled.append(float((seen[-1] - seen[0]).abs().mean()))
    assert 0 < travelled[1] < 0.5 * travelled[0]


def test_a_picture_term_alone_is_descended(generator: VQGAN, guide: ClipPerceptor) -> None:
    latent = generator.sample(SIZE, torch.Generator().manual_seed(1))
    terms = Losses({}, {"decay": losses.decay(1.0)})
    values = [float(step.terms["decay"]) for step in loop(generator, guide, terms, latent=latent, steps=8)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def test_the_rate_is_asked_for_once_per_update(generator: VQGAN, guide: ClipPerceptor) -> None:
    asked: list[int] = []

    def rate(index: int) -> float:
        asked.append(index)
        return 0.0

    pictures = list(loop(generator, guide, include(guide), steps=3, rate=rate))
    assert asked == [0, 1, 2]
    assert torch.equal(pictures[0].image, pictures[-1].image)  # a rate of zero moves nothing


def test_stopping_early_is_break(generator: VQGAN, guide: ClipPerceptor) -> None:
    for step in loop(generator, guide, include(guide), steps=1000):
        if step.index == 2:
            break
    assert step.index == 2


def test_a_denoiser_sees_every_updated_latent_and_has_the_last_word(generator: VQGAN, guide: ClipPerceptor) -> None:
    shares: list[float] = []

    class Grey:
        def __call__(self, latent: Tensor, progress: float) -> Tensor:
            shares.append(progress)
            return torch.zeros_like(latent)

        def keep(self, rows: Sequence[int]) -> None:
            raise AssertionError(rows)

    seen = list(loop(generator, guide, include(guide), steps=4, denoise=Grey()))
    assert shares == [0.25, 0.5, 0.75, 1.0]
    flat = generator.decode(torch.zeros(1, 32, 8, 8))[0]
    assert torch.equal(seen[-1].image, flat)
    assert not torch.equal(seen[0].image, flat)  # the start is shown as it is
