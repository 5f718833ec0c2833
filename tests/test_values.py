"""Prompts in every form that a text or an entry can have, and records as entries, lists and texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vqclip.config.document import parse, plain
from vqclip.config.layers import read_layer, read_override
from vqclip.config.schema import Guide, Picture
from vqclip.job import Prompt


def from_yaml(text: str) -> dict[str, Any]:
    return {path: setting.value for path, setting in read_layer(parse(text, "f.yaml")).items()}


def override(text: str) -> Any:
    (setting,) = read_override(text).values()
    return setting.value


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a red apple, flat", [Prompt("a red apple, flat")]),
        ("a red apple:2", [Prompt("a red apple", 2)]),
        ("a red apple:.5:1.2", [Prompt("a red apple", 0.5, 1.2)]),
        ("a red apple :1e1", [Prompt("a red apple", 10)]),
        ("7:15 train: late:2", [Prompt("7:15 train: late", 2)]),
        ("a red apple | a heart:2 | c", [Prompt("a red apple"), Prompt("a heart", 2), Prompt("c")]),
        ("a|b", [Prompt("a"), Prompt("b")]),
        ("[a red apple, a heart]", [Prompt("a red apple"), Prompt("a heart")]),
        ('["a red apple", "a, heart"]', [Prompt("a red apple"), Prompt("a, heart")]),
        ("[a red apple:2, 'b | c']", [Prompt("a red apple", 2), Prompt("b"), Prompt("c")]),
        ("{text: a red apple, weight: 2}", [Prompt("a red apple", 2)]),
        ('{"text":"a red apple","weight":2}', [Prompt("a red apple", 2)]),
        (" [ {text: a red apple, stop: 1}, b ] ", [Prompt("a red apple", 1, 1), Prompt("b")]),
        ("[1, 2.50]", [Prompt("1"), Prompt("2.50")]),
    ],
)
def test_one_text_says_prompts_in_every_form(text: str, prompts: list[Prompt]) -> None:
    wanted = tuple(prompts)
    for key in ("include", "exclude", "extras"):
        assert override(f"{key}={text}") == wanted
        assert read_layer(plain({key: text}, "m"))[key].value == wanted
        assert from_yaml(f"{key}: {json.dumps(text)}")[key] == wanted
    if not text.lstrip().startswith(("[", "{")):
        assert override(f"prompts={text}") == (Picture(include=wanted),)
        assert from_yaml(f"prompts: [{json.dumps(text)}]")["prompts"] == (Picture(include=wanted),)
        assert from_yaml(f"include: [{json.dumps(text)}, z]")["include"] == (*wanted, Prompt("z"))


@pytest.mark.parametrize("words", ["apple:2", "a | b", "[x", "[x]", "{text: a}", "a:1:2", "|", "x:-1"])
def test_a_mapping_takes_its_text_as_it_is(words: str) -> None:
    assert override(f"include={json.dumps({'text': words})}") == (Prompt(words),)
    assert from_yaml(f"include: [{{text: {json.dumps(words)}, weight: 3}}]")["include"] == (Prompt(words, 3),)


def test_in_a_list_brackets_are_words() -> None:
    assert from_yaml("include: ['[x', '{y']")["include"] == (Prompt("[x"), Prompt("{y"))


def test_one_entry_stands_for_a_list() -> None:
    assert from_yaml("include: {text: a, weight: 2}")["include"] == (Prompt("a", 2),)
    assert from_yaml("guides: {model: x}")["guides"] == (Guide("x"),)
    assert override("guides={model: x, weight: 2}") == (Guide("x", 2),)
    assert override("guides=[a.pt, {model: b.pt, weight: 2}]") == (Guide("a.pt"), Guide("b.pt", 2))
    assert override("variants=vqgan,kandinsky") == override("variants=[vqgan, kandinsky]")
    assert override("video.formats=[mp4, gif]") == ["mp4", "gif"]
    assert override("prompts={include: a, seed: 3}") == (Picture((Prompt("a"),), seed=3),)
    assert override("prompts=[a, {include: 'b | c'}]") == (Picture((Prompt("a"),)), Picture((Prompt("b"), Prompt("c"))))
    assert {path: each.value for path, each in read_override("crops={count: 3}").items()} == {"crops.count": 3}
