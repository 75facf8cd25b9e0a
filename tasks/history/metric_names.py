"""Names of metrics: the same in MLflow, on the command line and in a policy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lavise.tasks.analyses.analysis import list_analyses

_SPELLED = ("nan", "inf", "-inf")


def flatten_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """One layer of metrics.json under names as `closed/filter_attention/recall_at_5`.

    `_low` and `_high` stand for the ends of an interval. What was not asked for, or not known to the version that ran,
    is not there.
    """
    flat = dict(_list_numbers(found))
    flat.update({f"evaluation/{k}": v for k, v in _list_numbers(found["evaluation"])})
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
    flat |= {f"regions/{k}": v for k, v in _list_numbers(regions)}
    for row, content in found.get("panel", {}).items():
        flat |= {f"panel/{row}/{k}": v for k, v in _list_numbers(content)}
        for figure, summary in content["figures"].items():
            flat |= _name_interval(f"panel/{row}/{figure.replace('@', '_at_')}", summary)
    for name in (analysis.name for analysis in list_analyses()):
        flat |= {f"{name}/{k}": v for k, v in _list_numbers(found.get(name, {}))}
    return flat


def spell_numbers(value: Any) -> Any:
    """The same, with numbers that JSON lacks as text: `nan`, `inf` and `-inf`, which `flatten_metrics` reads again."""
    if isinstance(value, Mapping):
        return {k: spell_numbers(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [spell_numbers(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _list_numbers(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in found.items():
        if isinstance(value, int | float) or (isinstance(value, str) and value in _SPELLED):
            yield name, float(value)


def _name_interval(name: str, summary: Mapping[str, float | str]) -> dict[str, float]:
    ends = {name: summary["value"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
    return {k: float(v) for k, v in ends.items()}
