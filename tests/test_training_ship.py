"""Shipping: the codebook's scale changes, nothing else does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import CPU, tiny_vqgan_state
from safetensors import safe_open
from safetensors.torch import save_file

from training import ship
from vqclip.generators import vqgan


def test_a_unit_codebook_gives_the_same_codes_and_pictures() -> None:
    state = tiny_vqgan_state()
    state["quantize.embedding.weight"] = state["quantize.embedding.weight"] * 3
    changed = ship.unit_codebook(state)
    assert float(changed["quantize.embedding.weight"].std()) == pytest.approx(1, abs=1e-4)
    before, after = (vqgan.VQGAN(vqgan.build(each), device=CPU) for each in (state, changed))
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before.codes(picture), after.codes(picture))
    assert torch.allclose(before.decode(before.encode(picture)), after.decode(after.encode(picture)), atol=1e-4)


def test_shipping_keeps_metadata_and_writes_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports, starter = tmp_path / "export", tmp_path / "starter"
    exports.mkdir()
    starter.mkdir()
    save_file({"a": torch.ones(2)}, exports / "judge.safetensors", metadata={"kind": "clip", "licence": "MIT"})
    monkeypatch.setattr(ship, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(ship, "STARTER", starter)
    monkeypatch.setattr("sys.argv", ["ship"])
    ship.main()
    shipped = starter / "judge.safetensors"
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert json.loads((starter / "manifest.json").read_text()) == {"judge.safetensors": digest}
    with safe_open(shipped, framework="pt") as file:
        assert file.metadata() == {"kind": "clip", "licence": "MIT"}
        assert torch.equal(file.get_tensor("a"), torch.ones(2))
