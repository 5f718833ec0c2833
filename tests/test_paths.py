"""Paths are told from names, and made absolute from the folder of who names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqclip.config.paths import is_path, resolve


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("a.png", "file", "{}/a.png"), ("../a.png", "file", "{parent}/a.png"), ("/x/a.png", "file", "/x/a.png"),
        ("starter", "weights", "starter"), ("starter/judge", "weights", "starter/judge"), ("RN50", "weights", "RN50"),
        ("ViT-B/32", "weights", "ViT-B/32"), ("w/a.ckpt", "weights", "{}/w/a.ckpt"), ("./odd", "weights", "{}/odd"),
        ("there", "weights", "{}/there"), ("imagenet_f16_1024", "weights", "imagenet_f16_1024"),
        ("open_clip:ViT-B-32@tag:w/a.pt", "weights", "open_clip:ViT-B-32@tag:{}/w/a.pt"),
        ("open_clip:ViT-B-32:RN50", "weights", "open_clip:ViT-B-32:RN50"), ("open_clip:", "weights", "open_clip:"),
        ("kandinsky-2.2", "pipeline", "kandinsky-2.2"), ("owner/name@abc", "pipeline", "owner/name@abc"),
        ("folder", "pipeline", "{}/folder"), ("folder/prior", "pipeline", "{}/folder/prior"),
        ("a/b/c", "pipeline", "{}/a/b/c"), ("w/a.ckpt#sha256=ab", "weights", "{}/w/a.ckpt#sha256=ab"),
        ("open_clip:ViT-B-32:w/a.pt#sha256=ab", "weights", "open_clip:ViT-B-32:{}/w/a.pt#sha256=ab"),
        ("a#sha256=ab", "file", "{}/a#sha256=ab"),
    ],
)  # fmt: skip
def test_values_are_resolved_by_their_kind(tmp_path: Path, value: str, kind: str, wanted: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "there").write_bytes(b"")
    expected = wanted.replace("{parent}", str(tmp_path.parent)).replace("{}", str(tmp_path))
    assert resolve(value, tmp_path, kind) == expected
    assert resolve(expected, Path("/elsewhere"), kind) == expected


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/a.png", Path("/x"), "file") == f"{tmp_path}/a.png"


def test_names_with_the_look_of_a_path() -> None:
    assert all(map(is_path, ["a.ckpt", "A.PT", "./a", "/a", "~/a"]))
    assert not any(map(is_path, ["starter", "ViT-B/32", "kandinsky-2.2", "RN50x4"]))
