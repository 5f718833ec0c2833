"""Real classes at tiny size: a VQGAN and two CLIPs with random weights, saved as files where asked.

All tests together are shared by two processes, each with one thread of torch; what one names alone runs in one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clip.model import CLIP
from safetensors.torch import save_file

from tests.file_server import Server, only_this_machine
from vqclip.generators import vqgan
from vqclip.loop.crops import CropSpec
from vqclip.perceptors import clip

CPU = torch.device("cpu")


def crop_spec(**changes: object) -> CropSpec:
    """A plain homography spec; name what a test is about."""
    values: dict[str, object] = {
        "method": "homography", "count": 4, "chunk": 4, "overview": 0.5, "scale": (0.6, 1.0), "rotate": 8.0,
        "perspective": 0.1, "flip": 0.0, "colour": 0.05, "erase": 0.0, "noise": 0.0, "pad": "border",
    }  # fmt: skip
    return CropSpec(**(values | changes))


def tiny_vqgan_state(seed: int = 0, *, gumbel: bool = False) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = vqgan.Architecture(32, (1, 1, 2), 1, (2,), 3, 3, 32, 48, 32, gumbel)
        model = vqgan.VQModel(shape)
        return {key: value.detach().clone() for key, value in model.state_dict().items()}


def scaled(state: dict[str, torch.Tensor], factor: float) -> dict[str, torch.Tensor]:
    """The weights of a VQGAN with the same pictures and another scale of latents."""
    longer = ("quantize.embedding.weight", "quantize.embed.weight", "quant_conv.weight", "quant_conv.bias")
    gumbel = "quantize.proj.weight" in state  # which takes its codes by scores, not by their distance
    made = {key: value.float() for key, value in state.items()}
    made |= {key: made[key] * factor for key in longer[:2] if key in made}
    made |= {} if gumbel else {key: made[key] * factor for key in longer[2:]}
    return made | {"post_quant_conv.weight": made["post_quant_conv.weight"] / factor}


def tiny_clip(seed: int = 0, *, resnet: bool = False) -> CLIP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: object = (1, 1, 1, 1) if resnet else 2
        model = CLIP(32, 32, layers, 16 if resnet else 64, None if resnet else 8, 77, 49408, 64, 1, 1).float()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        return model.eval().requires_grad_(requires_grad=False)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`: 2 for whole folders, 0 (no process but this one) for files and single tests, picked or shown.

    Starting two processes costs more than a few tests take. `-n 4` asks for four, whatever is run.
    """
    picked = any(config.getoption(name, None) for name in ("keyword", "markexpr", "lf", "collectonly"))
    shown = config.getoption("capture") == "no"  # what tests print is lost in other processes
    folders = all(Path(config.invocation_params.dir, each).is_dir() for each in config.args)
    return 2 if folders and not (picked or shown) and (os.cpu_count() or 1) > 1 else 0


def pytest_sessionstart() -> None:
    """One thread in fixtures that are made before any test as well."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny models gain nothing from two threads and wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test fetches or converts lands in the user's cache."""
    monkeypatch.setenv("VQCLIP_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def generator() -> vqgan.VQGAN:
    return vqgan.VQGAN(vqgan.build(tiny_vqgan_state()), device=CPU)


@pytest.fixture(scope="session")
def guide() -> clip.ClipPerceptor:
    return clip.ClipPerceptor(clip.build(tiny_clip(1).state_dict()), device=CPU)


@pytest.fixture(scope="session")
def other_guide() -> clip.ClipPerceptor:
    return clip.ClipPerceptor(clip.build(tiny_clip(2, resnet=True).state_dict()), device=CPU)


@pytest.fixture(scope="session")
def weight_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models as files: generator (safetensors), guide (torch zip) and judge (safetensors)."""
    folder = tmp_path_factory.mktemp("weights")
    files = {
        "generator": folder / "vqgan.safetensors", "guide": folder / "guide.pt", "judge": folder / "judge.safetensors",
    }  # fmt: skip
    save_file(tiny_vqgan_state(), files["generator"])
    torch.save(tiny_clip(1).state_dict(), files["guide"])
    save_file(
        {key: value.contiguous() for key, value in tiny_clip(2, resnet=True).state_dict().items()}, files["judge"]
    )
    return files


@pytest.fixture
def server() -> Iterator[Server]:
    """A file server on this machine, and none but it."""
    with only_this_machine() as made:
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a download shall lie, in a folder that is not there yet."""
    return tmp_path / "store" / "model.ckpt"
