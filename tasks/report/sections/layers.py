"""The cards above everything: how many filters of each layer are explained."""

from __future__ import annotations

import json
from typing import Any

from lavise.storage.state import file_names
from lavise.tasks.report.filter_entries import LayerTables


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
