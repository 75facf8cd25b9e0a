"""`lavise report RUN --pdf`: the page's overview and first filters, printed by an installed Chromium or Chrome."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.flows.past_audits.past_runs import open_past_run, open_stores
from lavise.flows.past_audits.run_list import resolve_run
from lavise.storage.state import file_names
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.text import one_line, printable

BROWSER_VARIABLE = "LAVISE_BROWSER"
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge", "msedge")
_SECONDS = 300
_VIRTUAL_MS = 20_000  # of the page's own clock, which runs as fast as the page is idle
_STYLE_SOURCE = "style-src &#39;"  # as the template has escaped it


def find_page(run: str) -> Path:
    """The report of an audit.

    Args:
        run: id of its MLflow run or the start of it, `latest`, or its run folder.

    Raises:
        UserError: no such audit, or one without a page.
    """
    chosen = resolve_run(run)
    here = find_state_root(None) / "runs" / chosen
    folder = here if here.is_dir() else open_past_run(chosen, *open_stores(chosen)).folder
    page = folder / file_names.REPORT
    if not page.is_file():
        raise UserError(f"run: {chosen} has no {file_names.REPORT} in {page.parent}; audit again")
    return page


def find_browser() -> str:
    """The browser that prints: what LAVISE_BROWSER names, else the first one that is found.

    Raises:
        UserError: there is none.
    """
    own = os.environ.get(BROWSER_VARIABLE)
    if own:
        if found := shutil.which(own):
            return found
        raise UserError(f"{BROWSER_VARIABLE}: found {own!r}, which is no program; give the path of Chromium or Chrome")
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    raise UserError(
        f"report: --pdf needs Chromium, Chrome or Edge, and none is on PATH ({', '.join(_NAMES)}); install one, set "
        f"{BROWSER_VARIABLE} to its path, or print the page from a browser yourself"
    )


def print_report(page: Path, out: Path, num_filters: int, with_sections: bool) -> Path:
    """Print a report into a PDF.

    Args:
        num_filters: the first so many of the gallery, in its own order.
        with_sections: all sections, besides overview and filters.

    Raises:
        UserError: no browser, one that printed nothing, or a file that cannot be written.
    """
    browser = find_browser()
    out = out.resolve()
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out: found {str(out)!r}; allowed: a file in a folder that is there")
    with tempfile.TemporaryDirectory(prefix="lavise-print-") as scratch:
        copy, made = Path(scratch) / "report.html", Path(scratch) / "report.pdf"
        copy.write_text(cut_page(page.read_text("utf-8"), num_filters, with_sections), "utf-8")
        said = _run_browser(browser, copy, made, Path(scratch) / "profile")
        if not made.is_file() or made.read_bytes()[:5] != b"%PDF-":
            raise UserError(f"report: {browser} printed nothing ({said}); set {BROWSER_VARIABLE} to another browser")
        try:
            shutil.copyfile(made, out)
        except OSError as err:
            raise UserError(f"--out: {str(out)!r} cannot be written ({err.strerror}); name another file") from None
    return out


def cut_page(page: str, num_filters: int, with_sections: bool) -> str:
    """The page with a further style, which its policy allows by hash: it leaves out what is not to be printed."""
    style = _make_style(num_filters, with_sections)
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    head, mark, body = page.partition("</head>")
    if not mark or _STYLE_SOURCE not in head:
        raise UserError("report: the page is not one of lavise's; audit again with this version")
    # The policy is ours, and the first of the page; what data say comes behind it, escaped.
    head = head.replace(_STYLE_SOURCE, f"{_STYLE_SOURCE}sha256-{digest}&#39; &#39;", 1)
    return f"{head}<style>{style}</style>{mark}{body}"


def _make_style(num_filters: int, with_sections: bool) -> str:
    shown = f"The first {num_filters} filters at most; all are on the page report.html." if num_filters else ""
    rules = [
        f"#cards > :nth-child(n + {num_filters + 1}) {{ display: none !important; }}",
        "#print-note { display: block; font-size: 0; }",
        f'#print-note::after {{ content: "{shown}"; font-size: 9pt; }}',
        ".words .chips.all { max-height: none; overflow: visible; }",
        "#all-words, form { display: none; }",
    ]
    if not with_sections:
        rules.append("main > section:not(#filters) { display: none; }")
    if not num_filters:
        rules.append("#filters { display: none; }")
    number = 'counter(page) " of " counter(pages)'
    foot = f"@bottom-right {{ content: {number}; font: 8pt system-ui, sans-serif; color: #586270; }}"
    return f"@page {{ size: A4; margin: 12mm; {foot} }} @media print {{ {' '.join(rules)} }}"


def _run_browser(browser: str, page: Path, made: Path, profile: Path) -> str:
    """What it said last, in one line."""
    command = [
        *(browser, "--headless=new", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-sync"),
        *(f"--user-data-dir={profile}", "--no-pdf-header-footer", f"--virtual-time-budget={_VIRTUAL_MS}"),
        *(("--no-sandbox",) if os.geteuid() == 0 else ()),  # which Chromium refuses to set up for root
        *(f"--print-to-pdf={made}", page.as_uri()),
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        return printable(one_line(err))[:200]
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return printable(f"exit code {done.returncode}{': ' + lines[-1] if lines else ''}")[:200]
