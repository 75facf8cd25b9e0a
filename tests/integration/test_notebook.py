"""docs/notebook.md, as it stands there: every block runs, and what a notebook would show shows itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import HOW_TO_GET_ONE, drive_report, find_browser, open_browser

pytestmark = pytest.mark.slow
_DOCUMENT = Path(__file__).parents[2] / "docs" / "notebook.md"


def run_block(code: str, names: dict[str, Any]) -> Any:
    """Like a cell of a notebook: the value of its last expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Last line of each block -> what it shows."""
    names: dict[str, Any] = {}
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAVISE_HOME", str(tmp_path_factory.mktemp("notebook")))
        for block in re.findall(r"```python\n(.*?)```", _DOCUMENT.read_text("utf-8"), re.DOTALL):
            found[block.strip().splitlines()[-1]] = run_block(block, names)
        found["names"] = names
        yield found


def test_the_audit_shows_its_layers_and_its_overview(shown: dict[str, Any]) -> None:
    page = shown["audit"]._repr_html_()
    assert "of 1280" in page
    assert "data:image/png;base64," in page


def test_the_report_is_there(shown: dict[str, Any]) -> None:
    assert shown["audit.report"].read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.skipif(find_browser() is None, reason=HOW_TO_GET_ONE)
def test_the_report_works_in_a_browser(shown: dict[str, Any]) -> None:
    with open_browser() as browser:
        drive_report(browser, shown["audit.report"].as_uri())


def test_tables_have_rows_and_show_themselves(shown: dict[str, Any]) -> None:
    tables = {line: value for line, value in shown.items() if hasattr(value, "columns")}
    assert len(tables) == 7
    assert all("<table" in table._repr_html_() for table in tables.values())
    filled = [line for line, table in tables.items() if len(table)]
    assert {"audit.recall", 'audit.classes.query("rank <= 3")'} <= set(filled)


def test_a_filter_shows_words_and_pictures(shown: dict[str, Any]) -> None:
    page = shown["audit.filter(812)"]._repr_html_()
    assert "bn2, filter 812" in page
    assert "<table" in page
    assert "data:image/png;base64," in page


def test_search_finds_what_the_table_says(shown: dict[str, Any]) -> None:
    from lavise.configs.errors import UserError

    audit = shown["names"]["audit"]
    explained = audit.filters[audit.filters["explained"]]
    word = explained.iloc[0]["words"][0]
    assert explained.iloc[0]["filter"] in set(audit.search(word)["filter"])
    assert len(audit.search("no such word")) == 0
    with pytest.raises(UserError, match="found 5000; layer bn2 has the filters 0 to 1279"):
        audit.filter(5000)
