"""What a diffusion run will take: near the truth, counted once, refused when it cannot fit, and without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_stable_diffusion as tiny_sd
import torch
from tiny_kandinsky import tiny_decoder, tiny_prior

from vqclip.backends.diffusion import Denoising
from vqclip.backends.kandinsky.backend import KandinskyBackend
from vqclip.backends.kandinsky.prior import Kandinsky
from vqclip.backends.pieces import Pieces
from vqclip.backends.stable_diffusion.backend import StableDiffusionBackend
from vqclip.job import Job, Prompt, ResourceError
from vqclip.run import preflight_denoising as module
from vqclip.run.preflight_denoising import preflight_denoising

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
JOB = Job((Prompt("a red apple"),), size=(256, 128), steps=3)


def backends(guidance: float = 4.0) -> dict[str, KandinskyBackend | StableDiffusionBackend]:
    denoising = Denoising(steps=3, guidance=guidance)
    prior, decoder = tiny_prior(), tiny_decoder()
    return {
        "kandinsky": KandinskyBackend(
            lambda: prior, lambda: decoder, settings=Kandinsky(prior_steps=2), denoising=denoising, device=CPU,
            dtype=torch.float32,
        ),
        "stable-diffusion": StableDiffusionBackend(tiny_sd.models(), device=CPU, denoising=denoising),
    }  # fmt: skip


def give(patch: pytest.MonkeyPatch, room: int | None) -> None:
    """Let the process hold nothing and the system have `room` bytes."""
    patch.setattr(module, "held", lambda _device: (0, 0))
    patch.setattr(module, "available", lambda _device: room)


@pytest.mark.parametrize("name", ["kandinsky", "stable-diffusion"])
def test_larger_pictures_need_more(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    give(monkeypatch, None)

    def peak(job: Job) -> int:
        return preflight_denoising(backends()[name].pieces(job), steps=3, timed=False).peak

    small = peak(JOB)
    assert peak(replace(JOB, size=(512, 256))) > 3 * small
    assert (backends(1.0)[name].pieces(JOB).batch, backends(4.0)[name].pieces(JOB).batch) == (1, 2)
    assert preflight_denoising(backends()[name].pieces(JOB), steps=3, timed=False).seconds is None
    assert (preflight_denoising(backends()[name].pieces(JOB), steps=3).seconds or 0) > 0


@pytest.mark.parametrize("name", ["kandinsky", "stable-diffusion"])
def test_what_was_counted_small_holds_at_the_full_size(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The continued count against the count of the work itself."""
    give(monkeypatch, None)
    pieces = backends()[name].pieces(replace(JOB, size=(512, 256)))
    foreseen = preflight_denoising(pieces, steps=3, timed=False).peak
    with torch.no_grad():
        works = (pieces.update, pieces.decode)
        whole = max(max(module.trace(lambda _turn, work=work: work(*pieces.grid)).history) for work in works)
    assert foreseen == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("name", ["kandinsky", "stable-diffusion"])
def test_what_cannot_fit_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    give(monkeypatch, 10_000_000)
    with pytest.raises(ResourceError, match=r"at 1024x1024 needs about .* GB, 10 MB are free; lower size") as caught:
        preflight_denoising(backends()[name].pieces(replace(JOB, size=(1024, 1024))), steps=3)
    assert "\n" not in str(caught.value)


def pieces(asked: list[tuple[int, int]], *, arriving: int = 0, move: Callable[[], object] = lambda: None) -> Pieces:
    def work(rows: int, columns: int) -> None:
        asked.append((rows, columns))
        torch.zeros(rows, columns)

    return Pieces("it", CPU, (64, 96), 8, 8, 2, arriving, move, work, work)


def test_weights_that_cannot_arrive_are_refused_before_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 1_000_000)
    placed: list[int] = []
    with pytest.raises(ResourceError, match="it at 768x512 needs about 2 MB, 1 MB are free"):
        preflight_denoising(pieces([], arriving=2_000_000, move=lambda: placed.append(1)), steps=1)
    assert placed == []


def test_the_same_models_are_measured_once_and_the_room_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, 10**9)
    asked: list[tuple[int, int]] = []
    key = ("test", tuple(asked), id(asked))
    first = preflight_denoising(pieces(asked), steps=1, key=key, timed=False)
    assert asked == 2 * [(8, 8), (16, 16), (24, 24)]
    assert preflight_denoising(pieces(asked), steps=1, key=key, timed=False) == first
    assert len(asked) == 6
    preflight_denoising(pieces(asked), steps=1, timed=False)  # without a name anew
    assert len(asked) == 12
    give(monkeypatch, 1000)
    with pytest.raises(ResourceError):
        preflight_denoising(pieces(asked), steps=1, key=key, timed=False)
    assert len(asked) == 12


@pytest.mark.parametrize("name", ["kandinsky", "stable-diffusion"])
def test_no_picture_changes(name: str) -> None:
    job = replace(JOB, size=(64, 64))
    before = backends()[name].generate(job, lambda _step: None).image
    backend = backends()[name]
    state = torch.get_rng_state()
    preflight_denoising(backend.pieces(job), steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(backend.generate(job, lambda _step: None).image, before)


def test_the_forecast_is_near_the_truth() -> None:
    """A whole process: the kernel's record of its memory against what was foreseen."""
    script = """
import torch
from dataclasses import replace
from test_preflight_denoising import CPU, JOB, backends
from vqclip.run import memory
from vqclip.run.preflight_denoising import preflight_denoising
torch.set_num_threads(1)
job, backend = replace(JOB, size=(512, 512)), backends()["stable-diffusion"]
backend.generate(replace(JOB, size=(64, 64)), lambda step: None)
before = memory.held(CPU)[0]
made = preflight_denoising(backend.pieces(job), steps=3, timed=False)
backend.generate(job, lambda step: None)
print(before, made.peak, memory.held(CPU)[1])
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    before, foreseen, measured = map(int, done.stdout.split())
    assert measured > before + 50_000_000  # the run, not only the base
    assert foreseen == pytest.approx(measured, rel=0.2)
