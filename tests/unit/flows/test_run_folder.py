"""Names of metrics, and the JSON line."""

from __future__ import annotations

import json
from pathlib import Path

from flows.run_folder import RunResult, _flat


def test_metrics_are_named_by_vocabulary_method_and_s() -> None:
    cell = {"value": 0.5, "low": 0.4, "high": 0.6}
    found = {
        "num_filters": 3,
        "evaluation": {"num_pairs": 7, "vocabularies": {"closed": 80}},
        "recall": {"closed": {"original": {"5": cell}}},
        "differences": [],
    }
    assert _flat(found) == {
        "num_filters": 3.0,
        "evaluation/num_pairs": 7.0,
        "closed/num_words": 80.0,
        "closed/original/recall_at_5": 0.5,
        "closed/original/recall_at_5_low": 0.4,
        "closed/original/recall_at_5_high": 0.6,
    }


def test_json_is_one_line_that_reads_back() -> None:
    stage = {"digest": "ab", "cached": True, "seconds": 0.0}
    result = RunResult("id", None, Path("/runs/id"), {"a/b": 1.0}, {"extract train": stage}, 0)
    line = result.to_json()
    assert "\n" not in line
    assert json.loads(line)["run_dir"] == "/runs/id"
    assert json.loads(line)["stages"] == {"extract train": stage}
