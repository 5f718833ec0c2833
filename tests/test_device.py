"""Where a run works: device, precision and threads of a config."""

from __future__ import annotations

import pytest
import torch

from vqclip.config import from_mapping
from vqclip.job import InputError
from vqclip.run import device


def test_devices_and_precision_are_chosen_together() -> None:
    cpu = device.pick_device("cpu")
    assert device.pick_dtype("fp32", cpu) == torch.float32
    assert device.pick_dtype("bf16", cpu) == torch.bfloat16
    assert device.pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="not available here"):
            device.pick_device("cuda")


SMALL: list[dict[str, object]] = [
    {}, {"denoiser": {"model": "none"}}, {"guides": ["starter", "starter/judge"]}, {"judge": "ViT-L/14"},
    {"backend": "kandinsky"}, {"start": {"kind": "backend", "backend": "kandinsky"}},
]  # fmt: skip
LARGE: list[dict[str, object]] = [
    {"generator": "vqgan.ckpt"}, {"guides": ["starter", "ViT-B/32"]}, {"denoiser": {"model": "./mine.safetensors"}},
    {"backend": "kandinsky", "kandinsky": {"decoder": "kandinsky-community/kandinsky-2-2-decoder"}},
    {"backend": "stable-diffusion"}, {"start": {"kind": "backend", "backend": "stable-diffusion"}},
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [*((each, 1) for each in SMALL), *((each, 6) for each in LARGE)])
def test_models_that_ship_get_one_thread_and_others_every_core(
    changes: dict[str, object], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "physical", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert device.pick_threads(from_mapping({"include": "x", **changes}, source="test")) == expected
    two = from_mapping({"include": "x", "threads": 2, **changes}, source="test")
    assert device.pick_threads(two) == min(2, expected)
    assert device.most_threads(two) == 2
