"""The charts of the report as files, for MLflow and for whoever does not open the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lavise.tasks.charts.figures import draw_panel, draw_recall
from lavise.tasks.evaluation.layer_panel import load_panel
from lavise.tasks.evaluation.recall import load_evaluation
from lavise.tasks.report.filter_entries import LayerPart
from lavise.tasks.report.sections.section import list_sections

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
    for section in list_sections():
        if section.analysis in part.analyses:
            yield from section.draw(part.analyses[section.analysis])
