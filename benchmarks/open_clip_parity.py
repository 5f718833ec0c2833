"""Whether open_clip perceptors equal open_clip's own features: `python -m benchmarks.open_clip_parity`.

Real architectures at full size with random weights, so nothing is downloaded; every connection is refused and
counted. The reference is open_clip as its users call it: its transform of whole pictures, its tokenizer, its
encode_image and encode_text. Needs open-clip-torch and transformers. Writes
benchmarks/results/open_clip_parity.json; exits 1 when a check fails.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from clip.model import CLIP
from PIL import Image
from torch import Tensor, nn

from vqclip.perceptors import clip, open_clip

RESULT = Path(__file__).parent / "results" / "open_clip_parity.json"
CPU = torch.device("cpu")
TEXTS = ["a red apple", "Blue  HEART on white, with fish & chips!", "un café crème", ""]
# A plain ViT with OpenAI's keys; a convolutional timm trunk seen without normalisation; a sigmoid model with a
# hub tokenizer, a text tower of its own and mean 0.5.
CASES = [
    ("ViT-B-32-256", "datacomp_s34b_b86k"),
    ("MobileCLIP2-S0", "dfndr2b"),
    ("ViT-B-16-SigLIP", "webli"),
]
TOLERANCE = 1e-5
attempts: list[str] = []


def refuse_connections() -> None:
    """Every name look-up and connection fails and is remembered."""

    def refuse(*arguments: Any, **_options: Any) -> Any:
        attempts.append(repr(arguments[-1]))
        raise OSError("no connections during this check")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse


def make_hub_tokenizer(cache: Path, name: str) -> None:
    """A word tokenizer of our own where the hub's cache would keep the published one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "a", "red", "apple", "blue", "heart", "on", "white", "with", "fish", "chips"]
    special = {"pad_token": words[0], "eos_token": words[1], "unk_token": words[2]}
    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(words)}, unk_token=words[2]))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    repository = cache / "hub" / f"models--{name.replace('/', '--')}"
    fast.save_pretrained(str(repository / "snapshots" / ("0" * 40)))
    absent = repository / ".no_exist" / ("0" * 40) / "config.json"  # so the published ones are remembered too
    absent.parent.mkdir(parents=True)
    absent.touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


def reference(model: str) -> nn.Module:
    """open_clip's own model with random weights, batch norms with statistics that are not 0 and 1."""
    import open_clip as package

    torch.manual_seed(1)
    network: nn.Module = package.create_model(model)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.05)
            module.running_var.uniform_(0.8, 1.2)
    return network.eval().requires_grad_(requires_grad=False)


def pictures(side: int, published: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Two pictures of noise as crops in [0, 1], and as open_clip's transform of whole pictures makes them."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings = {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    transform = image_transform_v2(PreprocessCfg(size=side, **settings), is_train=False)
    levels = torch.randint(0, 256, (2, side, side, 3), generator=rng(0), dtype=torch.uint8)
    seen = torch.stack([transform(Image.fromarray(each.numpy())) for each in levels])
    return (levels.permute(0, 3, 1, 2).float() / 255).requires_grad_(), seen.requires_grad_()


def compare(model: str, tag: str) -> dict[str, Any]:
    """Largest differences from open_clip itself, and how far bfloat16 turns the features."""
    import open_clip as package

    theirs = reference(model)
    begun = time.process_time()
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    network = open_clip.build(state, model=model, tag=tag)
    seconds = time.process_time() - begun
    ours = open_clip.OpenClipPerceptor(network, model=model, device=CPU)

    settings = package.get_pretrained_cfg(model, tag)
    crops, seen = pictures(ours.size, settings)
    expected, features = theirs.encode_image(seen, normalize=True), ours.embed_image(crops)
    direction = torch.randn(expected.shape, generator=rng(1))
    (expected * direction).sum().backward()
    (features * direction).sum().backward()
    assert seen.grad is not None
    assert crops.grad is not None
    by_pixel = seen.grad / torch.tensor(settings["std"]).view(3, 1, 1)  # theirs is by normalised pixel

    rows = tokenizer_of(model)(TEXTS)
    with torch.no_grad():
        texts = theirs.encode_text(rows, normalize=True)
        half = open_clip.OpenClipPerceptor(network, model=model, device=CPU, dtype=torch.bfloat16).embed_image(crops)
    report = {
        "model": model,
        "tag": tag,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "size": ours.size,
        "mean": list(settings["mean"]),
        "context": rows.shape[1],
        "tokens_equal": torch.equal(ours.tokens(TEXTS), rows),
        "image_difference": distance(features, expected),
        "text_difference": distance(ours.embed_text(TEXTS), texts),
        "gradient_difference": float((crops.grad - by_pixel).norm() / by_pixel.norm()),
        "gradient_norm": float(crops.grad.norm()),
        "bfloat16_cosine": float((half * features).sum(1).min()),
        "looks_like_open_clip": open_clip.looks_like_open_clip(state),
        "build_cpu_seconds": round(seconds, 2),
    }
    largest = max(report["image_difference"], report["text_difference"], report["gradient_difference"])
    return report | {"passed": bool(report["tokens_equal"] and largest < TOLERANCE and report["gradient_norm"] > 0)}


def activations() -> dict[str, Any]:
    """OpenAI's layout under both names: one gives openai-clip's features, the other loads as well and does not."""
    torch.manual_seed(2)
    model = CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).float()
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    crops = torch.rand(2, 3, 224, 224, generator=rng(0))
    with torch.no_grad():
        wanted = clip.ClipPerceptor(clip.build(state), device=CPU).embed_image(crops)
        right, wrong = (
            open_clip.OpenClipPerceptor(open_clip.build(state, model=name), model=name, device=CPU).embed_image(crops)
            for name in ("ViT-B-32-quickgelu", "ViT-B-32")
        )
    report = {"quickgelu_difference": distance(right, wanted), "gelu_difference": distance(wrong, wanted)}
    told_apart = report["gelu_difference"] > 20 * TOLERANCE  # random weights; trained ones lie further apart
    return report | {"passed": report["quickgelu_difference"] < TOLERANCE and told_apart}


def fetching_architectures() -> list[str]:
    """Architectures that `build` accepts although open_clip would take their vocabulary from an address."""
    import open_clip as package

    texts = {name: package.get_model_config(name)["text_cfg"] for name in package.list_models()}
    built_in = [name for name, text in texts.items() if not {"hf_model_name", "hf_tokenizer_name"} & text.keys()]
    return [name for name in built_in if "siglip" in name.lower()]


def tokenizer_of(model: str) -> Any:
    """open_clip's tokenizer, as its users get it. The hub's client tries to connect, which is not our doing."""
    import open_clip as package

    before = len(attempts)
    hub = "hf_tokenizer_name" in package.get_model_config(model)["text_cfg"]
    tokenizer = package.get_tokenizer(model, **({"local_files_only": True} if hub else {}))
    del attempts[before:]
    return tokenizer


def rng(seed: int) -> torch.Generator:
    """A generator of its own for each draw."""
    return torch.Generator().manual_seed(seed)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two sets of unit rows."""
    return float((ours - theirs).abs().max())


def main() -> None:
    """Run every check, print and write the report."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = folder  # before the first import of open_clip
        make_hub_tokenizer(Path(folder), "timm/ViT-B-16-SigLIP")
        refuse_connections()
        cases = [compare(model, tag) for model, tag in CASES]
        trap = activations()
    report = {
        "command": "python -m benchmarks.open_clip_parity",
        "tolerance": TOLERANCE,
        "cases": cases,
        "activations": trap,
        "fetching_architectures": fetching_architectures(),
        "connections_tried": attempts,
        "versions": {name: version(name) for name in ("open-clip-torch", "timm", "torch", "transformers")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread",
    }
    report["passed"] = all(each["passed"] for each in (*cases, trap)) and not (
        report["fetching_architectures"] or attempts
    )
    print(json.dumps(report, indent=2))
    RESULT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if report["passed"] else 1)


if __name__ == "__main__":
    main()
