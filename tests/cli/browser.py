"""A real Chromium without a window, spoken to through a pipe: DevTools messages, ended by NUL.

https://chromedevtools.github.io/devtools-protocol/ with `--remote-debugging-pipe`: it reads from
descriptor 3 and writes to 4, so that no port is open and no library is needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_S = 60
OPTIONS = (
    "--headless",
    "--no-sandbox",  # root in a container has none to give
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def chromium() -> str | None:
    """The program, where one is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Browser:
    """One tab; what it wanted to fetch and what it complained of are kept."""

    to: int
    back: int
    session: str = ""
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _number: int = 0
    _rest: bytes = b""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command; RuntimeError with the browser's word where it fails."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, path: Path, width: int, *, dark: bool = False, media: str = "screen") -> None:
        """Show a file at this width, in light or dark, on screen or as for paper."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        while self.value("document.readyState") != "complete":
            time.sleep(0.02)

    def value(self, script: str) -> Any:
        """What a JavaScript expression comes to in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def _read(self) -> dict[str, Any]:
        """The next message, with what is to be kept of it."""
        while b"\0" not in self._rest:
            if not select.select([self.back], [], [], PATIENCE_S)[0]:
                raise TimeoutError("the browser says nothing")
            chunk = os.read(self.back, 1 << 20)
            if not chunk:
                raise EOFError("the browser has ended")
            self._rest += chunk
        line, _nul, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        method, params = message.get("method"), message.get("params") or {}
        if method == "Network.requestWillBeSent":
            self.requests.append(str(params["request"]["url"]))
        elif method == "Log.entryAdded":
            self.complaints.append(str(params["entry"]["text"]))
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(params))
        return message


@contextlib.contextmanager
def opened(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, gone when the block ends."""
    their_in, to = os.pipe()
    back, their_out = os.pipe()
    # Out of the way of 3 and 4, whatever numbers the pipes were given.
    high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 64) for each in (their_in, their_out)]
    pid = os.posix_spawn(
        program,
        [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, high[0], 3),
            (os.POSIX_SPAWN_DUP2, high[1], 4),
        ],
    )
    for each in (their_in, their_out, *high):
        os.close(each)
    browser = Browser(to, back)
    try:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        browser.session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            browser.call(f"{domain}.enable")
        yield browser
    finally:
        os.close(to)
        os.close(back)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
