"""Run folders are claimed once, and files are replaced whole."""

from __future__ import annotations

import errno
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqclip.job import InputError, ResourceError
from vqclip.record import folder

DIGEST = "3f9a1c" + "0" * 58


def claim(outputs: Path, name: str | None = None, text: str = "An Astronaut, riding a cat!") -> Path:
    return folder.claim(outputs, name=name, slug_from=text, digest=DIGEST)


class TestClaim:
    def test_the_name_says_when_what_and_which(self, tmp_path: Path) -> None:
        place = claim(tmp_path / "new" / "outputs")
        assert place.is_dir()
        assert re.fullmatch(r"\d{8}T\d{6}Z-an-astronaut-riding-a-cat-3f9a1c", place.name)

    def test_runs_of_one_second_get_folders_of_their_own(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            places = list(pool.map(lambda _: claim(tmp_path), range(40)))
        assert len(set(places)) == 40
        assert all(place.is_dir() for place in places)
        assert any(place.name.endswith("-3f9a1c-2") for place in places)

    def test_a_given_name_is_kept_and_never_taken_twice(self, tmp_path: Path) -> None:
        place = claim(tmp_path, "cat-01.a_b")
        assert place == tmp_path / "cat-01.a_b"
        (place / "final.png").write_bytes(b"precious")
        with pytest.raises(InputError, match="never overwritten"):
            claim(tmp_path, "cat-01.a_b")
        assert (place / "final.png").read_bytes() == b"precious"

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "../a",
            "a\\b",
            "/abs",
            "a b",
            "a\n",
            "a\0",
            "ä",
            "x" * 81,
            "con",
            "NUL.txt",
            "a.",
        ],
    )
    def test_names_that_are_no_plain_names_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError) as caught:
            claim(tmp_path / "outputs", name)
        assert str(caught.value).isprintable()
        assert not (tmp_path / "outputs").exists()

    def test_outputs_that_cannot_hold_folders(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for outputs in (tmp_path / "file", tmp_path / "file" / "inner", Path("/proc/nowhere")):
            with pytest.raises(InputError, match=re.escape(str(outputs))):
                claim(outputs)

    def test_a_full_disk_is_no_mistake_of_the_user(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "mkdir", refuse)
        with pytest.raises(ResourceError, match="No space left"):
            claim(tmp_path)


class TestSlug:
    @given(st.text(max_size=200))
    def test_always_a_plain_short_name(self, text: str) -> None:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", folder.slug(text))
        assert len(folder.slug(text)) <= 40

    @pytest.mark.parametrize(
        ("text", "slug"),
        [
            ("Café au lait", "cafe-au-lait"),
            ("猫", "picture"),
            ("../../etc/passwd", "etc-passwd"),
            ("a" * 50, "a" * 40),
            ("a watercolour of the old harbour at dawn", "a-watercolour-of-the-old-harbour-at-dawn"),
            ("a watercolour of the old harbour at midnight", "a-watercolour-of-the-old-harbour-at"),
        ],
    )
    def test_examples(self, text: str, slug: str) -> None:
        assert folder.slug(text) == slug


class TestWriting:
    @given(st.recursive(st.none() | st.integers() | st.text(st.characters(exclude_categories=())), st.lists))
    def test_json_comes_back(self, tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
        path = tmp_path_factory.getbasetemp() / "value.json"
        path.write_text(folder.to_json(value), encoding="utf-8")
        assert json.loads(path.read_text(encoding="utf-8")) == value

    def test_files_are_replaced_without_leftovers(self, tmp_path: Path) -> None:
        for value in ({"a": 1}, {"a": "ü"}):
            folder.write_json(tmp_path / "run.json", value)
            assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == value
        folder.write_text(tmp_path / "b", "x\r\ny\n")
        assert (tmp_path / "b").read_bytes() == b"x\r\ny\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "run.json"]

    def test_what_is_not_json_leaves_the_old_file(self, tmp_path: Path) -> None:
        folder.write_json(tmp_path / "run.json", 1)
        for value in (float("nan"), {"a": object()}):
            with pytest.raises((ValueError, TypeError)):
                folder.write_json(tmp_path / "run.json", value)
        assert (tmp_path / "run.json").read_text() == "1\n"

    def test_a_refusal_of_the_disk_names_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(ResourceError, match=r"gone/run\.json cannot be written \(No such file"):
            folder.write_json(tmp_path / "gone" / "run.json", {})
