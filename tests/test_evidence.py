"""Files that nobody vouches for: what is read from them, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_folders import metrics

from vqclip.job import InputError
from vqclip.report import evidence
from vqclip.report.evidence import Facts


def write(folder: Path, text: str) -> Path:
    path = folder / "run.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1]", "7", '"text"', "null", '{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}',
        '{"a": ' + "9" * 5000 + "}", "[" * 100_000, '{"a":' * 40 + "1" + "}" * 40, "\ud800",
    ],
)  # fmt: skip
def test_what_is_no_run_json_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=r"run\.json") as caught:
        evidence.facts(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_too_large_or_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MAX_JSON", 100)
    with pytest.raises(InputError, match="larger than 100 bytes"):
        evidence.facts(write(tmp_path, json.dumps({"a": "x" * 200})))
    with pytest.raises(InputError, match="no such file"):
        evidence.facts(tmp_path / "other.json")
    with pytest.raises(InputError, match="not a regular file"):
        evidence.facts(tmp_path)


@pytest.mark.parametrize(
    ("look", "value"),
    [
        ("text", 1), ("text", ["x"]), ("flag", 1), ("number", "1"), ("number", True), ("number", 10**400),
        ("whole", 1.5), ("inner", []), ("each", {}), ("each", [1]), ("texts", "x"), ("texts", [1]), ("wholes", [1.5]),
        ("wholes", [True]), ("words", {"a": 1}), ("words", "x"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_with_its_place(look: str, value: object) -> None:
    with pytest.raises(InputError, match=r"file: key") as caught:
        getattr(Facts({"key": value}, "file"), look)("key")
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_null_reads_as_nothing() -> None:
    for facts in (Facts({}, "file"), Facts(dict.fromkeys(["a"]), "file")):
        assert (facts.text("a"), facts.flag("a"), facts.number("a"), facts.whole("a")) == ("", False, None, None)
        assert (facts.inner("a").value, facts.each("a"), facts.texts("a"), facts.wholes("a"), facts.words("a")) == (
            {}, [], [], [], {},
        )  # fmt: skip


def test_numbers_keep_their_value() -> None:
    facts = Facts({"a": 2**53 + 1, "b": -1.5, "c": 3.0}, "file")
    assert (facts.whole("a"), facts.number("b"), facts.whole("c")) == (2**53 + 1, -1.5, 3)


def test_curves_by_name_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(metrics("grain"), encoding="utf-8")
    found = evidence.curves(path)
    assert list(found.terms) == ["include: grain", "grain"]
    assert list(found.judge) == ["rank", "grain"]
    assert [point.step for point in found.total] == list(range(7))
    assert [point.value is None for point in found.terms["grain"]] == [step == 2 for step in range(7)]


def test_the_line_that_a_kill_cut_off_is_passed_over_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(metrics("x") + '{"step": 7, "seco', encoding="utf-8")
    assert len(evidence.curves(path).total) == 7
    path.write_text('{"step": 0, "seco\n' + metrics("x"), encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics\.jsonl:1"):
        evidence.curves(path)
    assert evidence.curves(tmp_path / "none.jsonl").total == []


@pytest.mark.parametrize(
    "line",
    [
        '{"seconds": 1}', '{"step": 0}', '{"step": 0, "seconds": 1, "terms": 3}', "3", '{"step": 0.5, "seconds": 1}',
        '{"step": 0, "seconds": 1, "terms": {"a": "b"}}',
    ],
)  # fmt: skip
def test_lines_that_the_recorder_never_writes_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics\.jsonl:1"):
        evidence.curves(path)


def test_of_very_many_terms_the_first_are_kept_and_every_score(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = {"step": 0, "seconds": 1, "terms": dict.fromkeys(map(str, range(300)), 1), "judge": {"rank": 3}}
    path.write_text(f"{json.dumps(line)}\n" * 2, encoding="utf-8")
    found = evidence.curves(path)
    assert list(found.terms) == [str(number) for number in range(evidence.MAX_CURVES)]
    assert [point.value for point in found.judge["rank"]] == [3, 3]
    assert found.cut
    path.write_text(json.dumps(line | {"terms": {"a": 1}}) + "\n", encoding="utf-8")
    assert not evidence.curves(path).cut


def test_nested_settings_are_flattened_to_their_leaves() -> None:
    nested = {"a": {"b": {"c": 1}, "d": []}, "e": {}, "f": [{"g": 2}]}
    assert dict(evidence.flat(nested)) == {"a.b.c": 1, "a.d": [], "e": {}, "f": [{"g": 2}]}
