"""Drives a headless Chromium over its debugging pipe with nothing but the standard library.

Counts what a page must never cause: dialogs, policy violations, requests that leave it, errors of its script.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LIMIT = 60  # seconds for an answer
_SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--mute-audio", "--disable-background-networking", "--disable-component-update",
    "--hide-scrollbars", "--autoplay-policy=no-user-gesture-required", "--remote-debugging-pipe",
)  # fmt: skip
_WATCH = """
window.__violations = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.__violations.push(event.violatedDirective + " " + event.blockedURI));
"""


class MissingBrowserError(RuntimeError):
    """No Chromium is installed under a known name."""


class Chromium:
    """One browser with one page. Use it as a context manager.

    `dialogs`, `requests` (URLs outside the page's own file and data:) and `errors` (uncaught exceptions and console
    errors) grow while it runs; `violations()` asks the page.
    """

    def __init__(self) -> None:
        exe = next((found for name in NAMES if (found := shutil.which(name))), None)
        if exe is None:
            raise MissingBrowserError(f"none of {', '.join(NAMES)} is installed")
        self.dialogs, self.requests, self.errors = list[str](), list[str](), list[str]()
        self._profile = tempfile.mkdtemp(prefix="vqclip-chromium-")
        self._own = ""
        self._number = 0
        self._session = ""
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        pipes = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'  # the browser talks through descriptors 3 and 4
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", pipes, exe, *_SWITCHES, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        self._attach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, page: Path) -> None:
        """Load a file and wait until it is loaded; lists of incidents go on growing."""
        self._own = page.resolve().as_uri()
        self._loaded = False
        self.call("Page.navigate", url=self._own)
        end = time.monotonic() + LIMIT
        while not self._loaded and time.monotonic() < end:
            self._take()
        assert self._loaded, f"{page} did not load"

    def look(self, width: int, height: int = 900, *, dark: bool = False, media: str = "screen") -> None:
        """Choose the size of the window, the colours that the system prefers, and screen or print."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def violations(self) -> list[str]:
        return list(self.run("window.__violations"))

    def shoot(self, path: Path, *, whole: bool = True) -> None:
        """A screenshot of the whole page, or of the window."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def press(self, key: str, *, shift: bool = False) -> None:
        """One key, down and up: Tab, Enter, ArrowRight, or " "."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        about = {"key": key, "windowsVirtualKeyCode": codes[key], "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def call(self, method: str, **parameters: Any) -> Any:
        """Send one command and wait for its answer."""
        self._number += 1
        mine = self._number
        message = {"id": mine, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == mine:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)

    def _take(self) -> dict[str, Any]:
        """The next message; what it tells is noted."""
        while b"\0" not in self._rest:
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium went away"
            self._rest += chunk
        raw, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded = True
            case "Page.javascriptDialogOpening":
                self.dialogs.append(told["message"])
                self._number += 1
                answer = {"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                os.write(self._write, json.dumps(answer | {"sessionId": self._session}).encode() + b"\0")
            case "Network.requestWillBeSent":
                url = told["request"]["url"]
                if not url.startswith(("data:", "about:")) and url.split("#")[0] != self._own:
                    self.requests.append(url)
            case "Runtime.exceptionThrown":
                self.errors.append(str(told["exceptionDetails"].get("exception", {}).get("description")))
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.errors.append(told["entry"]["text"])
            case _:
                pass
