"""The same tensors are recognised in another file, name and precision; other models are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import tiny_clip
from safetensors.torch import save_file

from vqclip.weights.likeness import KEPT, alike, sketch, sketch_files
from vqclip.weights.load import STARTER, load

State = dict[str, torch.Tensor]


def state(seed: int = 0) -> State:
    return {name: value.contiguous() for name, value in tiny_clip(seed).state_dict().items()}


def tower() -> State:
    return {name: value for name, value in state().items() if name.startswith("visual.")}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_and_other_names_are_the_same_model(kind: torch.dtype) -> None:
    again = {f"model.{name}": value.to(kind) for name, value in reversed(state().items())}
    assert alike(sketch(state()), sketch(again))


def test_other_weights_of_the_same_architecture_are_another_model() -> None:
    assert not alike(sketch(state(0)), sketch(state(1)))


def test_the_shipped_guide_judge_and_its_rivals_are_strangers() -> None:
    """Trained on the same data by the same scripts."""
    guide, judge = (sketch(load(STARTER / f"{name}.safetensors").state) for name in ("guide-rn", "judge"))
    assert not alike(guide, judge)
    assert alike(judge, judge)


def test_a_shared_tower_is_recognised() -> None:
    assert alike(sketch(state()), sketch(tower() | {"text": torch.randn(2000)}))


def test_what_any_model_may_have_tells_nothing() -> None:
    """Constants, small tensors, counts, and two tables of sines and cosines."""
    angles = torch.arange(4096) / 100
    common = {
        "ones": torch.ones(5000), "small": torch.arange(1000.0), "ids": torch.arange(5000),
        "sin": angles.sin(),
    }  # fmt: skip
    first, second = (common | {f"{seed}": torch.randn(9, 2000) + seed for seed in seeds} for seeds in ((0, 1), (2, 3)))
    assert not alike(sketch(first), sketch(second))
    assert sketch({name: common[name] for name in ("ones", "small", "ids")}) == ""
    assert not alike("", "")


def test_files_are_sketched_from_their_beginnings(tmp_path: Path) -> None:
    halves = list(state().items())
    save_file(dict(halves[::2]), tmp_path / "a.safetensors")
    save_file(dict(halves[1::2]), tmp_path / "b.safetensors")
    assert sketch_files(tmp_path) == sketch(state())
    save_file({f"{n}": torch.randn(2000) for n in range(KEPT)}, tmp_path / "c.safetensors")
    assert len(sketch_files(tmp_path).split()) == KEPT


def test_what_cannot_be_read_has_no_sketch(tmp_path: Path) -> None:
    assert sketch_files(tmp_path / "nowhere") == ""
    for number, content in enumerate([b"", b"x" * 100, b"\x02" + bytes(7) + b"{]"]):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "m.safetensors").write_bytes(content)
        assert sketch_files(tmp_path / f"{number}") == ""
