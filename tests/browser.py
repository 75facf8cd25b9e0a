"""Pages in a real browser: Chromium, where the machine has one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

HOW_TO_GET_ONE = "no Chromium: install one (apt install chromium), or set LAVISE_TEST_BROWSER to its path"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Its path; None where there is none."""
    own = os.environ.get("LAVISE_TEST_BROWSER")
    return own or next((path for name in _NAMES if (path := shutil.which(name))), None)


@dataclass
class Watched:
    """A page, and all that it said and asked for."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def wait_until(self, expression: str, argument: Any = None) -> None:
        """Playwright's own wait compiles text inside the page, which the page's policy forbids."""
        for _ in range(500):
            if self.page.evaluate(expression, argument):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"never true: {expression}")

    def count(self) -> int:
        """Filters that are found."""
        return int(self.page.inner_text("#count").split(" of ")[0].replace(",", ""))

    def numbers(self) -> list[int]:
        return [int(text) for text in self.page.locator("#cards .number").all_text_contents()]

    def opened(self) -> str:
        """The title of the opened filter; empty where none is."""
        return str(self.page.inner_text("#opened-title")) if self.page.locator("dialog[open]").count() else ""


@contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


def watch(context: Any) -> Watched:
    watched = Watched(context.new_page())
    watched.page.set_default_timeout(10_000)
    watched.page.on("console", lambda m: watched.problems.append(m.text) if m.type in ("error", "warning") else None)
    watched.page.on("pageerror", lambda error: watched.problems.append(str(error)))
    watched.page.on("dialog", lambda dialog: watched.problems.append(f"alert: {dialog.message}"))
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    return watched


def open_context(browser: Any, **settings: Any) -> Iterator[Watched]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    watched = watch(context)
    yield watched
    context.close()
    assert watched.problems == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def wait_opened(page: Watched, title: str) -> None:
    page.wait_until(
        "(title) => document.querySelector('dialog[open]') && "
        "document.getElementById('opened-title').textContent.startsWith(title) && "
        "document.querySelector('#sheet .shots, #sheet .body > div') && "
        "![...document.querySelectorAll('#sheet .note')].some((p) => p.textContent.startsWith('Loading'))",
        title,
    )


def drive_report(browser: Any, address: str) -> None:
    """Use the page of any audit as a reader would: search, sort, open by link and by keyboard, on a small screen.

    It complains of nothing, asks nobody for anything, and is not wider than the screen.
    """
    for page in open_context(browser):
        page.goto(address)
        data = json.loads(page.evaluate("document.getElementById('data').textContent"))
        filters, layers = data["filters"], data["layers"]
        assert page.count() == len(filters)
        page.keyboard.press("/")
        page.keyboard.type(str(filters[-1]["f"]))
        assert set(page.numbers()) == {filters[-1]["f"]}
        page.fill("#query", "")
        page.select_option("#sort", "threshold")
        highest = max(entry["t"] for entry in filters)
        assert page.numbers()[0] in {entry["f"] for entry in filters if entry["t"] == highest}
        page.locator("#cards a.open").first.press("Enter")
        wait_opened(page, f"Filter {page.numbers()[0]}")
        page.keyboard.press("ArrowRight")
        wait_opened(page, f"Filter {page.numbers()[1]}")
        page.keyboard.press("Escape")
        page.wait_until("() => !document.querySelector('dialog[open]')")
        chosen = filters[len(filters) // 2]
        page.goto(address + "#filter-" + quote(layers[chosen["l"]], safe="") + f"-{chosen['f']}")
        wait_opened(page, f"Filter {chosen['f']}")
    for page in open_context(browser, viewport={"width": 360, "height": 740}, color_scheme="dark"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
