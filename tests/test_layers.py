"""One source at a time: types, ranges, prompts, overrides and the words of every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vqclip.config.document import parse, plain
from vqclip.config.layers import located, read_layer, read_override
from vqclip.config.schema import Guide, Picture, Reference
from vqclip.job import InputError, Prompt


def from_yaml(text: str) -> dict[str, Any]:
    return {path: setting.value for path, setting in read_layer(parse(text, "f.yaml")).items()}


def override(text: str) -> Any:
    (setting,) = read_override(text).values()
    return setting.value


def refusal(text: str) -> str:
    with pytest.raises(InputError) as refused:
        read_layer(parse(text, "f.yaml"))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def override_refusal(text: str) -> str:
    with pytest.raises(InputError) as refused:
        read_override(text)
    assert str(refused.value).isprintable()
    return str(refused.value)


def test_a_layer_holds_checked_values_by_path() -> None:
    assert from_yaml("steps: 5\nsize: [64, 32]\ncrops: {count: 3, scale: [1, 1]}\nvideo:\n  keep: false\n") == {
        "steps": 5, "size": [64, 32], "crops.count": 3, "crops.scale": [1.0, 1.0], "video.keep": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes: 3", "f.yaml:1: unknown key 'stpes'; did you mean 'steps'?"),
        ("steps: 3\ncrops:\n  conut: 4", "f.yaml:3: unknown key 'crops.conut'; did you mean 'crops.count'?"),
        ("crops:\n  cuont:\n    a: 1", "f.yaml:2: unknown key 'crops.cuont'; did you mean 'crops.count'?"),
        ("lr: 1", "f.yaml:1: unknown key 'lr'; did you mean 'optimizer.lr'?"),
        ("include: [{txt: a}]", "f.yaml:1: unknown key 'include[0].txt'; did you mean 'include[0].text'?"),
        ("prompts: [{inclde: a}]", "unknown key 'prompts[0].inclde'; did you mean 'prompts[0].include'?"),
        ("guides: [{name: a}]", "unknown key 'guides[0].name'"),
        ("<<: {steps: 3}", "unknown key '<<'"),
        ("zzzzzz: 1", "known here: preset, name"),
    ],
)
def test_unknown_keys_name_their_place_and_the_nearest_key(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: -1", "f.yaml:1: steps: got -1; a whole number from 0 to 100000 is needed"),
        ("steps: 1.5", "steps: got 1.5; a whole number"),
        ("steps: 5.0", "steps: got 5.0; a whole number"),
        ("steps: true", "steps: got true; a whole number"),
        ("steps: '12'", "a whole number"),
        ("steps: null", "steps: got nothing; a whole number"),
        ("steps: [1]", "steps: got a list of 1; a whole number"),
        ("steps: {a: 1}", "steps: got a mapping; a whole number"),
        (f"steps: {'9' * 5000}", "a whole number"),
        ("optimizer: {lr: .nan}", "optimizer.lr: got nan; a finite number above 0 to 100"),
        ("optimizer: {lr: .inf}", "got inf; a finite number"),
        ("optimizer: {lr: inf}", "got inf; a finite number"),
        ("optimizer: {lr: 1e999}", "got inf; a finite number"),
        ("optimizer: {lr: 0}", "got 0; a finite number above 0"),
        ("optimizer: {lr: true}", "got true; a finite number"),
        ("average: 1", "average: got 1; a finite number from 0, below 1,"),
        ("video: {keep: 1}", "video.keep: got 1; true or false"),
        ("video: {keep: yes}", "video.keep: got 'yes'; true or false"),
        ("video: {formats: mp4}", "video.formats: got 'mp4'; a list, each one of mp4, gif, webp"),
        (
            "video: {formats: [mp5]}",
            "video.formats[0]: got 'mp5'; one of mp4, gif, webp is needed; did you mean 'mp4'?",
        ),
        ("size: [128]", "size: got a list of 1; a list of two"),
        ("size:\n- 128\n- 8", "f.yaml:3: size[1]: got 8; a whole number from 16 to 4096"),
        ("precision: fp16", "precision: got 'fp16'; one of auto, fp32, bf16"),
        ("device: tpu", "device: got 'tpu'; auto, cpu, cuda, cuda:N or mps"),
        ("crops: 5", "crops: got 5; a mapping"),
        ("crops:", "crops: got nothing; a mapping"),
        ("outputs: ${oc.env:HOME}", "outputs: got '${oc.env:HOME}'; a line of text without ${"),
        ("outputs: ???", "outputs: got '???'"),
        ('outputs: "a\\nb"', "outputs: got 'a\\nb'"),
        ("generator: ''", "generator: got ''"),
        ("name: 2024", "name: got 2024; a plain name"),
        ("seed: 9223372036854775808", "seed: got 9223372036854775808"),
        ("guides: []", "guides: got a list of 0; at least one"),
        ("guides: [{weight: 0}]", "guides[0].weight: got 0"),
        ("guides: 5", "guides.model: got 5; a line of text"),
        ("guides: {model: [x]}", "guides.model: got a list of 1; a line of text"),
        ("guides: {mdel: x}", "unknown key 'guides.mdel'; did you mean 'guides.model'?"),
    ],
)
def test_wrong_values_say_what_was_given_and_what_is_allowed(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize(
    "name", ["..", ".hidden", "a/b", "a\\b", "CON", "nul.txt", "a b", "é", "x" * 81, "a\u202eb", ""]
)
def test_run_names_are_plain_folder_names(name: str) -> None:
    with pytest.raises(InputError, match="a plain name"):
        read_layer(plain({"name": name}, "m"))


@pytest.mark.parametrize(
    "words",
    [
        "red: cat", "x]", "- dash", "*star", "@x", "a cat # by moonlight", "yes", "1:30", "${oc.env:HOME}", "null",
        "'quoted'", "42", "1e3", "???", "\\${x}", "a=b", " spaced ", "~", "}", '"', "--flag", "héllo 😀\n\x1b[31m",
        "at 10:30", "a film in 16:9", "area 51:2", "Blade Runner: 2049", ":2", "apple:two", "apple:",
        "apple:nan", "a:1:2:3",
    ],
)  # fmt: skip
def test_prompt_texts_survive_exactly(words: str) -> None:
    for key in ("include", "exclude", "extras"):
        assert override(f"{key}={words}") == (Prompt(words),)
        assert read_layer(plain({key: words}, "m"))[key].value == (Prompt(words),)
    assert override(f"prompts={words}") == (Picture(include=(Prompt(words),)),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
     ("yes", "yes"), ("1:30", "1:30"), ("42", "42"), ("2026-01-02", "2026-01-02"), ("null", "null"), ("~", "~"),
     ("1_000", "1_000"), ("0x1F", "0x1F"), (".5", ".5"), ("${a}", "${a}"), ("'it''s'", "it's"), ("|\n  a\n  b", "a\nb"),
    ],
)  # fmt: skip
def test_plain_yaml_scalars_are_their_text_in_prompt_positions(text: str, words: str) -> None:
    assert from_yaml(f"include: {text}")["include"] == (Prompt(words),)
    if "\n" not in text and "{" not in text:  # those end a flow mapping
        assert from_yaml(f"exclude:\n- {text}\n- {{text: {text}, weight: 2}}")["exclude"] == (
            Prompt(words),
            Prompt(words, 2),
        )
        assert from_yaml(f"prompts: [{text}]")["prompts"] == (Picture((Prompt(words),)),)


def test_prompts_take_weights_and_stops() -> None:
    text = "include:\n- apple\n- {text: red, weight: 2, stop: 0.5}\n- {text: x, stop: null}\n"
    assert from_yaml(text)["include"] == (Prompt("apple"), Prompt("red", 2.0, 0.5), Prompt("x"))
    assert from_yaml("exclude:")["exclude"] == ()
    assert from_yaml("exclude: ''")["exclude"] == ()
    assert from_yaml("extras: []")["extras"] == ()
    assert from_yaml("prompts: [{include: a, seed: 7, exclude: [b]}]")["prompts"] == (
        Picture((Prompt("a"),), (Prompt("b"),), (), 7),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: ''", "include: the prompt is empty"),
        ("include:", "include: the prompt is empty"),
        ("include: ['a', '  ']", "include[1]: the prompt is empty"),
        ("exclude: ['']", "exclude[0]: the prompt is empty"),
        ("include: {text: a, wieght: 1}", "unknown key 'include.wieght'; did you mean 'include.weight'?"),
        ("include: a:-1", "include.weight: got -1; a finite number from 0 to 1e+06 is needed; what the picture must"),
        ("include: 'a | b:-1'", "include[1].weight: got -1"),
        ("include: a:1e999", "include.weight: got inf; a finite number"),
        ("include: [x, a:2:5]", "include[1].stop: got 5; a finite number from 0 to 4.9348"),
        ("include: 'a || b'", "include: got 'a || b'; some words are needed on each side of |"),
        ("include: '| b'", "some words are needed on each side of |"),
        ("exclude: '|'", "exclude: got '|'; some words"),
        (f"include: '{'a|' * 300}a'", "at most 256 texts"),
        ("include: '[a, b'", "f.yaml:1: include: '[a, b' begins like a list or a mapping and is none"),
        ("include: '[a] b'", "the form is [a red apple, a heart], {text: a red apple, weight: 2}, or {text: '["),
        ("include: '[[a]]'", "include[0]: got a list of 1"),
        ("include: [[a]]", "include[0]: got a list of 1; a text, or a mapping"),
        ("include: [{weight: 2}]", "include[0]: got a mapping; a text, or {text, weight, stop}"),
        ("include: [{text: [a]}]", "include[0]: got a list of 1"),
        ("include: [{text: a, weight: -1}]", "include[0].weight: got -1; a finite number from 0"),
        ("include: [{text: a, weight: .nan}]", "include[0].weight: got nan"),
        ("include: [{text: a, stop: 5}]", "include[0].stop: got 5; a finite number from 0 to 4.9348"),
        ("prompts: a", "prompts: got 'a'; a list is needed"),
        ("prompts: [{exclude: a}]", "f.yaml:1: prompts[0]: no include prompt"),
        ("prompts: [{include: []}]", "prompts[0].include: got a list of 0; at least one"),
        ("prompts: [{include: a, seed: -1}]", "prompts[0].seed: got -1"),
        ('include: "a\\0b"', "include: NUL or a lone surrogate"),
    ],
)
def test_wrong_prompts_are_refused_with_their_place(text: str, message: str) -> None:
    assert message in refusal(text)


def test_overrides_read_values_by_the_kind_of_their_key() -> None:
    assert override("steps=7") == 7
    assert override("optimizer.lr=1e-3") == 0.001
    assert override("video.keep=false") is False
    assert override("size=256x192") == override("size=256,192") == override("size=[256, 192]") == [256, 192]
    assert override("crops.scale=.5,1") == [0.5, 1.0]
    assert override("crops.augment=flip,affine") == override('crops.augment=["flip","affine"]') == ["flip", "affine"]
    assert override("crops.augment=[]") == []
    assert override("judge=none") is None
    assert override("video.fps=none") is None
    assert override("outputs=a=b,c") == "a=b,c"
    assert override("generator=1e3") == "1e3"
    assert override("guides=models/a.safetensors") == (Guide("models/a.safetensors"),)
    assert override('guides=["a",{"model":"b","weight":2}]') == (Guide("a"), Guide("b", 2.0))
    assert {path: each.value for path, each in read_override('crops={"count":3,"flip":1}').items()} == {
        "crops.count": 3, "crops.flip": 1.0,
    }  # fmt: skip


def test_exclude_may_be_empty_and_include_not() -> None:
    assert override("exclude=") == override("extras=[]") == ()
    assert "empty" in override_refusal("include=")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "neither a config file that exists nor key=value"),
        ("=5", "unknown key ''"),
        ("stpes=5", "override: unknown key 'stpes'; did you mean 'steps'?"),
        ("crops.conut=5", "did you mean 'crops.count'?"),
        ("steps.x=5", "unknown key 'steps.x'"),
        ("crops=5", "override: crops: got 5; a mapping"),
        ("crops={count: 3", "override: crops: '{count: 3' begins like a list or a mapping and is none"),
        ("include=[a red apple", "override: include: '[a red apple' begins like a list or a mapping and is none"),
        ("include=" + "[" * 5000, "more than 5000 values or 32 levels"),
        ("include=[&x a, *x]", "anchors"),
        ("include=[!!python/name:os.system a]", "tags"),
        ("include={a red apple: 2}", "unknown key 'include.a red apple'; known here: text, weight, stop"),
        ("guides=[a", "the form is [first, {model: second, weight: 2}]"),
        ("prompts=[{include: a", "the form is [a red apple, {include: a heart, seed: 3}]"),
        ("size=[1", "the form is [first, second]"),
        ('crops={"conut": 5}', "unknown key 'crops.conut'"),
        ("steps=5.0", "steps: got 5.0"),
        ("steps='5'", "steps: got"),
        ("steps=none", "steps: got 'none'"),
        ("steps=", "steps: got nothing"),
        ("video.keep=1", "video.keep: got 1"),
        ("size=256", "size: got a list of 1"),
        ("size=a,b", "size[0]: got 'a'"),
        ("outputs=${HOME}", "outputs: got"),
        ("include=a\ud800", "lone surrogate"),
        ("preset=refrence", "did you mean 'reference'?"),
        ("a\nb\x1b=1", "unknown key 'a\\nb\\x1b'"),
    ],
)
def test_wrong_overrides_are_refused(text: str, message: str) -> None:
    assert message in override_refusal(text)


def test_paths_are_made_absolute_and_names_stay(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"")
    text = (
        "start: {image: a.png}\nimages: [b.png, {image: ../c.png, weight: 2}]\ngenerator: w/x.ckpt\njudge: RN50\n"
        "guides: [ViT-B/32, odd, 'open_clip:ViT-B-32:w/y.safetensors', starter]\ndenoiser: {model: none}\n"
        "kandinsky: {prior: kandinsky-2.2, decoder: ./k, mask: m.png}\noutputs: here\n"
    )
    found = {path: each.value for path, each in located(read_layer(parse(text, "f")), tmp_path).items()}
    assert found == {
        "start.image": f"{tmp_path}/a.png",
        "images": (Reference(f"{tmp_path}/b.png"), Reference(f"{tmp_path.parent}/c.png", 2)),
        "generator": f"{tmp_path}/w/x.ckpt", "judge": "RN50",
        "guides": (
            Guide("ViT-B/32"), Guide(f"{tmp_path}/odd"), Guide(f"open_clip:ViT-B-32:{tmp_path}/w/y.safetensors"),
            Guide("starter"),
        ),
        "denoiser.model": "none", "kandinsky.prior": "kandinsky-2.2", "kandinsky.decoder": f"{tmp_path}/k",
        "kandinsky.mask": f"{tmp_path}/m.png", "outputs": "here",
    }  # fmt: skip
    again = located(located(read_layer(parse(text, "f")), tmp_path), Path("/elsewhere"))
    assert {path: each.value for path, each in again.items()} == found


def test_a_variants_own_paths_belong_to_its_file(tmp_path: Path) -> None:
    text = "variants: [{backend: vqgan, set: ['start.image=a.png', 'steps=3', 'guides=[b.pt]', 'stpes=3']}]"
    (setting,) = located(read_layer(parse(text, "f")), tmp_path).values()
    first, second, third, fourth = setting.value[0].set
    assert first == f"start.image={tmp_path}/a.png"
    assert (second, fourth) == ("steps=3", "stpes=3")
    assert override(third) == (Guide(f"{tmp_path}/b.pt"),)


def test_a_path_that_no_config_can_hold_is_refused(tmp_path: Path) -> None:
    layer = read_layer(parse("start: {image: a.png}", "f"))
    with pytest.raises(InputError, match=r"f:1: start\.image: .*is no path that a config can hold"):
        located(layer, tmp_path / "${odd}")


def test_entries_of_a_list_remember_their_lines() -> None:
    layer = read_layer(parse("images:\n- a.png\n- image: b.png\nguides: x", "f"))
    assert layer["images"].each == ("f:2", "f:3")
    assert layer["guides"].each == ()
