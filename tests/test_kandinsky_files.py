"""Kandinsky's files open offline from every layout, and what is missing or wrong is named in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import KandinskyV22CombinedPipeline
from safetensors.torch import load_file, save_file
from tiny_kandinsky import silent, tiny_decoder, tiny_inpainter, tiny_prior

from vqclip.backends.diffusion import Denoising
from vqclip.backends.kandinsky import files as kandinsky_files
from vqclip.backends.kandinsky.backend import KandinskyBackend
from vqclip.backends.kandinsky.files import HUB, Part, find, open_decoder, open_prior
from vqclip.backends.kandinsky.prior import Kandinsky
from vqclip.job import Job, Prompt, ResourceError, WeightsError

FP32 = torch.float32
JOB = Job((Prompt("a red apple"),), size=(64, 64), seed=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with prior/, decoder/ and inpaint/, and combined/ beside them."""
    place = tmp_path_factory.mktemp("kandinsky")
    prior, decoder = tiny_prior(), tiny_decoder()
    prior.save_pretrained(place / "prior")
    decoder.save_pretrained(place / "decoder")
    tiny_inpainter().save_pretrained(place / "inpaint")
    named = {f"prior_{name}": part for name, part in prior.components.items()}
    KandinskyV22CombinedPipeline(**decoder.components, **named).save_pretrained(place / "combined")
    return place


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """The same folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def drawn(prior: Any, decoder: Any, denoising: Denoising) -> torch.Tensor:
    made = KandinskyBackend(
        lambda: prior, lambda: decoder, settings=Kandinsky(prior_steps=3), denoising=denoising,
        device=torch.device("cpu"), dtype=FP32,
    )  # fmt: skip
    return made.generate(JOB, lambda _: None).image


@pytest.mark.parametrize(("of_prior", "of_decoder"), [(".", "."), ("prior", "decoder"), ("combined", "combined")])
def test_a_saved_model_opens_offline_and_draws_the_same(saved: Path, of_prior: str, of_decoder: str) -> None:
    """Weights in mapped files lie elsewhere in memory, which changes the last digits of floats."""
    prior = open_prior(find(str(saved / of_prior), "prior"), dtype=FP32)
    decoder = open_decoder(find(str(saved / of_decoder), "decoder"), dtype=FP32)
    assert type(prior).__name__ == "KandinskyV22PriorPipeline"
    assert type(decoder).__name__ == "KandinskyV22Pipeline"
    image = drawn(prior, decoder, Denoising(steps=2))
    assert torch.allclose(image, drawn(tiny_prior(), tiny_decoder(), Denoising(steps=2)), atol=1e-4)


def test_the_inpainting_decoder_opens_offline(saved: Path) -> None:
    found = find(str(saved), "inpaint")
    decoder = open_decoder(found, dtype=FP32)
    assert type(decoder).__name__ == "KandinskyV22InpaintPipeline"
    hole = torch.ones(1, 1, 64, 64)
    given = Denoising(steps=1, image=torch.rand(1, 3, 64, 64), mask=hole)
    assert torch.allclose(drawn(tiny_prior(), decoder, given), drawn(tiny_prior(), tiny_inpainter(), given), atol=1e-4)


def test_everything_opens_in_one_precision_and_ready_to_use(saved: Path) -> None:
    prior = open_prior(find(str(saved), "prior"), dtype=torch.bfloat16)
    decoder = open_decoder(find(str(saved), "decoder"), dtype=torch.bfloat16)
    for net in (prior.prior, prior.text_encoder, prior.image_encoder, decoder.unet, decoder.movq):
        assert {weight.dtype for weight in net.parameters()} == {torch.bfloat16}
        assert not net.training


def test_names_tell_weights_apart(saved: Path) -> None:
    names = {find(str(saved), part).name for part in HUB} | {find(str(saved / "combined"), "prior").name}
    assert len(names) == 4
    assert find(str(saved), "prior").name == find(f"{saved}/decoder/..", "prior").name


def test_a_tokenizer_without_its_configuration_still_ends(copy: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (copy / "prior/tokenizer" / name).unlink(missing_ok=True)
    prior = open_prior(find(str(copy), "prior"), dtype=FP32)
    assert prior.tokenizer.model_max_length == 77
    assert silent(prior)("a red apple", num_inference_steps=2).image_embeds.isfinite().all()


@pytest.mark.parametrize(
    ("part", "gone", "told"),
    [
        ("prior", "prior/model_index.json", "model_index.json is missing; Kandinsky 2.2's prior needs it"),
        ("prior", "prior/tokenizer/tokenizer.json", "tokenizer: tokenizer.json or merges.txt is missing"),
        ("prior", "prior/text_encoder/model.safetensors", r"text_encoder: \*.safetensors is missing"),
        ("prior", "prior/image_processor/preprocessor_config.json", "preprocessor_config.json is missing"),
        ("decoder", "decoder/unet/config.json", "unet: config.json is missing"),
        ("decoder", "decoder/movq/diffusion_pytorch_model.safetensors", r"movq: \*.safetensors is missing"),
        ("decoder", "decoder/scheduler/scheduler_config.json", "scheduler: scheduler_config.json is missing"),
        ("inpaint", "inpaint/model_index.json", "inpainting decoder needs it"),
    ],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(copy: Path, part: Part, gone: str, told: str) -> None:
    (copy / gone).unlink()
    where = gone.split("/")[0] if gone.endswith("model_index.json") else ""
    with pytest.raises(WeightsError, match=told) as caught:
        find(str(copy / where), part)
    repo, revision = HUB[part].split("@")
    assert f"hf download {repo} --revision {revision} --include" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unsafe_files_are_not_taken_for_weights(copy: Path) -> None:
    weights = copy / "decoder/unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(WeightsError, match="only unsafe .bin files"):
        find(str(copy), "decoder")


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_models_of_another_kind_are_refused_before_their_weights_are_read(copy: Path) -> None:
    for folder, part, told in (
        ("decoder", "prior", "holds a KandinskyV22Pipeline; Kandinsky 2.2's prior is needed"),
        ("prior", "decoder", "holds a KandinskyV22PriorPipeline; Kandinsky 2.2's decoder is needed"),
        ("decoder", "inpaint", "unet has 4 input channels; repainting under a mask needs 9"),
        ("inpaint", "decoder", "unet has 9 input channels; pictures without a mask needs 4"),
    ):
        with pytest.raises(WeightsError, match=told):
            find(str(copy / folder), part)
    _edit(copy / "decoder/unet/config.json", out_channels=4)
    with pytest.raises(WeightsError, match="4 output channels"):
        find(str(copy), "decoder")
    _edit(copy / "decoder/model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(WeightsError, match="holds a StableDiffusionPipeline"):
        find(str(copy), "decoder")


@pytest.mark.parametrize("text", ["", "[1]", "{", "\udcff"], ids=["empty", "list", "half", "no text"])
def test_damaged_descriptions_are_one_line(copy: Path, text: str) -> None:
    (copy / "decoder/model_index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(WeightsError, match=r"model_index.json: (cannot be read|not a JSON object)") as caught:
        find(str(copy), "decoder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "key", "shape", "bytes", "config"])
@pytest.mark.parametrize("where", ["decoder/movq/diffusion_pytorch_model", "prior/text_encoder/model"])
def test_damaged_weights_are_never_filled_up(copy: Path, damage: str, where: str) -> None:
    """The loaders draw missing tensors at random and only warn."""
    path = copy / f"{where}.safetensors"
    state = load_file(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "bytes":
        path.write_bytes(b"\xff" * 1000)
    elif damage == "config":
        (path.parent / "config.json").write_text("[]")
    else:
        first = max(state, key=lambda key: state[key].numel())
        state |= {first: torch.zeros(3)} if damage == "shape" else {}
        save_file(
            {key: each for key, each in state.items() if damage == "shape" or key != first}, path, {"format": "pt"}
        )
    part: Part = "prior" if where.startswith("prior") else "decoder"
    with pytest.raises(WeightsError, match=path.parent.name) as caught:
        (open_prior if part == "prior" else open_decoder)(find(str(copy), part), dtype=FP32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["no/such/folder", "kandinsky", "./weights", "/nowhere", "~nobody"])
def test_what_is_neither_folder_nor_repository_is_refused(model: str) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        find(model, "prior")


@pytest.fixture
def cache(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the published prior, in place of the user's."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repo, revision = HUB["prior"].split("@")
    place = tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots" / revision
    shutil.copytree(saved / "prior", place)
    return place


@pytest.mark.parametrize("switch", ["VQCLIP_OFFLINE", "HF_HUB_OFFLINE", None])
def test_the_hubs_cache_is_used_without_a_connection(
    cache: Path, switch: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if switch:
        monkeypatch.setenv(switch, "1")
    found = find("kandinsky-2.2", "prior")
    assert found.folder == cache
    assert found.name == f"kandinsky-2.2@{HUB['prior'].split('@')[1]}/prior"
    assert silent(open_prior(found, dtype=FP32))("a", num_inference_steps=2).image_embeds.shape == (1, 32)


def test_a_cache_with_holes_is_missing_when_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCLIP_OFFLINE", "1")
    (cache / "prior/diffusion_pytorch_model.safetensors").unlink()
    for model, part in (("kandinsky-2.2", "prior"), ("kandinsky-2.2", "inpaint"), ("someone/kandinsky@v1", "decoder")):
        with pytest.raises(
            WeightsError, match=r"is not here as a whole, and offline is asked for: hf download"
        ) as caught:
            find(model, part)
        assert "\n" not in str(caught.value)


def test_only_what_is_needed_is_fetched_at_the_pinned_commit(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    for name in ("VQCLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    commit, calls, notes = HUB["decoder"].split("@")[1], [], []

    def snapshot_download(repo: str, **given: Any) -> str:
        calls.append((repo, given))
        if given["local_files_only"]:
            raise FileNotFoundError(repo)
        shutil.copytree(saved / "decoder", tmp_path / commit)
        return str(tmp_path / commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = find("kandinsky-2.2", "decoder", notes.append)
    assert found.name == f"kandinsky-2.2@{commit}/decoder"
    assert [given["local_files_only"] for _, given in calls] == [True, False]
    repo, given = calls[-1]
    assert (repo, given["revision"]) == (HUB["decoder"].split("@")[0], commit)
    assert "model_index.json" in given["allow_patterns"]
    assert all(
        pattern.split("/")[0] in ("model_index.json", "unet", "movq", "scheduler")
        for pattern in given["allow_patterns"]
    )
    assert not any(pattern.endswith(("bin", "/*")) for pattern in given["allow_patterns"])
    assert len(notes) == 1 and "fetching" in notes[0]


@pytest.mark.parametrize(
    ("problem", "kind", "told"),
    [(OSError(28, "No space left"), ResourceError, "disk is full"), (RuntimeError("no\nway"), WeightsError, "no way")],
)
def test_a_fetch_that_fails_is_one_line(
    problem: Exception, kind: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    for name in ("VQCLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def snapshot_download(repo: str, **given: Any) -> str:
        raise FileNotFoundError(repo) if given["local_files_only"] else problem

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(kind, match=told) as caught:
        find("someone/kandinsky", "decoder")
    assert "\n" not in str(caught.value)


def test_published_parts_are_pinned_to_commits() -> None:
    for part, repository in HUB.items():
        repo, revision = repository.split("@")
        assert repo.startswith("kandinsky-community/kandinsky-2-2-")
        assert len(revision) == 40 and int(revision, 16)
        assert kandinsky_files._PARTS[part]


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"])
def test_a_pipe_in_a_folder_is_not_waited_for(copy: Path, name: str) -> None:
    place = copy / "decoder" / name
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(WeightsError, match=f"{re.escape(str(place))}: not a regular file") as caught:
        find(str(copy), "decoder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["prior/image_encoder", "decoder/movq"])
def test_numbers_that_are_none_are_refused_with_folder_and_tensor(copy: Path, part: str) -> None:
    (place,) = (copy / part).glob("*.safetensors")
    state = load_file(place)
    name = next(key for key, value in state.items() if value.is_floating_point())
    state[name].view(-1)[-1] = float("nan")
    save_file(state, place, metadata={"format": "pt"})
    half: Part = "prior" if part.startswith("prior") else "decoder"
    with pytest.raises(WeightsError, match=f"{re.escape(part)}: .*{re.escape(name)} holds NaN or infinite numbers"):
        (open_prior if half == "prior" else open_decoder)(find(str(copy), half), dtype=FP32)
