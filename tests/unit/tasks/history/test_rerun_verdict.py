"""Two runs of the same audit: the same bits, or within a tolerance, or not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from safetensors.numpy import save_file

from lavise.storage.state.files import write_json
from lavise.tasks.history.rerun_verdict import TOLERANCES, Finding, compare_results, compare_stages, conclude_repetition
from lavise.tasks.words.tables import FILTERS_SCHEMA
from tests.unit.tasks.helpers import AnyArray

Rows = list[dict[str, Any]]
NUM_FILTERS = 100
EXPLANATIONS_SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("filter", pa.int32()),
        ("word", pa.string()),
        ("score", pa.float32()),
        ("votes", pa.int32()),
    ]
)


def make_filters() -> Rows:
    """100 filters of two layers; the first is dead."""
    empty: dict[str, Any] = {"string": "", "float": 0.5, "double": 0.5, "bool": True}
    plain = {f.name: [] if pa.types.is_list(f.type) else empty.get(str(f.type), 0) for f in FILTERS_SCHEMA}
    rows = [
        plain
        | {"layer": f"l{u % 2}", "filter": u // 2, "threshold": 1.0 + u, "explained": True, "words": [f"w{u}", "x"]}
        for u in range(NUM_FILTERS)
    ]
    rows[0] |= {"threshold": 0.0, "explained": False, "words": []}
    return rows


def make_explanations() -> Rows:
    return [
        {"layer": "l0", "filter": 0, "word": "dog", "score": 0.0, "votes": 3},
        {"layer": "l0", "filter": 1, "word": "cat", "score": math.nan, "votes": 2},
        {"layer": "l1", "filter": 0, "word": "sky", "score": 0.1, "votes": 1},
    ]


def make_weights() -> dict[str, AnyArray]:
    rng = np.random.default_rng(0)
    return {
        "embed.weight": rng.normal(size=(6, 4)).astype(np.float32),
        "norm.num_batches_tracked": np.array(7, np.int64),
        "norm.running_mean": np.zeros(4, np.float32),
    }


def make_metrics(recall: float = 0.5) -> dict[str, Any]:
    cell = {"value": recall, "low": 0.4, "high": 0.6}
    layer = {"num_filters": 50, "recall": {"closed": {"original": {"5": cell}, "random_words": {"5": {"value": 0.1}}}}}
    return {"layers": {"l0": layer, "l1": {"num_filters": 50, "recall": {}}}}


def write_run(
    folder: Path,
    filters: Rows | None = None,
    explanations: Rows | None = None,
    weights: dict[str, AnyArray] | None = None,
    metrics: dict[str, Any] | None = None,
    schema: pa.Schema = EXPLANATIONS_SCHEMA,
) -> Path:
    folder.mkdir()
    table = pa.Table.from_pylist(make_filters() if filters is None else filters, FILTERS_SCHEMA)
    parquet.write_table(table, folder / "filters.parquet")
    words = make_explanations() if explanations is None else explanations
    parquet.write_table(pa.Table.from_pylist(words, schema), folder / "explanations.parquet")
    save_file(make_weights() if weights is None else weights, folder / "explainer.safetensors")
    write_json(folder / "metrics.json", make_metrics() if metrics is None else metrics)
    return folder


def compare_with(root: Path, **changes: Any) -> dict[str, Finding]:
    """Findings of a run, and of one that differs by `changes`, by what was compared."""
    found = compare_results(write_run(root / "old"), write_run(root / "new", **changes))
    assert len({f.what for f in found}) == len(found)
    return {f.what: f for f in found}


def differing(found: dict[str, Finding]) -> set[str]:
    return {f.what for f in found.values() if f.outcome != "identical"}


# ---------------------------------------------------------------- results


def test_same_results_are_identical(tmp_path: Path) -> None:
    found = compare_with(tmp_path)
    assert differing(found) == set()
    assert found["filters.parquet"].detail.startswith("100 rows, ")
    assert found["explanations.parquet"].detail == "3 rows, 5 columns"
    assert found["explainer.safetensors"].detail == "3 tensors"
    assert found["metrics.json"].detail == "2 layers"
    assert conclude_repetition(list(found.values()), same_device_class=True) == ("identical", True)
    assert conclude_repetition(list(found.values()), same_device_class=False) == ("identical", True)


@pytest.mark.parametrize(
    ("row", "score"),
    [(0, -0.0), (1, 0.0), (2, float(np.nextafter(np.float32(0.1), np.float32(1)))), (2, math.nan), (1, None)],
    ids=["sign of 0", "number for not-a-number", "last bit", "not-a-number for number", "nothing for not-a-number"],
)
def test_one_value_of_a_table(tmp_path: Path, row: int, score: float | None) -> None:
    rows = make_explanations()
    rows[row]["score"] = score
    found = compare_with(tmp_path, explanations=rows)
    assert differing(found) == {"explanations.parquet"}
    assert found["explanations.parquet"] == Finding("explanations.parquet", "different", "columns that differ: score")
    assert conclude_repetition(list(found.values()), same_device_class=True) == ("within tolerance", False)
    assert conclude_repetition(list(found.values()), same_device_class=False) == ("within tolerance", True)


@pytest.mark.parametrize(
    "change",
    [lambda rows: rows[:2], lambda rows: [*rows, rows[0]], lambda rows: []],
    ids=["one row less", "one row more", "no row"],
)
def test_other_rows(tmp_path: Path, change: Callable[[Rows], Rows]) -> None:
    rows = change(make_explanations())
    found = compare_with(tmp_path, explanations=rows)
    assert found["explanations.parquet"].outcome == "different"
    assert found["explanations.parquet"].detail == f"3 rows then, {len(rows)} now, or other columns"


def test_rows_in_another_order_are_different(tmp_path: Path) -> None:
    assert differing(compare_with(tmp_path, explanations=make_explanations()[::-1])) == {"explanations.parquet"}


@pytest.mark.parametrize("kind", [pa.float64(), pa.float16()])
def test_column_of_another_type(tmp_path: Path, kind: pa.DataType) -> None:
    schema = EXPLANATIONS_SCHEMA.set(3, pa.field("score", kind))
    rows = [{**r, "score": 0.5} for r in make_explanations()]
    old = write_run(tmp_path / "old", explanations=rows)
    found = compare_results(old, write_run(tmp_path / "new", explanations=rows, schema=schema))
    assert {f.what for f in found if f.outcome != "identical"} == {"explanations.parquet"}


def test_one_bit_of_a_weight(tmp_path: Path) -> None:
    weights = make_weights()
    weights["embed.weight"].view(np.uint32)[5, 3] ^= 1
    found = compare_with(tmp_path, weights=weights)
    assert differing(found) == {"explainer.safetensors"}
    assert found["explainer.safetensors"].detail.startswith("1 of 3 tensors, at most by ")
    assert 0 < float(found["explainer.safetensors"].detail.split()[-1]) < 1e-6
    assert conclude_repetition(list(found.values()), same_device_class=True)[1] is False


def test_sign_of_a_weight_that_is_zero(tmp_path: Path) -> None:
    weights = make_weights()
    weights["norm.running_mean"][2] = -0.0
    found = compare_with(tmp_path, weights=weights)
    assert found["explainer.safetensors"] == Finding(
        "explainer.safetensors", "different", "1 of 3 tensors, at most by 0"
    )


def test_largest_difference_of_the_weights(tmp_path: Path) -> None:
    weights = make_weights()
    weights["norm.running_mean"][1] = -0.25
    weights["norm.num_batches_tracked"] = np.array(4, np.int64)
    detail = compare_with(tmp_path, weights=weights)["explainer.safetensors"].detail
    assert detail == "2 of 3 tensors, at most by 3"


@pytest.mark.parametrize(
    ("name", "tensor", "detail"),
    [
        ("norm.running_mean", np.zeros(5, np.float32), "tensors of other shapes: norm.running_mean"),
        ("norm.running_mean", np.zeros((2, 2), np.float32), "tensors of other shapes: norm.running_mean"),
        ("norm.running_mean", np.zeros(4, np.int32), "1 of 3 tensors, at most by 0"),
        ("more", np.zeros(1, np.float32), "tensors that are in one only: ['more']"),
    ],
    ids=["size", "shape", "type", "name"],
)
def test_tensor_of_another_kind(tmp_path: Path, name: str, tensor: AnyArray, detail: str) -> None:
    found = compare_with(tmp_path, weights=make_weights() | {name: tensor})
    assert found["explainer.safetensors"] == Finding("explainer.safetensors", "different", detail)


def test_metrics_that_differ_are_named_by_layer(tmp_path: Path) -> None:
    other = make_metrics()
    other["layers"]["l1"]["num_filters"] = 51
    found = compare_with(tmp_path, metrics=other)
    assert found["metrics.json"] == Finding("metrics.json", "different", "layers that differ: l1")


def test_layer_that_only_one_has(tmp_path: Path) -> None:
    other = make_metrics()
    other["layers"]["l2"] = other["layers"]["l1"]
    found = compare_with(tmp_path, metrics=other)
    assert found["metrics.json"] == Finding("metrics.json", "different", "layers that differ: l2")


# ---------------------------------------------------------------- tolerance


def test_tolerances_are_what_is_documented() -> None:
    assert TOLERANCES == {
        "relative difference of a threshold": 0.02,
        "share of filters beyond that difference": 0.01,
        "share of filters with another first word": 0.1,
        "difference of a recall": 0.03,
    }


@pytest.mark.parametrize(
    ("factors", "outcome", "detail"),
    [
        ([1.019, 1.0202, 0.981] * 20, "identical", "0.0000, allowed 0.01"),
        ([1.03], "within tolerance", "0.0100, allowed 0.01"),
        ([0.97], "within tolerance", "0.0100, allowed 0.01"),
        ([1.03, 0.97], "different", "0.0200, allowed 0.01"),
    ],
)
def test_tolerance_of_thresholds(tmp_path: Path, factors: list[float], outcome: str, detail: str) -> None:
    """2 %, of all but one filter in a hundred."""
    rows = make_filters()
    for row, factor in zip(rows[1:], factors, strict=False):
        row["threshold"] *= factor
    found = compare_with(tmp_path, filters=rows)
    finding = found["tolerance: share of filters beyond that difference"]
    assert (finding.outcome, finding.detail) == (outcome, detail)
    assert found["filters.parquet"] == Finding("filters.parquet", "different", "columns that differ: threshold")
    verdict = ("different", False) if outcome == "different" else ("within tolerance", True)
    assert conclude_repetition(list(found.values()), same_device_class=False) == verdict
    assert conclude_repetition(list(found.values()), same_device_class=True) == (verdict[0], False)


@pytest.mark.parametrize(("number", "outcome"), [(1, "within tolerance"), (10, "within tolerance"), (11, "different")])
def test_tolerance_of_words(tmp_path: Path, number: int, outcome: str) -> None:
    """Only the first word counts; one filter in ten may have another one, or none."""
    rows = make_filters()
    for row in rows[20:]:
        row["words"] = [row["words"][0], "y"]
    for row in rows[1:number]:
        row["words"] = ["other", *row["words"]]
    rows[number]["explained"] = False
    finding = compare_with(tmp_path, filters=rows)["tolerance: share of filters with another first word"]
    assert (finding.outcome, finding.detail) == (outcome, f"{number / 100:.4f}, allowed 0.1")


def test_threshold_of_a_dead_filter_has_no_relative_difference(tmp_path: Path) -> None:
    rows = make_filters()
    rows[0]["threshold"] = 1e-9
    finding = compare_with(tmp_path, filters=rows)["tolerance: share of filters beyond that difference"]
    assert finding.outcome == "identical"


def test_further_words_are_not_looked_at(tmp_path: Path) -> None:
    rows = make_filters()
    for row in rows[1:]:
        row["words"] = [row["words"][0], "y"]
    found = compare_with(tmp_path, filters=rows)
    assert differing(found) == {"filters.parquet"}


@pytest.mark.parametrize(
    ("recall", "outcome"), [(0.529, "within tolerance"), (0.471, "within tolerance"), (0.531, "different")]
)
def test_tolerance_of_recalls(tmp_path: Path, recall: float, outcome: str) -> None:
    found = compare_with(tmp_path, metrics=make_metrics(recall))
    finding = found["tolerance: difference of a recall"]
    assert (finding.outcome, finding.detail) == (outcome, f"{abs(recall - 0.5):.4f}, allowed 0.03")
    assert found["metrics.json"].detail == "layers that differ: l0"


@pytest.mark.parametrize("swap", [False, True])
def test_what_only_one_has_is_beyond_every_tolerance(tmp_path: Path, swap: bool) -> None:
    """Twenty filters, and a recall."""
    metrics = make_metrics()
    del metrics["layers"]["l0"]["recall"]["closed"]["original"]
    folders = [
        write_run(tmp_path / "whole"),
        write_run(tmp_path / "less", filters=make_filters()[:80], metrics=metrics),
    ]
    found = {f.what: f for f in compare_results(*(folders[::-1] if swap else folders))}
    assert found["tolerance: share of filters beyond that difference"].detail == "0.2000, allowed 0.01"
    assert found["tolerance: share of filters with another first word"].outcome == "different"
    assert found["tolerance: difference of a recall"].outcome == "different"
    assert conclude_repetition(list(found.values()), same_device_class=False) == ("different", False)


# ---------------------------------------------------------------- stages


def entry(stage: str, **files: str) -> dict[str, Any]:
    return {"stage": stage, "digest": f"digest of {files}", "files": {n.replace("_", "."): s for n, s in files.items()}}


STAGES = {
    "train l0": [entry("train", explainer_json="aa", weights_bin="bb")],
    "extract target": [entry("extract", index_json="c0"), entry("extract", index_json="c1")],
    "report": [entry("report", report_html="dd", overview_png="ee")],
}


def by_title(found: list[Finding]) -> dict[str, Finding]:
    assert all(f.what.startswith("stage ") for f in found)
    return {f.what.removeprefix("stage "): f for f in found}


def test_same_files_of_every_stage(tmp_path: Path) -> None:
    found = compare_stages(STAGES, json.loads(json.dumps(STAGES)))
    assert [(f.what, f.outcome, f.detail) for f in found] == [
        ("stage train l0", "identical", "2 files"),
        ("stage extract target", "identical", "2 files"),
        ("stage report", "identical", "2 files"),
    ]
    assert conclude_repetition(found, same_device_class=True) == ("identical", True)


@pytest.mark.parametrize(
    ("files", "detail"),
    [
        ({"explainer_json": "aa", "weights_bin": "XX"}, "differ: weights.bin"),
        ({"explainer_json": "aa"}, "differ: weights.bin"),
        ({"explainer_json": "aa", "weights_bin": "bb", "a_b": "c"}, "differ: a.b"),
        ({"explainer_json": "XX", "weights_bin": "XX"}, "differ: explainer.json, weights.bin"),
        ({f"f{i}": "c" for i in range(9)}, "differ: explainer.json, f0, f1, f2"),
    ],
    ids=["content", "missing", "more", "both", "many"],
)
def test_file_that_differs_is_named(files: dict[str, str], detail: str) -> None:
    found = compare_stages(STAGES, STAGES | {"train l0": [entry("train", **files)]})
    assert by_title(found)["train l0"] == Finding("stage train l0", "different", detail)
    assert [f.outcome for f in found[1:]] == ["identical", "identical"]
    assert conclude_repetition(found, same_device_class=True)[1] is False


def test_file_of_the_second_layer_and_another_number_of_layers() -> None:
    changed = [entry("extract", index_json="c0"), entry("extract", index_json="XX")]
    assert (
        by_title(compare_stages(STAGES, STAGES | {"extract target": changed}))["extract target"].outcome == "different"
    )
    found = by_title(compare_stages(STAGES, STAGES | {"extract target": changed[:1]}))
    assert found["extract target"].detail == "differ: 2 artefacts then, 1 now"


def test_stage_that_is_missing_is_different() -> None:
    less = {title: entries for title, entries in STAGES.items() if title != "train l0"}
    assert by_title(compare_stages(STAGES, less))["train l0"] == Finding(
        "stage train l0", "different", "there then, not now"
    )
    assert by_title(compare_stages(less, STAGES))["train l0"] == Finding(
        "stage train l0", "different", "there now, not then"
    )
    for old, new in ((STAGES, less), (less, STAGES)):
        assert conclude_repetition(compare_stages(old, new), same_device_class=True)[1] is False


def test_comparison_with_an_earlier_audit_is_not_repeated() -> None:
    """Its stages are missing, and the page that shows it is another one; all else has to be the same."""
    comparison = {
        "extract target of 0123456789ab": [entry("extract", index_json="ff")],
        "diff l0": [entry("diff", diff_parquet="gg")],
    }
    old = STAGES | comparison
    found = by_title(compare_stages(old, STAGES | {"report": [entry("report", report_html="XX", overview_png="ee")]}))
    assert {title: f.outcome for title, f in found.items()} == {
        "train l0": "identical",
        "extract target": "identical",
        "report": "identical",
        "extract target of 0123456789ab": "not compared",
        "diff l0": "not compared",
    }
    assert found["report"].detail == "1 files; report.html shows a comparison with an earlier audit and was left out"
    assert conclude_repetition(list(found.values()), same_device_class=True) == ("identical", True)
    for change in (
        {"report": [entry("report", report_html="XX", overview_png="XX")]},
        {"train l0": [entry("train", explainer_json="XX")]},
    ):
        assert conclude_repetition(compare_stages(old, STAGES | change), same_device_class=True)[1] is False
    without_training = {title: entries for title, entries in STAGES.items() if title != "train l0"}
    assert conclude_repetition(compare_stages(old, without_training), same_device_class=True)[1] is False


def test_page_of_an_audit_without_comparison_has_to_be_the_same() -> None:
    changed = STAGES | {"report": [entry("report", report_html="XX", overview_png="ee")]}
    assert by_title(compare_stages(STAGES, changed))["report"].detail == "differ: report.html"


def test_repeated_comparison_is_compared() -> None:
    old = STAGES | {"diff l0": [entry("diff", diff_parquet="gg")]}
    assert {f.outcome for f in compare_stages(old, old)} == {"identical"}
    changed = old | {"diff l0": [entry("diff", diff_parquet="XX")]}
    assert by_title(compare_stages(old, changed))["diff l0"].outcome == "different"


# ---------------------------------------------------------------- verdict


@pytest.mark.parametrize(
    ("exact", "tolerance", "same_class", "other_class"),
    [
        ("identical", "identical", ("identical", True), ("identical", True)),
        ("different", "identical", ("within tolerance", False), ("within tolerance", True)),
        ("different", "within tolerance", ("within tolerance", False), ("within tolerance", True)),
        ("different", "different", ("different", False), ("different", False)),
    ],
)
def test_verdict(exact: Any, tolerance: Any, same_class: tuple[str, bool], other_class: tuple[str, bool]) -> None:
    found = [
        Finding("stage diff", "not compared", ""),
        Finding("stage train", exact, ""),
        Finding("filters.parquet", "identical", ""),
        Finding("tolerance: one", tolerance, ""),
        Finding("tolerance: other", "identical", ""),
    ]
    assert conclude_repetition(found, same_device_class=True) == same_class
    assert conclude_repetition(found, same_device_class=False) == other_class
