"""The report pages in a real Chromium: python -m tests.browser.check_page [--shots FOLDER] [--axe axe.min.js].

Ends with 1 when a check fails or no Chromium is installed. The default tests do without a browser.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # as pytest does

from payloads import PAYLOADS

from tests.browser.bench import LONG, Bench
from tests.browser.chromium import Chromium, MissingBrowserError

_SHARES = """
[...document.querySelectorAll(".prompt video")].slice(0, 4).map((film) => film.currentTime / film.duration)
"""
_GREY = """
[...document.querySelectorAll(".prompt video")].slice(0, 4).map((film) => {
  const canvas = new OffscreenCanvas(1, 1), pen = canvas.getContext("2d");
  pen.drawImage(film, 0, 0, 1, 1);
  return pen.getImageData(0, 0, 1, 1).data[0];
})
"""


def the_counters_count(bench: Bench) -> str:
    """Without escaping and without a policy every counter moves, so that zero means something."""
    browser, page = bench.browser, bench.folder / "control.html"
    page.write_text("<script>alert(1)</script><img src=https://outside.invalid/x.png>", encoding="utf-8")
    browser.open(page)
    assert browser.dialogs, "dialogs are not counted"
    assert browser.requests, "requests are not counted"
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
    page.write_text(policy + "<script>alert(1)</script><p style='color:red'>", encoding="utf-8")
    browser.open(page)
    found = browser.violations()
    assert len(found) == 2, f"violations are not counted: {found}"
    for incidents in (browser.dialogs, browser.requests, browser.errors):
        incidents.clear()
    return "a dialog, a request and two violations were seen"


def payloads_stay_texts(bench: Bench) -> str:
    """120 payloads through every text of both pages, stirred: no dialog, no violation, no request, no error."""
    browser, opened = bench.browser, 0
    for payload in PAYLOADS:
        for page in bench.poison(payload):
            browser.look(900)
            browser.open(page)
            bench.stir()
            incidents = [browser.dialogs, browser.violations(), browser.requests, browser.errors]
            assert not any(incidents), f"{payload!r}: {incidents}"
            opened += 1
    return f"{opened} pages opened: 0 dialogs, 0 violations, 0 requests, 0 errors"


def nothing_overflows(bench: Bench) -> str:
    """No page is wider than its window, a prompt of 2,000 characters or not."""
    sizes = (360, 600, 768, 1024, 1440)
    for page in [*bench.pages(), *bench.poison(LONG)]:
        for width in sizes:
            bench.browser.look(width)
            bench.browser.open(page)
            found = bench.browser.run("Math.max(document.documentElement.scrollWidth, innerWidth)")
            assert found == width, f"{page} is {found} wide in {width}"
    return f"widths {', '.join(map(str, sizes))}"


def colours_and_axis_can_be_chosen(bench: Bench) -> str:
    """Both choices work, with the system's colours as the start, and without the script."""
    browser = bench.browser
    paper = "getComputedStyle(document.body).backgroundColor"
    shown = 'getComputedStyle(document.querySelector(".over-seconds")).display'
    for scripts in (True, False):
        browser.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        for page in bench.pages():
            found = []
            for dark in (False, True):
                browser.look(900, dark=dark)
                browser.open(page)
                found.append(browser.run(paper))
            for choice in ("light", "dark"):
                browser.run(f'document.getElementById("theme-{choice}").click()')
                found.append(browser.run(paper))
            assert found[0] == found[2] != found[1] == found[3], found
            assert browser.run(shown) == "none"
            browser.run('document.getElementById("axis-seconds").click()')
            assert browser.run(shown) == "block"
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    return "auto, light, dark; steps, seconds; with and without script"


def films_play_together(bench: Bench) -> str:
    """Films of 2 and 4 seconds are at the same share of themselves while they play and after seeking."""
    browser = bench.browser
    browser.look(900)
    browser.open(bench.comparison / "report.html")
    browser.run('document.querySelector(".films button").click()')
    bench.wait(f"{_SHARES}.every((share) => share > 0.2)")
    apart, passed = 0.0, list[float]()
    for _ in range(10):
        shares = browser.run(_SHARES)
        apart = max(apart, max(shares) - min(shares))
        passed.append(min(shares))
        time.sleep(0.1)
    assert passed[0] < 0.9, f"nothing was seen playing: {passed}"
    assert len(set(passed)) > 3, f"nothing moved: {passed}"
    assert apart < 0.12, f"films are {apart:.2f} apart while playing"
    bench.wait('document.querySelector(".films button").textContent === "Play all"', 20)
    off = 0.0
    for share in (0.1, 0.5, 0.85, 0.3):
        browser.run(
            f'(() => {{ const range = document.querySelector(".films input"); range.value = {1000 * share};'
            ' range.dispatchEvent(new Event("input")); })()'
        )
        bench.wait(f"{_SHARES}.every((found) => Math.abs(found - {share}) < 0.03)")
        bench.wait('[...document.querySelectorAll(".prompt video")].slice(0, 4).every((film) => !film.seeking)')
        time.sleep(0.3)
        greys = [grey / 255 for grey in browser.run(_GREY)]
        off = max(off, *(abs(grey - share) for grey in greys))
    assert off < 0.08, f"the frame shown is {off:.2f} off after seeking"
    others = browser.run('[...document.querySelectorAll(".prompt")][1].classList.contains("rolling")')
    assert not others, "the films of another prompt moved"
    course = f"from {passed[0]:.2f} to {passed[-1]:.2f} at most {apart:.3f} apart"
    return f"{course}; frames at most {off:.3f} off after seeking"


def the_slider_works_with_keys_alone(bench: Bench) -> str:
    """Reached by Tab, moved by arrows; any two variants of any row can be chosen."""
    browser = bench.browser
    browser.look(900)
    browser.open(bench.comparison / "report.html")
    seen = []
    for _ in range(40):
        browser.press("Tab")
        seen.append(browser.run('document.activeElement.id || document.activeElement.className || "?"'))
        if seen[-1] == "slide-cut":
            break
    assert seen[0] == "skip", seen
    assert seen[-1] == "slide-cut", seen
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    cut = browser.run('document.getElementById("stage").style.getPropertyValue("--cut")')
    said = browser.run('document.activeElement.getAttribute("aria-valuetext")')
    assert (cut, said) == ("52%", "52 % first, 48 % second"), (cut, said)
    same = 'document.getElementById("stage-left").src === document.getElementById("stage-right").src'
    names = '["left", "right"].map((side) => document.getElementById("name-" + side).textContent)'
    assert browser.run(names) == ["first", "second"]
    browser.run(
        '(() => { const choice = document.getElementById("slide-left"); choice.selectedIndex = 1;'
        ' choice.dispatchEvent(new Event("change")); })()'
    )
    assert browser.run(names) == ["second", "second"]
    assert browser.run(same)
    return f"{len(seen)} tabs to the slider, two arrows to 52 %"


def the_page_prints(bench: Bench) -> str:
    """On paper there are no controls, and the details are open."""
    browser = bench.browser
    for page in bench.pages():
        browser.look(800, media="print")
        browser.open(page)
        browser.run('dispatchEvent(new Event("beforeprint"))')
        assert browser.run('[...document.querySelectorAll("details")].every((each) => each.open)')
        shown = (
            '[...document.querySelectorAll("fieldset, video, .films, .slider")].filter((e) => e.offsetHeight).length'
        )
        assert browser.run(shown) == 0
        assert len(browser.call("Page.printToPDF")["data"]) > 10_000
    browser.look(900)
    return "without controls, details open, as PDF"


def axe_finds_nothing_serious(bench: Bench, script: str) -> str:
    """Accessibility rules of axe-core in light and dark, wide and narrow."""
    worst = 0
    for page in bench.pages():
        for width, dark in ((1200, False), (1200, True), (360, False)):
            bench.browser.look(width, dark=dark)
            bench.browser.open(page)
            bench.browser.run('for (const each of document.querySelectorAll("details")) each.open = true')
            bench.browser.run(script)
            found = bench.browser.run(
                "axe.run().then((r) => r.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html)]))"
            )
            serious = [each for each in found if each[0] in {"serious", "critical"}]
            assert not serious, serious
            worst = max(worst, len(found))
    return f"0 serious or critical; at most {worst} others on a page"


def checks(axe: Path | None) -> Iterator[Callable[[Bench], str]]:
    yield from (
        the_counters_count, nothing_overflows, colours_and_axis_can_be_chosen, films_play_together,
        the_slider_works_with_keys_alone, the_page_prints, payloads_stay_texts,
    )  # fmt: skip
    if axe is not None:
        script = axe.read_text(encoding="utf-8")

        def accessible(bench: Bench) -> str:
            return axe_finds_nothing_serious(bench, script)

        yield accessible


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=Path, help="folder for screenshots to look at")
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core, for the accessibility rules")
    chosen = parser.parse_args()
    failed = 0
    try:
        with tempfile.TemporaryDirectory() as place, Chromium() as browser:
            bench = Bench(Path(place), browser)
            for check in checks(chosen.axe):
                try:
                    say(f"ok    {check.__name__}: {check(bench)}")
                except AssertionError as error:
                    failed += 1
                    say(f"FAIL  {check.__name__}: {error}")
            if chosen.shots:
                bench.shoot(chosen.shots)
    except MissingBrowserError as error:
        say(f"FAIL  {error}")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
