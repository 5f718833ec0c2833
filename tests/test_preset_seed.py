"""The preset `seed` against its scheme written out from the formulas, both in float64 and fed the same draws."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from clip.clip import tokenize
from clip.model import LayerNorm
from conftest import CPU, tiny_clip, tiny_vqgan_state
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from vqclip.backends.vqgan import backend
from vqclip.config import load
from vqclip.generators import vqgan
from vqclip.job import Job
from vqclip.loop.crops import Cropper, CropPlan, CropSpec
from vqclip.run.assemble import Runtime, job_of, make

STEPS = 4
TEXTS = {"include": "a red apple", "exclude": ["text", "a face"], "extras": "oil painting"}
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Course:
    """What a run gives: the terms of each step, then per update the gradient and the latent after it."""

    start: Tensor | None = None
    terms: list[list[float]] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    image: Tensor | None = None


def contrasty() -> dict[str, Tensor]:
    """Weights of a tiny VQGAN whose pictures leave [-1, 1] here and there, so that clipping counts."""
    state = tiny_vqgan_state()
    return state | {"decoder.conv_out.weight": state["decoder.conv_out.weight"] * 8}


def course_of_the_preset(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, Path], settings: list[str]
) -> tuple[Course, Job]:
    """A run of the preset as `vqclip run` makes it, with models in float64, watched through its optimizer."""
    seen = Course()

    class Watched(torch.optim.AdamW):
        def step(self, closure: None = None) -> None:
            (latent,) = self.param_groups[0]["params"]
            seen.start = latent.detach().clone() if seen.start is None else seen.start
            seen.gradients.append(latent.grad.clone())
            super().step(closure)
            seen.latents.append(latent.detach().clone())

    monkeypatch.setitem(backend.OPTIMIZERS, "adamw", Watched)
    texts = [f"{kind}={text}" for kind, text in TEXTS.items() if isinstance(text, str)]
    models = [f"generator={files['generator']}", f'guides=["{files["guide"]}"]', 'exclude=["text", "a face"]']
    config = load(None, ["preset=seed", *texts, *models, *settings]).config
    job = job_of(config)
    made = make(config, Runtime(CPU, torch.float64, "error", pytest.fail), [])
    for step in made.backend.steps(job):  # type: ignore[attr-defined]
        assert list(step.terms) == ["include: a red apple", "exclude: text, a face"]
        seen.terms.append([float(value) for value in step.terms.values()])
        seen.image = step.image
    return seen, job


def course_of_the_scheme(job: Job, plans: list[CropPlan], *, width: int, height: int) -> Course:
    """The same from the formulas alone: no part of vqclip but the networks' weights and the numbers drawn."""
    network = vqgan.build(contrasty()).double()
    perceptor = tiny_clip(1)
    asked = ("a red apple", "oil painting", "text, a face")
    i, s, x = (perceptor.encode_text(tokenize([text])).double()[0] for text in asked)
    target = (i + s) / (i + s).norm()
    for module in perceptor.visual.modules():
        if isinstance(module, LayerNorm):  # openai-clip's rounds to float32
            module.__class__ = torch.nn.LayerNorm
    perceptor.double()

    rng = job.rng("start")
    cells = height // 4, width // 4
    torch.randint(48, (1, *cells), generator=rng)  # codes, drawn before every kind of start
    z = torch.sin(0.5 * torch.randn(1, 32, *cells, generator=rng, dtype=torch.float64))
    course = Course(start=z.clone())
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    for k, plan in enumerate(plans):
        z.requires_grad_()
        out = network.decoder(network.post_quant_conv(z))
        image = (out.clip(-1, 1) + 1) / 2
        crops = noisy(windows_of(moved(image, plan), plan), plan)
        mean, deviation = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (MEAN, DEVIATION))
        seen = perceptor.encode_image((crops - mean.float()) / deviation.float())
        pull = -torch.cosine_similarity(target[None], seen).mean()
        push = 0.5 * torch.cosine_similarity(x[None], seen).mean()
        course.terms.append([float(pull.detach()), float(push.detach())])
        course.image = image.detach()[0]
        if k == STEPS:
            return course
        (gradient,) = torch.autograd.grad(pull + push, z)
        first = 0.9 * first + 0.1 * gradient  # AdamW, Loshchilov and Hutter's algorithm 2
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9 ** (k + 1)), second / (1 - 0.999 ** (k + 1))
        z = (z - 0.5 * (unbiased[0] / (unbiased[1].sqrt() + 1e-8) + 0.1 * z)).detach()
        course.gradients.append(gradient)
        course.latents.append(z.clone())
    return course


def moved(image: Tensor, plan: CropPlan) -> Tensor:
    """Black on all sides, then the whole mirrored, turned about its centre and shifted, nearest pixels."""
    (w,) = plan.windows
    padded = F.pad(image, (w.margin,) * 4)[0]
    padded = padded.flip(-1) if w.mirrored else padded
    height, width = padded.shape[1:]
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    right, down = x - (width - 1) / 2 - w.shift[0], y - (height - 1) / 2 - w.shift[1]
    column = (math.cos(w.angle) * right + math.sin(w.angle) * down + (width - 1) / 2).round().long()
    row = (math.cos(w.angle) * down - math.sin(w.angle) * right + (height - 1) / 2).round().long()
    there = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return padded[:, row.clamp(0, height - 1), column.clamp(0, width - 1)] * there


def windows_of(whole: Tensor, plan: CropPlan) -> Tensor:
    """Squares of the drawn sides at the drawn places, each brought to the eye's 32 pixels."""
    (w,) = plan.windows
    cut = []
    for left, top, side in zip(w.left.tolist(), w.top.tolist(), w.side.tolist(), strict=True):
        square = whole[None, :, top : top + side, left : left + side]
        assert square.shape[2:] == (side, side)
        cut.append(F.interpolate(square, (32, 32), mode="bilinear", align_corners=True))
    return torch.cat(cut)


def noisy(crops: Tensor, plan: CropPlan) -> Tensor:
    """Normal noise, a chunk at a time from its own seed, of a deviation drawn per crop."""
    parts = []
    for part in plan.chunks:
        rng = torch.Generator().manual_seed(plan.seeds[0] + part.start + 32)
        normal = torch.randn(len(part), 3, 32, 32, generator=rng)
        parts.append(normal * plan.noise[0, part.start : part.stop, None, None, None])
    return crops + torch.cat(parts)


@pytest.mark.parametrize(("width", "height", "chunk"), [(32, 32, 32), (48, 28, 5)])
def test_terms_gradients_and_latents_are_those_of_the_scheme(
    monkeypatch: pytest.MonkeyPatch, weight_files: dict[str, Path], tmp_path: Path, *, width: int, height: int,
    chunk: int,
) -> None:  # fmt: skip
    save_file(contrasty(), tmp_path / "vqgan.safetensors")
    files = weight_files | {"generator": tmp_path / "vqgan.safetensors"}
    settings = [f"size={width},{height}", f"steps={STEPS}", "seed=3", f"crops.chunk={chunk}", "crops.count=12"]
    ours, job = course_of_the_preset(monkeypatch, files, settings)
    config = load(None, ["preset=seed", "include=x", *settings]).config
    cropper, rng = Cropper(CropSpec(**dataclasses.asdict(config.crops))), job.rng("crops")
    plans = [cropper.draw([rng], width=width, height=height) for _ in range(STEPS + 1)]
    theirs = course_of_the_scheme(job, plans, width=width, height=height)

    assert ours.start is not None
    assert ours.start.dtype == torch.float64
    assert torch.allclose(ours.start, theirs.start, rtol=0, atol=1e-14)
    assert torch.allclose(numbers(ours.terms), numbers(theirs.terms), rtol=0, atol=1e-10)
    assert len(ours.gradients) == len(theirs.gradients) == STEPS
    for mine, other in zip(ours.gradients, theirs.gradients, strict=True):
        assert float((mine - other).norm() / other.norm()) < 1e-10
    for mine, other in zip(ours.latents, theirs.latents, strict=True):
        assert torch.allclose(mine, other, rtol=0, atol=1e-9)
    assert torch.allclose(ours.image, theirs.image, rtol=0, atol=1e-10)
    assert 0.01 < float(((ours.image == 0) | (ours.image == 1)).double().mean()) < 0.9  # some colours are clipped
    assert float((ours.latents[-1] - ours.start).abs().max()) > 1  # it went somewhere


def numbers(terms: list[list[float]]) -> Tensor:
    return torch.tensor(terms, dtype=torch.float64)


def test_the_preset_says_what_the_scheme_says() -> None:
    config = load(None, ["include=a", "preset=seed"]).config
    assert (config.size, config.steps, config.start.kind) == ((448, 448), 400, "sine")
    assert dataclasses.asdict(config.optimizer) == {
        "name": "adamw", "lr": 0.5, "lr_end": 0.5, "unit": "absolute", "pull": 0.0, "weight_decay": 0.1
    }  # fmt: skip
    assert dataclasses.asdict(config.latent) == {"quantise": False, "bounded": False, "clip": "plain"}
    assert (config.average, config.coarse, config.tries, config.denoiser.model) == (0.0, 0.0, 1, "none")
    crops, losses = config.crops, config.losses
    assert (crops.method, crops.count, crops.rotate, crops.flip, crops.shift) == ("padded", 32, 30.0, 0.5, 0.2)
    assert (crops.noise, crops.noise_end, crops.augment) == (0.22, None, ())
    assert (losses.distance, losses.join, losses.exclude, losses.extras) == ("cosine", "features", 0.5, 1.0)
    assert (losses.exclude_stop, losses.emphasis) == (None, 0.0)
    assert (losses.smooth, losses.anchor, losses.decay) == (0.0, 0.0, 0.0)
