"""Hostile YAML is refused with a place, quickly; honest YAML keeps every value, its text and its line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vqclip.config.document import MAX_BYTES, MAX_NODES, Node, clean, flow, from_json, parse, plain, read, scalar, show
from vqclip.job import InputError, Prompt

SOAK = int(os.environ.get("VQCLIP_SOAK", "1"))


def values(node: Node) -> object:
    """The tree without its places."""
    if isinstance(node.value, dict):
        return {key: values(each) for key, each in node.value.items()}
    if isinstance(node.value, list):
        return [values(each) for each in node.value]
    return node.value


def test_scalars_are_read_by_the_core_rules() -> None:
    text = (
        "a: 1\nb: 1.5\nc: 1e-3\nd: true\ne: null\nf: ~\ng: yes\nh: 1:30\ni: 08\nj: 1_000\nk: '1'\nl: 2026-01-02\nm:\n"
    )
    assert values(parse(text, "f")) == {
        "a": 1, "b": 1.5, "c": 1e-3, "d": True, "e": None, "f": None, "g": "yes", "h": "1:30", "i": "08",
        "j": "1_000", "k": "1", "l": "2026-01-02", "m": None,
    }  # fmt: skip


def test_values_remember_text_and_line() -> None:
    tree = parse("a: 0x10\nb:\n  - 1.50\n  - x\nc:\n\n  d: 5\n", "f.yaml").value
    assert tree["a"].text == "0x10"
    assert [each.text for each in tree["b"].value] == ["1.50", "x"]
    assert [each.where for each in tree["b"].value] == ["f.yaml:3", "f.yaml:4"]
    assert tree["c"].where == "f.yaml:5"  # the line of the key, not of the first value below it
    assert tree["c"].value["d"].where == "f.yaml:7"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "---\n...\n", "{}", "\n\n"])
def test_no_settings_are_an_empty_mapping(text: str) -> None:
    assert values(parse(text, "f")) == {}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: &x 1", "anchors"),
        ("a: *x", "aliases"),
        ("a: &x [1]\nb: *x", "anchors"),
        ("a: !!python/object/apply:os.system [ls]", "tags"),
        ("a: !!str 5", "tags"),
        ("! a: 1", "tags"),
        ("%TAG ! tag:yaml.org,2002:\n---\na: !str 5", "tags"),
        ("a: 1\nb: 2\na: 3", "f:3: key 'a' is given twice"),
        ("s:\n  a: 1\n  a: 2", "f:3: key 'a' is given twice"),
        ("{a: 1, 'a': 2}", "given twice"),
        ("a: 1\n---\nb: 2", "second document"),
        ("- a", "top level is a list of 1"),
        ("just text", "top level is 'just text'"),
        ("42", "top level is 42"),
        ("a: 1\nb: x\0y", "f:2: a NUL"),
        ("[a]: 1", "as a key"),
        ("? {a: 1}\n: 2", "as a key"),
        ("a: [1", "not valid YAML"),
        ("a: b: c", "f:1: not valid YAML"),
        ("a: 1\n\tb: 2", "f:2: not valid YAML"),
        ('a: "\\q"', "not valid YAML"),
        ("a: \x01", "not valid YAML"),
        ("a: \ud800", "not valid Unicode"),
        ("x" * (MAX_BYTES + 1), "larger than"),
        ("é" * MAX_BYTES, "larger than"),
        ("[" * 30000, "levels"),
        ("a: " + "{b: " * 40, "levels"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(300)), "levels"),
        ("- " * 20000, "levels"),
        ("a: [" + "1," * MAX_NODES + "]", f"more than {MAX_NODES}"),
        ("---\n" * 3000, "second document"),
        ("? [" * 9000, ""),
    ],
)
def test_hostile_text_is_refused_in_one_line_and_at_once(text: str, part: str) -> None:
    begun = time.process_time()
    with pytest.raises(InputError) as refusal:
        parse(text, "f")
    assert time.process_time() - begun < 1
    assert part in str(refusal.value)
    assert str(refusal.value).startswith("f:")
    assert str(refusal.value).isprintable()


@settings(max_examples=100 * SOAK, deadline=1000)
@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}?,&*!#|>'\"%@` \n\t${0.1", max_size=80).map(str.encode))
def test_random_bytes_only_ever_give_an_input_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(raw)
    problem, value = "", object()
    try:
        value = parse(read(path), "f").value
    except InputError as refusal:
        problem = str(refusal)
    assert isinstance(value, dict) or problem
    assert problem == clean(problem)


def test_both_yaml_loaders_refuse_and_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a: [1, {b: 'c d'}]\n", "a: &x 1", "a: [1", "a: 1\n---\nb: 1", "[" * 2000, 'a: "\\u00e9\\U0001F600"']

    def outcomes() -> list[object]:
        found: list[object] = []
        for text in texts:
            try:
                found.append(values(parse(text, "f")))
            except InputError:
                found.append("refused")
        return found

    with_libyaml = outcomes()
    monkeypatch.setattr("vqclip.config.document._LOADER", yaml.SafeLoader)
    assert outcomes() == with_libyaml


def test_read_takes_strict_utf8_files_only(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9\n")
    assert read(good) == "a: é\n"
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(InputError, match=r"bad\.yaml:2: not UTF-8"):
        read(bad)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InputError, match="larger than 65536 bytes"):
        read(large)
    for path in (tmp_path, tmp_path / "none.yaml", Path("/dev/zero"), tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(InputError):
            read(path)


def test_plain_takes_json_values_and_prompts_only() -> None:
    assert values(plain({"a": (1, "x", None, True), "p": Prompt("q", 2.0)}, "m")) == {
        "a": [1, "x", None, True],
        "p": {"text": "q", "weight": 2.0, "stop": None},
    }
    deep: object = 1
    for _ in range(2000):
        deep = [deep]
    for value in ({1: "a"}, {"a": object()}, {"a": b"x"}, {"a": {1, 2}}, deep):
        with pytest.raises(InputError, match="m: "):
            plain(value, "m")


def test_from_json_tells_records_from_texts() -> None:
    assert from_json("[[1]]", "o", records=True) is None
    entry = from_json('{"text": "b"}', "o", records=True)
    assert entry is not None
    assert values(entry) == {"text": "b"}
    assert from_json("[1, 2]", "o", records=True) is None
    assert from_json("not json", "o") is None
    assert from_json("[" * 100_000, "o") is None
    assert from_json("9" * 10_000, "o") is None
    listed = from_json('["a", {"text": "b"}]', "o", records=True)
    assert listed is not None
    assert values(listed) == ["a", {"text": "b"}]
    with pytest.raises(InputError, match="twice"):
        from_json('[{"a": 1, "a": 2}]', "o", records=True)


def test_flow_reads_one_list_or_mapping_of_json_or_yaml() -> None:
    for text, wanted in {
        "[a red apple, a heart]": ["a red apple", "a heart"],
        "{text: a red apple, weight: 2}": {"text": "a red apple", "weight": 2},
        '["a\\u2028b", {"text": "\\ud83d\\ude00"}]': ["a\u2028b", {"text": "\U0001f600"}],  # JSON's own escapes
        '["a\u2028b"]': ["a\u2028b"],  # YAML would fold it
        "[a:2, 'it''s', {text: \"x, y\"}]": ["a:2", "it's", {"text": "x, y"}],
        "[]": [],
    }.items():
        node = flow(text, "override", records=True)
        assert values(node) == wanted
        assert node.where == "override"
    assert [each.text for each in flow("[1, 2.0]", "o", records=True).value] == ["1", "2.0"]
    assert values(flow("[256, 192]", "o")) == [256, 192]


@pytest.mark.parametrize(
    "text",
    [
        "[a", "[a]]", "[a] b", "{a: 1", "{a: 1, a: 2}", '{"a": 1, "a": 2}', "[&x a, *x]", "[!!python/name:os.system a]",
        "[" * 40 + "]" * 40, "[" * 100_000, "[a]\n---\n[b]", "[" + "a," * MAX_NODES + "]", "[a\0]", "[a\ud800]",
        "[<<: *x]", "{[a]: b}", "[" + "x" * MAX_BYTES + "]",
    ],
)  # fmt: skip
def test_flow_refuses_what_parse_refuses_in_one_line_at_once(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(InputError) as refusal:
        flow(text, "override", records=True)
    assert time.process_time() - begun < 1
    assert str(refusal.value).startswith("override: ")
    assert str(refusal.value).isprintable()


def test_flow_interpolates_nothing() -> None:
    assert values(flow("[$HOME, a $x]", "o", records=True)) == ["$HOME", "a $x"]
    assert values(flow("['${oc.env:HOME}']", "o", records=True)) == ["${oc.env:HOME}"]


def test_scalar_knows_what_is_not_finite_and_leaves_the_rest_text() -> None:
    for text in (".inf", "-.inf", "inf", "nan", ".NaN", "1e999"):
        value = scalar(text)
        assert isinstance(value, float)
        assert not abs(value) < 1e308
    for text in ("9" * 5000, "0x10", "1_0", "١٢", "1e", "True", "NULL", " 1"):
        assert scalar(text) == text


def test_messages_stay_printable_and_short() -> None:
    for value in ("a\nb\x1b[31m\u202e" * 100, 10**5000, {"a": 1}, [1, 2], None, 0.1, "\ud800"):
        assert clean(show(value)) == show(value)
        assert len(show(value)) <= 80
    assert clean("a\nb\x1b\u202ec é\u3000😀") == "a\\nb\\x1b\\u202ec é\u3000😀"
