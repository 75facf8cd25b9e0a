"""Names of metrics: the same in MLflow, on the command line and in a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """One layer of metrics.json under names as `closed/filter_attention/recall_at_5`.

    `_low` and `_high` stand for the ends of an interval.
    """
    flat = {k: float(v) for k, v in found.items() if isinstance(v, int | float)}
    flat.update({f"evaluation/{k}": float(v) for k, v in found["evaluation"].items() if isinstance(v, int | float)})
    for vocabulary, methods in found["recall"].items():
        flat[f"{vocabulary}/num_words"] = float(found["evaluation"]["vocabularies"][vocabulary])
        for method, by_s in methods.items():
            for s, summary in by_s.items():
                name = f"{vocabulary}/{method}/recall_at_{s}"
                flat |= {name: summary["value"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
    return flat
