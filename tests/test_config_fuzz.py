"""Whatever the text: prompts survive every way in and out exactly, and nonsense is only ever an InputError."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vqclip.cli import main as cli
from vqclip.config import Config, Guide, Picture, from_mapping, load, to_mapping, to_yaml
from vqclip.config.document import clean
from vqclip.config.schema import MAX_SEED
from vqclip.config.shorthand import is_literal
from vqclip.job import InputError, Prompt

SOAK = int(os.environ.get("VQCLIP_SOAK", "1"))
WORDS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "\0" not in text)
WEIGHTS = st.floats(0, 1e6)
STOPS = st.none() | st.floats(0, math.pi**2 / 2)
PROMPTS = st.builds(Prompt, WORDS, WEIGHTS, STOPS)
PROMPT_LISTS = st.lists(PROMPTS, max_size=3).map(tuple)
PICTURES = st.builds(
    Picture, PROMPT_LISTS.filter(bool), PROMPT_LISTS, PROMPT_LISTS, st.none() | st.integers(0, MAX_SEED)
)


def rich_config(include: tuple[Prompt, ...], prompts: tuple[Picture, ...]) -> Config:
    return Config(
        name="n", include=() if prompts else include, exclude=include, prompts=prompts, size=(64, 48), judge=None,
        guides=(Guide("1e3", 0.5), Guide("no: yes # é")), outputs="out: 'x' \"y\" # \u2028 é", average=0.1,
    )  # fmt: skip


@settings(max_examples=30 * SOAK, deadline=None)
@given(PROMPT_LISTS.filter(bool), st.lists(PICTURES, max_size=2).map(tuple))
@example((Prompt("\x85\u2028\u2029\ufeff\ufffe\uffff\x7f\x9f\U0010ffff\r\n\t\b\x1b ${x} \\ \" ' # : - \u202e"),), ())
def test_yaml_and_mapping_lead_back_to_the_same_config(
    tmp_path_factory: pytest.TempPathFactory, include: tuple[Prompt, ...], prompts: tuple[Picture, ...]
) -> None:
    config = rich_config(include, prompts)
    path = tmp_path_factory.getbasetemp() / "again.yaml"
    path.write_text(to_yaml(config), encoding="utf-8", newline="")
    assert load(path).config == config
    mapping = to_mapping(config)
    assert from_mapping(json.loads(json.dumps(mapping, allow_nan=False)), "m") == config
    assert to_mapping(load(path).config) == mapping


@settings(max_examples=30 * SOAK, deadline=None)
@given(WORDS, WORDS, WORDS)
@example("[]", '["a"]', "none")
@example("include=b", "=", "[{}]")
def test_any_prompt_survives_override_yaml_and_mapping(
    tmp_path_factory: pytest.TempPathFactory, one: str, two: str, three: str
) -> None:
    config = load(None, [f"include={json.dumps({'text': one})}", f"exclude={literal(two, three)}"]).config
    assert config.include == (Prompt(one),)
    assert config.exclude == (Prompt(two), Prompt(three))
    if is_literal(one):
        assert load(None, [f"include={one}"]).config.include == (Prompt(one),)
        assert from_mapping({"include": [one]}, "m").include == (Prompt(one),)
    path = tmp_path_factory.getbasetemp() / "survive.yaml"
    path.write_text(to_yaml(config), encoding="utf-8", newline="")
    assert to_mapping(load(path).config) == to_mapping(config)


def literal(*texts: str) -> str:
    """Prompts that are taken as they are."""
    return json.dumps([{"text": text} for text in texts])


FORMS = st.text(alphabet="ab1.:|[]{},\"'-# \n\\&*!", min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=40 * SOAK, deadline=None)
@given(FORMS, FORMS)
@example("a:2", "a | b")
@example("[x", "{y}")
@example("a:1:2", ":1")
def test_short_forms_lead_back_to_the_same_prompts_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, one: str, two: str
) -> None:
    """Whatever a text is read as, the config written out says the same; texts in mappings are never read."""
    path = tmp_path_factory.getbasetemp() / "forms.yaml"
    exact = from_mapping({"include": [{"text": one}], "exclude": [{"text": two, "weight": 2}]}, "m")
    path.write_text(to_yaml(exact), encoding="utf-8", newline="")
    assert load(path).config == exact
    assert exact.include == (Prompt(one),)
    problem = ""
    try:
        read = load(None, [f"include={one}", f"extras={two}"]).config
    except InputError as refused:
        read, problem = exact, str(refused)
    path.write_text(to_yaml(read), encoding="utf-8", newline="")
    assert load(path).config == read
    assert problem == clean(problem)
    assert problem or from_mapping({"include": one, "extras": two}, "m") == read


def accepted(make: Callable[[], Config]) -> None:
    """A config that leads back to itself, or a refusal in one printable line; anything else is a bug."""
    problem = ""
    try:
        config = make()
        assert from_mapping(to_mapping(config), "m") == config
    except InputError as refused:
        problem = str(refused)
    assert problem == clean(problem)


@settings(max_examples=30 * SOAK, deadline=1000)
@given(st.text(max_size=60), st.text(max_size=40))
def test_random_overrides_only_ever_give_an_input_error(key: str, value: str) -> None:
    accepted(lambda: load(None, ["include=a", f"{key}={value}"]).config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = st.sampled_from(["crops", "video", "start", "losses", "optimizer"])
LEAVES = st.sampled_from(
    ["include", "exclude", "prompts", "guides", "size", "steps", "name", "seed", "judge", "preset"]
)


@settings(max_examples=100 * SOAK, deadline=1000)
@given(st.dictionaries(LEAVES | SECTIONS | st.text(max_size=5), JSON, max_size=3))
def test_random_mappings_only_ever_give_an_input_error(values: dict[str, Any]) -> None:
    accepted(lambda: from_mapping({"include": "a"} | values, "m"))


@settings(max_examples=30 * SOAK, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=WORDS, two=WORDS)
@example(one="--help", two="-")
@example(one="include=x", two="a.yaml")
def test_any_prompt_survives_the_command_line(one: str, two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Config] = []
    double: Any = ModuleType("vqclip.run.picture")
    double.run = lambda loaded, _progress: ran.append(loaded.config)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "vqclip.run.picture", double)
        patch.setattr("vqclip.run.picture", double, raising=False)
        assert cli.main(["run", f"include={literal(one, two)}", f"exclude={literal(two)}", "--quiet"]) == 0
        plain = f".{one}"
        if is_literal(plain):
            assert cli.main(["run", f"include={plain}", "--quiet"]) == 0
    assert ran[0].include == (Prompt(one), Prompt(two))
    assert ran[0].exclude == (Prompt(two),)
    assert ran[-1].include == ((Prompt(plain),) if is_literal(plain) else ran[0].include)
