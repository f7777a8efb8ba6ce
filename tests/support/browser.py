"""A real browser (Debian's Chromium) on the pages; whatever it complains of is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, sync_playwright

SECONDS = 60.0
"""How long the page may take for anything; generous, for it bounds a hang."""
_LEFT = "net::ERR_ABORTED"
"""How a request ends, a stream above all, when the browser leaves the page meanwhile."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, without a screen."""
    found = shutil.which("chromium")
    assert found is not None, "chromium is not installed: scripts/peers.sh installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Screen:
    """A window on the pages of a router."""

    def __init__(self, browser: Browser, port: int, **settings: Any) -> None:
        """`settings` are those of a context: viewport, color_scheme, java_script_enabled."""
        self.origin = f"http://127.0.0.1:{port}"
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        self.context.set_default_timeout(SECONDS * 1000)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        """Messages on the console, errors of scripts, requests that failed, answers that are errors."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("requestfailed", self._on_failed)
        self.page.on("response", self._on_response)

    def go(self, path: str) -> Page:
        """Go to a page."""
        self.page.goto(self.origin + path)
        return self.page

    def log_in(self, token: str) -> None:
        """Show the token."""
        self.go("/login")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Log in").click()

    def key_to(self, identity: str) -> None:
        """Press Tab until the element with this id has the focus."""
        for _ in range(300):
            if self.page.evaluate("document.activeElement.id") == identity:
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {identity}")

    def press(self, identity: str, *, by_keyboard: bool) -> None:
        """Press a button, or open what asks first."""
        if by_keyboard:
            self.key_to(identity)
            self.page.keyboard.press("Enter")
        else:
            self.page.locator(f"[id='{identity}']").click()

    def said(self, text: str) -> None:
        """Wait for the message that an action leaves."""
        self.page.locator("#message").filter(has_text=text).wait_for()

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def close(self) -> None:
        """Close the window."""
        self.context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        self.complaints.append(f"{message.type}: {message.text}")

    def _on_failed(self, request: Request) -> None:
        if request.failure != _LEFT:
            self.complaints.append(f"{request.method} {request.url}: {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")


# --- What can be read ------------------------------------------------------------------------------------------------

_FAINT = """
() => {
  const number = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const back = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = number(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
      if (colour[3] !== 0) return null;
    }
    return [255, 255, 255];
  };
  const found = [];
  let looked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(".unseen, noscript")) continue;
    const ground = back(element);
    const [one, other] = [light(number(style.color)), ground ? light(ground) : NaN].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    looked += 1;
    if (!(ratio >= 4.5)) found.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)} to 1`);
  }
  return [looked, found];
}
"""


def faint(page: Page) -> list[str]:
    """Texts that have less than 4.5 to 1 on their background (WCAG 2, AA), with the ratio."""
    looked, found = page.evaluate(_FAINT)
    assert looked > 5, "there is nothing to be read"
    return [str(one) for one in found]
