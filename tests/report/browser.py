"""A headless Chromium driven over chromedriver's HTTP protocol with the standard library."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def missing() -> str | None:
    """What is not installed, as the reason to skip; None if everything is there."""
    absent = [name for name, found in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if not found]
    return f"{' and '.join(absent)} not installed (Debian: chromium chromium-driver)" if absent else None


class Browser:
    """One session; `base` is its address at chromedriver."""

    def __init__(self, base: str) -> None:
        self.base = base

    def call(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode(errors="replace")[:2000]) from error

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def script(self, source: str, *arguments: Any) -> Any:
        return self.call("/execute/sync", {"script": source, "args": list(arguments)})

    def view(self, width: int, height: int = 900, dark: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=scheme)

    def open(self, path: Path) -> None:
        self.call("/url", {"url": path.resolve().as_uri()})

    def log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("/se/log", {"type": kind})
        return found

    def requests(self) -> list[str]:
        """Addresses that documents from files asked for since the last call; the browser's own pages are left out."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if one["documentURL"].startswith("file:")]

    def shot(self, path: Path, clip: dict[str, float] | None = None) -> None:
        """Screenshot of the whole page, or of a part {x, y, width, height} of it."""
        size = self.script("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = clip or {"x": 0, "y": 0, "width": size[0], "height": size[1]}
        picture = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip={**clip, "scale": 1})
        path.write_bytes(base64.b64decode(picture["data"]))


@contextlib.contextmanager
def session(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile below a folder; both processes are ended afterwards."""
    assert DRIVER is not None
    assert CHROMIUM is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "NO_PROXY": "*"}
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        root = Browser(f"http://127.0.0.1:{port}")
        for _ in range(150):
            with contextlib.suppress(OSError):
                if root.call("/status")["ready"]:
                    break
            time.sleep(0.1)
        options = {"binary": CHROMIUM, "args": [*ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        answer = root.call("/session", {"capabilities": {"alwaysMatch": wanted}})
        browser = Browser(f"{root.base}/session/{answer['sessionId']}")
        try:
            yield browser
        finally:
            browser.call("", method="DELETE")
    finally:
        driver.terminate()
        driver.wait(10)
