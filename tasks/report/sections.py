"""What the report's page says above the filters: how good the words are, classes, causes, groups, and what changed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lavise.storage.state import file_names
from lavise.tasks.charts.figures import (
    PNG,
    SVG,
    ShareRow,
    darken,
    draw_causes,
    draw_classes,
    draw_diff,
    draw_panel,
    draw_recall,
    draw_reliability,
    draw_shares,
)
from lavise.tasks.evaluation.layer_panel import load_panel
from lavise.tasks.evaluation.recall import MOST_FREQUENT, RANDOM, load_evaluation, state_supported_order
from lavise.tasks.explainer.validation import load_validation
from lavise.tasks.numerics.reliability import Reliability
from lavise.tasks.report.filter_entries import DiffPart, LayerPart, LayerTables, read_changes, read_rows

_MAX_DIFF_ROWS = 300
_MAX_CLASSES, _CLASS_WORDS, _CLASS_FILTERS = 30, 2, 3
_MAX_BIAS_ROWS, _BIAS_PICTURE_ROWS, _BIAS_CHART_ROWS, _BIAS_CHARTS = 50, 12, 14, 4
_WORDS = 3
_SAFE = "!*'()"  # what encodeURIComponent in the page's script leaves as it is
_PANEL_FIGURES = (
    ("iou", "IoU"),
    ("pearson_image", "Pearson, pictures"),
    ("pearson_position", "Pearson, positions"),
    ("auprc_image", "AUPRC, pictures"),
    ("auprc_position", "AUPRC, positions"),
)
_PANEL_ROWS = ("explained", "all_filters")


def make_anchor(layer: str, unit: int) -> str:
    """Where a filter opens: the link that the page's script understands."""
    return f"#filter-{quote(layer, safe=_SAFE)}-{unit}"


def make_chart(drawing: bytes, alt: str) -> dict[str, str]:
    """A chart (SVG) of the page, for light and dark: {light, dark, alt}, the first two as data: URIs."""
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(content).decode("ascii")
        for content in (drawing, darken(drawing))
    )
    return {"light": light, "dark": dark, "alt": alt}


def describe_layer(tables: LayerTables) -> dict[str, Any]:
    part, filters = tables.part, tables.filters
    facts = json.loads((part.explainer / file_names.EXPLAINER_FACTS).read_text("utf-8"))
    explained = [f for f in filters if not f["reason"]]
    return {
        "name": part.layer,
        "shape": " x ".join(str(n) for n in part.shape),
        "num_filters": len(filters),
        "num_explained": len(explained),
        "num_several": sum(len(f["meanings"]) > 1 for f in explained),
        "num_novel": sum(
            any(w["novel"] and w["significant"] for w in tables.words_of.get(f["filter"], [])) for f in explained
        ),
        "num_never": sum(f["num_images"] == 0 for f in filters),
        "num_saturated": sum(bool(f["saturated"]) for f in filters),
        "advice": part.advice,
        "num_supervised": len(facts["supervised"]),
        "num_held_out": len(facts["held_out"]),
    }


# ---------------------------------------------------------------- how good the words are


def describe_quality(part: LayerPart) -> dict[str, Any]:
    """Recall, regions that can be judged, the panel beside its baselines, and confidence; with their charts."""
    return {"layer": part.layer, **_describe_recall(part), **_describe_trust(part)}


def _describe_recall(part: LayerPart) -> dict[str, Any]:
    found = load_evaluation(part.evaluated)
    tables = []
    for vocabulary, methods in found["recall"].items():
        at = sorted(next(iter(methods.values())), key=int)
        rows = [
            {
                "method": method.replace("_", " "),
                "baseline": method in {MOST_FREQUENT, RANDOM},
                "cells": [by_s[s] for s in at],
            }
            for method, by_s in methods.items()
        ]
        size = found["vocabularies"][vocabulary]
        tables.append({"vocabulary": vocabulary, "size": size, "at": at, "rows": rows})
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


def _describe_trust(part: LayerPart) -> dict[str, Any]:
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
                    "share_right": row["share_right"],
                    "share_explained": row.get("share_explained"),
                    "cells": [row["figures"].get(figure) for figure, _ in columns],
                }
                for name, row in sorted(panel["rows"].items(), key=lambda item: _place_of(item[0]))
            ],
        },
    }


def _order_by_s(by_s: Mapping[str, Any]) -> dict[str, Any]:
    """Files are sorted by text, where 10 goes before 5."""
    return dict(sorted(by_s.items(), key=lambda item: int(item[0]) if item[0].isdigit() else -1))


def _place_of(row: str) -> tuple[int, str]:
    """What is judged first, then its baselines."""
    return (_PANEL_ROWS.index(row) if row in _PANEL_ROWS else len(_PANEL_ROWS), row)


def _panel_at(panel: Mapping[str, Any]) -> list[int]:
    figures = {figure for row in panel["rows"].values() for figure in row["figures"]}
    return sorted(int(figure.removeprefix("f1@")) for figure in figures if figure.startswith("f1@"))


# ---------------------------------------------------------------- classes


def describe_classes(part: LayerPart) -> dict[str, Any] | None:
    """Which filters the classes lean on; None where that is not known."""
    if part.classes is None:
        return None
    facts = json.loads((part.classes / "classes.json").read_text("utf-8"))
    rows_of: dict[int, list[dict[str, Any]]] = {}
    for row in read_rows(part.classes / "classes.parquet"):
        rows_of.setdefault(row["class"], []).append({**row, "href": make_anchor(part.layer, row["filter"])})
    highest = max((abs(r["contribution"]) for rows in rows_of.values() for r in rows), default=1.0) or 1.0
    shown = []
    for entry in facts["classes"][:_MAX_CLASSES]:
        rows = sorted(rows_of.get(entry["class"], []), key=lambda r: r["rank"])
        shown.append({**entry, "rows": rows, "leans": [_name_filter(r) for r in rows[:_CLASS_FILTERS]]})
    alt = "Contribution of filters to the logits of the classes that are named most; figures are in the tables below"
    return {
        "layer": part.layer,
        **facts,
        "shown": shown,
        "num_classes": len(facts["classes"]),
        "highest": highest,
        "chart": make_chart(draw_classes([r for rows in rows_of.values() for r in rows], SVG), alt) if shown else None,
    }


def _name_filter(row: Mapping[str, Any]) -> dict[str, Any]:
    words = ", ".join(list(row["words"] or [])[:_CLASS_WORDS])
    return {"filter": row["filter"], "href": row["href"], "words": words}


# ---------------------------------------------------------------- causes


def describe_causes(part: LayerPart) -> dict[str, Any] | None:
    """What happens where a word's filters are taken away; None where that was not looked at."""
    if part.causes is None:
        return None
    facts = json.loads((part.causes / "causes.json").read_text("utf-8"))
    rows = [
        {
            **row,
            "hrefs": [{"filter": u, "href": make_anchor(part.layer, u)} for u in row["filters"]],
            "changes": read_changes(row["classes"]),
        }
        for row in read_rows(part.causes / "causes.parquet")
    ]
    rows.sort(key=lambda r: (not r["used"], r["own_logit"] if r["own_logit"] is not None else 0.0, r["word"]))
    alt = "Change of the predicted logit without the filters of a word, beside random sets; figures are in the table"
    return {
        "layer": part.layer,
        **facts,
        "rows": rows,
        "chart": make_chart(draw_causes(rows, SVG), alt) if rows else None,
        "num_used": sum(bool(r["used"]) for r in rows),
        "has_masks": any(r["num_with"] is not None for r in rows),
        "has_accuracy": any(r["accuracy_before_with"] is not None for r in rows),
    }


# ---------------------------------------------------------------- bias


def describe_bias(part: LayerPart) -> dict[str, Any] | None:
    """Where groups of pictures differ; None where there are no groups."""
    if part.bias is None:
        return None
    facts = json.loads((part.bias / "bias.json").read_text("utf-8"))
    filters, words = read_contrasts(part.bias)
    shown = [
        {**r, "words": list(r["words"] or [])[:_WORDS], "href": make_anchor(part.layer, r["filter"])}
        for r in filters[:_MAX_BIAS_ROWS]
    ]
    for row in shown[:_BIAS_PICTURE_ROWS]:
        row["has_pictures"] = bool(row["found"] and (row["pictures_group"] or row["pictures_other"]))
    return {
        "layer": part.layer,
        **facts,
        "filters": shown,
        "with_pictures": [r for r in shown if r.get("has_pictures")],
        "num_filter_rows": len(filters),
        "words": [
            {**r, "hrefs": [{"filter": u, "href": make_anchor(part.layer, u)} for u in r["filters"]]}
            for r in words[:_MAX_BIAS_ROWS]
        ],
        "num_word_rows": len(words),
        "charts": [_chart_contrast(c, filters, words) for c in facts["contrasts"][:_BIAS_CHARTS]],
    }


def read_contrasts(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of filters and of words, the strongest evidence first."""
    filters, words = (_order_contrasts(read_rows(folder / f"bias_{what}.parquet")) for what in ("filters", "words"))
    return filters, words


def list_bias_pictures(bias: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(role, key) of the pictures that the section shows."""
    if bias is None:
        return []
    keys = [(r["pictures_group"] or []) + (r["pictures_other"] or []) for r in bias["with_pictures"]]
    return [(str(bias["images"]), key) for own in keys for key in own]


def _order_contrasts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was found first, then the smallest q values, then the largest differences; ties as they come."""

    def place(row: Mapping[str, Any]) -> tuple[bool, float, float]:
        q_value = row["q_value"] if row["q_value"] is not None else 1.0
        return (not row["found"], q_value, -abs(row["difference"] or 0.0))

    return sorted(rows, key=place)


def draw_contrast(
    contrast: Mapping[str, Any],
    filters: Sequence[Mapping[str, Any]],
    words: Sequence[Mapping[str, Any]],
    kind: str = PNG,
) -> bytes:
    """Shares of both groups, of what has the strongest evidence: words, or filters where no word differs."""

    def own(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [r for r in rows if (r["group"], r["other"]) == (contrast["group"], contrast["other"])]

    chosen, what = own(words)[:_BIAS_CHART_ROWS], "words"
    if not any(r["found"] for r in chosen):
        chosen, what = own(filters)[:_BIAS_CHART_ROWS], "filters"
    rows = [ShareRow(_label(r), r["share_group"] or 0.0, r["share_other"] or 0.0, bool(r["found"])) for r in chosen]
    title = f"The {len(rows)} {what} with the strongest evidence"
    return draw_shares(title, contrast["group"], contrast["other"], rows, kind)


def _chart_contrast(contrast: Mapping[str, Any], filters: Any, words: Any) -> dict[str, str]:
    alt = (
        f"Shares of qualified pictures in {contrast['group']} and {contrast['other']}; figures are in the tables below"
    )
    return make_chart(draw_contrast(contrast, filters, words, SVG), alt)


def _label(row: Mapping[str, Any]) -> str:
    if "word" in row:
        return str(row["word"])
    words = ", ".join(list(row["words"] or [])[:2])
    return f"{row['filter']}: {words}" if words else str(row["filter"])


# ---------------------------------------------------------------- what changed


def describe_diff(diff: DiffPart, with_links: bool) -> dict[str, Any]:
    other = [r for r in diff.rows if r["status"] != "same"]
    other.sort(key=lambda r: (-2.0 if r["similarity"] is None else r["similarity"], r["layer"]))
    return {
        "old_run": diff.old_run,
        "old_name": diff.old_name,
        "old_checkpoint": diff.old_checkpoint,
        "same_at": diff.settings.same_at,
        "related_at": diff.settings.related_at,
        "num_images": max(found["num_images"] for found in diff.summary.values()),
        "layers": [{"name": layer, **found} for layer, found in diff.summary.items()],
        "chart": make_chart(
            draw_diff(diff.rows, diff.summary, SVG),
            "Numbers of filters by status, and the distribution of the correlation of matched filters",
        ),
        "num_not_same": len(other),
        "rows": [
            {**row, "anchor": make_anchor(row["layer"], row["new_filter"]) if with_links else ""}
            for row in other[:_MAX_DIFF_ROWS]
        ],
    }
