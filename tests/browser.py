"""A headless Chromium for tests: opens a page, keeps what it logged and asked for, evaluates, hovers, photographs.

Spoken over the DevTools protocol through a pipe, so that neither a driver program nor a package is needed.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
)
# Names lead nowhere, so that a request which slips through fails as well as being seen.
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND"
LOCAL = ("data:", "blob:", "about:")


def find_chromium() -> str | None:
    """The browser's path, or None."""
    return os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, NAMES)), None)


def require_chromium() -> str:
    """The browser's path; skips the test without one, or fails it where NASA_INTERP_BROWSER=1 promised one."""
    path = find_chromium()
    if path is None and os.environ.get("NASA_INTERP_BROWSER") == "1":
        pytest.fail("NASA_INTERP_BROWSER=1, but no Chromium was found; install chromium or set BROWSER_PATH")
    if path is None:
        pytest.skip("no Chromium here; install chromium, or set BROWSER_PATH")
    return path


class Browser:
    """Chromium, headless, its windows as `Page`s; a context manager.

    Args:
        path: of the program.
        profile: an empty folder for it to keep its things in.
        loopback: whether a server on this machine may be asked.
    """

    def __init__(self, path: str, profile: Path, loopback: bool = False):
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        # Run as root (in a container) Chromium starts only without its sandbox.
        nowhere = f"{NOWHERE}, EXCLUDE 127.0.0.1" if loopback else NOWHERE
        flags = [*FLAGS, nowhere, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        # The protocol wants the pipes at 3 and 4; the shell puts them there.
        script = f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, path, *flags, "about:blank"],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer, self._number, self._answers = b"", 0, {}
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(timeout=10)
        except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, session: str | None = None, timeout: float = 300, **params: Any) -> dict[str, Any]:
        """One command and its answer; raises RuntimeError where the browser refuses it."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + timeout
        while number not in self._answers:
            self._listen(end - time.monotonic(), method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def pause(self, seconds: float) -> None:
        """Lets time pass and takes in what the pages report meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._read], [], [], left)[0]:
                self._listen(left, "pause")

    def _listen(self, seconds: float, what: str) -> None:
        """Takes in one reading of the pipe."""
        if seconds <= 0 or not select.select([self._read], [], [], seconds)[0]:
            raise TimeoutError(f"the browser didn't answer to {what}")
        chunk = os.read(self._read, 1 << 20)
        if not chunk:
            raise RuntimeError(f"the browser ended during {what}")
        *whole, self._buffer = (self._buffer + chunk).split(b"\0")
        for message in map(json.loads, whole):
            if "id" in message:
                self._answers[message["id"]] = message
            elif page := self._pages.get(message.get("sessionId", "")):
                page.hear(message["method"], message["params"])

    def open(self, path: str | Path, width: int = 1280, dark: bool = False) -> "Page":
        """Opens a file, or an address of this machine, from a fresh tab, and waits for its load event."""
        url = str(path) if str(path).startswith("http://") else Path(path).resolve().as_uri()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, url)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.look(width, dark, settle=0)
        page.call("Page.navigate", url=page.url)
        page.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")
        return page


@dataclass
class Page:
    """One open page.

    Args:
        url: its own address.
        errors: what the console got as an error, and exceptions that nobody caught.
        requests: addresses that the page asked for; its own and data inside it left out.
    """

    browser: Browser
    session: str
    url: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command to this page."""
        return self.browser.call(method, self.session, **params)

    def hear(self, event: str, params: dict[str, Any]) -> None:
        """Notes requests and errors."""
        if event == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url != self.url and not url.startswith(LOCAL):
                self.requests.append(url)
        elif event == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif event == "Runtime.exceptionThrown":
            detail = params["exceptionDetails"]
            self.errors.append(detail.get("exception", {}).get("description") or detail["text"])
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", "unknown"))
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 300) -> None:
        """Waits until the expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; errors: {self.errors}")
            self.browser.pause(0.05)

    def look(self, width: int, dark: bool = False, height: int = 900, settle: float = 0.8) -> None:
        """Sets the window's size and the preferred colours, and lets the page settle."""
        # A page behind another one draws nothing.
        self.call("Page.bringToFront")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.browser.pause(settle)

    def hover(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Moves the mouse over an element, to a place given as shares of its width and height."""
        box = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'center', behavior: 'instant'}}); const b = e.getBoundingClientRect();"
            f" return [b.x + {x} * b.width, b.y + {y} * b.height] }})(document.querySelector({json.dumps(selector)}))"
        )
        for step in (4, 2, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] - step, y=box[1])
        self.browser.pause(0.3)

    def click(self, selector: str) -> None:
        """Clicks the first element that the selector finds."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def photograph(self, path: str | Path, top: float = 0, height: float | None = None) -> Path:
        """The page as PNG, or a strip of it, given in pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        height = min(height or size["height"], size["height"] - top)
        clip = {"x": 0, "y": top, "width": size["width"], "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        Path(path).write_bytes(base64.b64decode(shot["data"]))
        return Path(path)
