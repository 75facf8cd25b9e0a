"""Comparing two runs of the same audit: bit for bit, and within a tolerance where bits cannot be the same.

Another class of device adds floating-point numbers in another order, so the maps differ in their last bits, the trained
explainers somewhat more, and near ties between words may fall the other way. What still counts as repeated there is
stated in `TOLERANCES`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as parquet

from lavise.storage.state import file_names
from lavise.tasks.activations import extract
from lavise.tasks.history import filter_matching
from lavise.tasks.report import page

Outcome = Literal["identical", "within tolerance", "different", "not compared"]
TABLES = (file_names.EXPLANATIONS, file_names.FILTERS)
WEIGHTS_FILE, METRICS_FILE = file_names.EXPLAINER_WEIGHTS, file_names.METRICS
TOLERANCES = {
    "relative difference of a threshold": 0.02,
    "share of filters beyond that difference": 0.01,
    "share of filters with another first word": 0.1,
    "difference of a recall": 0.03,
}


@dataclass(frozen=True)
class Finding:
    """One thing that was compared."""

    what: str
    outcome: Outcome
    detail: str


def compare_stages(
    old: Mapping[str, Sequence[Mapping[str, Any]]], new: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Finding]:
    """Every file that every stage made, by its sha256.

    A comparison with an earlier audit is not repeated: neither its stages nor the page that shows it are compared.

    Args:
        old, new: title -> what it made, a {stage, digest, files: {name: sha256}} for each layer.
    """
    missing = {title: {e["stage"] for e in entries} for title, entries in old.items() if title not in new}
    had_comparison = any(filter_matching.STAGE.name in kinds for kinds in missing.values())
    of_comparison = {filter_matching.STAGE.name, extract.STAGE.name} if had_comparison else set()
    findings = []
    for title, entries in old.items():
        what = f"stage {title}"
        if title not in new and missing[title] <= of_comparison:
            findings.append(Finding(what, "not compared", "part of a comparison with an earlier audit"))
        elif title not in new:
            findings.append(Finding(what, "different", "there then, not now"))
        else:
            shows_it = had_comparison and title == page.STAGE.name
            findings.append(_compare_files(what, entries, new[title], {file_names.REPORT} if shows_it else set()))
    return findings + [Finding(f"stage {t}", "different", "there now, not then") for t in new if t not in old]


def _compare_files(
    what: str, old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], left_out: set[str]
) -> Finding:
    differing = []
    num_files = 0
    for before, after in zip(old, new, strict=False):
        names = sorted({*before["files"], *after["files"]} - left_out)
        num_files += len(names)
        differing += [n for n in names if before["files"].get(n) != after["files"].get(n)]
    if len(old) != len(new):
        differing.append(f"{len(old)} artefacts then, {len(new)} now")
    detail = f"{num_files} files" if not differing else f"differ: {', '.join(differing[:4])}"
    if left_out:
        detail += f"; {', '.join(sorted(left_out))} shows a comparison with an earlier audit and was left out"
    return Finding(what, "different" if differing else "identical", detail)


def compare_results(old: Path, new: Path) -> list[Finding]:
    """Tables, weights and metrics of two run folders."""
    return [
        *(_compare_table(old / name, new / name, name) for name in TABLES),
        _compare_weights(old / WEIGHTS_FILE, new / WEIGHTS_FILE),
        _compare_metrics(old / METRICS_FILE, new / METRICS_FILE),
        *_compare_within_tolerance(old, new),
    ]


def conclude_repetition(findings: Sequence[Finding], same_device_class: bool) -> tuple[Outcome, bool]:
    """The verdict, and whether it counts as a repetition.

    On the same class of device only the very same bits do; on another one, what is within the tolerance.
    """
    compared = [f for f in findings if f.outcome != "not compared"]
    exact = [f for f in compared if not f.what.startswith("tolerance: ")]
    if all(f.outcome == "identical" for f in exact):
        return "identical", True
    tolerated = all(f.outcome != "different" for f in compared if f.what.startswith("tolerance: "))
    return ("within tolerance", not same_device_class) if tolerated else ("different", False)


def _compare_table(old: Path, new: Path, name: str) -> Finding:
    before, after = parquet.read_table(old), parquet.read_table(new)
    if before.schema != after.schema or before.num_rows != after.num_rows:
        return Finding(name, "different", f"{before.num_rows} rows then, {after.num_rows} now, or other columns")
    differing = [
        column
        for column in before.column_names
        if not _same_bits(before[column].to_pylist(), after[column].to_pylist())
    ]
    if differing:
        return Finding(name, "different", f"columns that differ: {', '.join(differing)}")
    return Finding(name, "identical", f"{before.num_rows} rows, {before.num_columns} columns")


def _same_bits(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Equal values; the same not-a-number counts as equal, 0 and -0 do not."""
    # repr() tells every two different floats apart, and shows the sign of 0.
    return repr(old) == repr(new)


def _compare_weights(old: Path, new: Path) -> Finding:
    from safetensors.numpy import load_file

    before, after = load_file(old), load_file(new)
    if before.keys() != after.keys():
        return Finding(
            WEIGHTS_FILE, "different", f"tensors that are in one only: {sorted(before.keys() ^ after.keys())}"
        )
    differing = [
        n
        for n in before
        if before[n].dtype != after[n].dtype
        or before[n].shape != after[n].shape
        or before[n].tobytes() != after[n].tobytes()
    ]
    if not differing:
        return Finding(WEIGHTS_FILE, "identical", f"{len(before)} tensors")
    other_shape = [n for n in differing if before[n].shape != after[n].shape]
    if other_shape:
        return Finding(WEIGHTS_FILE, "different", f"tensors of other shapes: {', '.join(sorted(other_shape))}")
    largest = max(float(np.abs(before[n].astype(float) - after[n]).max(initial=0)) for n in differing)
    return Finding(WEIGHTS_FILE, "different", f"{len(differing)} of {len(before)} tensors, at most by {largest:.3g}")


def _compare_metrics(old: Path, new: Path) -> Finding:
    before, after = (json.loads(p.read_text("utf-8")) for p in (old, new))
    if repr(before) == repr(after):
        return Finding(METRICS_FILE, "identical", f"{len(before['layers'])} layers")
    names = sorted({*before["layers"], *after["layers"]})
    differing = [n for n in names if repr(before["layers"].get(n)) != repr(after["layers"].get(n))]
    return Finding(METRICS_FILE, "different", f"layers that differ: {', '.join(differing)}")


def _compare_within_tolerance(old: Path, new: Path) -> list[Finding]:
    """Filters, and recalls, that only one of the two has count as different."""
    before, after = (_rows_by_filter(folder / file_names.FILTERS) for folder in (old, new))
    shared = sorted(before.keys() & after.keys())
    thresholds = np.array([[rows[k]["threshold"] for k in shared] for rows in (before, after)])
    scale = np.maximum(np.abs(thresholds).max(axis=0), 1e-6)
    beyond = np.abs(thresholds[0] - thresholds[1]) / scale > TOLERANCES["relative difference of a threshold"]
    words = [[rows[k]["words"][:1] if rows[k]["explained"] else None for k in shared] for rows in (before, after)]
    other = [a != b for a, b in zip(*words, strict=True)]
    recall_old, recall_new = (_read_recalls(folder / METRICS_FILE) for folder in (old, new))
    recalls = [abs(v - recall_new[k]) if k in recall_new else 1.0 for k, v in recall_old.items()]
    recalls += [1.0 for k in recall_new if k not in recall_old]
    num_alone = len(before.keys() ^ after.keys())
    num_filters = max(len(shared) + num_alone, 1)
    values = {
        "share of filters beyond that difference": (int(beyond.sum()) + num_alone) / num_filters,
        "share of filters with another first word": (sum(other) + num_alone) / num_filters,
        "difference of a recall": max(recalls, default=0.0),
    }
    return [
        Finding(
            f"tolerance: {name}",
            "identical" if value == 0 else "within tolerance" if value <= TOLERANCES[name] else "different",
            f"{value:.4f}, allowed {TOLERANCES[name]}",
        )
        for name, value in values.items()
    ]


def _rows_by_filter(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {(r["layer"], r["filter"]): r for r in parquet.read_table(path).to_pylist()}


def _read_recalls(path: Path) -> dict[tuple[str, ...], float]:
    layers = json.loads(path.read_text("utf-8"))["layers"]
    return {
        (layer, vocabulary, method, s): float(summary["value"])
        for layer, found in layers.items()
        for vocabulary, methods in found["recall"].items()
        for method, by_s in methods.items()
        for s, summary in by_s.items()
    }
