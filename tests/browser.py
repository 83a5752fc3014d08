"""A real browser for the pages that people are shown: headless Chromium, driven over WebDriver (W3C).

It has no network: every name and every address but its own driver's is unreachable, so a page that asks for anything
from outside leaves an error on the console.
"""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import programs
from tests.servers import DEADLINE_S, Server

PHONE_PX: Final = 360
DESKTOP_PX: Final = 1280
WIDTHS_PX: Final = (PHONE_PX, DESKTOP_PX)

_FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars"),
    *("--no-default-browser-check", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"),
    # It ends when its driver does, whatever ended that.
    "--remote-debugging-pipe",
)

# What is read off a page once it is loaded. An element that reaches beyond the page is a fault, unless something around
# it scrolls or cuts.
_LOOK: Final = """
const width = document.documentElement.clientWidth;
const own = element => {
  for (let up = element.parentElement; up && up !== document.body; up = up.parentElement)
    if (getComputedStyle(up).overflowX !== "visible") return false;
  return true;
};
const outside = [...document.body.querySelectorAll("*")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && (box.right > width + 0.5 || box.left < -0.5) && own(element);
});
return {
  title: document.title,
  width: window.innerWidth,
  scroll_width: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  outside: outside.map(element => element.outerHTML.slice(0, 120)),
  headings: [...document.querySelectorAll("h1, h2")].map(element => element.innerText.trim()),
  pictures: [...document.images].map(image => ({
    whole: image.complete && image.naturalWidth > 0, width: image.clientWidth, natural_width: image.naturalWidth,
    alt: image.alt,
  })),
  drawings: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width).filter(Boolean),
  smallest_text: Math.min(...[...document.body.querySelectorAll("*")].filter(
    element => element.getClientRects().length && [...element.childNodes].some(
      node => node.nodeType === Node.TEXT_NODE && node.data.trim())
  ).map(element => parseFloat(getComputedStyle(element).fontSize) * (
    element.ownerSVGElement ? element.getScreenCTM().a : 1))),
  asked_for: performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 200)),
};
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What a person would see of a page at one width of the window.

    Attributes:
        title: The document's title.
        width_px: Of the window, as the page takes it; a page that is not made for phones takes more.
        scroll_width_px: Width of what the page holds; more than the window's, and it can be moved sideways.
        outside: Elements that reach beyond the window, as far as nothing around them scrolls.
        headings: Texts of the first two levels, as they are shown.
        pictures: Of each: ``whole``, ``width``, ``natural_width``, ``alt``.
        drawings: Width of each SVG drawing that is shown.
        smallest_text_px: Height of the smallest letters, those in drawings as they are scaled.
        asked_for: Addresses that the page loaded something from.
        console: Whatever the browser complained about.
        png: The whole page.
    """

    title: str
    width_px: float
    scroll_width_px: float
    outside: list[str]
    headings: list[str]
    pictures: list[dict[str, Any]]
    drawings: list[float]
    smallest_text_px: float
    asked_for: list[str]
    console: list[str]
    png: bytes

    def is_sound(self, width_px: int) -> None:
        """Fail unless the page fits a window of this width, is whole, and asks for nothing from outside."""
        assert self.console == []
        assert [address for address in self.asked_for if not address.startswith("data:")] == []
        assert self.width_px == width_px
        assert self.scroll_width_px == width_px
        assert self.outside == []
        assert self.smallest_text_px > 9
        assert self.pictures == [picture for picture in self.pictures if picture["whole"] and picture["alt"]]


class Browser(Server):
    """One Chromium and its driver. ``remove`` ends both."""

    def __init__(self) -> None:
        self._driver = programs.require("chromedriver")
        self._chromium = programs.require("chromium", "chromium-browser", "google-chrome")
        super().__init__()
        self._session = ""
        try:
            self.start()
            flags = [*_FLAGS, f"--user-data-dir={self.folder / 'profile'}"]
            wanted = {
                "browserName": "chrome",
                "goog:chromeOptions": {"binary": self._chromium, "args": flags},
                "goog:loggingPrefs": {"browser": "ALL"},
                "timeouts": {"pageLoad": 30_000, "script": 30_000},
            }
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self.remove()
            raise
        self._session = f"/session/{made['sessionId']}"

    def command(self) -> list[str]:
        return [self._driver, f"--port={self.port}", "--allowed-ips=127.0.0.1"]

    def look(self, page: Path, width_px: int, *, dark: bool = False, height_px: int = 800) -> Look:
        """Open a file at a width of the window and say what is seen."""
        screen = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", screen)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._devtools("Emulation.setEmulatedMedia", {"features": scheme})
        self._console()
        self._call("POST", f"{self._session}/url", {"url": page.as_uri()})
        seen = self._call("POST", f"{self._session}/execute/sync", {"script": _LOOK, "args": []})
        shot = self._devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        return Look(
            title=seen["title"],
            width_px=seen["width"],
            scroll_width_px=seen["scroll_width"],
            outside=seen["outside"],
            headings=seen["headings"],
            pictures=seen["pictures"],
            drawings=seen["drawings"],
            smallest_text_px=seen["smallest_text"],
            asked_for=seen["asked_for"],
            console=self._console(),
            png=base64.b64decode(shot["data"]),
        )

    def _console(self) -> list[str]:
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [f"{entry['level']}: {entry['message']}" for entry in entries]

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['error']}: {answer['message']}")
        return answer
