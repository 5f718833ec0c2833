"""Mirrors, tries, redirects: a target is right, or it is not there, in whatever way servers fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from file_server import (
    DATA,
    HTML,
    MB,
    OTHER,
    Behaviour,
    Server,
    chunked,
    get,
    keep,
    left,
    part_of,
    refused,
    serve,
    sha256,
    status,
    weights_like,
    whole,
)

from vqclip.job import WeightsError
from vqclip.weights import fetch


def test_a_file_arrives_and_nothing_else_stays(server: Server, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    waits = get([server.offers("/a", serve(DATA))], target, on_progress=lambda *told: seen.append(told))
    assert target.read_bytes() == DATA
    assert left(target) == ["model.ckpt"]
    assert waits == []
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (len(DATA), len(DATA))
    assert "authorization" not in server.requests[0][1] and "cookie" not in server.requests[0][1]
    assert server.requests[0][1]["accept-encoding"] == "identity"


def test_an_unknown_hash_is_returned(server: Server, target: Path) -> None:
    get([server.offers("/a", serve(DATA))], target, size=None, sha256=None)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("then", ["cut", "stall"])
@pytest.mark.parametrize("known", [True, False], ids=["hash", "no hash"])
def test_a_broken_connection_is_gone_on_with(server: Server, target: Path, then: str, known: bool) -> None:
    at = len(DATA) * 95 // 100
    url = server.offers("/a", serve(DATA, stop_at=at, then=then), serve(DATA))
    waits = get([url], target, timeout=0.3, **({} if known else {"size": None, "sha256": None}))
    assert target.read_bytes() == DATA
    assert len(server.requests) == 2
    assert server.requests[1][1]["range"] == f"bytes={at}-"
    assert server.requests[1][1]["if-range"] == '"first"'
    assert server.sent == len(DATA)
    assert waits == [1.0]


def test_another_mirror_goes_on_where_the_first_stopped(server: Server, target: Path) -> None:
    first = server.offers("/a", serve(DATA, stop_at=MB), status(404))
    second = server.offers("/b", serve(DATA, etag='"elsewhere"'))
    get([first, second], target)
    assert target.read_bytes() == DATA
    assert server.requests[-1][1]["range"] == f"bytes={MB}-"
    assert "if-range" not in server.requests[-1][1]  # its own validator is another one; the hash decides
    assert server.sent == len(DATA)


def test_without_a_hash_a_mirror_begins_anew(server: Server, target: Path) -> None:
    first = server.offers("/a", serve(OTHER, stop_at=MB), status(404))
    second = server.offers("/b", serve(DATA))
    get([first, second], target, sha256=None)
    assert target.read_bytes() == DATA
    assert "range" not in server.requests[-1][1]


def test_a_server_that_never_gets_further_is_left(server: Server, target: Path) -> None:
    """It ignores ranges and always breaks at the same place."""
    cut = whole(DATA[: MB + 5], Content_Length=len(DATA))
    message = refused([server.offers("/a", cut)], target)
    assert "the connection was cut, 4 times" in message
    assert len(server.requests) <= 2 * fetch.ATTEMPTS
    assert "1 MB are kept" in message
    assert part_of(target).read_bytes() == DATA[: MB + 5]


def test_a_long_way_in_many_pieces(server: Server, target: Path) -> None:
    """More breaks than tries are fine as long as each brings a megabyte."""
    data = weights_like(8 * MB)
    pieces: list[Behaviour] = [serve(data, stop_at=n * MB) for n in range(1, 8)]
    get([server.offers("/a", *pieces, serve(data))], target, size=len(data), sha256=sha256(data))
    assert target.read_bytes() == data
    assert server.sent == len(data)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: Server, target: Path, code: int) -> None:
    waits = get([server.offers("/a", status(code), status(code), status(code), serve(DATA))], target)
    assert target.read_bytes() == DATA
    assert waits == [1.0, 2.0, 4.0]


def test_a_server_that_stays_busy_is_left_after_four_tries(server: Server, target: Path) -> None:
    get([server.offers("/a", status(503)), server.offers("/b", serve(DATA))], target)
    assert [path for path, _ in server.requests] == ["/a"] * fetch.ATTEMPTS + ["/b"]


@pytest.mark.parametrize(("given", "waited"), [("7", 7.0), ("86400", 30.0), ("tomorrow", 1.0), ("-5", 1.0)])
def test_a_server_may_name_a_time_within_reason(server: Server, target: Path, given: str, waited: float) -> None:
    assert get([server.offers("/a", status(503, Retry_After=given), serve(DATA))], target) == [waited]


@pytest.mark.parametrize("code", [204, 300, 304, 400, 401, 403, 404, 410, 451, 501])
def test_other_answers_are_final_for_a_mirror(server: Server, target: Path, code: int) -> None:
    message = refused([server.offers("/a", status(code))], target)
    assert f"HTTP {code}" in message
    assert len(server.requests) == 1


def test_all_mirrors_are_named_with_their_reasons(server: Server, target: Path) -> None:
    urls = [server.offers("/a", status(404)), "https://nowhere.invalid/x", server.offers("/b", whole(HTML))]
    message = refused(urls, target)
    assert "127.0.0.1: HTTP 404; nowhere.invalid: no such host, or no connection; 127.0.0.1: " in message
    assert str(target) in message


def test_no_address_is_an_error_too(target: Path) -> None:
    assert "no address is known" in refused([], target)


def test_a_refused_connection_is_final(target: Path, server: Server) -> None:
    waits: list[float] = []
    server.close()
    assert "refused" in refused([f"http://127.0.0.1:{server.port}/a"], target, sleep=waits.append)
    assert waits == []


def test_silence_before_the_answer_is_a_stall(server: Server, target: Path) -> None:
    get([server.offers("/a", lambda visit: visit.owner.over.wait(5) and None, serve(DATA))], target, timeout=0.2)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(server: Server, target: Path, code: int) -> None:
    keep(target, DATA[:MB])
    server.offers("/there", serve(DATA))
    get([server.offers("/a", status(code, Location="/there"))], target)
    assert target.read_bytes() == DATA
    assert server.sent == len(DATA) - MB


def test_redirects_have_an_end(server: Server, target: Path) -> None:
    message = refused([server.offers("/a", status(302, Location="/a"))], target)
    assert "more than 5 redirects" in message
    assert len(server.requests) == fetch.REDIRECTS + 1


@pytest.mark.parametrize(
    "place", ["http://example.org/x", "file:///etc/passwd", "ftp://example.org/x", "data:,x", "//example.org/x", ""]
)
def test_redirects_lead_to_https_only(server: Server, target: Path, place: str) -> None:
    """Nothing is opened: the ban on other machines would fail the test."""
    message = refused([server.offers("/a", status(302, Location=place))], target)
    assert "only https is allowed" in message or "without an address" in message


@pytest.mark.parametrize("url", ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "model.ckpt"])
def test_only_https_is_asked(server: Server, target: Path, url: str) -> None:
    assert "only https is allowed" in refused([url], target)


def test_https_is_not_led_back_to_this_machine(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server outside must not make this one ask its own neighbours."""
    inside = server.offers("/secret", serve(DATA))

    class Redirect:
        status = 302
        headers = {"Location": inside}

        def close(self) -> None:
            pass

    monkeypatch.setattr(fetch.OpenerDirector, "open", lambda *_, **__: Redirect())
    assert "http: only https is allowed" in refused(["https://example.org/x"], target)
    assert server.requests == []


def test_offline_asks_nobody(server: Server, target: Path) -> None:
    assert "offline" in refused([server.offers("/a", serve(DATA))], target, offline=True)
    assert server.requests == []


FAULTS: dict[str, Behaviour] = {
    "cut": serve(DATA, stop_at=MB // 2),
    "cut later": serve(DATA, stop_at=MB * 3 // 2),
    "other bytes": serve(OTHER, etag='"other"'),
    "other bytes, same etag, cut": serve(OTHER, stop_at=MB),
    "no ranges": whole(DATA[:MB], Content_Length=len(DATA)),
    "wrong piece": whole(DATA[5:], 206, Content_Range=f"bytes 5-{len(DATA) - 1}/{len(DATA)}"),
    "page": whole(HTML, Content_Type="text/html"),
    "page as bytes": whole(HTML),
    "busy": status(503),
    "gone": status(404),
    "refuses": status(416, Content_Range="bytes */7"),
    "too long": chunked(DATA + b"x"),
    "broken chunk": chunked(DATA, end=False),
    "round in circles": status(302, Location="/a"),
}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("known", [True, False], ids=["size", "no size"])
def test_whatever_the_order_of_faults_the_target_is_right_or_absent(
    server: Server, target: Path, seed: int, known: bool
) -> None:
    """And after them a good server is enough."""
    chance = random.Random(seed)
    for path in ("/a", "/b"):
        server.offers(path, *chance.choices(list(FAULTS.values()), k=chance.randint(1, 8)))
    urls = [f"http://127.0.0.1:{server.port}{path}" for path in ("/a", "/b")]
    options = {} if known else {"size": None}
    try:
        get(urls, target, **options)
    except WeightsError:
        assert not target.exists()
        get([server.offers("/good", serve(DATA))], target, **options)
    assert target.read_bytes() == DATA
    assert left(target) == ["model.ckpt"]
