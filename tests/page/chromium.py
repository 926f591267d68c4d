"""Headless Chromium, driven by its DevTools protocol over a pipe: no port, no other package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WITHOUT = "no Chromium on this machine"
"""Why the tests in a browser are skipped."""

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--force-device-scale-factor=1", "--font-render-hinting=none", "--remote-debugging-pipe"),
)
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""The protocol's pipes are the descriptors 3 and 4."""
_PATIENCE = 60


class Chromium:
    """A running browser."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        # Out of the way of 3 and 4, which they become in the child.
        ends = [os.dup(os.dup(os.dup(end))) for end in (commands, answers)]
        command = [sys.executable, "-c", _START, *map(str, ends), program, *_FLAGS, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=ends, stdout=quiet, stderr=quiet)
        for end in (commands, answers):
            os.close(end)
        os.set_blocking(self._read, False)
        self._buffer, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        number = self._number
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for answer in self._receive():
                if answer.get("id") != number:
                    self.events.append(answer)
                    continue
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
        raise TimeoutError(method)

    def _receive(self) -> Iterator[dict[str, Any]]:
        try:
            read = os.read(self._read, 1 << 20)
        except BlockingIOError:
            time.sleep(0.005)
            return
        assert read, f"Chromium ended with {self._process.wait(5)}"
        *whole, self._buffer = (self._buffer + read).split(b"\0")
        yield from [json.loads(message) for message in whole]

    def close(self) -> None:
        """Ends the browser."""
        self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)


class Tab:
    """One page in a browser, with everything that it logged and asked for."""

    def __init__(self, browser: Chromium, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self._browser = browser
        context = browser.send("Target.createBrowserContext")["browserContextId"]
        target = browser.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._context = context
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.size(width, height)
        self.theme(dark=dark)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command to the page."""
        return self._browser.send(method, self._session, **params)

    def size(self, width: int, height: int = 900) -> None:
        """Sets the size of the window."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def theme(self, *, dark: bool) -> None:
        """Sets the reader's preference."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def open(self, path: Path, *, scripts: bool = True) -> None:
        """Opens a page and waits until it is ready."""
        if not scripts:
            self.send("Emulation.setScriptExecutionDisabled", value=True)
        self.send("Page.navigate", url=path.as_uri())
        ready = (
            "document.documentElement?.dataset.ready === 'true'" if scripts else "document.readyState === 'complete'"
        )
        self.wait(lambda: bool(self.js(f"document.URL !== 'about:blank' && {ready}")))

    def wait(self, met: Callable[[], bool]) -> None:
        """Waits until a condition is met."""
        deadline = time.monotonic() + _PATIENCE
        while not met():
            assert time.monotonic() < deadline, f"waited in vain; {self.complaints()}"
            time.sleep(0.02)

    def js(self, expression: str) -> Any:
        """Returns the value of an expression, as JSON has it."""
        how = {"returnByValue": True, "awaitPromise": True, "userGesture": True, "allowUnsafeEvalBlockedByCSP": False}
        answer = self.send("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Clicks the middle of an element, as a mouse does."""
        place = self.js(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)});"
            " box.scrollIntoView({block: 'center'}); const at = box.getBoundingClientRect();"
            " return [at.x + at.width / 2, at.y + at.height / 2] })()"
        )
        self.click_at(*place)

    def click_at(self, x: float, y: float) -> None:
        """Clicks a place of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Types into a field."""
        self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        self.send("Input.insertText", text=text)

    def complaints(self) -> list[str]:
        """Everything that the page logged or threw."""
        found = []
        for event in self._mine():
            if event["method"] == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(" ".join(str(each.get("value")) for each in event["params"]["args"]))
        return found

    def requests(self) -> list[str]:
        """Every URL that was asked for."""
        return [e["params"]["request"]["url"] for e in self._mine() if e["method"] == "Network.requestWillBeSent"]

    def answered(self) -> list[str]:
        """Every URL that something was received from."""
        return [e["params"]["response"]["url"] for e in self._mine() if e["method"] == "Network.responseReceived"]

    def _mine(self) -> list[dict[str, Any]]:
        self.send("Runtime.evaluate", expression="0")  # events before the answer have arrived then
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        """Writes a picture of the page."""
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def close(self) -> None:
        """Closes the page."""
        self._browser.send("Target.disposeBrowserContext", browserContextId=self._context)


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Starts a browser with an empty profile; skips the test where there is none."""
    if PROGRAM is None:
        pytest.skip(WITHOUT)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(PROGRAM, Path(profile))
        try:
            yield browser
        finally:
            browser.close()
