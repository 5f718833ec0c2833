"""The pages: what they say, that texts stay texts, and that nothing outside is needed to read them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from unicodedata import category

import pytest
from payloads import PAYLOADS
from report_folders import cell, estimate, metrics, pair, report, run_facts, write_comparison, write_run

from vqclip.job import InputError
from vqclip.report import page
from vqclip.report.page import write_comparison_page, write_run_page

VOID = {"meta", "link", "img", "input", "br", "path", "circle"}
HANDLERS = re.compile(r"on\w+|style|srcset|srcdoc|formaction|action|background|xlink:href", re.IGNORECASE)


@dataclass
class Seen:
    """A parsed page: elements with attribute names in order, every text and attribute value, elements by name."""

    skeleton: list[object] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    inline: dict[str, str] = field(default_factory=dict)

    def all_text(self) -> str:
        return "\n".join([*self.texts, *self.values])

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen = Seen()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice"
        assert not any(HANDLERS.fullmatch(name) for name in names), f"{tag} has {names}"
        self.seen.skeleton.append((tag, *names))
        self.seen.elements.append((tag, dict(attributes)))
        self.seen.values += [value for _, value in attributes if value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes something else"
        self.seen.skeleton.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"script", "style"}:
            self.seen.inline[self.open[-1]] = self.seen.inline.get(self.open[-1], "") + data
        elif data.strip():
            self.seen.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


class Tags(HTMLParser):
    """Collects the elements of a text that nothing was done for."""

    @classmethod
    def of(cls, text: str) -> list[str]:
        reader = cls()
        reader.found = list[str]()
        reader.feed(text)
        return reader.found

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


def parse(path: Path) -> Seen:
    reader = Reader()
    reader.feed(path.read_bytes().decode("utf-8"))
    reader.close()
    assert reader.open == []
    return reader.seen


def shown(text: str) -> str:
    """A text as the page says it: what nobody could see is written out."""
    hidden = {"Cc", "Cs", "Cf", "Zl", "Zp"}
    return "".join(ascii(c)[1:-1] if category(c) in hidden or c == "\uffff" else c for c in text)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power failures, and hundreds of pages are written."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells for all the comparisons of this file: their pictures need not be made a hundred times."""
    folder = tmp_path_factory.mktemp("pages")
    write_run(folder / "run", "harmless")
    write_comparison(folder / "comparison", "harmless")
    return folder


def poisoned(folder: Path, text: str) -> tuple[Seen, Seen]:
    """Both pages with `text` in every place, of folders that are filled again for each text."""
    (folder / "run" / "run.json").write_text(json.dumps(run_facts(text)), encoding="utf-8")
    for place in [folder / "run", *(folder / "comparison" / "cells").glob("*/*")]:
        (place / "metrics.jsonl").write_text(metrics(text), encoding="utf-8")
    (folder / "comparison" / "report.json").write_text(json.dumps(report(text)), encoding="utf-8")
    return parse(write_run_page(folder / "run")), parse(write_comparison_page(folder / "comparison"))


@cache
def plain(folders: Path, text: str) -> list[tuple[list[object], dict[str, str], int]]:
    """Skeleton, style and script, and how often a harmless text is said, for both pages."""
    return [(seen.skeleton, seen.inline, seen.all_text().count(text)) for seen in poisoned(folders, text)]


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_payload_stays_a_text_wherever_it_stands(folders: Path, payload: str) -> None:
    """The page has the elements and attributes that it has with a harmless text of the same length, and says it."""
    harmless = "q" + "x" * (len(payload) - 2) + "z"
    in_a_list = shown(json.dumps(payload, ensure_ascii=False)[1:-1])  # lists of a config are shown as JSON
    for (skeleton, inline, count), found in zip(plain(folders, harmless), poisoned(folders, payload), strict=True):
        assert found.skeleton == skeleton
        assert found.inline == inline
        text = found.all_text()
        listed = text.count(in_a_list) if in_a_list != shown(payload) else 0
        assert text.replace(in_a_list, shown(payload)).count(shown(payload)) == count > 30
        assert listed in {0, 2}


def test_there_are_payloads_enough_and_they_are_dangerous() -> None:
    assert len(set(PAYLOADS)) == 120
    counter = Counter(len(Tags.of(f"<p>{payload}</p>")) > 1 for payload in PAYLOADS)
    assert counter[True] > 85  # most make elements where nothing is escaped; the rest aim at attributes and templates


def test_a_long_prompt_of_everything_appears_as_text(tmp_path: Path) -> None:
    text = ("<b>\"quoted\" & 'quoted'</b> שלום עולם مرحبا 🍎👩‍👩‍👧🏳️‍🌈 {{7*7}} " * 40)[:2000]
    for made in (
        write_run_page(write_run(tmp_path / "run", text)),
        write_comparison_page(write_comparison(tmp_path / "comparison", text)),
    ):
        seen = parse(made)
        assert text in seen.texts
        titles = [each for name, each in seen.elements if name == "h1"]
        assert titles == [{"class": "long"}]


def test_prompts_are_isolated_from_the_direction_of_the_text_around(folders: Path) -> None:
    """Every visible text that comes from outside stands in a bdi of its own."""
    text = "שלום"
    write = write_run(folders / "rtl", text)
    source = write_run_page(write).read_text(encoding="utf-8")
    body = re.sub(r"(?s)^.*?<body>", "", source)
    loose = re.sub(r"<bdi>[^<]*</bdi>", "", re.sub(r'"[^"<>]*"', '""', body))
    assert text not in loose


def policy(seen: Seen) -> dict[str, list[str]]:
    (content,) = [each["content"] for each in seen.named("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert content is not None
    return {words[0]: words[1:] for words in (part.split() for part in content.split(";"))}


def test_the_policy_allows_this_script_and_this_style_and_no_others(folders: Path) -> None:
    for seen in poisoned(folders, "harmless"):
        allowed = policy(seen)
        for tag in ("script", "style"):
            digest = hashlib.sha256(seen.inline[tag].encode()).digest()
            assert allowed.pop(f"{tag}-src") == [f"'sha256-{base64.b64encode(digest).decode()}'"]
            assert len(seen.named(tag)) == 1
        assert allowed == {
            "default-src": ["'none'"], "img-src": ["data:"], "media-src": ["data:"],
            "base-uri": ["'none'"], "form-action": ["'none'"],
        }  # fmt: skip


def test_nothing_is_fetched(folders: Path) -> None:
    """Addresses are data: or places on the page; style and script name none either."""
    for seen in poisoned(folders, "harmless"):
        addresses = [each[key] or "" for _, each in seen.elements for key in ("src", "href", "poster") if key in each]
        assert addresses
        assert all(re.match(r"data:(image/(png|jpeg);base64,|video/mp4;base64,|,)|#", address) for address in addresses)
        assert not re.search(r"url\(|@import|https?:|//\w", seen.inline["style"])
        assert not re.search(r"fetch|XMLHttp|import\(|innerHTML|eval|https?:", seen.inline["script"])


def test_identifiers_are_unique_and_labels_point_at_them(folders: Path) -> None:
    for seen in poisoned(folders, "harmless"):
        ids = Counter(each["id"] for _, each in seen.elements if "id" in each)
        assert set(ids.values()) == {1}
        pointed = [each["aria-labelledby"] for _, each in seen.elements if "aria-labelledby" in each]
        assert pointed
        assert set(pointed) <= set(ids)


def test_every_picture_film_and_chart_says_what_it_is(folders: Path) -> None:
    for seen in poisoned(folders, "harmless"):
        assert all("alt" in each for each in seen.named("img"))
        assert all(each.get("aria-label") for each in seen.named("video"))
        assert all((each.get("poster") or "").startswith("data:image/jpeg;base64,") for each in seen.named("video"))
        assert all(each.get("aria-label") or each.get("aria-hidden") for each in seen.named("svg"))


def test_twice_the_same_bytes(folders: Path) -> None:
    poisoned(folders, "harmless")
    made = [folders / "run" / "report.html", folders / "comparison" / "report.html"]
    before = [path.read_bytes() for path in made]
    poisoned(folders, "harmless")
    assert [path.read_bytes() for path in made] == before


def test_the_picture_and_film_are_inside_to_the_byte(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "harmless")
    seen = parse(write_run_page(folder))
    kept = {base64.b64decode((each["src"] or "").split(",")[1]) for each in seen.named("img") + seen.named("video")}
    assert (folder / "final.png").read_bytes() in kept
    assert (folder / "progress.mp4").read_bytes() in kept


def test_films_beyond_the_limit_become_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_comparison(tmp_path / "comparison", "harmless")
    size = (folder / "cells/v0/p0-s0/progress.mp4").stat().st_size
    monkeypatch.setattr(page, "FILMS", 2 * size + 1)
    seen = parse(write_comparison_page(folder))
    assert len(seen.named("video")) == 2
    assert "4 films are not embedded" in seen.all_text()
    assert len([each for each in seen.named("img") if "data-row" in each]) == 6


@pytest.mark.parametrize("decided", [True, False])
def test_bold_only_where_it_is_decided(tmp_path: Path, decided: bool) -> None:
    pairs = [pair(0, 1, "seconds", 7.0, decided=decided)]
    source = write_comparison_page(write_comparison(tmp_path / "c", "harmless", pairs=pairs)).read_text(
        encoding="utf-8"
    )
    table = source[source.index('<table class="summary">') : source.index("</table>")]
    assert re.findall(r"<b>([^<]*)</b>", table) == (["2.00 s"] if decided else [])
    assert ("No difference between the variants is decided" in source) is not decided


def test_a_failed_cell_shows_its_error_and_a_missing_one_its_absence(tmp_path: Path) -> None:
    cells = [cell(0, 0, 0), cell(1, 0, 0, status="failed", error="ResourceError: 9 GB are needed"), cell(1, 1, 0)]
    cells.append(cell(0, 1, 0, status="missing"))
    folder = write_comparison(tmp_path / "c", "harmless", cells=cells, seeds=[0])
    text = parse(write_comparison_page(folder)).all_text()
    assert "ResourceError: 9 GB are needed" in text
    assert "not made" in text
    assert "2 pictures are missing or failed" in text


def test_self_scored_numbers_are_labelled(tmp_path: Path) -> None:
    plain = report("harmless")["variants"][1]
    cells = [cell(0, 0, 0, self_scored=True), cell(1, 0, 0)]
    changes = {"cells": cells, "seeds": [0], "summary": [estimate(0, "margin", 0.4), estimate(0, "seconds", 2.0)]}
    marked = write_comparison(tmp_path / "a", "harmless", variants=[plain | {"self_scored": True}, plain], **changes)
    count = parse(write_comparison_page(marked)).texts.count("self-scored")
    assert count == 4  # the variant's column, its margin, its picture and its details; not its seconds
    cells[0] |= {"self_scored": False}
    clean = write_comparison(tmp_path / "b", "harmless", variants=[plain, plain], **changes)
    assert parse(write_comparison_page(clean)).texts.count("self-scored") == 0


@pytest.mark.parametrize("name", ["..", "../run", "/etc", "cells/../..", "", "link", "a\0b", "x" * 5000])
def test_a_cell_folder_outside_is_refused(tmp_path: Path, name: str) -> None:
    outside = write_run(tmp_path / "run", "harmless")
    folder = write_comparison(tmp_path / "c", "harmless", cells=[cell(0, 0, 0)])
    (folder / "link").symlink_to(outside)
    (folder / "report.json").write_text(json.dumps(report("x", cells=[cell(0, 0, 0, folder=name)])), encoding="utf-8")
    with pytest.raises(InputError, match="does not lie inside") as caught:
        write_comparison_page(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_an_unfinished_run_has_a_page_too(tmp_path: Path, status: str) -> None:
    folder = write_run(tmp_path / "run", "harmless", status=status, verdict=None, steps=3, error="KeyboardInterrupt")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "sec')
    for name in ("final.png", "progress.mp4"):
        (folder / name).unlink()
    text = parse(write_run_page(folder)).all_text()
    for said in ("No picture was made.", "No judge looked at this picture.", "KeyboardInterrupt", f"3 of {6}"):
        assert said in text


def test_what_differs_from_the_defaults_is_marked(tmp_path: Path) -> None:
    source = write_run_page(write_run(tmp_path / "run", "harmless")).read_text(encoding="utf-8")
    assert re.findall(r"<mark><bdi>([^<]*)</bdi></mark> <small>default <bdi>([^<]*)</bdi>", source) == [
        ("harmless", "harmless"),
        ("6", "150"),
    ]


def test_the_page_works_without_its_script(folders: Path) -> None:
    """Both axes are drawn, films have controls; what only the script can move is hidden until it runs."""
    run, comparison = poisoned(folders, "harmless")
    for seen in (run, comparison):
        charts = Counter((each.get("class") or "").split()[-1] for each in seen.named("svg"))
        assert charts["over-steps"] == charts["over-seconds"] > 0
        assert all("controls" in each for each in seen.named("video"))
    moved = [
        each for _, each in comparison.elements if each.get("id") == "before-after" or each.get("class") == "films"
    ]
    assert len(moved) == 3
    assert all("hidden" in each for each in moved)
