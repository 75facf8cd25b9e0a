"""The section of the analysis `expect`: which expected words matter, and which filters say them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavise.tasks.analyses.kinds import expectations
from lavise.tasks.expectations.judging import IN_WORDS
from lavise.tasks.report.filter_entries import read_rows
from lavise.tasks.report.sections.common import make_anchor
from lavise.tasks.report.sections.section import Found, Section

_MAX_WORDS, _MAX_FILTERS = 4, 8


def describe_expectations(layer: str, folder: Path) -> Found:
    """Each word with its outcome, the reason, and the filters that say it."""
    facts = json.loads((folder / expectations.FACTS_FILE).read_text("utf-8"))
    filters = read_rows(folder / expectations.FILTERS_FILE)
    rows = [_describe_word(row, filters, layer) for row in read_rows(folder / expectations.TABLE_FILE)]
    return {"layer": layer, **facts, "rows": rows}


def _describe_word(row: Mapping[str, Any], filters: list[dict[str, Any]], layer: str) -> dict[str, Any]:
    own = [f for f in filters if (f["expected"], f["word"]) == (row["expected"], row["word"])]
    return {
        **row,
        "in_words": IN_WORDS[row["outcome"]],
        "said": [_describe_said(said, own, layer) for said in row["says"][:_MAX_WORDS]],
        "most_filters": _MAX_FILTERS,
    }


def _describe_said(said: str, filters: Sequence[Mapping[str, Any]], layer: str) -> dict[str, Any]:
    """One word of filters that means the expected one: its filters, the most confident first."""
    own = [f for f in filters if f["says"] == said]
    hrefs = [{"filter": f["filter"], "href": make_anchor(layer, f["filter"])} for f in own]
    return {"says": said, "how": own[0]["how"], "confidence": own[0]["confidence"], "hrefs": hrefs}


SECTION = Section(
    analysis=expectations.STAGE.name,
    link="Expected",
    describe=describe_expectations,
    template="expectations.html.j2",
)
