"""Layers merge in the documented order, whole configs agree with themselves, and every way out leads back in."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vqclip import config as configs
from vqclip.config import Config, Guide, Picture, from_mapping, load, to_yaml
from vqclip.config.schema import MAX_PROMPTS, MAX_SEED
from vqclip.job import InputError, Prompt


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | None, *overrides: str) -> str:
    with pytest.raises(InputError) as refused:
        load(path, overrides)
    assert str(refused.value).isprintable()
    return str(refused.value)


def test_no_file_gives_the_defaults() -> None:
    loaded = load(None, ["include=red apple"])
    assert loaded.config == Config(include=(Prompt("red apple"),))
    assert loaded.text == ""
    assert loaded.origins["include"] == "override"
    assert set(loaded.origins.values()) == {"override", "default"}


def test_precedence_default_preset_base_file_override(tmp_path: Path) -> None:
    write(tmp_path, "deep/first.yaml", "steps: 1\nseed: 1\naverage: 0.1\ncrops: {count: 1, flip: 0.1, chunk: 5}\n")
    write(tmp_path, "deep/second.yaml", "base: first.yaml\nseed: 2\ncrops: {count: 2, flip: 0.2}\n")
    text = "base: [deep/second.yaml]\ninclude: a\npreset: reference\naverage: 0.3\ncrops: {count: 3}\n"
    path = write(tmp_path, "top.yaml", text)
    loaded = load(path, ["crops.erase=0.9", "crops.erase=0.8"])
    config = loaded.config
    assert (config.steps, config.seed, config.average) == (1, 2, 0.3)
    assert (config.crops.count, config.crops.flip, config.crops.chunk, config.crops.erase) == (3, 0.2, 5, 0.8)
    assert config.crops.method == "pooled"  # the preset, under everything
    assert config.crops.rotate == Config().crops.rotate
    assert loaded.text == text
    assert loaded.origins["steps"] == f"{tmp_path}/deep/first.yaml:1"
    assert loaded.origins["average"] == f"{path}:4"
    assert loaded.origins["crops.method"].startswith("preset reference:")
    assert loaded.origins["crops.erase"] == "override"
    assert loaded.origins["crops.rotate"] == "default"


def test_later_bases_win_and_lists_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "exclude: [x, y]\nvideo: {formats: [gif, webp]}\nsteps: 1\n")
    write(tmp_path, "b.yaml", "exclude: [z]\nsteps: 2\n")
    config = load(write(tmp_path, "c.yaml", "base: [a.yaml, b.yaml]\ninclude: q\nvideo: {formats: [mp4]}\n")).config
    assert config.exclude == (Prompt("z"),)
    assert config.video.formats == ("mp4",)
    assert config.steps == 2


def test_the_highest_layer_chooses_the_preset(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "preset: reference\n")
    path = write(tmp_path, "top.yaml", "base: base.yaml\ninclude: a\n")
    assert load(path).config.crops.method == "pooled"
    assert load(path, ["preset=default"]).config.crops == Config().crops


def test_presets_are_whole_and_default_adds_nothing() -> None:
    reference = load(None, ["include=a", "preset=reference"]).config
    assert (reference.size, reference.steps, reference.start.kind) == ((256, 256), 500, "noise")
    assert (reference.optimizer.name, reference.optimizer.lr, reference.optimizer.lr_end) == ("adam", 0.1, 0.1)
    assert (reference.crops.method, reference.crops.count, reference.crops.noise) == ("pooled", 32, 0.1)
    assert reference.crops.augment == ("affine", "perspective", "colour_jitter", "erasing")
    assert (reference.losses.exclude, reference.losses.extras) == (1.0, 1.0)
    assert load(None, ["include=a", "preset=default"]).config == load(None, ["include=a"]).config


@pytest.mark.parametrize(
    "extras",
    ['extras=[{"text": "oil", "stop": 1}]', 'prompts=[{"include": "a", "extras": [{"text": "oil", "stop": 1}]}]'],
)
def test_joined_extras_have_no_stop(extras: str) -> None:
    include = [] if extras.startswith("prompts") else ["include=a"]
    said = refusal(None, *include, extras, "losses.join=features")
    assert "losses.join: features with a stop on an extra" in said
    assert load(None, [*include, extras]).config.losses.join == "apart"
    assert load(None, [*include, extras.replace("stop", "weight"), "preset=seed"]).config.losses.join == "features"


@pytest.mark.parametrize("text", ["base: b.yaml", "base: [c.yaml]", "base: ./../X/b.yaml"])
def test_base_cycles_are_refused(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "X"
    write(folder, "b.yaml", text)
    write(folder, "c.yaml", "base: b.yaml")
    assert "lead back to itself" in refusal(folder / "b.yaml", "include=a")


def test_base_depth_and_number_are_bounded(tmp_path: Path) -> None:
    for level in range(1, 12):
        write(tmp_path, f"{level}.yaml", f"base: {level + 1}.yaml")
    write(tmp_path, "12.yaml", "steps: 3")
    assert "at most 8 levels" in refusal(tmp_path / "1.yaml", "include=a")
    assert load(tmp_path / "4.yaml", ["include=a"]).config.steps == 3
    for level in range(1, 8):
        names = ", ".join([f"w{level + 1}.yaml"] * 30)
        write(tmp_path, f"w{level}.yaml", f"base: [{names}]")
    write(tmp_path, "w8.yaml", "steps: 3")
    begun = time.process_time()
    assert "at most 64 base files" in refusal(tmp_path / "w1.yaml", "include=a")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("base", ["none.yaml", "5", "{a: b}", "[[a]]", "'${HOME}'", "''", "[b.yaml, 5]", "'a\\0'"])
def test_bases_that_cannot_be_are_refused_with_their_line(tmp_path: Path, base: str) -> None:
    write(tmp_path, "b.yaml", "")
    path = write(tmp_path, "top.yaml", f"include: a\nbase: {base}\n")
    assert refusal(path).startswith(f"{path}:2: base: ")


def test_errors_inside_a_base_name_that_file(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "\nsteps: -3\n")
    path = write(tmp_path, "top.yaml", "base: b.yaml\ninclude: a\nsteps: 3\n")
    assert refusal(path).startswith(f"{tmp_path / 'b.yaml'}:2: steps: got -3")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "include: no prompt; include or prompts is needed"),
        (["include=[]"], "include: no prompt"),
        (["include=a", 'prompts=["b"]'], "include: given besides prompts"),
        (["include=a", "start.kind=image"], "start.kind: image without a picture"),
        (["include=a", "start.image=x.png"], "start.image: given with kind smooth"),
        (["include=a", "preset=reference", "start.image=x.png"], "start.image: given with kind noise"),
        (["include=a", "seed=9223372036854775807", "seeds=2"], "seed: got 9223372036854775807; with 2 pictures"),
        (["include=a", "seeds=2", "keep=3"], "keep: got 3 with seeds 2; at most as many as there are seeds"),
        (["include=a", "seeds=65", "keep=3"], "seeds: got 65 with keep 3; the best are kept of at most 64"),
        (["include=a", "seeds=4", "keep=3", "keep_by=judge", "judge=none"], "keep_by: judge without a judge"),
        (["include=a", "seeds=4", "keep=3", "keep_by=me"], "keep_by: got 'me'"),
        (["include=a", "batch=0"], "batch: got 0"),
        (["include=a", "crops.scale=1,.5"], "crops.scale: got [1.0, 0.5]; the smaller number comes first"),
        (['prompts=["a","b"]', f"seed={MAX_SEED}"], "seed: got 9223372036854775807; with 2 pictures"),
        ([f"include={json.dumps(['a'] * (MAX_PROMPTS + 1))}"], "257 prompts in all; at most 256"),
        (["include=" + "a" * 70000], "bytes with all prompts written out; at most 65536"),
    ],
)
def test_settings_must_agree(overrides: list[str], message: str) -> None:
    assert message in refusal(None, *overrides)


def test_checks_between_keys_name_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "include: a\nprompts:\n- b\n")
    assert refusal(path) == f"{path}:1: include: given besides prompts ({path}:2); one of the two is allowed"


def test_pictures_have_their_own_and_the_shared_prompts_and_seeds() -> None:
    config = from_mapping(
        {"prompts": ["a", {"include": "b", "exclude": "c", "extras": ["d"], "seed": 3}, "e"], "exclude": "x",
         "extras": "y", "seed": 10},
        "m",
    )  # fmt: skip
    x, y = Prompt("x"), Prompt("y")
    assert configs.pictures(config) == (
        Picture((Prompt("a"),), (x,), (y,), 10),
        Picture((Prompt("b"),), (Prompt("c"), x), (Prompt("d"), y), 3),
        Picture((Prompt("e"),), (x,), (y,), 12),
    )
    single = from_mapping({"include": ["a", "b"], "seed": 4}, "m")
    assert configs.pictures(single) == (Picture((Prompt("a"), Prompt("b")), (), (), 4),)


def test_mappings_are_checked_like_files() -> None:
    assert from_mapping(
        {"include": Prompt("a", 2.0), "size": (64, 32)} | {"include": [Prompt("a", 2.0)]}, "m"
    ) == Config(include=(Prompt("a", 2.0),), size=(64, 32))
    bad: list[dict[str, Any]] = [
        {"include": 5}, {"include": None}, {"include": "a", "stpes": 1}, {"include": "a", "steps": "12"},
        {"include": "a", "steps": True}, {"include": "a", "optimizer": {"lr": math.nan}}, {"include": "a", "base": "x"},
        {"include": "a", "steps": 10**400}, {"include": "a", "average": 10**400}, {"include": "a", 5: 6},
        {"include": "a", "crops": None}, {"include": "a", "name": "../x"}, {"include": "a\0"}, {"include": ["a", b"x"]},
    ]  # fmt: skip
    for values in bad:
        with pytest.raises(InputError) as refused:
            from_mapping(values, "final.png\n")
        assert str(refused.value).startswith("final.png\\n")
        assert str(refused.value).isprintable()


def test_overrides_apply_over_a_complete_config() -> None:
    base = from_mapping({"include": "a", "steps": 9, "name": "x"}, "m")
    loaded = configs.load_over(base, ["steps=5", "include=b"], source="final.png")
    assert loaded.config == dataclasses.replace(base, steps=5, include=(Prompt("b"),))
    assert loaded.origins["seed"] == "final.png"
    assert loaded.origins["steps"] == "override"


def test_digest_follows_the_settings_but_not_the_place() -> None:
    base = from_mapping({"include": "a"}, "m")
    assert configs.digest(base) == configs.digest(dataclasses.replace(base, name="n", outputs="elsewhere"))
    assert len(configs.digest(base)) == 64
    others = [load(None, ["include=a", each]).config for each in ("seed=1", "crops.flip=.1", "exclude=b", "threads=1")]
    assert len({configs.digest(each) for each in [base, *others]}) == 5


def test_digest_is_the_same_in_another_process() -> None:
    code = "from vqclip import config; print(config.digest(config.from_mapping({'include': 'é'}, 'm')))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == configs.digest(from_mapping({"include": "é"}, "m"))


def test_explain_has_a_row_for_every_key(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "include: [a, {text: b, weight: 2}]\nsteps: 3\n")
    rows = {key: rest for key, *rest in configs.explain(load(path, ["seed=4"]))}
    assert rows["steps"] == ["3", f"{path}:2", "updates of the latent", "a whole number from 0 to 100000"]
    assert rows["seed"][:2] == ["4", "override"]
    assert rows["include"][0] == '["a", {"text": "b", "weight": 2.0}]'
    assert rows["include"][3] == "texts or {text, weight, stop}"
    assert rows["precision"][3] == "auto, fp32, bf16"
    assert rows["size"][3] == "two, each a whole number from 16 to 4096"
    assert rows["optimizer.lr"][3] == "a number above 0 to 100 or none"
    assert rows["video.formats"][3] == "any of mp4, gif, webp"
    assert rows["start.image"][3] == "a path or none"
    assert rows["crops.count"][:2] == ["8", "default"]
    assert rows["threads"][0] == "none"
    assert all(doc and allowed for _, _, doc, allowed in rows.values())


def test_without_a_prompt_a_config_can_only_be_explained() -> None:
    assert configs.explain(load(None, [], prompted=False))
    assert refusal(None).startswith("default: include: no prompt")


def test_a_kind_of_start_that_was_asked_for_outweighs_a_picture() -> None:
    config = load(None, ["include=a", "start.kind=noise", "start.image=x.png"]).config
    assert config.start.kind == "noise"


def test_paths_are_relative_to_who_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write(tmp_path, "deep/base.yaml", "images: [a.png, ../b.png]\nkandinsky: {prior: ./k}\n")
    text = "base: deep/base.yaml\ninclude: x\nstart: {kind: image, image: c.png}\ngenerator: w/g.ckpt\noutputs: out\n"
    path = write(tmp_path, "top.yaml", text)
    config = load(Path("../top.yaml"), ["guides=w/v.pt", "judge=w/j.pt"]).config
    assert [each.image for each in config.images] == [f"{tmp_path}/deep/a.png", f"{tmp_path}/b.png"]
    assert config.kandinsky.prior == f"{tmp_path}/deep/k"
    assert (config.start.image, config.generator) == (f"{tmp_path}/c.png", f"{tmp_path}/w/g.ckpt")
    assert (config.guides, config.judge) == ((Guide(f"{here}/w/v.pt"),), f"{here}/w/j.pt")
    assert config.outputs == "out"  # a place to write: the current folder's
    assert from_mapping({"include": "x", "generator": "w/g.ckpt"}, "m").generator == f"{here}/w/g.ckpt"
    resolved = write(tmp_path, "outputs/run/config.resolved.yaml", to_yaml(config))
    monkeypatch.chdir(tmp_path)
    assert load(resolved).config == load(path, [f"guides={here}/w/v.pt", f"judge={here}/w/j.pt"]).config == config


def test_origins_know_the_lines_of_listed_pictures(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "images: [x.png, y.png, z.png]")
    path = write(tmp_path, "c.yaml", "base: base.yaml\ninclude: a\nimages:\n- a.png\n- b.png\n")
    origins = load(path).origins
    assert [origins[f"images[{i}]"] for i in range(2)] == [f"{path}:4", f"{path}:5"]
    assert "images[2]" not in origins


def test_a_config_is_frozen_plain_values() -> None:
    config = load(None, ["include=a", "video.formats=gif,mp4", "guides=x"]).config
    assert config.video.formats == ("gif", "mp4")
    assert config.guides == (Guide("x"),)
    assert isinstance(hash(config), int)  # frozen and tuples all the way down
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3  # type: ignore[misc]  # that is the point


def test_the_largest_config_written_out_can_be_read_back(tmp_path: Path) -> None:
    picture = {"include": [{"text": "\x01" * 3 + "a", "weight": 2, "stop": 1}], "seed": 5}
    config = from_mapping({"prompts": [picture] * MAX_PROMPTS}, "m")
    assert load(write(tmp_path, "c.yaml", to_yaml(config))).config == config
