"""A headless Chromium for tests, spoken to over a pipe with the DevTools protocol: no port, no driver, no package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE = 60.0  # seconds for one answer; a loaded machine may need several to start the browser


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Page:
    """One tab. What it complains about and what it asks the network for is collected from the start."""

    send: Callable[..., Any]
    pump: Callable[[float], None]
    errors: list[str] = field(default_factory=list)
    """Exceptions, and messages of level error in the console."""
    requests: list[str] = field(default_factory=list)
    """Every address but those of data: and blob:."""
    loaded: bool = False

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False) -> float:
        """Load an address; returns the seconds from the start of navigation to the load event, as the browser has them."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.send(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        )
        self.loaded = False
        self.send("Page.navigate", url=url)
        self.until(lambda: self.loaded, "the load event")
        # The load event is over only when its listeners are.
        self.wait("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
        return float(self.run("performance.getEntriesByType('navigation')[0].loadEventEnd")) / 1000

    def run(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"].get("exception", {}).get("description", str(answer)))
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression in the page is true."""
        self.until(lambda: bool(self.run(condition)), condition, pause=0.2)  # to ask makes the page lay itself out

    def until(self, condition: Callable[[], bool], awaited: str, pause: float = 0.0) -> None:
        end = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"waited {_PATIENCE:.0f} s for {awaited}; errors: {self.errors}")
            rest = time.monotonic() + pause
            self.pump(0.05)
            while (left := rest - time.monotonic()) > 0:
                self.pump(left)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page, or of what is in view."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def browse() -> Iterator[Page]:
    """A tab of a new browser with a profile of its own, both gone afterwards."""
    program = chromium()
    assert program is not None, "no Chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu-sandbox", "--remote-debugging-pipe", "--no-first-run",
            "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            "--force-color-profile=srgb", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        commands, answers = _pipe(), _pipe()
        # The browser reads commands from descriptor 3 and answers on 4; ours are kept above both.
        shell = f'exec "$0" "$@" 3<&{commands[0]} 4>&{answers[1]}'
        process = subprocess.Popen(
            ["bash", "-c", shell, program, *flags, "about:blank"], pass_fds=(commands[0], answers[1]),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands[0])
        os.close(answers[1])
        try:
            yield _Talk(commands[1], answers[0]).page()
        finally:
            os.close(commands[1])  # it ends when its pipe does
            os.close(answers[0])
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class _Talk:
    """Commands and answers, each a JSON text that ends with a zero byte."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._count, self._session = b"", 0, None
        self._found: dict[int, dict[str, Any]] = {}
        self._page = Page(self.send, self.pump)

    def page(self) -> Page:
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(info["targetId"] for info in targets if info["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        return self._page

    def send(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        mine = self._count
        message = {"id": mine, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        self._page.until(lambda: mine in self._found, method)
        answer = self._found.pop(mine)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def pump(self, seconds: float) -> None:
        """Take in what has come, waiting at most so long for it."""
        ready, _, _ = select.select([self._answers], [], [], seconds)
        if not ready:
            return
        chunk = os.read(self._answers, 1 << 20)
        if not chunk:
            raise AssertionError("the browser is gone")
        *messages, self._buffer = (self._buffer + chunk).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._found[message["id"]] = message
            else:
                self._event(message["method"], message["params"])

    def _event(self, method: str, params: dict[str, Any]) -> None:
        page = self._page
        match method:
            case "Page.loadEventFired":
                page.loaded = True
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                page.errors.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                page.errors.append(
                    " ".join(str(argument.get("value", argument.get("description"))) for argument in params["args"])
                )
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                page.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("data:", "blob:", "about:")):
                    page.requests.append(url)


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are 10 or above."""
    ends = os.pipe()
    descriptors = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return descriptors[0], descriptors[1]
