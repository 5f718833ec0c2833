"""From config to backend: every backend from files, chains, pictures to resemble, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import scaled
from safetensors.torch import load_file, save_file

from tests.tiny_kandinsky import tiny_decoder, tiny_prior
from vqclip import images
from vqclip.backends import Opening
from vqclip.backends.vqgan.backend import VQGANBackend
from vqclip.config import Config, from_mapping
from vqclip.generators.denoiser import make_network
from vqclip.job import InputError, Result, Step, WeightsError
from vqclip.run.assemble import job_of, load_models
from vqclip.weights.convert import latents_of
from vqclip.weights.load import STARTER, load


@pytest.fixture(scope="module")
def kandinsky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kandinsky")
    tiny_prior().save_pretrained(folder / "prior")
    tiny_decoder().save_pretrained(folder / "decoder")
    return folder


@pytest.fixture
def settings(weight_files: dict[str, Path], kandinsky: Path) -> dict[str, Any]:
    return {
        "include": "apple", "generator": str(weight_files["generator"]), "guides": [str(weight_files["guide"])],
        "judge": None, "size": [64, 64], "steps": 2, "precision": "fp32", "threads": 1,
        "kandinsky": {
            "prior": str(kandinsky), "decoder": str(kandinsky), "steps": 4, "prior_steps": 2, "strength": 0.5
        },
    }  # fmt: skip


def made(config: Config) -> tuple[Result, list[Step]]:
    steps: list[Step] = []
    models = load_models(config)
    job = job_of(config)
    models.backend.check(job)
    result = models.backend.generate(job, steps.append)
    return result, [step for step in steps if not isinstance(step, Opening)]


def test_kandinsky_draws_from_local_folders(settings: dict[str, Any]) -> None:
    config = from_mapping(settings | {"backend": "kandinsky"}, source="test")
    result, steps = made(config)
    assert result.image.shape == (3, 64, 64)
    assert (steps[-1].index, result.steps) == (4, 4)
    assert torch.equal(steps[-1].image, result.image)
    again, _ = made(config)
    assert torch.equal(again.image, result.image)


@pytest.mark.parametrize(("backend", "maker", "updates"), [("vqgan", "kandinsky", 2), ("kandinsky", "vqgan", 2)])
def test_a_chain_starts_from_the_other_backend(
    settings: dict[str, Any], backend: str, maker: str, updates: int
) -> None:
    chained = settings | {"backend": backend, "start": {"kind": "backend", "backend": maker}}
    result, steps = made(from_mapping(chained, source="test"))
    assert job_of(from_mapping(chained, source="test")).steps == updates == result.steps
    start, _ = made(from_mapping(settings | {"backend": maker}, source="test"))
    assert result.facts["start"]["steps"] == start.steps
    if backend == "kandinsky":  # a diffusion run from a picture shows that picture first
        assert torch.allclose(steps[0].image, start.image, atol=1e-6)


@pytest.mark.parametrize(("model", "given", "used"), [
    ("starter", None, 1.0), ("starter/guide-rn", None, 1.0), ("", None, 0.0), ("starter", 0.5, 0.5),
])  # fmt: skip
def test_emphasis_is_on_by_default_with_the_starter_guide(
    settings: dict[str, Any], model: str, given: float | None, used: float
) -> None:
    guides = {"guides": [model]} if model else {}
    config = from_mapping(settings | guides | {"losses": {"emphasis": given}}, source="test")
    backend = load_models(config).backend
    assert isinstance(backend, VQGANBackend)
    assert backend.recipe.emphasis == used


def test_pictures_to_resemble_become_terms_or_blends(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    images.to_pil(torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 32, 32)).save(path)
    shown = settings | {"images": [{"image": str(path), "weight": 0.5}]}
    result, _ = made(from_mapping(shown, source="test"))
    assert set(result.terms) == {"include: apple", "image 1"}
    plain, _ = made(from_mapping(settings | {"backend": "kandinsky"}, source="test"))
    blended, _ = made(from_mapping(shown | {"backend": "kandinsky"}, source="test"))
    assert not torch.equal(plain.image, blended.image)
    model = tmp_path / "x.safetensors"
    model.write_bytes(b"x")
    other = shown | {"backend": "stable-diffusion", "stable_diffusion": {"model": str(model)}}
    with pytest.raises(InputError, match="images: Stable Diffusion"):
        made(from_mapping(other, source="test"))


def test_steps_are_those_that_will_run() -> None:
    def steps(**values: Any) -> int:
        return job_of(from_mapping({"include": "x", **values}, source="test")).steps

    assert steps(steps=7) == 7
    assert steps(backend="kandinsky", steps=7) == 50
    from_picture = {"kind": "image", "image": "x.png"}
    assert steps(backend="kandinsky", start=from_picture, kandinsky={"steps": 100, "strength": 0.29}) == 29
    assert steps(backend="kandinsky", start=from_picture, kandinsky={"mask": "m.png", "strength": 0.1}) == 50
    assert steps(backend="stable-diffusion", start=from_picture) == 40


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"backend": "stable-diffusion"}, InputError, "stable_diffusion.model"),
        (
            {"backend": "stable-diffusion", "stable_diffusion": {"model": "/nowhere.ckpt"}},
            WeightsError, r"stable_diffusion.model: nowhere.ckpt: no such file or folder \(looked in /\)",
        ),
        ({"backend": "kandinsky", "kandinsky": {"prior": "/nowhere"}}, WeightsError, "kandinsky.prior: nowhere: no"),
        (
            {"backend": "kandinsky", "start": {"kind": "image", "image": "x.png"}, "kandinsky": {"mask": "m.png"}},
            InputError, "kandinsky.inpaint",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_made_says_why(
    changes: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "m.png"):
        images.save_png(tmp_path / name, torch.full((3, 64, 64), 0.5))
    with pytest.raises(kind, match=message):
        load_models(from_mapping({"include": "x", "threads": 1, "judge": None, **changes}, source="test"))


@pytest.fixture(scope="module")
def denoiser_file(weight_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser of the tiny generator's latents."""
    path = tmp_path_factory.mktemp("denoiser") / "denoiser.safetensors"
    shape: dict[str, Any] = {"channels": 32, "width": 32, "multipliers": (1, 1), "groups": 4}
    training = {"vqgan": latents_of(load_file(weight_files["generator"]))}
    facts = {"kind": "denoiser", "architecture": json.dumps(shape), "training": json.dumps(training)}
    save_file(make_network(**shape).state_dict(), path, facts)
    return path


def test_a_denoiser_changes_the_picture_and_is_on_record(settings: dict[str, Any], denoiser_file: Path) -> None:
    plain, denoised = (
        load_models(from_mapping(settings | {"denoiser": {"model": model}}, source="test"))
        for model in ("none", str(denoiser_file))
    )
    job = job_of(from_mapping(settings, source="test"))
    pictures = [models.backend.generate(job, lambda _: None).image for models in (plain, denoised, denoised)]
    assert not torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[1], pictures[2])
    assert "denoiser" not in plain.facts["weights"]
    assert denoised.facts["weights"]["denoiser"] == hashlib.sha256(denoiser_file.read_bytes()).hexdigest()


def test_auto_takes_a_denoiser_for_the_starter_generator_alone(settings: dict[str, Any]) -> None:
    own = load_models(from_mapping(settings, source="test"))
    assert "denoiser" not in own.facts["weights"]
    starter = load_models(from_mapping({"include": "apple", "judge": None}, source="test"))
    assert "denoiser" in starter.facts["weights"]


def test_a_denoiser_of_another_generator_is_refused(settings: dict[str, Any], denoiser_file: Path) -> None:
    changed = from_mapping(
        settings | {"generator": "starter", "denoiser": {"model": str(denoiser_file)}}, source="test"
    )
    with pytest.raises(WeightsError, match="trained with another generator"):
        load_models(changed)


def test_what_is_no_denoiser_is_refused_with_its_path(settings: dict[str, Any], weight_files: dict[str, Path]) -> None:
    changed = from_mapping(settings | {"denoiser": {"model": str(weight_files["judge"])}}, source="test")
    with pytest.raises(WeightsError, match=r"judge.*'denoiser' is needed"):
        load_models(changed)


def test_a_start_picture_is_drowned_in_a_share_of_the_noise(settings: dict[str, Any], tmp_path: Path) -> None:
    images.save_png(tmp_path / "grey.png", torch.full((3, 64, 64), 0.5))
    noise = {"noise": 0.8, "noise_end": 0.1, "strength": 0.25}
    for start, expected in ((None, 0.8), ({"kind": "image", "image": str(tmp_path / "grey.png")}, 0.2)):
        config = from_mapping(settings | {"denoiser": noise} | ({"start": start} if start else {}), source="test")
        backend = load_models(config).backend
        assert isinstance(backend, VQGANBackend)
        assert backend.recipe.levels.at(0) == pytest.approx(expected)


@pytest.fixture(scope="module")
def longer_starters(tmp_path_factory: pytest.TempPathFactory) -> dict[float, dict[str, Any]]:
    """Settings with the starter VQGAN and its denoiser, by the length of their latents over the shipped ones'."""
    folder, found = tmp_path_factory.mktemp("scaled"), {}
    drawn, cleaned = load(STARTER / "vqgan.safetensors"), load(STARTER / "denoiser.safetensors", parts=("",))
    for factor in (1.0, 0.1, 10.0):
        generator, denoiser = (folder / f"{name}-{factor}.safetensors" for name in ("vqgan", "denoiser"))
        state = {key: value.contiguous() for key, value in scaled(drawn.state, factor).items()}
        save_file(state, generator, dict(drawn.metadata))
        training = {"training": json.dumps({"vqgan": latents_of(state)})}
        save_file(dict(cleaned.state), denoiser, {**cleaned.metadata, **training})
        found[factor] = {"generator": str(generator), "denoiser": {"model": str(denoiser)}}
    return found


STARTERS = {"include": "a red apple", "judge": None, "size": [64, 64], "steps": 12, "threads": 1, "precision": "fp32"}


@pytest.mark.parametrize("denoised", [True, False])
def test_the_default_recipe_draws_the_same_whatever_the_scale_of_latents(
    longer_starters: dict[float, dict[str, Any]], *, denoised: bool
) -> None:
    pictures = {}
    for factor, files in longer_starters.items():
        changes = files if denoised else files | {"denoiser": {"model": "none"}}
        pictures[factor] = made(from_mapping(STARTERS | changes, source="test"))[0].image
    assert float(pictures[1.0].std()) > 0.01
    for factor in (0.1, 10.0):
        assert torch.allclose(pictures[factor], pictures[1.0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, 10.0), ({"optimizer": {"unit": "absolute"}}, 1.0), ({"preset": "reference"}, 1.0), ({"preset": "seed"}, 1.0),
    ({"preset": "seed", "optimizer": {"unit": "codebook"}}, 10.0),
])  # fmt: skip
def test_rates_are_absolute_where_a_preset_or_key_says_so(
    longer_starters: dict[float, dict[str, Any]], changes: dict[str, Any], expected: float
) -> None:
    settings = STARTERS | {"generator": longer_starters[10.0]["generator"]} | changes
    backend = load_models(from_mapping(settings, source="test")).backend
    assert isinstance(backend, VQGANBackend)
    assert backend.recipe.unit == pytest.approx(expected, rel=1e-6)


def test_a_denoiser_counts_in_its_generators_unit_whatever_the_rates_do(
    longer_starters: dict[float, dict[str, Any]]
) -> None:
    absolute = STARTERS | longer_starters[10.0] | {"optimizer": {"unit": "absolute"}}
    backend = load_models(from_mapping(absolute, source="test")).backend
    assert isinstance(backend, VQGANBackend)
    assert backend.denoiser is not None
    assert (backend.recipe.unit, backend.denoiser.unit) == (1.0, pytest.approx(10, rel=1e-6))
