"""What a run will take: foreseen from small pieces, refused when it cannot fit, and without a trace."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import crop_spec
from torch import Tensor

from vqclip.backends.vqgan.backend import Recipe, VQGANBackend
from vqclip.generators.vqgan import VQGAN
from vqclip.job import Job, Prompt, ResourceError
from vqclip.loop.crops import CropSpec
from vqclip.perceptors import Perceptor
from vqclip.perceptors.clip import ClipPerceptor
from vqclip.run import preflight as module
from vqclip.run.preflight import Forecast, check_files, preflight

ROOT = Path(__file__).parent.parent


def forecast(
    generator: VQGAN, guides: Sequence[Perceptor], size: tuple[int, int] = (64, 96), **changes: object
) -> Forecast:
    return preflight(generator, guides, crop_spec(**changes), size=size, steps=10)


def give(patch: pytest.MonkeyPatch, room: int | None) -> None:
    """Let the process hold nothing and the system have `room` bytes."""
    patch.setattr(module, "held", lambda _device: (0, 0))
    patch.setattr(module, "available", lambda _device: room)


def test_the_line_says_memory_time_and_place() -> None:
    made = Forecast("cpu", 600, 2_120_000_000, 23_100_000_000, 3.42)
    assert made.line == "about 2.1 GB and 3.4 s a step (600 steps: 34 min) on cpu, 23.1 GB free"
    assert Forecast("mps", 100, 900_000_000, None, 0.123).line == (
        "about 0.9 GB and 0.12 s a step (100 steps: 12 s) on mps"
    )
    assert "(5000 steps: 4.8 h)" in Forecast("cpu", 5000, 1, 1, 3.42).line


def test_larger_pictures_and_chunks_need_more(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor, other_guide: ClipPerceptor
) -> None:
    give(monkeypatch, None)
    small = forecast(generator, [guide])
    assert forecast(generator, [guide], size=(128, 96)).peak > 1.8 * small.peak
    assert forecast(generator, [guide], count=256, chunk=4).peak == small.peak
    chunked = forecast(generator, [guide], count=256, chunk=128)
    assert chunked.peak > 1.2 * small.peak
    assert forecast(generator, [guide, other_guide], count=256, chunk=128).peak > chunked.peak


def test_a_chunk_larger_than_all_crops_is_all_crops(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor
) -> None:
    give(monkeypatch, None)
    assert forecast(generator, [guide], chunk=1000).peak == forecast(generator, [guide], chunk=4).peak


def test_a_run_that_cannot_fit_is_told_the_largest_chunk(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor, other_guide: ClipPerceptor
) -> None:
    give(monkeypatch, None)
    room = forecast(generator, [guide, other_guide], count=256, chunk=100).peak
    give(monkeypatch, room)
    with pytest.raises(ResourceError, match=r"chunk 256 needs .* crops\.chunk to 100, or size, or .* than 2 guides"):
        forecast(generator, [guide, other_guide], count=256, chunk=256)
    assert forecast(generator, [guide, other_guide], count=256, chunk=100).room == room


def test_a_batch_that_cannot_fit_is_told_the_largest_one(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor
) -> None:
    def forecast_of(*batches: tuple[tuple[int, int], int]) -> Forecast:
        return preflight(generator, [guide], crop_spec(), size=(128, 128), steps=5, batches=batches)

    give(monkeypatch, None)
    one, two, four = (forecast_of(((64, 64), 3 * count), ((128, 128), count)).peak for count in (1, 2, 4))
    assert one == forecast_of().peak  # a quarter of the pixels three times is less than all of them once
    assert two - one == pytest.approx((four - two) / 2, rel=0.3)
    give(monkeypatch, two)
    with pytest.raises(ResourceError, match=r"chunk 4 and batch 12 needs .* lower batch to [2-6], crops.chunk or size"):
        forecast_of(((64, 64), 12), ((128, 128), 4))


def test_a_picture_that_cannot_fit_is_told_the_largest_size(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor
) -> None:
    give(monkeypatch, 200_000_000)
    with pytest.raises(ResourceError, match=r"size 2048x1024 .* GB, 0.2 GB are free; lower size to at most") as caught:
        forecast(generator, [guide], size=(2048, 1024))
    width, height = map(int, str(caught.value).split("at most ")[1].split(",")[0].split("x"))
    assert width == 2 * height
    assert forecast(generator, [guide], size=(width, height), count=1).peak <= 220_000_000
    give(monkeypatch, 1000)
    with pytest.raises(ResourceError, match="smaller models"):
        forecast(generator, [guide])


def test_nothing_larger_than_the_run_is_tried(guide: ClipPerceptor, generator: VQGAN) -> None:
    sizes, counts = set(), set()

    class Watched:
        stride = generator.stride
        sample = staticmethod(generator.sample)
        encode, project = generator.encode, generator.project

        def decode(self, latent: Tensor) -> Tensor:
            sizes.add(tuple(latent.shape[-2:]))
            return generator.decode(latent)

    class Looking:
        size = guide.size
        embed_text = staticmethod(guide.embed_text)

        def embed_image(self, crops: Tensor) -> Tensor:
            counts.add(len(crops))
            return guide.embed_image(crops)

    preflight(Watched(), [Looking()], crop_spec(count=3, chunk=9), size=(8, 12), steps=1)
    assert max(rows * columns for rows, columns in sizes) == 6
    assert counts == {1, 2, 3}


def test_every_part_of_a_run_takes_its_own_time(
    monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor
) -> None:
    monkeypatch.setattr(module, "_seconds", lambda run, _device: float(sum(run.args)))
    whole, part = (forecast(generator, [guide], size=size) for size in ((64, 64), (32, 32)))
    assert whole.seconds > part.seconds > 0
    parts = [((32, 32), 12), ((64, 64), 3)]
    mixed = preflight(generator, [guide], crop_spec(), size=(64, 64), steps=10, parts=parts)
    assert mixed.seconds * 10 == pytest.approx(12 * part.seconds + 3 * whole.seconds)
    assert mixed.peak == pytest.approx(whole.peak, rel=0.05)


def test_cleaning_takes_time_too(monkeypatch: pytest.MonkeyPatch, generator: VQGAN, guide: ClipPerceptor) -> None:
    cleaned: list[tuple[int, ...]] = []

    class Cleaner:
        def clean(self, noisy: Tensor, _level: float) -> Tensor:
            cleaned.append(tuple(noisy.shape[-2:]))
            return noisy

    def seconds(run: Callable[[], None], _device: object) -> float:
        before = len(cleaned)
        run()
        return 7.0 if len(cleaned) > before else 0.0

    monkeypatch.setattr(module, "_seconds", seconds)
    made = preflight(generator, [guide], crop_spec(), size=(64, 32), steps=10, denoiser=Cleaner())  # type: ignore[arg-type]
    assert made.seconds == 7.0
    assert set(cleaned) == {(32 // generator.stride, 64 // generator.stride)}


def test_nothing_random_and_no_result_changes(generator: VQGAN, guide: ClipPerceptor) -> None:
    spec = crop_spec(noise=0.1, erase=0.5, augment=("flip", "gaussian_noise"))
    recipe = Recipe(
        crops=spec, start="noise", cells=2, contrast=0.5, optimizer="adam", rate=0.1, rate_end=0.1, weight_decay=0.0,
        average=0.0, exclude=1.0, extras=1.0, smooth=0.0, anchor=0.0, decay=0.0,
    )  # fmt: skip
    backend, job = VQGANBackend(generator, [guide], [1.0], recipe=recipe), Job((Prompt("x"),), size=(32, 32), steps=2)
    before = backend.generate(job, lambda _step: None).image
    states = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled(), torch.get_num_threads()
    with torch.no_grad():  # the caller's mode does not matter
        preflight(generator, [guide], spec, size=job.size, steps=job.steps)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), torch.is_grad_enabled(), torch.get_num_threads()) == states[1:]
    assert torch.equal(backend.generate(job, lambda _step: None).image, before)


def test_the_pace_follows_a_line_and_ignores_one_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seconds(amount: int, _device: object) -> float:
        asked.append(amount)
        return 0.01 + 0.004 * amount + (5.0 if len(asked) == 3 else 0.0)

    monkeypatch.setattr(module, "_seconds", seconds)
    pieces = [(2**power, 2**power) for power in range(8)]
    assert module.pace(pieces, torch.device("cpu")) == pytest.approx(0.01 + 0.004 * 128)  # type: ignore[arg-type]
    assert max(asked) == 16  # long enough to say the rest
    assert module.pace(pieces[:1], torch.device("cpu")) == pytest.approx(0.014)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [1, 8])
def test_pieces_grow_up_to_the_whole(first: int) -> None:
    for rows in range(1, 40):
        for columns in range(1, 40):
            areas = [height * width for height, width in module._ladder(rows, columns, first=first)]
            assert areas[-1] == rows * columns
            assert all(small < large for small, large in pairwise(areas))


def sparse(path: Path, size: int, head: bytes) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def test_weights_larger_than_memory_are_refused_unread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flat = sparse(tmp_path / "flat.safetensors", 3_000_000_000, b"\x10" + b"\0" * 7 + b"{}")
    checkpoint = sparse(tmp_path / "last.ckpt", 3_000_000_000, b"PK\x03\x04")  # most of it may be training state
    monkeypatch.setattr(module, "available", lambda _device: 3_500_000_000)
    check_files([flat], torch.device("cpu"))
    check_files([checkpoint] * 4, torch.device("cpu"))
    with pytest.raises(ResourceError, match=r"at least 4\.0 GB \(flat\.safetensors 3\.0 GB\), 3\.5 GB are free on cpu"):
        check_files([flat, checkpoint], torch.device("cpu"))
    monkeypatch.setattr(module, "available", lambda device: 10**9 if device.type == "cuda" else None)
    with pytest.raises(ResourceError, match="on cuda"):
        check_files([flat], torch.device("cuda"))
    check_files([flat], torch.device("mps"))


@pytest.mark.parametrize("pictures", [1, 3])
def test_the_forecast_is_near_the_truth(pictures: int) -> None:
    """A whole process: the kernel's record of its memory against what was foreseen."""
    script = """
import sys
import torch
from conftest import CPU, crop_spec, tiny_clip, tiny_vqgan_state
from dataclasses import replace
from test_vqgan_backend import RECIPE
from vqclip.run import memory
from vqclip.backends.vqgan.backend import Drawing, VQGANBackend
from vqclip.job import Job, Prompt
from vqclip.perceptors import clip; from vqclip.generators import vqgan
from vqclip.run.preflight import preflight
torch.set_num_threads(1)
generator = vqgan.VQGAN(vqgan.build(tiny_vqgan_state()), device=CPU)
guide = clip.ClipPerceptor(clip.build(tiny_clip(1).state_dict()), device=CPU)
spec = crop_spec(count=4, chunk=2)
before = memory.held(CPU)[0]
backend = VQGANBackend(generator, [guide], [1.0], recipe=replace(RECIPE, crops=spec))
size, pictures = (208, 160), int(sys.argv[1])
made = preflight(generator, [guide], spec, size=size, steps=1, batches=backend.batches(size, 1, pictures))
for step in Drawing(backend, [Job((Prompt("x"),), size=size, steps=1, seed=seed) for seed in range(pictures)]):
    pass
print(before, made.peak, memory.held(CPU)[1])
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(pictures)], env=environment, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    before, foreseen, measured = map(int, done.stdout.split())
    assert measured > before + 100_000_000  # the run, not only the base
    assert foreseen == pytest.approx(measured, rel=0.2)


def test_crops_of_any_method_are_tried(generator: VQGAN, guide: ClipPerceptor) -> None:
    spec: CropSpec = crop_spec(method="pooled", chunk=1)
    assert preflight(generator, [guide], spec, size=(32, 32), steps=0).seconds > 0
