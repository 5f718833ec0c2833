"""What a run wrote comes back; anything else is refused in one line that names the folder."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from finished_runs import edit, flat, job, make_run, verdict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqclip.compare.finished import intact, read_run, sound_run
from vqclip.job import InputError
from vqclip.record.presence import held, process
from vqclip.report.page import write_run_page

ODD = "quotes \" ' \\, newline \n, NUL \0, bell \x07, ü 猫 \U0001f431, half \ud83d, </script> {{x}}"


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_run(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert message.isprintable()
    assert len(message) < 500
    return message


class TestRead:
    def test_a_run_comes_back(self, tmp_path: Path) -> None:
        task = job(ODD, 7, exclude=("green", ODD))
        folder = make_run(tmp_path / "a", task, judged=verdict(3), seconds=2.5, peak_memory_bytes=99)
        run = read_run(folder)
        assert (run.job, run.status, run.verdict) == (task, "done", verdict(3))
        assert (run.seconds, run.steps, run.peak_memory_bytes, run.error) == (2.5, 2, 99, None)
        assert run.models == ("starter/vqgan", "starter/guide", "starter/judge")
        assert run.config["optimizer"] == {"name": "adam", "lr": 0.1}
        assert intact(run)

    def test_what_older_runs_do_not_say_is_none(self, tmp_path: Path) -> None:
        folder = edit(make_run(tmp_path / "a"), models="absent", versions="absent", weights="absent")
        run = read_run(folder)
        assert (run.models, run.versions, run.weights, run.peak_memory_bytes) == ((), {}, {}, None)

    def test_verdicts_by_older_rules_are_told_apart(self, tmp_path: Path) -> None:
        """Their one margin was against the excludes where there were some."""
        new = read_run(make_run(tmp_path / "new", judged=verdict(3, exclude_margin=0.2)))
        assert not new.former
        assert new.verdict == verdict(3, exclude_margin=0.2)
        facts = json.loads((tmp_path / "new" / "run.json").read_text())["verdict"]
        plain = {key: value for key, value in facts.items() if key not in ("exclude_margin", "parts")}
        old = read_run(edit(make_run(tmp_path / "old", judged=verdict()), verdict=plain | {"margin": 0.25}))
        assert old.former
        assert old.verdict is not None
        assert math.isnan(old.verdict.margin)
        assert (old.verdict.exclude_margin, old.verdict.parts) == (0.25, {})
        bare = read_run(edit(make_run(tmp_path / "bare", judged=verdict()), verdict=plain | {"exclude": None}))
        assert bare.verdict is not None
        assert (bare.verdict.margin, bare.verdict.exclude_margin) == (0.1, None)

    @pytest.mark.parametrize(("status", "error"), [("failed", "MemoryError: no room"), ("interrupted", "Keyboard")])
    def test_runs_that_ended_early_say_so(self, tmp_path: Path, status: str, error: str) -> None:
        run = read_run(make_run(tmp_path / "a", status=status))
        assert (run.status, run.verdict) == (status, None)
        assert run.error is not None
        assert run.error.startswith(error)


class TestIntact:
    def test_another_picture_is_noticed(self, tmp_path: Path) -> None:
        run = read_run(make_run(tmp_path / "a"))
        other = make_run(tmp_path / "b", image=flat(1.0, 0.0, 0.0))
        (run.folder / "final.png").write_bytes((other / "final.png").read_bytes())
        assert not intact(run)

    def test_no_picture(self, tmp_path: Path) -> None:
        run = read_run(make_run(tmp_path / "a"))
        (run.folder / "final.png").unlink()
        assert not intact(run)
        (run.folder / "final.png").mkdir()
        assert not intact(run)

    def test_a_run_without_hashes_proves_nothing(self, tmp_path: Path) -> None:
        assert not intact(read_run(edit(make_run(tmp_path / "a"), outputs={})))


class TestRefusal:
    def test_no_folder_no_run(self, tmp_path: Path) -> None:
        assert "no run.json" in refusal(tmp_path / "nowhere")
        assert "no run.json" in refusal(tmp_path)
        (tmp_path / "run.json").mkdir()
        assert "no run.json" in refusal(tmp_path)

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "run.json")
        assert "no run.json" in refusal(tmp_path)

    def test_running_or_killed(self, tmp_path: Path) -> None:
        folder = edit(make_run(tmp_path / "a"), status="running", process=process())
        with held(folder, "this run"):
            assert "not finished: it still runs" in refusal(folder)
        assert "ended without a word" in refusal(folder)
        assert "Ended without a word: its process was killed" in write_run_page(folder).read_text(encoding="utf-8")

    def test_a_run_of_endless_prompts_is_refused_in_no_time(self, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "a")
        task = json.loads((folder / "run.json").read_text())["job"]
        for include in ([{"text": "a" * 1_000_000, "weight": 1}], [{"text": "a", "weight": 1}] * 300):
            begun = time.monotonic()
            assert "at most 256 texts of 65536 characters" in refusal(edit(folder, job=task | {"include": include}))
            assert time.monotonic() - begun < 10

    @pytest.mark.parametrize("wrong", ["bomb", "none", "metrics"])
    def test_a_run_that_no_page_can_show_is_not_sound(self, tmp_path: Path, wrong: str) -> None:
        folder = make_run(tmp_path / "a")
        assert sound_run(folder) == read_run(folder)
        if wrong == "bomb":
            png = (folder / "final.png").read_bytes()
            (folder / "final.png").write_bytes(png[:16] + (200_000).to_bytes(4, "big") * 2 + png[24:])
        elif wrong == "none":
            (folder / "final.png").unlink()
        else:
            (folder / "metrics.jsonl").write_text('{"step": "x"}\n')
        with pytest.raises(InputError) as caught:
            sound_run(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"{", b"[]", b"7", b"null", b"\xff\xfe", b'{"schema": NaN}', b'{"schema": 1e999}',
            b'{"schema": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 60 + b"1" + b"}" * 60,
        ],
        ids=lambda content: repr(content[:14]),
    )  # fmt: skip
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "run.json").write_bytes(content)
        refusal(tmp_path)

    def test_large_files_are_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "run.json").open("wb") as file:
            file.truncate(1 << 34)
        assert "larger" in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("schema", 2), ("schema", True), ("schema", "absent"), ("status", "ready"), ("status", None),
            ("status", "do\nne"), ("job", None), ("job", []), ("config", []), ("versions", {"a": 1}),
            ("weights", {"judge": None}), ("weights", "x"), ("models", {}), ("models", [1]), ("outputs", ["a"]),
            ("seconds", "1"), ("seconds", -1.0), ("seconds", True), ("steps", 1.5), ("steps", -1),
            ("peak_memory_bytes", 2**63), ("peak_memory_bytes", 1.0), ("error", 3), ("verdict", 1), ("verdict", {}),
        ],
        ids=str,
    )  # fmt: skip
    def test_fields_of_other_kinds(self, tmp_path: Path, field: str, value: Any) -> None:
        refusal(edit(make_run(tmp_path / "a"), **{field: value}))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("include", []), ("include", "apple"), ("include", ["apple"]), ("include", [{"text": " ", "weight": 1}]),
            ("exclude", None), ("exclude", [{"text": "a"}]), ("extras", [{"text": 1, "weight": 1}]),
            ("include", [{"text": "a", "weight": -1}]), ("include", [{"text": "a", "weight": 1, "stop": 9}]),
            ("size", [1]), ("size", [0, 1]), ("size", [1.0, 1]), ("size", "12"), ("steps", None), ("steps", -1),
            ("seed", -1), ("seed", 2**63), ("seed", 0.0), ("seed", False),
        ],
        ids=str,
    )  # fmt: skip
    def test_jobs_that_cannot_be(self, tmp_path: Path, field: str, value: Any) -> None:
        folder = make_run(tmp_path / "a")
        facts = json.loads((folder / "run.json").read_text())
        refusal(edit(folder, job=facts["job"] | {field: value}))

    @pytest.mark.parametrize(
        ("field", "value"),
        [("rank", 0), ("rank", 102), ("rank", 1.0), ("among", None), ("include", None), ("margin", "1"),
         ("exclude", "x"), ("self_scored", 0), ("self_scored", None), ("judge", None), ("exclude_margin", "x"),
         ("parts", []), ("parts", {"head": [1, 2]}), ("parts", {"thing": [1]}), ("parts", {"thing": [0, 2]}),
         ("parts", {"thing": [3, 2]}), ("parts", {"thing": [1.0, 2]}), ("parts", {"thing": "ab"})],
        ids=str,
    )  # fmt: skip
    def test_verdicts_that_cannot_be(self, tmp_path: Path, field: str, value: Any) -> None:
        folder = make_run(tmp_path / "a", judged=verdict())
        facts = json.loads((folder / "run.json").read_text())
        refusal(edit(folder, verdict=facts["verdict"] | {field: value}))

    def test_control_characters_in_the_folder_s_name_stay_on_one_line(self, tmp_path: Path) -> None:
        folder = tmp_path / "two\nlines\x1b[31m"
        folder.mkdir()
        with pytest.raises(InputError) as caught:
            read_run(folder)
        assert str(caught.value).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One or two values anywhere are replaced by arbitrary JSON: the answer is a Run or an InputError."""
    base = tmp_path_factory.getbasetemp() / "any"
    if not base.exists():
        make_run(base, judged=verdict())
        (base / "kept.json").write_text((base / "run.json").read_text())
    facts = json.loads((base / "kept.json").read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        place = facts
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(JSON)
    (base / "run.json").write_text(json.dumps(facts))
    said = ""
    try:
        said = read_run(base).status
    except InputError as error:
        said = f"refused: {error}"
    assert said.isprintable()
    assert said in ("done", "failed", "interrupted") or said.startswith(f"refused: {base}")
