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

from vqclip.backends.vqgan.backend import OPTIMIZERS, Drawing, Recipe, VQGANBackend, cosine, start_latent
from vqclip.backends.vqgan.population import Leaders
from vqclip.backends.vqgan.starts import smooth_colours
from vqclip.generators.vqgan import VQGAN, build
from vqclip.job import InputError, Job, Prompt, Step, Steps
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


def side_by_side(*runs: tuple[float, ...]) -> Iterator[Steps]:
    """Latents with these losses, whose pictures hold the first of them."""
    images = torch.tensor([run[0] for run in runs]).view(-1, 1, 1, 1)
    for index, losses in enumerate(zip(*runs, strict=True)):
        yield Steps(index, len(runs[0]) - 1, images, {"include": torch.tensor(losses)})


def test_who_leads_lately_is_shown() -> None:
    leaders = Leaders(3)
    shown = [leaders.of(steps) for steps in side_by_side((3, 2, 2), (4, 1, 1), (5, 5, 5))]
    assert [float(steps.images) for steps in shown] == [3, 4, 4]
    assert [steps.index for steps in shown] == [0, 1, 2]
    assert leaders.rows() == [1]


def test_one_lucky_draw_does_not_make_a_leader() -> None:
    leaders = Leaders(2)
    shown = [leaders.of(steps) for steps in side_by_side((1, 1, 1, 1.2), (1.5, 1.5, 1.5, 0.9))]
    assert [float(steps.images) for steps in shown] == [1, 1, 1, 1]


def test_each_picture_has_a_leader_and_pictures_can_be_left_behind() -> None:
    leaders = Leaders(2)
    steps = list(side_by_side((3, 3), (2, 2), (5, 5), (6, 1), (8, 8), (9, 9)))
    assert leaders.of(steps[0]).images.flatten().tolist() == [2, 5, 8]
    assert leaders.rows() == [1, 2, 4]
    assert leaders.keep([2, 1]) == [4, 5, 2, 3]
    later = steps[1].rows(torch.tensor([4, 5, 2, 3]))
    assert leaders.of(later).images.flatten().tolist() == [8, 6]


def test_a_try_without_numbers_leads_none_with_some() -> None:
    (steps,) = side_by_side((math.nan,), (7,))
    assert float(Leaders(2).of(steps).images) == 7


def drawn(maker: VQGANBackend, *seeds: int) -> torch.Tensor:
    """The pictures of some seeds, side by side."""
    *_, last = Drawing(maker, [replace(JOB, seed=seed) for seed in seeds])
    return last.images


def test_of_several_tries_one_is_the_result_as_if_it_had_run_alone(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor
) -> None:
    chosen = drawn(backend(generator, guide, tries=3, tries_share=0.5), 3)
    own, ends = Job.rng, []
    for name in ("", "try 2 ", "try 3 "):
        monkeypatch.setattr(Job, "rng", lambda job, purpose, name=name: own(job, f"{name}{purpose}"))
        ends.append(drawn(backend(generator, guide, tries=1), 3))
    assert sum(torch.allclose(chosen, end, atol=1e-4) for end in ends) == 1
    assert not torch.allclose(ends[0], ends[1], atol=1e-2)


EVERYTHING = {
    "coarse": 0.5, "tries": 2, "tries_share": 0.25, "average": 0.5, "anchor": 0.3, "decay": 0.3, "smooth": 0.1,
    "roles": True, "area": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, EVERYTHING, {"optimizer": "normalised"}, {"optimizer": "radam"}], ids=str)
def test_a_picture_of_a_batch_is_the_one_drawn_alone(
    generator: VQGAN, guide: ClipPerceptor, changes: dict[str, object]
) -> None:
    maker = backend(generator, guide, **changes)
    together = drawn(maker, 3, 4, 5)
    for row, seed in enumerate((3, 4, 5)):
        assert torch.allclose(together[row], drawn(maker, seed)[0], atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("at", [0, 1, 2, 3])  # among the tries, in the coarse part, at the border, in the fine part
def test_pictures_that_are_kept_go_on_as_if_alone(generator: VQGAN, guide: ClipPerceptor, at: int) -> None:
    maker = backend(generator, guide, **EVERYTHING)
    drawing = Drawing(maker, [replace(JOB, seed=seed) for seed in (3, 4, 5)])
    seen = []
    for steps in drawing:
        seen.append(len(steps))
        if steps.index == at:
            drawing.keep([2, 0])
    assert seen == [3] * (at + 1) + [2] * (JOB.steps - at)
    assert [job.seed for job in drawing.jobs] == [5, 3]
    for image, seed in zip(steps.images, (5, 3), strict=True):
        assert torch.allclose(image, drawn(maker, seed)[0], atol=1e-3)


def test_jobs_side_by_side_differ_in_their_seeds_alone(generator: VQGAN, guide: ClipPerceptor) -> None:
    with pytest.raises(ValueError, match="seeds alone"):
        Drawing(backend(generator, guide), [JOB, replace(JOB, steps=9)])


def test_a_batch_may_use_a_thread_for_each_latent(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor
) -> None:
    """Only while it works: whoever looks at a step has the usual number."""
    working: list[int] = []
    decode = generator.decode
    monkeypatch.setattr(generator, "decode", lambda latent: working.append(torch.get_num_threads()) or decode(latent))
    maker = VQGANBackend(generator, [guide], [1.0], recipe=RECIPE, threads=2)
    outside = [torch.get_num_threads() for _ in Drawing(maker, [replace(JOB, seed=seed) for seed in (1, 2, 3)])]
    assert set(working) == {2}
    assert set(outside) == {torch.get_num_threads()} == {1}
    working.clear()
    list(maker.steps(JOB))
    assert set(working) == {1}


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
            (latents,) = self.param_groups[0]["params"]
            height, width = latents.shape[-2:]
            made[width * generator.stride, height * generator.stride] += len(latents)
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
