"""What a picture says about its making comes back exactly, and nothing else is believed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vqclip import images
from vqclip.job import InputError, Job, Prompt
from vqclip.record import metadata

ODD = "quotes \" ' \\, newline \n, tab \t, NUL \0, bell \x07, ü 猫 \U0001f431, half \ud83d, </script> {{x}}"
JOB = Job((Prompt("a cat"), Prompt("in snow", 0.5)), (Prompt("text"),), (Prompt("oil paint"),), (64, 48), 30, 7)


def texts(**config: Any) -> dict[str, str]:
    return metadata.embed(job=JOB, config=config, versions={"vqclip": "0.1.0"}, weights={"generator": "ab" * 32})


def save(path: Path, text: str | None, *, how: str = "add_itxt") -> Path:
    info = PngInfo()
    if text is not None:
        getattr(info, how)("vqclip", text)
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return path


def envelope(**changes: Any) -> str:
    whole = {
        "schema": 2, "config": {}, "seed": 0, "versions": {}, "weights": {}, "files": {}, "machine": {},
    } | changes  # fmt: skip
    return json.dumps({key: value for key, value in whole.items() if value != "absent"})


class TestRoundTrip:
    def test_everything_comes_back(self, tmp_path: Path) -> None:
        config = {"include": ODD, "size": [64, 48], "deep": {"a": [1, 2.5, None, True]}}
        images.save_png(tmp_path / "a.png", torch.zeros(3, 48, 64), texts(**config))
        assert metadata.read(tmp_path / "a.png") == {
            "schema": 2,
            "config": config,
            "seed": 7,
            "versions": {"vqclip": "0.1.0"},
            "weights": {"generator": "ab" * 32},
            "files": {},
            "machine": {},
        }

    @given(st.text(st.characters(exclude_categories=()), max_size=60))
    @settings(max_examples=60, deadline=None)
    def test_any_prompt_survives(self, tmp_path_factory: pytest.TempPathFactory, prompt: str) -> None:
        path = tmp_path_factory.getbasetemp() / "prompt.png"
        job = Job((Prompt(f"a{prompt}"),))
        made = metadata.embed(job=job, config={"include": prompt, prompt: 1}, versions={}, weights={})
        images.save_png(path, torch.zeros(3, 1, 1), made, durable=False)
        assert metadata.read(path)["config"] == {"include": prompt, **{prompt: 1}}

    def test_letters_stay_readable_in_the_file(self) -> None:
        assert "猫" in texts(include="猫")["vqclip"]

    @pytest.mark.parametrize("how", ["add_text", "add_itxt"])
    def test_other_kinds_of_text_chunk_are_read(self, tmp_path: Path, how: str) -> None:
        assert metadata.read(save(tmp_path / "a.png", envelope(seed=3), how=how))["seed"] == 3

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "x" * (1 << 20), list(range(30_000))])
    def test_what_could_not_be_read_is_not_written(self, value: Any) -> None:
        with pytest.raises(ValueError):  # noqa: PT011  # one of several messages
            texts(value=value)


class TestParameters:
    def test_layout(self) -> None:
        assert texts()["parameters"] == (
            "a cat, (in snow:0.5), oil paint\n"
            "Negative prompt: text\n"
            "Steps: 30, Sampler: VQGAN+CLIP, Seed: 7, Size: 64x48, Version: vqclip 0.1.0"
        )

    def test_prompts_cannot_forge_lines_or_hold_control_characters(self) -> None:
        job = Job((Prompt(f"{ODD}\nSteps: 9"),))
        lines = metadata.parameters(job, {}).split("\n")
        assert len(lines) == 2
        assert all(line.isprintable() for line in lines)


def nested(depth: int) -> str:
    return envelope(config="X").replace('"X"', '{"a":' * depth + "1" + "}" * depth)


REFUSED = {
    "no text": None,
    "empty": "",
    "not JSON": "{",
    "a list": "[1]",
    "a number": "1",
    "twice": envelope().replace('"seed": 0', '"seed": 0, "seed": 1'),
    "NaN": envelope(config={"a": float("nan")}),
    "Infinity": envelope(config={"a": float("-inf")}),
    "long integer": envelope(config="X").replace('"X"', '{"a": ' + "9" * 5000 + "}"),
    "deep": nested(20),
    "deeper than the stack": nested(100_000),
    "deep lists": "[" * 200_000,
    "crowded": envelope(config={"a": [0] * 30_000}),
    "long": envelope(config={"a": "x" * (1 << 20)}),
    "another schema": envelope(schema=3),
    "schema as truth": envelope(schema=True),
    "schema as text": envelope(schema="1"),
    "no schema": envelope(schema="absent"),
    "no config": envelope(config="absent"),
    "config as list": envelope(config=[]),
    "seed as text": envelope(seed="0"),
    "seed as truth": envelope(seed=False),
    "weights as numbers": envelope(weights={"a": 1}),
    "versions nested": envelope(versions={"a": {}}),
    "unknown field": envelope(run="rm -rf"),
    "unknown field with odd name": envelope(**{"a\nb": 1}),
}


class TestRefused:
    @pytest.mark.parametrize("kind", REFUSED)
    def test_one_line_with_the_name_of_the_file(self, tmp_path: Path, kind: str) -> None:
        path = save(tmp_path / "a.png", REFUSED[kind])
        with pytest.raises(InputError) as caught:
            metadata.read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()

    def test_files_that_are_no_png(self, tmp_path: Path) -> None:
        (tmp_path / "empty.png").write_bytes(b"")
        (tmp_path / "folder.png").mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / "jpeg.png", format="JPEG")
        for name in ("empty.png", "folder.png", "jpeg.png", "missing.png", "a\0b.png", "a\nb.png"):
            with pytest.raises(InputError) as caught:
                metadata.read(tmp_path / name)
            assert str(caught.value).isprintable()

    def test_a_compressed_bomb(self, tmp_path: Path) -> None:
        info = PngInfo()
        info.add_itxt("vqclip", "x" * (80 << 20), zip=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
        with pytest.raises(InputError):
            metadata.read(tmp_path / "a.png")

    def test_a_picture_saved_again_without_texts(self, tmp_path: Path) -> None:
        images.save_png(tmp_path / "a.png", torch.zeros(3, 2, 2), texts())
        with Image.open(tmp_path / "a.png") as picture:
            picture.convert("RGB").save(tmp_path / "b.png", pnginfo=PngInfo())
        with pytest.raises(InputError, match="saved again without it"):
            metadata.read(tmp_path / "b.png")

    def test_damaged_files_never_raise_anything_else(self, tmp_path: Path) -> None:
        draw = random.Random(1)
        images.save_png(tmp_path / "a.png", torch.zeros(3, 2, 2), texts(include="a cat"))
        whole = (tmp_path / "a.png").read_bytes()
        outcomes = set()
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            (tmp_path / "a.png").write_bytes(data)
            try:
                outcomes.add(metadata.read(tmp_path / "a.png")["schema"])
            except InputError:
                outcomes.add("refused")
        assert outcomes == {2, "refused"}
