"""Exports are half precision, carry their provenance, and refuse what can not ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from training.export import export
from training.loop import machine

PARTS = {"kind": "clip", "name": "tiny", "architecture": {"width": 8}, "training": {"minutes": 1}}


def test_an_export_is_half_precision_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "export" / "tiny.safetensors"
    tensors = {"weight": torch.randn(3, 4), "token_ids": torch.tensor([5, 9], dtype=torch.int32)}
    export(path, tensors, styles=["noto", "twemoji"], **PARTS)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        weight, ids = file.get_tensor("weight"), file.get_tensor("token_ids")
    assert weight.dtype == torch.float16
    assert torch.allclose(weight.float(), tensors["weight"], atol=2e-3)
    assert torch.equal(ids, tensors["token_ids"])
    assert (metadata["format"], metadata["kind"], metadata["name"]) == ("vqclip-1", "clip", "tiny")
    assert json.loads(metadata["architecture"]) == {"width": 8}
    licences = [entry["licence"] for entry in json.loads(metadata["provenance"])]
    assert licences == ["Apache-2.0", "CC-BY-4.0"]


@pytest.mark.parametrize(("threads", "cores", "said"), [(1, 2, "1 thread of 2 cores"), (4, 1, "4 threads of 1 core")])
def test_an_export_says_what_it_was_trained_on(
    threads: int, cores: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"Card {device.index}")
    assert machine(torch.device("cpu")) == f"{said}, riscv64"
    assert machine(torch.device("mps")) == f"mps, {said}, riscv64"
    assert machine(torch.device("cuda:1")) == "Card 1"


def test_share_alike_drawings_do_not_ship(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share-alike"):
        export(tmp_path / "x.safetensors", {}, styles=["noto", "openmoji"], **PARTS)
    assert not list(tmp_path.iterdir())


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fp16"):
        export(tmp_path / "x.safetensors", {"big": torch.tensor([1e6])}, styles=["noto"], **PARTS)
