"""The section on how good the words are: recall, regions, the panel, confidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar

from lavise.storage.state import file_names
from lavise.tasks.charts.figures import (
    SVG,
    draw_panel,
    draw_recall,
    draw_reliability,
)
from lavise.tasks.evaluation.layer_panel import load_panel
from lavise.tasks.evaluation.panel import Panel
from lavise.tasks.evaluation.recall import MOST_FREQUENT, RANDOM, load_evaluation, state_supported_order
from lavise.tasks.explainer.validation import load_validation
from lavise.tasks.numerics.bootstrap import Estimate
from lavise.tasks.numerics.reliability import Reliability
from lavise.tasks.report.filter_entries import LayerPart
from lavise.tasks.report.sections.common import make_chart

T = TypeVar("T")
_PANEL_FIGURES = (
    ("iou", "IoU"),
    ("pearson_image", "Pearson, pictures"),
    ("pearson_position", "Pearson, positions"),
    ("auprc_image", "AUPRC, pictures"),
    ("auprc_position", "AUPRC, positions"),
)
_PANEL_ROWS = ("explained", "all_filters")


class RecallRow(TypedDict):
    """A method, or a baseline, with its recall at each s."""

    method: str
    baseline: bool
    cells: list[Estimate]


class RecallTable(TypedDict):
    """Recall out of one vocabulary of so many words; `at` is the s of the columns."""

    vocabulary: str
    size: int
    at: list[str]
    rows: list[RecallRow]


class DescribedRecall(TypedDict):
    """Recall of every method; `order` says which is better, where that is certain."""

    num_pairs: int
    num_filters: int
    num_images: int
    tables: list[RecallTable]
    order: list[str]
    recall_chart: Mapping[str, str] | None


class PanelWords(TypedDict):
    """A row of the panel; a cell is None where there is nothing to take the mean of."""

    name: str
    baseline: bool
    num_statements: int
    share_right: float | None
    share_explained: float | None
    cells: list[Estimate | None]


class PanelTable(TypedDict):
    """The panel, what is judged first and then its baselines."""

    num_images: int
    columns: list[str]
    rows: list[PanelWords]


class DescribedTrust(TypedDict):
    """How far the words can be believed.

    Attributes:
        validation: validation.json; calibration: calibration.json, which is the ranking's own.
    """

    validation: Mapping[str, Any]
    calibration: Mapping[str, Any]
    confidence_chart: Mapping[str, str]
    panel_chart: Mapping[str, str]
    panel: PanelTable


class Quality(DescribedRecall, DescribedTrust):
    """What the template shows of a layer."""

    layer: str


def describe_quality(part: LayerPart) -> Quality:
    """Recall, regions that can be judged, the panel beside its baselines, and confidence; with their charts."""
    return {"layer": part.layer, **_describe_recall(part), **_describe_trust(part)}


def _describe_recall(part: LayerPart) -> DescribedRecall:
    found = load_evaluation(part.evaluated)
    tables: list[RecallTable] = []
    for vocabulary, by_method in found["recall"].items():
        at = sorted(next(iter(by_method.values())), key=int)
        rows: list[RecallRow] = [
            {
                "method": method.replace("_", " "),
                "baseline": method in {MOST_FREQUENT, RANDOM},
                "cells": [by_s[s] for s in at],
            }
            for method, by_s in by_method.items()
        ]
        tables.append({"vocabulary": vocabulary, "size": found["vocabularies"][vocabulary], "at": at, "rows": rows})
    methods = [m for m in next(iter(found["recall"].values()), {}) if m not in (MOST_FREQUENT, RANDOM)]
    alt = "Recall of each method and baseline, mean and 95 % interval; the figures are in the table below"
    return {
        "num_pairs": found["num_pairs"],
        "num_filters": found["num_filters"],
        "num_images": found["num_images"],
        "tables": tables,
        "order": state_supported_order(found, methods),
        "recall_chart": make_chart(draw_recall(found, SVG), alt) if tables else None,
    }


def _describe_trust(part: LayerPart) -> DescribedTrust:
    calibration = json.loads((part.explained / file_names.CALIBRATION).read_text("utf-8"))
    reliability = Reliability.from_json(calibration["reliability"])
    panel = load_panel(part.panel)
    columns = [*_PANEL_FIGURES, *((f"f1@{k}", f"F1@{k}") for k in _panel_at(panel))]
    validation = load_validation(part.validated)
    return {
        "validation": {**validation, "recall": {g: _order_by_s(by_s) for g, by_s in validation["recall"].items()}},
        "calibration": calibration,
        "confidence_chart": make_chart(
            draw_reliability(reliability, SVG),
            "Reliability diagram: share of right words by confidence, and how many words there are",
        ),
        "panel_chart": make_chart(
            draw_panel(panel, SVG),
            "Figures of the panel for the words of filters and for baselines; they are in the table below",
        ),
        "panel": {
            "num_images": panel["num_images"],
            "columns": [title for _, title in columns],
            "rows": [
                {
                    "name": name.replace("_", " "),
                    "baseline": name not in _PANEL_ROWS,
                    "num_statements": row["num_judged"],
                    "share_right": row.get("share_right"),
                    "share_explained": row.get("share_explained"),
                    "cells": [row["figures"].get(figure) for figure, _ in columns],
                }
                for name, row in sorted(panel["rows"].items(), key=lambda item: _place_of(item[0]))
            ],
        },
    }


def _order_by_s(by_s: Mapping[str, T]) -> dict[str, T]:
    """Files are sorted by text, where 10 goes before 5."""
    return dict(sorted(by_s.items(), key=lambda item: int(item[0]) if item[0].isdigit() else -1))


def _place_of(row: str) -> tuple[int, str]:
    """What is judged first, then its baselines."""
    return (_PANEL_ROWS.index(row) if row in _PANEL_ROWS else len(_PANEL_ROWS), row)


def _panel_at(panel: Panel) -> list[int]:
    figures = {figure for row in panel["rows"].values() for figure in row["figures"]}
    return sorted(int(figure.removeprefix("f1@")) for figure in figures if figure.startswith("f1@"))
