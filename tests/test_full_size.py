"""Full-size checkpoints from disk through the same command: VQGAN f16-16384 and CLIP ViT-B/32, random weights."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import torch
from clip.model import CLIP
from PIL import Image
from torch import Tensor, nn

from vqclip.generators import vqgan
from vqclip.perceptors import clip
from vqclip.run.assemble import Runtime, perceptor
from vqclip.weights.load import Weights

ROOT = Path(__file__).parent.parent
IMAGENET_F16_16384 = vqgan.Architecture(128, (1, 1, 2, 2, 4), 2, (4,), 3, 3, 256, 16384, 256, gumbel=False)
VIT_B_32 = (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)


def random_state(build: object, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state dict of the right shapes with weights of unit gain: signals pass, nothing explodes."""
    with torch.device("meta"):
        model: nn.Module = build()  # type: ignore[operator]
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            state[key] = torch.zeros(value.shape, dtype=value.dtype)
        elif value.dim() == 1:
            state[key] = torch.full(value.shape, 0.0 if key.endswith("bias") else 1.0, dtype=dtype)
        else:
            fan_in = value[0].numel() if value.dim() > 1 else 1
            state[key] = (torch.randn(value.shape, generator=rng) / fan_in**0.5).to(dtype)
        if value.dim() == 0:
            state[key] = torch.tensor(2.0)
    return state


def test_full_size_weights_run_three_steps_at_256_pixels(tmp_path: Path) -> None:
    generator, guide = tmp_path / "vqgan.ckpt", tmp_path / "ViT-B-32.pt"
    torch.save({"state_dict": random_state(lambda: vqgan.VQModel(IMAGENET_F16_16384), 0, torch.float32)}, generator)
    torch.save(random_state(lambda: CLIP(*VIT_B_32), 1, torch.float16), guide)
    command = [
        sys.executable, "-m", "vqclip", "run", "include=a lighthouse in a storm, oil painting", "exclude=text",
        f"generator={generator}", f'guides=["{guide}"]', "size=256,256", "steps=3", "tries=1", "crops.count=8",
        "crops.chunk=4", "losses.roles=false", "start.kind=noise", "judge=none", f"outputs={tmp_path / 'outputs'}",
        "--progress", "none",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert len({line["total"] for line in lines}) == 4
    with Image.open(folder / "final.png") as picture:
        assert picture.size == (256, 256)
        assert max(high - low for low, high in picture.getextrema()) > 20


def held(root: object) -> int:
    """Bytes of the tensors that can be reached from an object, each storage once."""
    storages, seen, waiting = dict[int, int](), set[int](), [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        waiting += (item.__closure__ or ()) if isinstance(item, FunctionType) else gc.get_referents(item)
    return sum(storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_a_loaded_clip_one_image_tower_stays_and_nothing_of_its_file(dtype: torch.dtype) -> None:
    state = random_state(lambda: CLIP(*VIT_B_32), 1, torch.float16)
    visual = sum(value.numel() for key, value in state.items() if key.startswith("visual."))
    others = sum(value.numel() for value in state.values()) - visual
    originals = [weakref.ref(value.untyped_storage()) for value in state.values() if value.dtype == torch.float16]
    runtime = Runtime(torch.device("cpu"), dtype, "error", lambda _message: None)
    eye = perceptor("ViT-B/32", Weights(Path("ViT-B-32.pt"), "", state), runtime)
    assert isinstance(eye, clip.ClipPerceptor)
    assert held(eye) == pytest.approx(4 * others + dtype.itemsize * visual, rel=0.005)  # and masks
    del state
    gc.collect()
    assert not any(original() for original in originals)
