"""The charts of the report as files, for MLflow and for whoever does not open the page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from lavise.tasks.charts.figures import draw_causes, draw_classes, draw_panel, draw_recall
from lavise.tasks.evaluation.layer_panel import load_panel
from lavise.tasks.evaluation.recall import load_evaluation
from lavise.tasks.report.filter_entries import LayerPart, read_rows
from lavise.tasks.report.sections import draw_contrast, read_contrasts

FIGURES_FOLDER = "figures"


def write_figures(parts: Sequence[LayerPart], folder: Path) -> None:
    """Write folder/figures/LAYER-NAME.png."""
    (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
    for part in parts:
        for name, content in _draw_layer(part):
            (folder / FIGURES_FOLDER / f"{part.layer}-{name}.png").write_bytes(content)


def _draw_layer(part: LayerPart) -> Iterator[tuple[str, bytes]]:
    found = load_evaluation(part.evaluated)
    if found["recall"]:
        yield "recall", draw_recall(found)
    yield "panel", draw_panel(load_panel(part.panel))
    if part.classes and (rows := read_rows(part.classes / "classes.parquet")):
        yield "classes", draw_classes(rows)
    if part.causes and (rows := read_rows(part.causes / "causes.parquet")):
        yield "causes", draw_causes(rows)
    if part.bias:
        filters, words = read_contrasts(part.bias)
        contrasts = json.loads((part.bias / "bias.json").read_text("utf-8"))["contrasts"]
        for number, contrast in enumerate(contrasts, start=1):
            yield f"bias-{number}" if len(contrasts) > 1 else "bias", draw_contrast(contrast, filters, words)
