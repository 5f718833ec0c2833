"""open_clip perceptors against a small stand-in for the package, so that they run with and without it.

Parity with the package itself, at full size, is benchmarks/open_clip_parity.py's.
"""

from __future__ import annotations

import copy
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from clip.clip import tokenize
from conftest import CPU, tiny_clip
from torch.nn import functional as F

from vqclip.job import InputError, WeightsError
from vqclip.perceptors import Perceptor, clip, open_clip

ROOT = Path(__file__).parent.parent
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
DEFAULT = {"mean": clip.MEAN, "std": clip.STD}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Tiny-32": {"text_cfg": {}},
    "Tiny-32-quickgelu": {"text_cfg": {}, "quick_gelu": True},
    "Tiny-two": {"text_cfg": {}},
    "Tiny-own": {"text_cfg": {}},
    "Tiny-Sig": {
        "text_cfg": {"hf_tokenizer_name": "made/up", "context_length": 8, "tokenizer_kwargs": {"clean": "canonicalize"}}
    },
    "Tiny-worldwide": {"text_cfg": {"hf_tokenizer_name": "made/up", "context_length": 8, "tokenizer_mode": "clips"}},
    "Tiny-roberta": {"text_cfg": {"hf_model_name": "roberta-base"}},
}
TAGS: dict[str, dict[str, dict[str, Any]]] = {
    "Tiny-32": {"half": HALF, "quick": HALF | {"quick_gelu": True}},
    "Tiny-32-quickgelu": {"half": HALF, "quick": HALF | {"quick_gelu": True}},
    "Tiny-two": {"half": HALF, "plain": PLAIN},
    "Tiny-Sig": {"half": HALF},
}


HUB_FILE = ("made/up", "tokenizer_config.json")


class BytePairs:
    """What is used of open_clip's SimpleTokenizer."""

    context_length = 77

    def encode(self, text: str) -> list[int]:
        return list(clip.tokenizer.encode(text))

    def __call__(self, texts: list[str]) -> torch.Tensor:
        return tokenize(texts, context_length=self.context_length, truncate=True).long()


class HubTokenizer:
    """What is used of open_clip's HFTokenizer: a letter a token, an end."""

    def __init__(self, folder: str, context_length: int, *, tokenizer_mode: str | None, clean: str = "") -> None:
        self.folder, self.context_length, self.tokenizer_mode, self.clean = (
            folder,
            context_length,
            tokenizer_mode,
            clean,
        )

    def clean_fn(self, text: str) -> str:
        return text.replace(" ", "")

    def tokenizer(self, text: str, *, add_special_tokens: bool, padding: bool, truncation: bool) -> SimpleNamespace:
        assert not padding
        assert not truncation
        return SimpleNamespace(input_ids=[ord(letter) for letter in text] + [1] * add_special_tokens)

    def __call__(self, texts: list[str]) -> torch.Tensor:
        rows = [[*map(ord, self.clean_fn(text)[: self.context_length - 1]), 1] for text in texts]
        return torch.tensor([row + [0] * (self.context_length - len(row)) for row in rows])


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of open_clip's name with the functions that the perceptor uses; `asked` keeps their arguments."""
    module = ModuleType("open_clip")
    module.asked = []
    module.frame = 32
    module.tokenizer = SimpleNamespace(HFTokenizer=HubTokenizer)
    hub = ModuleType("huggingface_hub")
    hub.cached = "/cache/snapshots/0/tokenizer_config.json"
    hub.try_to_load_from_cache = lambda name, file: hub.cached if (name, file) == HUB_FILE else None

    def create_model(model_name: str, **options: Any) -> torch.nn.Module:
        module.asked.append((model_name, options))
        torch.rand(3)  # the package draws weights from the global generator
        record = logging.LogRecord("root", 30, "/x/open_clip/factory.py", 1, "initialized randomly", (), None)
        logging.getLogger().handle(record)
        network = tiny_clip(9).requires_grad_(requires_grad=True).train()
        seen = {"size": module.frame} | DEFAULT | options["force_preprocess_cfg"]
        network.visual.preprocess_cfg = seen
        return network

    def get_tokenizer(model_name: str) -> BytePairs:
        assert "hf_tokenizer_name" not in ARCHITECTURES[model_name]["text_cfg"], "the package would ask the hub"
        return BytePairs()

    module.create_model, module.get_tokenizer, module.hub = create_model, get_tokenizer, hub
    module.list_models = lambda: list(ARCHITECTURES)
    module.get_model_config = lambda name: copy.deepcopy(ARCHITECTURES.get(name))
    module.list_pretrained_tags_by_model = lambda name: list(TAGS.get(name, {}))
    module.get_pretrained_cfg = lambda name, tag: TAGS[name].get(tag, {})
    module.get_model_preprocess_cfg = lambda network: network.visual.preprocess_cfg
    monkeypatch.setitem(sys.modules, "open_clip", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return module


def state(seed: int = 3) -> dict[str, torch.Tensor]:
    return dict(tiny_clip(seed).state_dict())


def perceptor(model: str = "Tiny-32", tag: str | None = None, **options: Any) -> open_clip.OpenClipPerceptor:
    network = open_clip.build(state(), model=model, tag=tag)
    return open_clip.OpenClipPerceptor(network, model=model, device=CPU, **options)


def crops(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_importing_needs_no_package() -> None:
    code = (
        "import sys; sys.modules['open_clip'] = sys.modules['timm'] = None; import vqclip.perceptors.open_clip as m;"
        "print(m.looks_like_open_clip({}), m.parse('open_clip:A:b').path)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False b\n", done.stderr


def test_a_missing_package_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for attempt in (
        lambda: open_clip.build(state(), model="Tiny-32"),
        lambda: open_clip.OpenClipPerceptor(tiny_clip(), model="Tiny-32", device=CPU),
    ):
        with pytest.raises(InputError, match="pip install open-clip-torch") as caught:
            attempt()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "tag", "seen"),
    [
        ("Tiny-32", None, HALF),
        ("Tiny-32-quickgelu", "quick", HALF),
        ("Tiny-two", "plain", PLAIN),
        ("Tiny-two", "half", HALF),
        ("Tiny-own", None, DEFAULT),
    ],
)
def test_features_equal_the_networks_own(
    package: ModuleType, model: str, tag: str | None, seen: dict[str, tuple[float, ...]]
) -> None:
    theirs, ours = tiny_clip(3), perceptor(model, tag)
    mean, std = (torch.tensor(seen[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = F.normalize(theirs.encode_image((crops() - mean) / std), dim=-1)
    assert torch.allclose(ours.embed_image(crops()), expected, atol=1e-6)
    texts = ["a red apple", "Blue  HEART on white!", ""]
    expected = F.normalize(theirs.encode_text(tokenize(texts)), dim=-1)
    assert torch.allclose(ours.embed_text(texts), expected, atol=1e-6)
    assert torch.allclose(ours.embed_text(texts, unit=False), theirs.encode_text(tokenize(texts)), atol=1e-6)
    assert torch.equal(ours.tokens(texts), tokenize(texts).long())


def test_it_is_a_frozen_perceptor_with_unit_rows_and_pixel_gradients(package: ModuleType) -> None:
    guide = perceptor(dtype=torch.bfloat16)
    assert isinstance(guide, Perceptor)
    assert guide.size == 32
    pictures = crops().requires_grad_()
    rows = guide.embed_image(pictures)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.norm(dim=1), torch.ones(3), atol=1e-6)
    rows[:, 0].sum().backward()
    assert float(pictures.grad.abs().sum()) > 0
    assert not guide.embed_text(["x"]).requires_grad
    network = open_clip.build(state(), model="Tiny-32")
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_bfloat16_features_point_the_same_way(package: ModuleType) -> None:
    half, exact = perceptor(dtype=torch.bfloat16), perceptor()
    agreement = (half.embed_image(crops()) * exact.embed_image(crops())).sum(1)
    assert 0.99 < float(agreement.min()) < 1 - 1e-7


def test_too_many_tokens_are_an_error_or_cut_as_asked(package: ModuleType) -> None:
    with pytest.raises(InputError, match="has 100 tokens; this CLIP reads 75"):
        perceptor().embed_text(["apple " * 100])
    said: list[str] = []
    cutting = perceptor(too_long="truncate", notice=said.append)
    assert torch.equal(cutting.embed_text(["apple " * 100]), cutting.embed_text(["apple " * 75]))
    assert len(said) == 1
    assert "the rest is cut off" in said[0]


@pytest.mark.parametrize(("model", "room"), [("Tiny-Sig", 7), ("Tiny-worldwide", 5)])
def test_tokens_of_a_hub_tokenizer_are_counted_without_its_own(package: ModuleType, model: str, room: int) -> None:
    reader = perceptor(model)
    assert reader.tokens(["ab cd"]).tolist() == [[97, 98, 99, 100, 1, 0, 0, 0]]
    reader.tokens(["x " * room])
    with pytest.raises(InputError, match=f"has {room + 1} tokens; this CLIP reads {room} "):
        reader.tokens(["x " * (room + 1)])


def test_nothing_is_fetched(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights with the network, and a hub's tokenizer only as a folder that is there."""
    made: list[HubTokenizer] = []
    package.tokenizer.HFTokenizer = lambda *given, **options: made.append(HubTokenizer(*given, **options)) or made[0]
    perceptor("Tiny-Sig")
    [(_, asked)] = package.asked
    assert asked["load_weights"] is asked["pretrained_image"] is asked["pretrained_text"] is False
    assert "pretrained" not in asked
    assert (made[0].folder, made[0].clean) == ("/cache/snapshots/0", "canonicalize")
    for absent in (None, object()):  # the hub's cache also remembers files that do not exist
        package.hub.cached = absent
        with pytest.raises(InputError, match=r"tokenizer made/up, which is not here: .*get_tokenizer\('Tiny-Sig'\)"):
            perceptor("Tiny-Sig")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install transformers"):
        perceptor("Tiny-Sig")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("Tiny-33", "no architecture 'Tiny-33'; near: Tiny-32"),
        ("hf-hub:laion/CLIP-ViT-B-32", "no architecture 'hf-hub:"),
        ("local-dir:/tmp", "no architecture 'local-dir:"),
        ("", "no architecture ''; near: Tiny-32"),
        ("Tiny-roberta", "text tower from the Hugging Face hub"),
        ("Tiny-two", "differ in mean and deviation; write Tiny-two@TAG, of half, plain"),
    ],
)
def test_architectures_that_cannot_be_made_are_refused(package: ModuleType, model: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_clip.build(state(), model=model)
    assert package.asked == []


@pytest.mark.parametrize(
    ("model", "tag", "message"),
    [
        ("Tiny-32", "quick", "another activation than Tiny-32 has; name Tiny-32-quickgelu"),
        ("Tiny-32-quickgelu", "half", "another activation than Tiny-32-quickgelu has; name Tiny-32$"),
        ("Tiny-32", "no_such", "no weights 'no_such' of Tiny-32; published: half, quick"),
        ("Tiny-own", "half", "published: none"),
    ],
)
def test_tags_that_do_not_go_with_the_architecture_are_refused(
    package: ModuleType, model: str, tag: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_clip.build(state(), model=model, tag=tag)


def test_oblong_pictures_are_refused(package: ModuleType) -> None:
    package.frame = [32, 32]
    assert perceptor().size == 32
    package.frame = (32, 48)
    with pytest.raises(InputError, match="only square ones"):
        perceptor()


def test_weights_that_do_not_fit_are_refused_in_one_line(package: ModuleType) -> None:
    whole = state()
    cases = {
        r"1 missing \('ln_final.bias'\)": {key: value for key, value in whole.items() if key != "ln_final.bias"},
        r"2 unknown \('a\\nb'\)": whole | {"a\nb": torch.zeros(1), "visual.extra": torch.zeros(2)},
        r"1 misshapen \('visual.proj'\)": whole | {"visual.proj": torch.zeros(2, 2)},
        r"1 misshapen \('visual.conv1.weight'\)": whole | {"visual.conv1.weight": whole["visual.conv1.weight"].int()},
        "missing": {},
    }
    for message, broken in cases.items():
        with pytest.raises(WeightsError, match=f"not the weights of open_clip's Tiny-32: .*{message}") as caught:
            open_clip.build(broken, model="Tiny-32")
        assert "\n" not in str(caught.value)


def test_half_weights_prefixes_and_scalars_are_read_as_the_same_model(package: ModuleType) -> None:
    half = {f"module.{key}": value.half() for key, value in state().items()}
    half["module.logit_scale"] = half["module.logit_scale"].reshape(1)
    network = open_clip.build(half | {"input_resolution": torch.tensor(32)}, model="Tiny-32")
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert torch.equal(network.visual.proj, state()["visual.proj"].half().float())
    assert network.logit_scale.shape == ()


def test_building_leaves_no_traces(package: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    given, root = state(), logging.getLogger()
    keys, before, handlers = set(given), torch.get_rng_state(), list(root.handlers)
    open_clip.build(given, model="Tiny-32")
    assert set(given) == keys
    assert torch.equal(torch.get_rng_state(), before)
    assert root.handlers == handlers
    assert root.filters == []
    assert "initialized randomly" not in caplog.text


def test_only_foreign_keys_tell_open_clip_from_openai() -> None:
    assert not open_clip.looks_like_open_clip(state())
    assert not open_clip.looks_like_open_clip(tiny_clip(resnet=True).state_dict())
    assert not open_clip.looks_like_open_clip({})
    for key in ("visual.trunk.stem.0.weight", "text.token_embedding.weight", "logit_bias", "module.text.cls_emb"):
        assert open_clip.looks_like_open_clip(state() | {key: torch.zeros(1)})


def test_names_in_a_config() -> None:
    plain = open_clip.parse("open_clip:ViT-B-32-256:/path/file.safetensors")
    assert plain == ("ViT-B-32-256", None, "/path/file.safetensors")
    assert open_clip.parse("open_clip:ViT-L-14@laion2b_s32b_b82k:C:\\a@b.pt") == (
        "ViT-L-14", "laion2b_s32b_b82k", "C:\\a@b.pt",
    )  # fmt: skip
    for wrong in (
        "ViT-B-32",
        "open_clip:ViT-B-32",
        "open_clip::x",
        "open_clip:A@:x",
        "open_clip:A:",
        "x:open_clip:A:b",
    ):
        with pytest.raises(InputError, match="names no open_clip model; write open_clip:MODEL:PATH"):
            open_clip.parse(wrong)
