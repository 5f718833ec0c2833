"""What the catalogue promises: every known file, exact hashes, https only; and what a broken one is refused for."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from clip import clip as openai

from vqclip.job import InputError
from vqclip.weights import catalogue

HASH = "ab" * 32
GOOD = f"""
models:
  - name: one
    kind: clip
    file: one.pt
    size: 5
    sha256: {HASH}
    urls: [https://example.org/one.pt]
    licence: MIT
    note: a model
"""


def test_every_published_vqgan_is_there() -> None:
    names = {entry.name for entry in catalogue.entries().values() if entry.kind == "vqgan"}
    assert names >= {
        "imagenet_f16_1024", "imagenet_f16_16384", "openimages_f8_8192", "wikiart_f16_1024", "wikiart_f16_16384",
        "coco_f16_1024", "sflckr_f16_1024", "faceshq_f16_1024", "ldm_vq_f4", "ldm_vq_f8", "ldm_vq_f8_n256",
        "ldm_vq_f16", "sber_f8_8192",
    }  # fmt: skip


def test_the_clips_are_those_of_the_installed_package() -> None:
    """Its addresses hold the hashes; ours must be the same nine, with a mirror each."""
    ours = {entry.name: entry for entry in catalogue.entries().values() if entry.kind == "clip"}
    assert set(ours) == set(openai._MODELS)
    for name, url in openai._MODELS.items():
        *_, digest, file = urlsplit(url).path.split("/")
        entry = ours[name]
        assert (entry.sha256, entry.file, entry.urls[0]) == (digest, file, url)
        assert entry.size is not None and entry.size > 2e8
        assert len(entry.urls) > 1 and all(digest in each for each in entry.urls)


def test_the_usual_vqgan_is_exact() -> None:
    entry = catalogue.entry("imagenet_f16_16384")
    assert entry.size == 980_092_370
    assert entry.sha256 == "845a68805098cb666420d5db93df53f3a3b6dd443e6dd85c05759c5b998cd663"
    assert len(entry.urls) >= 3


def test_a_judge_of_another_family_is_exact() -> None:
    entry = catalogue.entry("ViT-B-32-256/datacomp_s34b_b86k")
    assert (entry.kind, entry.licence, entry.size) == ("open_clip", "MIT", 605_189_364)
    assert entry.extra["model"] == "ViT-B-32-256"
    assert entry.extra["hub"] in entry.urls[0] and entry.urls[0].endswith(entry.extra["hub_file"])


def test_every_row_is_sound() -> None:
    for name, entry in catalogue.entries().items():
        assert name == entry.name
        assert all(urlsplit(url).scheme == "https" for url in entry.urls)
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.member is None or entry.file.endswith(".zip")
        assert entry.about == "?" or entry.about.endswith(("MB", "GB"))
        assert entry.licence and entry.note
    hashes = [entry.sha256 for entry in catalogue.entries().values() if entry.sha256]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("spelling", ["ViT-B/32", "vit-b-32", "VITB32", "ViT_B_32"])
def test_names_are_found_as_people_write_them(spelling: str) -> None:
    assert catalogue.entry(spelling).name == "ViT-B/32"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("imagenet", "imagenet_f16_1024"),
        ("wikiart_16384", "wikiart_f16_16384"),
        ("ViT-L-14-336", "ViT-L/14@336px"),
        ("", "vqclip models list"),
        ("?" * 10_000, "vqclip models list"),
    ],
)
def test_unknown_names_get_near_ones(name: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        catalogue.entry(name)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_smallest_catalogue() -> None:
    entry = catalogue.parse(GOOD)["one"]
    assert (entry.size, entry.sha256, entry.member, dict(entry.extra)) == (5, HASH, None, {})
    bare = catalogue.parse(re.sub(r" +(size|sha256).*\n", "", GOOD))["one"]
    assert (bare.size, bare.sha256, bare.about) == (None, None, "?")


@pytest.mark.parametrize(
    ("pattern", "instead", "message"),
    [
        ("https://", "http://", "not an https address"),
        (r"https://example.org/one.pt", "ftp://example.org/one.pt", "not an https address"),
        (r"https://example.org/one.pt", "https:///one.pt", "not an https address"),
        (r"https://example.org/one.pt", "https://me@example.org/one.pt", "not an https address"),
        (r"\[https://example.org/one.pt\]", "[]", "a list of addresses"),
        (r"\[https://example.org/one.pt\]", "[https://a.org/b, https://a.org/b]", "given twice"),
        (r"\[https://example.org/one.pt\]", "https://a.org/b", "a list of addresses"),
        (HASH, HASH[1:], "must match"),
        (HASH, "g" * 64, "must match"),
        (HASH, "AB" * 32, "must match"),
        (HASH, "1" * 64, "one line of text"),
        ("size: 5", "size: 0", "positive"),
        ("size: 5", "size: -1", "positive"),
        ("size: 5", "size: 1.5", "positive"),
        ("size: 5", "size: true", "positive"),
        ("size: 5", "size: five", "positive"),
        ("kind: clip", "kind: gan", "one of vqgan, clip, open_clip"),
        ("file: one.pt", "file: ../one.pt", "must match"),
        ("file: one.pt", "file: a/b", "must match"),
        ("file: one.pt", "file: .hidden", "must match"),
        ("name: one", "name: 'a b'", "must match"),
        ("name: one", "name: ''", "one line of text"),
        ("note: a model", "note: [1]", "one line of text"),
        ("note: a model", r'note: "a\\nb"', "one line of text"),
        ("    licence: MIT\n", "", "needs"),
        ("licence: MIT", "licence: MIT\n    shell: rm", "may have"),
        ("licence: MIT", "licence: MIT\n    member: ../x", "must match"),
        ("licence: MIT", "licence: MIT\n    extra: {a: 1}", "mapping of texts"),
        ("licence: MIT", "licence: MIT\n    extra: [a]", "mapping of texts"),
        ("models:", "things:", "one list"),
    ],
)
def test_a_broken_catalogue_is_refused(pattern: str, instead: str, message: str) -> None:
    broken = re.sub(pattern, instead, GOOD)
    assert broken != GOOD
    with pytest.raises(ValueError, match=message):
        catalogue.parse(broken)


@pytest.mark.parametrize("changes", [{"name": "ONE"}, {"name": "o-n-e"}, {"file": "ONE.pt"}])
def test_names_and_files_are_unique_even_in_spelling(changes: dict[str, str]) -> None:
    twin = {"name": "two", "file": "two.pt"} | changes
    second = GOOD.split("models:\n")[1].replace("name: one", f"name: {twin['name']}")
    with pytest.raises(ValueError, match="is taken"):
        catalogue.parse(GOOD + second.replace("file: one.pt", f"file: {twin['file']}"))


@pytest.mark.parametrize("text", ["", "models: {}", "[]", "models: [1]", "models:\n  - name: x"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="catalogue is not|entry 1"):
        catalogue.parse(text)


def test_what_a_server_may_send_is_bounded() -> None:
    known, about = catalogue.entry("ViT-B/32"), catalogue.entry("imagenet_f16_1024")
    assert (known.most, about.most) == (known.size, 2 * 958_000_000)
    for entry in catalogue.entries().values():
        assert 0 < entry.most <= 8_000_000_000
    nothing = [entry for entry in catalogue.entries().values() if entry.size is None and entry.about == "?"]
    assert nothing
    assert {entry.most for entry in nothing} == {5_000_000_000}
