"""Names of metrics: the same in MLflow, on the command line and in a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavise.tasks.analyses.analysis import list_analyses


def flatten_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """One layer of metrics.json under names as `closed/filter_attention/recall_at_5`.

    `_low` and `_high` stand for the ends of an interval. What was not asked for, or not known to the version that ran,
    is not there.
    """
    flat = {k: float(v) for k, v in found.items() if isinstance(v, int | float)}
    flat.update({f"evaluation/{k}": float(v) for k, v in found["evaluation"].items() if isinstance(v, int | float)})
    flat.update({f"kinds/{kind}": float(number) for kind, number in found.get("kinds", {}).items()})
    for vocabulary, methods in found["recall"].items():
        flat[f"{vocabulary}/num_words"] = float(found["evaluation"]["vocabularies"][vocabulary])
        for method, by_s in methods.items():
            for s, summary in by_s.items():
                flat |= _name_interval(f"{vocabulary}/{method}/recall_at_{s}", summary)
    regions = found.get("regions", {"recall": {}})
    for group, by_s in regions["recall"].items():
        for s, summary in by_s.items():
            if isinstance(summary, Mapping):
                flat |= _name_interval(f"regions/{group}/recall_at_{s}", summary)
    flat |= {f"regions/{k}": float(v) for k, v in regions.items() if isinstance(v, int | float)}
    for row, content in found.get("panel", {}).items():
        flat |= {f"panel/{row}/{k}": float(v) for k, v in content.items() if isinstance(v, int | float)}
        for figure, summary in content["figures"].items():
            flat |= _name_interval(f"panel/{row}/{figure.replace('@', '_at_')}", summary)
    for name in (analysis.name for analysis in list_analyses()):
        flat |= {f"{name}/{k}": float(v) for k, v in found.get(name, {}).items() if isinstance(v, int | float)}
    return flat


def _name_interval(name: str, summary: Mapping[str, float]) -> dict[str, float]:
    return {name: summary["value"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
