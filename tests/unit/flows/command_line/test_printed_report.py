"""The report on paper: what is cut, which browser prints, and what is said where none does.

Real pages and the real browser are in tests/unit/tasks/test_report_browser.py, which has a page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.flows.command_line.printed_report import cut_page, find_browser, print_report

PAGE = (
    '<html><head><meta http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; '
    'style-src &#39;sha256-old&#39;; form-action &#39;none&#39;"></head><body>style-src &#39; </head></body></html>'
)


def test_the_style_that_cuts_is_allowed_by_its_hash_and_nothing_else_changes() -> None:
    page = cut_page(PAGE, 7, with_sections=False)
    style = re.search("<style>(.*?)</style>", page)
    assert style
    assert "nth-child(n + 8)" in style[1]
    assert "section:not(#filters)" in style[1]
    assert "section:not(#filters)" not in cut_page(PAGE, 7, with_sections=True)
    allowed = re.findall("style-src (&#39;sha256-[^;]*&#39;) &#39;sha256-old&#39;; form", page)
    assert len(allowed) == 1
    assert page.replace(style[0], "").replace(allowed[0] + " ", "") == PAGE


def test_a_page_that_is_none_of_ours() -> None:
    with pytest.raises(UserError, match=r"^report: the page is not one of lavise's"):
        cut_page("<html><body></body></html>", 1, with_sections=False)


def test_without_a_browser_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LAVISE_BROWSER", raising=False)
    with pytest.raises(UserError, match=r"^report: --pdf needs Chromium, Chrome or Edge, and none is on PATH"):
        find_browser()
    monkeypatch.setenv("LAVISE_BROWSER", "no-such-browser")
    with pytest.raises(UserError, match=r"^LAVISE_BROWSER: found 'no-such-browser', which is no program"):
        find_browser()


@pytest.fixture
def make_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A program of that many lines of shell in place of the browser."""

    def make(lines: str) -> None:
        program = tmp_path / "some-browser"
        program.write_text(f"#!/bin/sh\n{lines}\n", "utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("LAVISE_BROWSER", str(program))

    return make


def test_a_browser_that_prints_nothing(make_program: Callable[[str], None], tmp_path: Path) -> None:
    make_program("echo 'no\x1b[31m display' >&2; exit 5")
    (tmp_path / "report.html").write_text(PAGE, "utf-8")
    with pytest.raises(UserError, match=r"printed nothing \(exit code 5: no\\x1b\[31m display\); set LAVISE_BROWSER"):
        print_report(tmp_path / "report.html", tmp_path / "report.pdf", 3, with_sections=False)
    assert not (tmp_path / "report.pdf").exists()


def test_a_file_that_cannot_be_written(make_program: Callable[[str], None], tmp_path: Path) -> None:
    make_program("exit 0")
    (tmp_path / "report.html").write_text(PAGE, "utf-8")
    for out in (tmp_path, tmp_path / "none" / "report.pdf"):
        with pytest.raises(UserError, match=r"^--out: found "):
            print_report(tmp_path / "report.html", out, 3, with_sections=False)
