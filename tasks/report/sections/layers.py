"""The cards above everything: how many filters of each layer are explained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavise.storage.state import file_names
from lavise.tasks.classifier import ablation
from lavise.tasks.evaluation import layer_panel
from lavise.tasks.report.filter_entries import LayerPart, LayerTables
from lavise.tasks.report.verdict import describe_trust


@dataclass(frozen=True)
class LayerCard:
    """Numbers of a layer's filters.

    Attributes:
        shape: of its maps, as text.
        num_several: explained by several meanings; num_novel: by a word that is none of the explainer's categories.
        num_never: above their threshold on no picture; num_saturated: at their clip.
        advice: what would help where few are explained.
        num_supervised, num_held_out: categories of the explainer.
        verdict: how right the words are, and how far the network's own answers hold here.
    """

    name: str
    shape: str
    num_filters: int
    num_explained: int
    num_several: int
    num_novel: int
    num_never: int
    num_saturated: int
    advice: str
    num_supervised: int
    num_held_out: int
    verdict: tuple[str, ...] = ()


def describe_layer(tables: LayerTables) -> LayerCard:
    part, filters = tables.part, tables.filters
    facts = json.loads((part.explainer / file_names.EXPLAINER_FACTS).read_text("utf-8"))
    explained = [f for f in filters if not f["reason"]]
    return LayerCard(
        name=part.layer,
        shape=" x ".join(str(n) for n in part.shape),
        num_filters=len(filters),
        num_explained=len(explained),
        num_several=sum(len(f["meanings"]) > 1 for f in explained),
        num_novel=sum(
            any(w["novel"] and w["significant"] for w in tables.words_of.get(f["filter"], [])) for f in explained
        ),
        num_never=sum(f["num_images"] == 0 for f in filters),
        num_saturated=sum(bool(f["saturated"]) for f in filters),
        advice=part.advice,
        num_supervised=len(facts["supervised"]),
        num_held_out=len(facts["held_out"]),
        verdict=tuple(_list_verdict(part, _measure_novel(tables, explained))),
    )


def _measure_novel(tables: LayerTables, explained: Sequence[Mapping[str, Any]]) -> float:
    """Share of the words found that are none of the explainer's categories."""
    words = [w["novel"] for f in explained for w in tables.words_of.get(f["filter"], []) if w["significant"]]
    return sum(words) / len(words) if words else 0.0


def _list_verdict(part: LayerPart, share_novel: float) -> list[str]:
    causes = part.analyses.get(ablation.STAGE.name)
    facts = json.loads((causes / ablation.SUMMARY_FILE).read_text("utf-8")) if causes else {}
    accuracy = facts.get("accuracy")
    measured = {"accuracy": accuracy["before"]} if accuracy else {}
    panel = layer_panel.load_panel(part.panel)["rows"]
    return describe_trust({"panel": panel, "share_novel": share_novel, "causes": measured})
