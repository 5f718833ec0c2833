"""Settings of a denoising run are checked; watching a scheduler changes nothing and sees the clean latent."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils import logging as of_diffusers
from transformers.utils import logging as of_transformers

from vqclip.backends.diffusion import (
    SCHEDULERS,
    Denoising,
    Watch,
    at_work,
    clean,
    exact_strength,
    make_scheduler,
    quiet,
    to_steps,
    updates,
)
from vqclip.job import InputError, Step

IMAGE = torch.full((1, 3, 16, 24), 0.5)
MASK = torch.zeros(1, 1, 16, 24).index_fill_(3, torch.tensor([3]), 1.0)
BETAS = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"steps": 1001}, "steps: 1001"),
        ({"guidance": -1.0}, "guidance: -1"),
        ({"guidance": float("nan")}, "guidance: nan"),
        ({"scheduler": "heun"}, "'heun'; allowed: ddpm, ddim"),
        ({"strength": 0.0}, "strength: 0"),
        ({"strength": 1.01}, "strength: 1.01"),
        ({"strength": float("nan")}, "strength: nan"),
        ({"image": IMAGE[0]}, "image is"),
        ({"image": torch.rand(1, 4, 16, 24)}, "image is"),
        ({"image": IMAGE * 3}, r"image: its values must lie in \[0, 1\]"),
        ({"image": IMAGE * float("nan")}, r"image: its values"),
        ({"mask": MASK}, "mask: there is no start picture"),
        ({"image": IMAGE, "mask": MASK.mT}, "mask and image are 16x24 and 24x16"),
        ({"image": IMAGE, "mask": MASK * 0.5}, "mask: nothing in it is white"),
        ({"image": IMAGE, "mask": IMAGE}, "mask is"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        Denoising(**wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "strength", "count"), [(50, 0.75, 37), (100, 0.29, 29), (50, 0.58, 29), (10, 1.0, 10), (4, 0.25, 1)]
)
def test_updates_from_a_start_picture(steps: int, strength: float, count: int) -> None:
    """Bug 4 of the pipelines: int(100 * 0.29) is 28. What they compute from `exact_strength` is our count."""
    given = Denoising(steps=steps, strength=strength, image=IMAGE)
    assert updates(given) == count
    assert min(int(steps * exact_strength(given)), steps) == count
    assert exact_strength(given) <= 1
    assert updates(Denoising(steps=steps, strength=strength)) == steps
    assert updates(Denoising(steps=steps, strength=strength, image=IMAGE, mask=MASK)) == steps


def test_less_than_one_update_is_refused() -> None:
    with pytest.raises(InputError, match=r"strength 0.19 of 5 steps is less than one update"):
        updates(Denoising(steps=5, strength=0.19, image=IMAGE))


def scheduler(name: str, prediction: str = "epsilon") -> Any:
    like = diffusers.DDPMScheduler(**BETAS, prediction_type=prediction, clip_sample=False, steps_offset=1)
    return make_scheduler(name, like)


def run(plan: Any, steps: int = 6, watched: Any = None, *, returns: bool = True) -> tuple[torch.Tensor, list[Any]]:
    """Latents after `steps` steps of a network that says noise, and what was predicted on the way."""
    rng = torch.Generator().manual_seed(5)
    plan.set_timesteps(steps)
    latent, seen = torch.randn(1, 4, 8, 8, generator=rng) * plan.init_noise_sigma, []
    for t in plan.timesteps:
        said = torch.randn(1, 4, 8, 8, generator=rng)
        more = {} if plan.__class__.__name__.startswith(("PNDM", "UniPC")) else {"generator": rng}
        before = latent
        out = plan.step(said, t, before, **more, return_dict=returns)
        latent = out[0]
        seen.append((said, t, before, watched.pred if watched else None))
    return latent, seen


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_watching_changes_nothing_and_is_over_at_the_end(name: str, returns: bool) -> None:
    plain, _ = run(scheduler(name))
    plan = scheduler(name)
    with Watch(plan) as watch:
        assert watch.pred is None
        watched, seen = run(plan, watched=watch, returns=returns)
    assert torch.equal(plain, watched)
    assert all(pred.shape == plain.shape for *_, pred in seen)
    assert "step" not in vars(plan)
    assert torch.equal(run(plan)[0], plain)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++", "pndm", "unipc"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_prediction_is_the_clean_latent_of_the_textbook(name: str, kind: str) -> None:
    plan = scheduler(name, kind)
    with Watch(plan) as watch:
        _, seen = run(plan, watched=watch)
    shares = torch.cumprod(1 - torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64), 0)
    for said, t, sample, pred in seen:
        share, said, sample = shares[int(t)], said.double(), sample.double()
        exact = {
            "epsilon": (sample - (1 - share).sqrt() * said) / share.sqrt(),
            "v_prediction": share.sqrt() * sample - (1 - share).sqrt() * said,
        }[kind]
        assert torch.allclose(pred.double(), exact, rtol=1e-4, atol=1e-4)


def test_the_last_prediction_of_dpm_is_what_its_run_ends_in() -> None:
    """DPM++ ends at noise level zero, where the clean latent and the latent are one."""
    plan = scheduler("dpm++")
    with Watch(plan) as watch:
        latent, _ = run(plan)
        assert watch.pred is not None
        assert torch.allclose(watch.pred, latent, atol=1e-3)


def test_a_prediction_of_the_sample_is_taken_as_it_is_and_unknown_kinds_are_refused() -> None:
    plan, said = scheduler("ddpm", "sample"), torch.randn(1, 4, 8, 8)
    assert clean(plan, said, 10, sample=torch.randn(1, 4, 8, 8)) is said
    with pytest.raises(InputError, match="'flow'"):
        clean(
            SimpleNamespace(alphas_cumprod=torch.ones(9), config=SimpleNamespace(prediction_type="flow")),
            said,
            1,
            sample=said,
        )


def test_a_watch_is_over_when_the_run_breaks_off() -> None:
    plan = scheduler("ddpm")
    with pytest.raises(KeyboardInterrupt), Watch(plan):
        raise KeyboardInterrupt
    assert "step" not in vars(plan)


def test_unknown_schedulers_are_refused() -> None:
    with pytest.raises(InputError, match="'lms'; allowed: ddpm"):
        make_scheduler("lms", scheduler("ddpm"))


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_steps_are_numbered_by_updates_not_by_calls(name: str) -> None:
    """PNDM calls the network 7 times for 6 steps: its first two calls make one."""
    plan, seen, guesses = scheduler(name), [], []

    def decode(latent: torch.Tensor) -> torch.Tensor:
        return latent[0, :3]

    with Watch(plan) as watch:
        report = to_steps(watch, decode, seen.append, total=6)
        plan.set_timesteps(6)
        latent = torch.randn(1, 4, 8, 8)
        for call, t in enumerate(plan.timesteps):
            latent = plan.step(torch.randn(1, 4, 8, 8), t, latent)[0]
            guesses.append(watch.pred)
            tensors = {"latents": latent}
            assert report(SimpleNamespace(num_timesteps=len(plan.timesteps)), call, t, tensors) is tensors
    assert [(step.index, step.total) for step in seen] == [(index, 6) for index in range(6)]
    late = len(guesses) - 6
    assert late == (name == "pndm")
    assert all(torch.equal(step.image, guesses[step.index + late][0, :3]) for step in seen)
    assert all(dict(step.terms) == {} for step in seen)


def test_steps_that_nobody_looks_at_are_not_decoded() -> None:
    watch, seen, decoded = SimpleNamespace(pred=torch.zeros(1)), list[Step](), list[torch.Tensor]()

    def decode(latent: torch.Tensor) -> torch.Tensor:
        decoded.append(latent)
        return torch.ones(3, 2, 2)

    report = to_steps(watch, decode, seen.append, total=9)
    for call in range(9):
        report(SimpleNamespace(num_timesteps=9), call, 0, {})
    assert [step.index for step in seen] == list(range(9))
    assert decoded == []
    assert "image" not in vars(seen[4])
    assert seen[4].image is seen[4].image
    assert len(decoded) == 1
    assert "image" in vars(seen[4])


def test_step_zero_is_the_start_picture_where_there_is_one() -> None:
    seen: list[Step] = []
    watch = SimpleNamespace(pred=torch.zeros(1))
    report = to_steps(watch, lambda _: torch.zeros(3, 16, 24), seen.append, total=2, start=IMAGE)
    for call in range(2):
        report(SimpleNamespace(num_timesteps=2), call, 0, {})
    assert torch.equal(seen[0].image, IMAGE[0])
    assert seen[1].image.eq(0).all()


def test_what_on_step_raises_passes_and_the_models_are_freed() -> None:
    freed = []
    pipe = SimpleNamespace(
        set_progress_bar_config=lambda **_: None, maybe_free_model_hooks=lambda: freed.append(True), num_timesteps=1
    )

    def stop(_step: Step) -> None:
        raise KeyboardInterrupt

    watch = SimpleNamespace(pred=torch.zeros(1))
    report = to_steps(watch, lambda _: torch.zeros(3, 1, 1), stop, total=1)
    with pytest.raises(KeyboardInterrupt), at_work(pipe):
        report(pipe, 0, 0, {})
    assert freed == [True]


def test_silence_ends_with_the_block() -> None:
    rooms = (of_diffusers, of_transformers)
    before = [(room.get_verbosity(), room.is_progress_bar_enabled()) for room in rooms]
    try:
        of_diffusers.set_verbosity_info()
        of_diffusers.enable_progress_bar()
        of_transformers.disable_progress_bar()
        with quiet():
            assert all(room.get_verbosity() == logging.ERROR and not room.is_progress_bar_enabled() for room in rooms)
        with pytest.raises(KeyboardInterrupt), quiet():
            raise KeyboardInterrupt
        assert of_diffusers.get_verbosity() == logging.INFO
        assert of_diffusers.is_progress_bar_enabled()
        assert not of_transformers.is_progress_bar_enabled()
    finally:
        for room, (level, bars) in zip(rooms, before, strict=True):
            room.set_verbosity(level)
            (room.enable_progress_bar if bars else room.disable_progress_bar)()
