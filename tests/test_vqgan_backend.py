"""The VQGAN backend: starts, schedules, names of terms, what each prompt section does."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from conftest import CPU, crop_spec, scaled, tiny_vqgan_state

from vqclip.backends.vqgan.backend import OPTIMIZERS, Recipe, VQGANBackend, cosine, start_latent
from vqclip.backends.vqgan.population import leading
from vqclip.backends.vqgan.starts import smooth_colours
from vqclip.generators.vqgan import VQGAN, build
from vqclip.job import InputError, Job, Prompt, Step
from vqclip.perceptors.clip import ClipPerceptor

RECIPE = Recipe(
    crops=crop_spec(), start="noise", cells=4, contrast=0.5, optimizer="adam", rate=0.2, rate_end=0.1,
    weight_decay=0.0, average=0.0, exclude=0.5, extras=0.5, smooth=0.0, anchor=0.0, decay=0.0,
)  # fmt: skip
JOB = Job((Prompt("apple"),), size=(32, 32), steps=4)


def backend(generator: VQGAN, guide: ClipPerceptor, **changes: object) -> VQGANBackend:
    return VQGANBackend(generator, [guide], [1.0], recipe=replace(RECIPE, **changes))


def test_every_step_is_reported_and_the_last_is_the_result(generator: VQGAN, guide: ClipPerceptor) -> None:
    seen: list[Step] = []
    result = backend(generator, guide).generate(JOB, seen.append)
    assert [step.index for step in seen] == [0, 1, 2, 3, 4]
    assert torch.equal(result.image, seen[-1].image)
    assert result.terms == {"include: apple": float(seen[-1].terms["include: apple"])}
    assert result.seconds > 0


def test_what_others_do_at_a_step_is_not_the_backends_time(generator: VQGAN, guide: ClipPerceptor) -> None:
    begun = time.perf_counter()
    result = backend(generator, guide).generate(JOB, lambda _: time.sleep(0.2))
    assert 0 < result.seconds <= time.perf_counter() - begun - 5 * 0.2


def test_seed_zero_is_a_seed_and_seeds_differ(generator: VQGAN, guide: ClipPerceptor) -> None:
    pictures = [backend(generator, guide).generate(replace(JOB, seed=seed), lambda _: None).image for seed in (0, 0, 1)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_purposes_have_streams_of_their_own() -> None:
    draws = {purpose: torch.rand(4, generator=JOB.rng(purpose)) for purpose in ("start", "crops")}
    assert not torch.equal(draws["start"], draws["crops"])
    assert torch.equal(draws["start"], torch.rand(4, generator=JOB.rng("start")))


def test_sections_become_named_terms_with_their_weights(generator: VQGAN, guide: ClipPerceptor) -> None:
    job = replace(
        JOB, steps=0, include=(Prompt("apple"), Prompt("apple", 2.0)), exclude=(Prompt("pear"), Prompt("fig", 0.0)),
        extras=(Prompt("oil"),),
    )  # fmt: skip
    terms = {k: float(v) for k, v in next(backend(generator, guide, smooth=0.1).steps(job)).terms.items()}
    assert list(terms) == ["include: apple", "include: apple (2)", "exclude: pear", "extras: oil", "smooth"]
    assert terms["include: apple (2)"] == pytest.approx(2 * terms["include: apple"], rel=1e-5)
    assert terms["exclude: pear"] < 0 < terms["extras: oil"]
    halved = {k: float(v) for k, v in next(backend(generator, guide, exclude=0.25).steps(job)).terms.items()}
    assert halved["exclude: pear"] == pytest.approx(terms["exclude: pear"] / 2, rel=1e-5)


def test_extras_and_excludes_change_the_picture(generator: VQGAN, guide: ClipPerceptor) -> None:
    jobs = [JOB, replace(JOB, exclude=(Prompt("pear"),)), replace(JOB, extras=(Prompt("oil"),))]
    one = backend(generator, guide, rate=1.0, rate_end=1.0)
    pictures = [one.generate(replace(job, steps=8), lambda _: None).image for job in jobs]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_excludes_end_at_the_common_stop_unless_they_have_their_own(generator: VQGAN, guide: ClipPerceptor) -> None:
    def drawn(*exclude: Prompt, stop: float | None) -> torch.Tensor:
        job = replace(JOB, exclude=exclude, steps=8)
        maker = backend(generator, guide, exclude_stop=stop, rate=1.0, rate_end=1.0)
        return maker.generate(job, lambda _: None).image

    alone = drawn(stop=None)
    assert torch.equal(drawn(Prompt("pear"), stop=0.0), alone)  # every crop is farther than that: no push
    own = drawn(Prompt("pear", stop=4.9), stop=0.0)
    assert not torch.equal(own, alone)
    assert torch.equal(own, drawn(Prompt("pear"), stop=4.9))
    assert torch.equal(drawn(Prompt("pear"), stop=None), own)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_the_latent(generator: VQGAN, guide: ClipPerceptor, name: str) -> None:
    seen: list[Step] = []
    backend(generator, guide, optimizer=name, rate=1.0, rate_end=1.0, anchor=1.0).generate(JOB, seen.append)
    assert float(seen[0].terms["anchor"]) == 0
    assert float(seen[-1].terms["anchor"]) > 0


@pytest.mark.parametrize("kind", ["smooth", "noise", "mean"])
def test_starts_are_codebook_rows_and_seeded(generator: VQGAN, kind: str) -> None:
    recipe = replace(RECIPE, start=kind)
    draws = [
        start_latent(generator, recipe, size=(48, 32), rng=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert draws[0].shape == (1, 32, 8, 12)
    assert torch.equal(draws[0], draws[1])
    rows = draws[0].movedim(1, -1).reshape(-1, 32)
    assert bool((rows[:, None] == generator.codebook).all(-1).any(1).all())
    if kind == "noise":
        assert not torch.equal(draws[0], draws[2])


def test_a_sine_start_is_the_sine_of_half_a_normal_draw(generator: VQGAN) -> None:
    recipe = replace(RECIPE, start="sine")
    draws = [
        start_latent(generator, recipe, size=(240, 160), rng=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert draws[0].shape == (1, 32, 40, 60)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert float(draws[0].mean()) == pytest.approx(0, abs=0.01)
    deviation = ((1 - math.exp(-0.5)) / 2) ** 0.5  # E sin(x)^2 = (1 - exp(-2 s^2)) / 2 for a normal x of deviation s
    assert float(draws[0].std()) == pytest.approx(deviation, abs=0.005)


def test_joined_prompts_are_checked_as_they_are_read(generator: VQGAN, guide: ClipPerceptor) -> None:
    job = replace(JOB, exclude=tuple(Prompt("pear " * 20 + each) for each in "abcd"))
    backend(generator, guide).check(job)
    with pytest.raises(InputError, match="this CLIP reads 75"):
        backend(generator, guide, join="features").check(job)


def test_joined_extras_are_no_term_of_their_own(generator: VQGAN, guide: ClipPerceptor) -> None:
    job = replace(JOB, exclude=(Prompt("pear"), Prompt("fig")), extras=(Prompt("oil"),))
    first = next(backend(generator, guide, join="features", distance="cosine").steps(job))
    assert list(first.terms) == ["include: apple", "exclude: pear, fig"]
    assert abs(float(first.terms["include: apple"])) <= 1
    alone = next(backend(generator, guide, join="features", distance="cosine").steps(replace(job, extras=())))
    assert float(first.terms["include: apple"]) != float(alone.terms["include: apple"])


def test_a_start_picture_is_encoded(generator: VQGAN) -> None:
    picture = torch.rand(1, 3, 32, 32)
    latent = start_latent(
        generator, replace(RECIPE, start="image", image=picture), size=(32, 32), rng=torch.Generator()
    )
    assert torch.equal(latent, generator.encode(picture))
    with pytest.raises(InputError, match="start.image"):
        start_latent(generator, replace(RECIPE, start="image"), size=(32, 32), rng=torch.Generator())


def test_smooth_colours_are_blurred_and_in_range() -> None:
    colours = smooth_colours((64, 96), 4, 1.0, rng=torch.Generator().manual_seed(0))
    assert colours.shape == (1, 3, 96, 64)
    assert 0 <= float(colours.min()) < 0.3 < 0.7 < float(colours.max()) <= 1
    assert float(colours.diff(dim=-1).abs().max()) < 0.15
    flat = smooth_colours((64, 96), 4, 0.0, rng=torch.Generator())
    assert torch.allclose(flat, torch.full_like(flat, 0.5))


def test_the_rate_falls_along_a_cosine() -> None:
    rate = cosine(0.2, 0.05, 11)
    assert rate(0) == pytest.approx(0.2)
    assert rate(5) == pytest.approx(0.125)
    assert rate(10) == pytest.approx(0.05)
    assert cosine(0.2, 0.05, 1)(0) == pytest.approx(0.2)


def told(*losses: float) -> Iterator[Step]:
    """A run with these losses, whose pictures hold the first of them."""
    for index, loss in enumerate(losses):
        yield Step(index, len(losses) - 1, torch.full((3, 1, 1), float(losses[0])), {"include": torch.tensor(loss)})


def test_the_leader_is_shown_and_goes_on_alone() -> None:
    slow, fast, late = told(3, 2, 2, 2, 9), told(4, 1, 1, 1, 1), told(5, 5, 5, -90, -90)
    shown = list(leading([slow, fast, late], 2))
    assert [float(step.image.mean()) for step in shown] == [3, 4, 4, 4, 4]
    assert [step.index for step in shown] == [0, 1, 2, 3, 4]
    assert [step.index for step in late] == [3, 4]  # nobody asked it for more


def test_one_lucky_draw_does_not_make_a_leader() -> None:
    steady, lucky = told(1, 1, 1, 1.2), told(1.5, 1.5, 1.5, 0.9)
    assert [float(step.image.mean()) for step in leading([steady, lucky], 9)] == [1, 1, 1, 1]


def test_of_several_tries_one_is_the_result_as_if_it_had_run_alone(generator: VQGAN, guide: ClipPerceptor) -> None:
    job = replace(JOB, seed=3)
    alone = backend(generator, guide)
    ends = [
        list(alone._begin(job, alone._terms(job, settled=0), job.size, range(4), name=name))[-1].image
        for name in ("", "try 2 ", "try 3 ")
    ]
    chosen = backend(generator, guide, tries=3, tries_share=0.5).generate(job, lambda _: None).image
    assert sum(torch.equal(chosen, end) for end in ends) == 1
    assert torch.equal(backend(generator, guide, tries=1).generate(job, lambda _: None).image, ends[0])


@pytest.mark.parametrize("coarse", [0.5, 1.0])
def test_tries_run_in_the_coarse_part(generator: VQGAN, guide: ClipPerceptor, coarse: float) -> None:
    seen: list[Step] = []
    backend(generator, guide, coarse=coarse, tries=2, tries_share=1.0).generate(JOB, seen.append)
    assert [step.index for step in seen] == [0, 1, 2, 3, 4]
    assert all(step.image.shape == (3, 32, 32) for step in seen)


@pytest.mark.parametrize("changes", [
    {"tries_share": 0.5}, {"tries": 3, "tries_share": 0.5}, {"coarse": 0.5, "tries": 3, "tries_share": 0.4},
    {"coarse": 0.5, "tries": 2, "tries_share": 1.0}, {"coarse": 1.0, "tries": 2, "tries_share": 0.3},
])  # fmt: skip
def test_the_parts_are_the_updates_made_and_prompts_are_read_once(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor, changes: dict[str, float]
) -> None:
    made: Counter[tuple[int, int]] = Counter()
    read: list[list[str]] = []

    class Counting(torch.optim.Adam):
        def step(self, closure: None = None) -> None:
            height, width = self.param_groups[0]["params"][0].shape[-2:]
            made[width * generator.stride, height * generator.stride] += 1
            super().step(closure)

    class Reading:
        size, embed_image = guide.size, staticmethod(guide.embed_image)

        def embed_text(self, texts: list[str]) -> torch.Tensor:
            read.append(texts)
            return guide.embed_text(texts)

    monkeypatch.setitem(OPTIMIZERS, "adam", Counting)
    job = replace(JOB, size=(64, 32), steps=10)
    maker = backend(generator, Reading(), **changes)  # type: ignore[arg-type]
    maker.generate(job, lambda _: None)
    assert made == Counter({size: updates for size, updates in maker.parts(job.size, job.steps) if updates})
    assert read == [["apple"]]


def test_a_start_picture_is_tried_once(generator: VQGAN, guide: ClipPerceptor) -> None:
    settings = {"start": "image", "image": torch.rand(1, 3, 32, 32)}
    once, often = (
        backend(generator, guide, **settings, tries=tries, tries_share=1.0).generate(JOB, lambda _: None).image
        for tries in (1, 3)
    )
    assert torch.equal(once, often)


def test_a_run_without_terms_can_be_tried(generator: VQGAN, guide: ClipPerceptor) -> None:
    job = replace(JOB, include=(Prompt("apple", 0.0),))
    assert len(list(backend(generator, guide, tries=2, tries_share=1.0).steps(job))) == JOB.steps + 1


def drawn_at(factor: float, guide: ClipPerceptor, *, unit: bool = True, **changes: object) -> torch.Tensor:
    """A picture by a generator whose latents are `factor` times as long, in its own unit or in absolute numbers."""
    made = VQGAN(build(scaled(tiny_vqgan_state(), factor)), device=CPU)
    recipe = {"coarse": 0.5, "tries": 2, "tries_share": 0.25, "weight_decay": 0.1, "anchor": 0.3, "decay": 0.3}
    counted = recipe | ({"unit": made.unit} if unit else {}) | changes
    job = replace(JOB, steps=8, exclude=(Prompt("pear"),))
    return backend(made, guide, **counted).generate(job, lambda _: None).image


@pytest.mark.parametrize(("name", "start"), [*((name, "smooth") for name in OPTIMIZERS), ("normalised", "sine")])
def test_a_scaled_generator_draws_the_same_picture_by_every_optimizer(
    guide: ClipPerceptor, name: str, start: str
) -> None:
    changes = {"optimizer": name, "start": start, "average": 0.3, "rate": 0.5}
    plain = drawn_at(1.0, guide, **changes)
    for factor in (0.1, 10.0):
        assert torch.allclose(drawn_at(factor, guide, **changes), plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["normalised", "adam"])
def test_in_absolute_numbers_the_scale_changes_the_picture(guide: ClipPerceptor, name: str) -> None:
    pictures = [drawn_at(factor, guide, unit=False, optimizer=name, rate=0.5) for factor in (1.0, 0.1)]
    assert not torch.allclose(*pictures, rtol=0, atol=1e-2)
