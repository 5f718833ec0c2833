"""The Stable Diffusion backend draws what diffusers' own pipelines draw, bit for bit, and shows how."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_stable_diffusion as tiny
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.utils import logging as diffusers_logging
from torch import Tensor

from vqclip.backends.diffusion import SCHEDULERS, Denoising, make_scheduler
from vqclip.backends.stable_diffusion.backend import DEFAULTS, StableDiffusionBackend
from vqclip.backends.stable_diffusion.files import Models
from vqclip.job import InputError, Job, Prompt, Result, Step

CPU = torch.device("cpu")
PICTURE = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(5))
JOB = Job((Prompt("a red apple"),), size=(48, 32), seed=3)


@pytest.fixture(scope="module")
def models() -> Models:
    return tiny.models()


def denoising(**changes: Any) -> Denoising:
    return Denoising(**({"steps": 3, "guidance": 7.5, "scheduler": "ddim", "strength": 0.7} | changes))


def backend(models: Models, **changes: Any) -> StableDiffusionBackend:
    own = {key: changes.pop(key) for key in ("offload", "too_long", "device") if key in changes}
    return StableDiffusionBackend(models, **({"device": CPU} | own), denoising=denoising(**changes))


def draw(models: Models, job: Job = JOB, **changes: Any) -> Result:
    return backend(models, **changes).generate(job, lambda _: None)


def watched(models: Models, job: Job = JOB, **changes: Any) -> tuple[Result, list[Step]]:
    steps: list[Step] = []
    return backend(models, **changes).generate(job, steps.append), steps


def direct(models: Models, scheduler: Any, *, image: Tensor | None = None, job: Job = JOB, **arguments: Any) -> Tensor:
    """The same picture by a plain call of diffusers."""
    pipe: Any = tiny.pipeline(dict(models.parts))
    if image is not None:
        pipe = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        arguments |= {"image": image}
    else:
        arguments |= {"width": job.size[0], "height": job.size[1]}
    pipe.scheduler = scheduler
    return pipe(generator=job.rng("noise"), output_type="pt", **arguments).images[0]


def sampler(models: Models, name: str) -> Any:
    """Schedulers from diffusers alone, with the noise schedule of Stable Diffusion."""
    made = make_scheduler(name, models.parts["scheduler"])
    if name != "ddpm":
        return made
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return type(made)(**settings, timestep_spacing="leading", steps_offset=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_text_to_image_is_the_plain_call(models: Models, name: str) -> None:
    found = draw(models, scheduler=name).image
    expected = direct(models, sampler(models, name), prompt="a red apple", num_inference_steps=3, guidance_scale=7.5)
    assert torch.equal(found, expected)
    assert found.shape == (3, 32, 48)
    assert found.std() > 0.01


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_to_image_is_the_plain_call(models: Models, name: str) -> None:
    found = draw(models, scheduler=name, image=PICTURE, steps=5, strength=0.6)
    expected = direct(
        models, sampler(models, name), image=PICTURE, prompt="a red apple", num_inference_steps=5, strength=0.6
    )
    assert torch.equal(found.image, expected)
    assert found.steps == 3


def test_exclude_prompts_are_the_negative_prompt(models: Models) -> None:
    job = Job(JOB.include, exclude=(Prompt("a worm"), Prompt("blue")), size=JOB.size, seed=3)
    found = draw(models, job).image
    words = {"prompt": "a red apple", "negative_prompt": "a worm, blue"}
    assert torch.equal(found, direct(models, sampler(models, "ddim"), num_inference_steps=3, **words))
    assert not torch.equal(found, draw(models).image)


def test_prompts_of_one_weight_are_one_text(models: Models) -> None:
    prompts, extras = (Prompt("a red apple", 2.0), Prompt("a leaf", 2.0)), (Prompt("oil paint", 2.0),)
    job = Job((*prompts, Prompt("dropped", 0.0)), extras=extras, size=JOB.size, seed=3)
    found = draw(models, job)
    text = "a red apple, a leaf, oil paint"
    assert torch.equal(found.image, direct(models, sampler(models, "ddim"), num_inference_steps=3, prompt=text))
    assert found.facts["prompt"] == [[text, 1.0]]
    assert found.facts["negative"] == []


def test_weights_mean_the_mean_of_the_texts_states(models: Models) -> None:
    job = Job((Prompt("a red apple", 3.0),), (Prompt("worm", 1.0), Prompt("x", 4.0)), (Prompt("oil", 1.0),), (48, 32))
    encode = tiny.pipeline(dict(models.parts)).encode_prompt
    with torch.no_grad():
        states = {text: encode(text, CPU, 1, False)[0] for text in ("a red apple", "oil", "worm", "x")}
    words = {
        "prompt_embeds": 0.75 * states["a red apple"] + 0.25 * states["oil"],
        "negative_prompt_embeds": 0.2 * states["worm"] + 0.8 * states["x"],
    }
    found = draw(models, job)
    expected = direct(models, sampler(models, "ddim"), job=job, num_inference_steps=3, **words)
    assert torch.allclose(found.image, expected, atol=1e-5)
    assert found.facts["prompt"] == [["a red apple", 0.75], ["oil", 0.25]]
    twice = Job((Prompt("a red apple", 6.0),), (Prompt("worm", 2.0), Prompt("x", 8.0)), (Prompt("oil", 2.0),), (48, 32))
    assert torch.allclose(draw(models, twice).image, found.image, atol=1e-5)  # weights are relative


def test_prompts_without_any_weight_are_refused(models: Models) -> None:
    with pytest.raises(InputError, match="every prompt has weight 0"):
        backend(models).check(Job((Prompt("a", 0.0),), size=(32, 32)))


class TestAncestralSampling:
    """`ddpm`: the closed formulas of Ho et al. 2020, over every twentieth time step."""

    def scheduler(self, models: Models, **changes: Any) -> Any:
        return backend(models, scheduler="ddpm", **changes)._pipe.scheduler

    def test_it_is_set_after_the_pipeline_is_made(self, models: Models) -> None:
        made = self.scheduler(models)
        assert (made.config.steps_offset, made.config.clip_sample) == (0, False)
        made.set_timesteps(50)
        assert made.timesteps.tolist() == list(range(980, -1, -20))

    def test_strength_goes_through_the_last_part_of_the_schedule(self, models: Models) -> None:
        seen: list[int] = []
        own = backend(models, scheduler="ddpm", image=PICTURE, steps=50, strength=0.9)
        unet = own._pipe.unet
        hook = unet.register_forward_pre_hook(lambda _, inputs: seen.append(int(inputs[1])))
        result = own.generate(JOB, lambda _: None)
        hook.remove()
        assert seen == list(range(880, -1, -20))
        assert result.steps == len(seen) == 45

    @pytest.mark.parametrize("steps", [20, 30, 50])
    def test_every_step_is_the_posterior(self, models: Models, steps: int) -> None:
        made = self.scheduler(models)
        made.set_timesteps(steps)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        kept = torch.cumprod(1 - betas, 0)  # alpha bar
        assert torch.allclose(made.alphas_cumprod.double(), kept, rtol=1e-5)
        made.alphas_cumprod = kept
        rng = torch.Generator().manual_seed(1)
        latent = torch.randn(1, 4, 3, 3, generator=rng, dtype=torch.float64)
        for t in made.timesteps.tolist():
            noise = torch.randn(1, 4, 3, 3, generator=rng, dtype=torch.float64)
            a = kept[t]
            before = kept[t - 1000 // steps] if t >= 1000 // steps else torch.ones((), dtype=torch.float64)
            alpha = a / before
            clean = (latent - (1 - a).sqrt() * noise) / a.sqrt()
            mean = (before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - before) * latent) / (1 - a)
            fresh = torch.randn(latent.shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
            deviation = ((1 - before) / (1 - a) * (1 - alpha)).sqrt() if t > 0 else 0.0
            found = made.step(noise, t, latent, generator=torch.Generator().manual_seed(t)).prev_sample
            assert torch.allclose(found, mean + deviation * fresh, rtol=1e-9, atol=1e-9)
            latent = found


class TestSteps:
    @pytest.mark.parametrize("name", SCHEDULERS)
    def test_every_update_is_shown_and_the_last_is_the_result(self, models: Models, name: str) -> None:
        result, steps = watched(models, scheduler=name)
        assert [step.index for step in steps] == [0, 1, 2, 3]
        assert {step.total for step in steps} == {3}
        assert torch.equal(steps[-1].image, result.image)
        for step in steps:
            assert step.image.shape == (3, 32, 48)
            assert step.image.dtype == torch.float32
            assert 0 <= step.image.min() < step.image.max() <= 1
            assert step.image.std() > 0.01  # never a blank
        assert not torch.equal(steps[0].image, steps[-1].image)

    def test_the_last_update_of_ddim_shows_its_own_prediction(self, models: Models) -> None:
        """At the end of a schedule without noise the predicted clean latent and the latent are nearly one."""
        _, steps = watched(models, steps=20)
        gaps = [float((step.image - steps[-1].image).abs().mean()) for step in steps]
        assert gaps[-2] < gaps[0]

    def test_a_start_picture_is_the_first(self, models: Models) -> None:
        result, steps = watched(models, image=PICTURE, steps=4, strength=0.5)
        assert [step.index for step in steps] == [0, 1, 2]
        assert torch.equal(steps[0].image, PICTURE[0])
        assert torch.equal(steps[-1].image, result.image)

    def test_looking_on_changes_nothing(self, models: Models) -> None:
        result, steps = watched(models)
        assert all(step.image.shape == result.image.shape for step in steps)
        assert torch.equal(result.image, draw(models).image)

    def test_only_steps_that_are_looked_at_are_decoded(self, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
        vae, calls = models.parts["vae"], []
        decode = vae.decode
        monkeypatch.setattr(vae, "decode", lambda *a, **k: (calls.append(1), decode(*a, **k))[1])
        _, steps = watched(models, steps=6)
        assert [step.index for step in steps] == list(range(7))
        assert len(calls) == 1  # the result
        for _ in range(2):
            assert steps[3].image.isfinite().all()
        assert len(calls) == 2

    def test_an_interrupt_passes_through_and_leaves_no_trace(self, models: Models) -> None:
        def stop(step: Step) -> None:
            if step.index == 1:
                raise KeyboardInterrupt("enough")

        own = backend(models)
        expected = own.generate(JOB, lambda _: None).image
        with pytest.raises(KeyboardInterrupt, match="enough"):
            own.generate(JOB, stop)
        assert "step" not in vars(own._pipe.scheduler)
        assert torch.equal(own.generate(JOB, lambda _: None).image, expected)


class TestSizes:
    @pytest.mark.parametrize("size", [(45, 70), (16, 16), (72, 33)])
    def test_any_size_is_cut_from_the_next_larger_canvas(self, models: Models, size: tuple[int, int]) -> None:
        job = Job(JOB.include, size=size)
        canvas = tuple(-(-side // 8) * 8 for side in size)
        result = draw(models, job)
        assert result.image.shape == (3, size[1], size[0])
        assert result.facts["canvas"] == list(canvas)
        whole = draw(models, Job(JOB.include, size=(canvas[0], canvas[1]))).image
        left, top = (canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2
        assert torch.equal(result.image, whole[:, top : top + size[1], left : left + size[0]])

    @pytest.mark.parametrize("shape", [(1, 3, 90, 31), (1, 3, 8, 8)])
    def test_start_pictures_of_any_size_fill_the_frame(self, models: Models, shape: tuple[int, ...]) -> None:
        result, steps = watched(models, Job(JOB.include, size=(45, 70)), image=torch.rand(shape))
        assert result.image.shape == steps[0].image.shape == (3, 70, 45)

    def test_pictures_with_alpha_are_never_taken_for_latents(self) -> None:
        with pytest.raises(InputError, match=r"image is \(1, 4, 32, 32\)"):
            denoising(image=torch.rand(1, 4, 32, 32))


class TestRefusals:
    @pytest.mark.parametrize(("steps", "strength"), [(50, 0.01), (3, 0.3), (1, 0.99)])
    def test_less_than_one_update(self, models: Models, steps: int, strength: float) -> None:
        with pytest.raises(InputError, match="less than one update"):
            backend(models, image=PICTURE, steps=steps, strength=strength)

    @pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
    def test_strengths_outside_of_their_range(self, strength: float) -> None:
        with pytest.raises(InputError, match="strength"):
            denoising(strength=strength)

    @pytest.mark.parametrize(("strength", "expected"), [(0.58, 29), (0.02, 1)])
    def test_fractions_of_steps_are_not_lost(self, models: Models, strength: float, expected: int) -> None:
        """50 * 0.58 is 28.999.. in binary; diffusers alone would run 28 updates."""
        own = backend(models, image=PICTURE, steps=50, strength=strength)
        calls: list[int] = []
        hook = own._pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
        result = own.generate(Job(JOB.include, size=(16, 16)), lambda _: None)
        hook.remove()
        assert result.steps == len(calls) == expected

    def test_long_prompts(self, models: Models) -> None:
        long = Job((Prompt("apple " * 76),), size=JOB.size)
        with pytest.raises(InputError, match=r"has 76 tokens; Stable Diffusion reads 75.*too_long"):
            backend(models).check(long)
        with pytest.raises(InputError, match="76 tokens"):
            draw(models, Job(JOB.include, exclude=long.include, size=JOB.size))
        backend(models).check(Job((Prompt("apple " * 75),)))
        found = draw(models, long, too_long="truncate").image
        assert torch.equal(found, draw(models, Job((Prompt("apple " * 75),), size=JOB.size)).image)

    def test_exclude_without_guidance(self, models: Models) -> None:
        own = backend(models, guidance=1.0)
        with pytest.raises(InputError, match=r"guidance: 1.0; exclude prompts"):
            own.check(Job(JOB.include, exclude=(Prompt("worm"),)))
        expected = direct(
            models, sampler(models, "ddim"), prompt="a red apple", num_inference_steps=3, guidance_scale=1
        )
        assert torch.equal(own.generate(JOB, lambda _: None).image, expected)

    def test_what_is_not_there(self, models: Models) -> None:
        with pytest.raises(InputError, match="mask"):
            backend(models, image=PICTURE, mask=torch.ones(1, 1, 32, 48))
        with pytest.raises(InputError, match="offload"):
            backend(models, offload=True)
        with pytest.raises(InputError, match="too_long: 'cut'; allowed: error, truncate"):
            backend(models, too_long="cut")

    def test_pictures_of_no_numbers(self, models: Models) -> None:
        weight = models.parts["unet"].conv_out.bias
        before = weight.detach().clone()
        weight.data.fill_(float("nan"))
        try:
            with pytest.raises(InputError, match=r"no numbers in torch.float32"):
                draw(models)
        finally:
            weight.data.copy_(before)


class TestRuns:
    def test_seeds_decide_and_repeat(self, models: Models) -> None:
        first = draw(models)
        assert torch.equal(first.image, draw(models).image)
        other = Job(JOB.include, size=JOB.size, seed=4)
        assert not torch.equal(first.image, draw(models, other).image)
        assert first.facts["seed"] == JOB.rng("noise").initial_seed() != draw(models, other).facts["seed"]

    def test_global_randomness_is_left_alone(self, models: Models) -> None:
        before = torch.get_rng_state()
        first = draw(models, scheduler="euler_a").image
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(7)
        assert torch.equal(draw(models, scheduler="euler_a").image, first)

    def test_facts_say_all_that_decides(self, models: Models) -> None:
        job = Job((Prompt("a", stop=0.5),), exclude=(Prompt("b"),), size=(45, 32), seed=9)
        result = draw(models, job, image=PICTURE, steps=4, strength=0.5)
        assert json.loads(json.dumps(dict(result.facts))) == {
            "mode": "image-to-image", "model": "tiny", "weights": {"tiny": "0" * 64}, "prompt": [["a", 1.0]],
            "negative": [["b", 1.0]], "seed": job.rng("noise").initial_seed(), "scheduler": "ddim", "guidance": 7.5,
            "steps": 4, "updates": 2, "size": [45, 32], "canvas": [48, 32], "precision": "float32", "strength": 0.5,
            "ignored": ["stop 0.5 of 'a': nothing stops early"],
        }  # fmt: skip
        assert result.steps == 2
        assert result.seconds > 0

    def test_nothing_is_printed_and_no_setting_stays_changed(
        self, models: Models, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
    ) -> None:
        before = (diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled())
        draw(models, too_long="truncate", job=Job((Prompt("apple " * 90),), size=JOB.size), scheduler="ddpm")
        assert capfd.readouterr() == ("", "")
        assert [str(each.message) for each in recwarn] == []
        assert (diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()) == before

    def test_two_backends_share_the_networks(self, models: Models) -> None:
        ddim, euler = backend(models), backend(models, scheduler="euler")
        assert ddim._pipe.unet is euler._pipe.unet
        first = ddim.generate(JOB, lambda _: None).image
        euler.generate(JOB, lambda _: None)
        assert torch.equal(ddim.generate(JOB, lambda _: None).image, first)

    def test_half_precision_draws_too(self, models: Models) -> None:
        parts = tiny.parts()
        for name in ("unet", "vae", "text_encoder"):
            parts[name].to(torch.bfloat16)
        half = draw(Models("half", {}, parts))
        assert half.image.dtype == torch.float32
        assert half.facts["precision"] == "bfloat16"
        assert (half.image - draw(models).image).abs().mean() < 0.1

    def test_the_defaults_are_those_of_the_published_model(self) -> None:
        assert (DEFAULTS.steps, DEFAULTS.guidance, DEFAULTS.strength, DEFAULTS.image) == (50, 7.5, 0.8, None)
