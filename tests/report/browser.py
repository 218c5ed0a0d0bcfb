"""A headless Chromium, driven by its DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol.
"""

import base64
import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
_START = 30.0  # seconds


def program() -> str | None:
    """Where Chromium is, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab: what it is told, and in `problems` what went wrong in it."""

    def __init__(self, url: str):
        self._socket = websocket.create_connection(url, suppress_origin=True, timeout=60)
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command; events that come before it are noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message["method"], message["params"])

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            said = details.get("exception", {}).get("description", "")
            self.problems.append(f"{details['text']} {said}")
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(" ".join(str(a.get("value", a)) for a in params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def evaluate(self, expression: str) -> Any:
        """An expression's value, after the promise that it may be.

        Raises:
          RuntimeError: it threw.
        """
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def of(self, selector: str, expression: str) -> list[Any]:
        """An expression's value of each element `e` that a CSS selector finds, in order."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return self.evaluate(f"Promise.all({found}.map((e) => {expression}))")

    def choose(self, selector: str, value: str) -> None:
        """Gives a choice or a slider a value, as its reader would."""
        event = "e.dispatchEvent(new Event('input', { bubbles: true }))"
        self.of(selector, f"(e.value = {json.dumps(value)}, {event})")
        self.settle()

    def settle(self) -> None:
        """Waits until what was asked for is drawn."""
        self.evaluate("new Promise((done) => setTimeout(done, 100))")

    def show(
        self, path: pathlib.Path, width: int, height: int, scheme: str, media: str = ""
    ) -> None:
        """Opens a file in a window of a size, light or dark, and waits until it stands still."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.evaluate(
            "new Promise((done) => { const look = () => "
            "document.readyState === 'complete' && document.body.dataset.drawn === 'yes' "
            "? done() : setTimeout(look, 20); look(); })"
        )

    def press(self, key: str) -> None:
        """Presses a key and lets it go."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {"Enter": 13, " ": 32, "Tab": 9, "ArrowRight": 39}[key]
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def point(self, x: float, y: float) -> None:
        """Moves the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, *selectors: str) -> bytes:
        """A PNG of the window, or of the first elements that some selectors find, with a margin."""
        clip = {}
        if selectors:
            look = "e.getBoundingClientRect().toJSON()"
            boxes = [self.of(selector, look)[0] for selector in selectors]
            left, top = (min(box[side] for box in boxes) for side in ("left", "top"))
            right, bottom = (max(box[side] for box in boxes) for side in ("right", "bottom"))
            size = {"width": right - left + 32, "height": bottom - top + 32}
            clip = {"clip": {"x": left - 16, "y": top - 16, **size, "scale": 1}}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=bool(clip), **clip)
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def tab() -> Iterator[Page]:
    """A tab of a Chromium of its own, which ends with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                program(),
                "--headless=new",
                "--no-sandbox",  # root, as in a container, has none
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Page(_address(pathlib.Path(folder) / "DevToolsActivePort", process))
        finally:
            process.terminate()
            process.wait()


def _address(path: pathlib.Path, process: subprocess.Popen) -> str:
    """Where the first tab listens, once Chromium has written its port."""
    end = time.monotonic() + _START
    while not (path.exists() and path.read_text().strip()):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"Chromium didn't start within {_START:.0f} s")
        time.sleep(0.05)
    port = path.read_text().split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = json.load(answer)
    return next(t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page")
