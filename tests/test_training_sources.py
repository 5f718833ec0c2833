"""Packages are verified, read without unpacking, and their icons are named only where the name is certain."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.sources import EVALUATION, NAMES, PERMISSIVE, Emoji, fetch, match_icons, read_emojis, read_json


def pack(folder: Path, members: dict[str, Any]) -> tuple[Path, str]:
    """A tarball as npm makes it, named like emojibase-data's, and its integrity."""
    path = folder / f"{NAMES.name}-{NAMES.version}.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, value in members.items():
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path, base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def emoji(label: str, code: str, *short: str, group: str = "food-drink", subgroup: str = "food-fruit") -> Emoji:
    return Emoji(label, code, group, subgroup, (), short)


def test_only_permissive_licences_are_trained_on() -> None:
    assert {package.licence for package in PERMISSIVE} <= {"Apache-2.0", "MIT", "CC-BY-4.0"}
    assert all("SA" in package.licence for package in EVALUATION)
    assert len({package.style for package in (*PERMISSIVE, *EVALUATION)}) == 11


def test_a_tarball_with_other_bytes_is_refused(tmp_path: Path) -> None:
    path, integrity = pack(tmp_path, {"a.json": 1})
    assert fetch(replace(NAMES, integrity=integrity), tmp_path) == path
    with pytest.raises(ValueError, match="SHA-512"):
        fetch(NAMES, tmp_path)


def test_members_are_read_and_missing_ones_are_none(tmp_path: Path) -> None:
    path, _ = pack(tmp_path, {"icons.json": {"icons": {"cat": 1}}})
    assert read_json(path, "icons.json") == {"icons": {"cat": 1}}
    assert read_json(path, "chars.json") is None


def test_a_link_in_a_tarball_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("package/icons.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(ValueError, match="plain file"):
        read_json(path, "icons.json")


def test_flags_and_components_are_no_concepts(tmp_path: Path) -> None:
    row = {"hexcode": "1F34E", "label": "Red Apple", "group": 0, "subgroup": 0, "tags": ["fruit"]}
    members = {
        "meta/groups.json": {"groups": {"0": "food-drink", "1": "flags"}, "subgroups": {"0": "food-fruit"}},
        "en/data.json": [row, row | {"group": 1, "label": "flag"}],
        "en/shortcodes/emojibase.json": {"1F34E": ["apple", "red_apple"]},
        "en/shortcodes/github.json": {"1F34E": "apple"},
        "en/shortcodes/joypixels.json": {},
        "en/shortcodes/cldr.json": {},
    }
    (found,) = read_emojis(pack(tmp_path, members)[0])
    assert found == Emoji("red apple", "1F34E", "food-drink", "food-fruit", ("fruit",), ("apple", "red_apple"))


def test_icons_match_by_label_then_code_then_short_name() -> None:
    apple, heart = emoji("red apple", "1F34E", "apple"), emoji("red heart", "2764", "heart")
    pear = emoji("pear", "1F350", "pear")
    icons = ["Red-Apple", "apple", "corazon", "pear-1", "pear-2", "pear-light-skin-tone"]
    found = match_icons(icons, {"2764-fe0f": "corazon"}, [apple, heart, pear])
    assert found == {"Red-Apple": apple, "corazon": heart, "pear-1": pear, "pear-2": pear}


def test_a_short_name_of_two_emojis_matches_neither() -> None:
    first, second = emoji("bus stop", "1", "stop"), emoji("stop sign", "2", "stop")
    assert match_icons(["stop"], {}, [first, second]) == {}
