"""Holds a report against axe-core, in every view, light and dark: `python -m tests.report_axe AUDIT AXE_MIN_JS`.

axe-core is no dependency: `npm install axe-core` in a folder of your own, outside the repository, and name its
node_modules/axe-core/axe.min.js here. Ends with 1 where a fault is serious or critical.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.browser import HOW_TO_GET_ONE, find_browser, open_browser

_WIDTHS_PX = (360, 768, 1280)
_SCHEMES = ("light", "dark")
_GRAVE = frozenset({"serious", "critical"})
_SETTLE_MS = 900
_OPEN_ALL = "() => document.querySelectorAll('main details, header details').forEach((d) => { d.open = true; })"


def list_views(page: Any) -> Iterator[tuple[str, str]]:
    """Names and addresses of what there is to see: the page, a search, filters with a word and without one."""
    data = json.loads(page.evaluate("document.getElementById('data').textContent"))
    filters, layers = data["filters"], data["layers"]
    yield "page", "#filters"
    yield "nothing found", "#view?query=%22no+such+word%22"
    for name, reason in (("explained", False), ("unexplained", True)):
        chosen = next((f for f in filters if bool(f["r"]) == reason and f["i"]), None)
        if chosen:
            yield f"filter, {name}", f"#filter-{layers[chosen['l']]}-{chosen['f']}"


def find_faults(report: Path, axe: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Faults of all views, each with where it was found."""
    with open_browser() as browser:
        for scheme in _SCHEMES:
            for width in _WIDTHS_PX:
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
                )
                page = context.new_page()
                page.goto(report.as_uri())
                for name, anchor in list(list_views(page)):
                    page.goto("about:blank")
                    page.goto(report.as_uri() + anchor)
                    page.evaluate(_OPEN_ALL)
                    page.wait_for_timeout(_SETTLE_MS)
                    page.evaluate(axe)
                    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
                    for fault in found["violations"]:
                        yield f"{name}, {width} px, {scheme}", fault
                context.close()


def main(report: Path, axe: Path) -> int:
    """Print what was found.

    Returns:
        1 where a fault is serious or critical.
    """
    if find_browser() is None:
        raise SystemExit(HOW_TO_GET_ONE)
    num_grave = 0
    for where, fault in find_faults(report.resolve(), axe.read_text("utf-8")):
        num_grave += fault["impact"] in _GRAVE
        print(f"{fault['impact']}: {fault['id']} ({fault['help']}); {where}; {len(fault['nodes'])} elements")
        for node in fault["nodes"][:3]:
            print(f"    {node['html'][:160]}")
            print(f"    {' '.join(str(node.get('failureSummary', '')).split())[:240]}")
    print(f"{num_grave} serious or critical faults")
    return int(num_grave > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) / "report.html", Path(sys.argv[2])))
