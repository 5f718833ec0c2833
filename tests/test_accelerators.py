"""On CUDA, without one: nothing mixes devices, and nothing inside a step of the loop waits for the device.

The starter models themselves, tiny diffusion pipelines, and `tests.accelerator` in the place of the device.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import tiny_stable_diffusion
from tests.accelerator import CUDA, Card, backward, card
from tests.tiny_kandinsky import tiny_decoder, tiny_prior
from vqclip import images
from vqclip.backends.chain import Chain
from vqclip.backends.clock import Clock
from vqclip.backends.diffusion import Denoising
from vqclip.backends.kandinsky.backend import KandinskyBackend
from vqclip.backends.kandinsky.prior import Kandinsky
from vqclip.backends.stable_diffusion.backend import StableDiffusionBackend
from vqclip.backends.vqgan.backend import VQGANBackend
from vqclip.cli.progress import Quiet
from vqclip.compare.finished import read_run
from vqclip.compare.verdicts import picture
from vqclip.config import Config, Loaded, from_mapping
from vqclip.job import Job, Prompt, Step
from vqclip.loop import crops
from vqclip.loop.augment import AUGMENTATIONS
from vqclip.loop.crops import CropPlan
from vqclip.perceptors.clip import ClipPerceptor
from vqclip.run import picture as runner
from vqclip.run.assemble import Models, _recipe, job_of
from vqclip.run.forecasts import forecasts
from vqclip.run.session import Session, nested

# The forecast counts memory by addresses, which these tensors have none of.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer")
TINY = {"include": "a red apple", "size": [32, 32], "steps": 2, "tries": 1, "crops.count": 3, "crops.chunk": 2}


@dataclass
class Machine:
    """A machine with a card, and the starter models on it."""

    card: Card
    models: Models

    def backend(self, config: Config) -> VQGANBackend:
        """The loop of a config with these models."""
        given = self.models.backend
        assert isinstance(given, VQGANBackend)
        recipe = _recipe(config, denoised=True, known=True, unit=1.0)
        return VQGANBackend(given.generator, given.guides, given.weights, recipe=recipe, denoiser=given.denoiser)

    def waits(self, **settings: object) -> list[str]:
        """Where the host waited in all steps but the first, which the start and the prompts belong to."""
        config = from_mapping(nested(TINY | settings), source="test")
        steps = self.backend(config).steps(job_of(config))
        shown = [next(steps)]
        self.card.waits.clear()
        shown += steps
        assert {step.image.device for step in shown} == {CUDA}
        assert len(shown) == config.steps + 1
        return list(self.card.waits)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    torch.set_num_threads(1)
    with card() as made:
        yield Machine(made, Session.of({**TINY, "threads": 1}, files=False).models)


def test_the_walk_through_the_graph_gives_torchs_gradients() -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    w = torch.rand(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def value() -> Tensor:
        first, second = torch.nn.functional.conv2d(x, w).split(2, 1)
        return (first.amax(1).norm() + second.square().mean()) * x.max() + x.unbind(0)[1].sum()

    expected = torch.autograd.grad(value(), (x, w))
    backward(value())
    for leaf, gradient in zip((x, w), expected, strict=True):
        assert leaf.grad is not None
        assert torch.allclose(leaf.grad, gradient, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "pad"),
    [("homography", "border"), ("homography", "grey"), ("homography", "reflection"), ("pooled", "border"),
     ("padded", "border")],
)  # fmt: skip
def test_no_step_waits_whatever_the_crops(machine: Machine, method: str, pad: str) -> None:
    sections = {"crops.method": method, "crops.pad": pad, "crops.noise": 0.1, "crops.erase": 0.5}
    assert machine.waits(**sections) == []


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_no_step_waits_for_kornia(machine: Machine, name: str) -> None:
    """Nothing is read on the host but what was drawn there."""
    made = machine.waits(**{"crops.method": "pooled", "crops.augment": [name], "crops.noise": 0.1, "steps": 1})
    assert [wait for wait in made if "to the device" not in wait] == []
    assert len(made) <= 2 * ONCE.get(name, 0)


# Small numbers that kornia computes on the host and brings over by itself, for each chunk.
ONCE = {"colour_jitter": 12, "crop": 12, "erasing": 12, "resized_crop": 12, "affine": 12, "thin_plate": 12}


def test_no_step_waits_for_prompts_and_pictures(machine: Machine, tmp_path: Path) -> None:
    with_picture = tmp_path / "other.png"
    images.save_png(with_picture, torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0)))
    made = machine.waits(
        exclude=["yellow", "a face"], extras=["flat", "red and blue", "vivid", "on a table"],
        images=[{"image": str(with_picture), "weight": 0.5}], tries_share=0.0, average=0.9,
        **{"losses.smooth": 0.1, "losses.anchor": 0.1, "losses.decay": 0.1},
    )  # fmt: skip
    assert made == []


def test_of_several_tries_the_leader_is_asked_for_once(machine: Machine) -> None:
    made = machine.waits(tries=2, tries_share=0.5, steps=4, exclude="yellow")
    assert made == ["(1,) copied to the host"]


def test_joined_features_wait_for_nothing(machine: Machine) -> None:
    assert machine.waits(**{"losses.join": "features", "exclude": "yellow", "extras": "flat"}) == []


def test_one_copy_goes_over_a_step(machine: Machine) -> None:
    """The plan's 28 numbers a crop, and nothing else."""
    config = from_mapping(nested(TINY | {"crops.noise": 0.1, "coarse": 0.0}), source="test")
    steps = machine.backend(config).steps(job_of(config))
    next(steps)
    machine.card.copied = 0
    next(steps)
    assert machine.card.copied == 3 * 28 * 4


def test_the_clock_waits_for_no_step(machine: Machine) -> None:
    config = from_mapping(nested(TINY | {"coarse": 0.0}), source="test")
    seen: list[int] = []
    machine.backend(config).generate(job_of(config), lambda step: seen.append(len(machine.card.waits)))
    assert len(set(seen)) == 1


def test_a_run_is_recorded_and_judged(machine: Machine, tmp_path: Path) -> None:
    settings = {**TINY, "exclude": "yellow", "outputs": str(tmp_path), "name": "x", "score_every": 1, "threads": 1}
    config = from_mapping(nested(settings), source="test")
    models = replace(machine.models, backend=machine.backend(config))
    quiet = Quiet(io.StringIO(), io.StringIO(), notes=False)
    (result,) = runner.run(Loaded(config, "", {}), quiet, models)
    assert result.image.device.type == "cpu"
    assert result.verdict is not None and result.verdict.among > 50
    told = json.loads((tmp_path / "x" / "run.json").read_text())
    assert (told["status"], told["device"]) == ("done", "cuda:0")
    judge = models.judge_of(result.job)
    assert judge is not None
    assert judge.judge(picture(read_run(tmp_path / "x"))) is not None  # as a comparison scores it
    assert judge.embed(result.image).device == CUDA


def test_python_makes_a_judged_picture(machine: Machine) -> None:
    config = from_mapping(nested(TINY), source="test")
    result = Session(replace(machine.models, backend=machine.backend(config)), config).make()
    assert result.verdict is not None
    machine.card.waits.clear()
    judge = machine.models.judge_of(result.job)
    assert judge is not None
    machine.card.waits.clear()
    judge.judge(result.image)
    assert [wait for wait in machine.card.waits if "host" in wait or "read" in wait] != []
    assert sum("host" in wait or "read" in wait for wait in machine.card.waits) == 1


def painter(kind: str) -> KandinskyBackend | StableDiffusionBackend:
    made = Denoising(steps=2, guidance=4.0)
    if kind == "stable-diffusion":
        return StableDiffusionBackend(tiny_stable_diffusion.models(), device=CUDA, denoising=made)
    settings = Kandinsky(prior_steps=2)
    return KandinskyBackend(
        tiny_prior, tiny_decoder, settings=settings, denoising=made, device=CUDA, dtype=torch.float32
    )


@pytest.mark.parametrize("kind", ["kandinsky", "stable-diffusion"])
def test_diffusion_mixes_no_devices(machine: Machine, kind: str) -> None:
    """Their schedulers wait for the device at each step, which is diffusers' own doing."""
    seen: list[Step] = []
    job = Job((Prompt("an apple"),), (Prompt("a pear"),), size=(64, 64), steps=2)
    result = painter(kind).generate(job, seen.append)
    assert [step.index for step in seen] == [0, 1, 2]
    assert seen[0].image.device.type == "cuda"
    assert result.image.device.type == "cpu"


def test_a_chain_goes_on_from_another_backends_picture(machine: Machine) -> None:
    config = from_mapping(nested(TINY | {"size": [64, 64], "steps": 1}), source="test")
    last = machine.backend(config)

    def go_on(image: Tensor) -> VQGANBackend:
        recipe = replace(last.recipe, start="image", image=image)
        return VQGANBackend(last.generator, last.guides, last.weights, recipe=recipe, denoiser=last.denoiser)

    result = Chain(painter("kandinsky"), go_on, last, 2).generate(job_of(config), lambda _step: None)
    assert result.steps == 1


def test_the_forecast_measures_there(machine: Machine) -> None:
    config = from_mapping(nested(TINY), source="test")
    (forecast,) = forecasts(replace(machine.models, backend=machine.backend(config)), job_of(config))
    assert "cuda:0" in forecast.line


def test_a_perceptor_whose_mean_stays_elsewhere_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    eye = machine.models.judge or machine.backend(from_mapping(nested(TINY), source="test")).guides[0]
    assert isinstance(eye, ClipPerceptor)
    monkeypatch.setattr(eye, "_mean", torch.zeros(3, 1, 1))
    with pytest.raises(RuntimeError, match="device"):
        eye.embed_image(torch.zeros(1, 3, eye.size, eye.size))


def test_numbers_read_in_a_step_are_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CropPlan.to

    def curious(self: CropPlan, device: torch.device) -> CropPlan:
        made = whole(self, device)
        assert bool(made.noise.any())  # what cutting once asked in every chunk
        return made

    monkeypatch.setattr(CropPlan, "to", curious)
    assert "a number read" in machine.waits()


def test_a_plan_copied_tensor_by_tensor_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "in_one_copy", lambda tensors, device: [each.to(device) for each in tensors])
    assert len(machine.waits()) >= 6


def test_pictures_to_resemble_beside_a_mean_elsewhere_are_found(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.save_png(tmp_path / "other.png", torch.zeros(3, 32, 32))
    wanted = {"images": [{"image": str(tmp_path / "other.png"), "weight": 0.5}]}
    assert machine.waits(**wanted) == []
    for guide in machine.backend(from_mapping(nested(TINY), source="test")).guides:
        monkeypatch.setattr(guide, "_mean", torch.zeros(3, 1, 1))
    with pytest.raises(RuntimeError, match="device"):
        machine.waits(**wanted)


def test_grids_made_on_the_host_are_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    on_device = crops.sampling_grid
    monkeypatch.setattr(
        crops, "sampling_grid",
        lambda homography, size: on_device(torch.eye(3).expand(len(homography), 3, 3), size).to(homography.device),
    )  # fmt: skip
    assert any("copied to the device at once" in wait for wait in machine.waits())


def test_noise_made_on_the_host_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(crops: torch.Tensor, _plan: CropPlan, _rows: slice) -> torch.Tensor:
        return crops + torch.zeros(crops.shape).to(crops.device)

    monkeypatch.setattr(crops, "_add_noise", noisy)
    assert any("copied to the device at once" in wait for wait in machine.waits())


def test_a_clock_that_waits_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Clock._mark
    monkeypatch.setattr(Clock, "_mark", lambda self: (torch.cuda.synchronize(), mark(self))[1])
    config = from_mapping(nested(TINY | {"coarse": 0.0}), source="test")
    machine.card.waits.clear()
    machine.backend(config).generate(job_of(config), lambda _step: None)
    assert machine.card.waits.count("synchronize") >= 2
