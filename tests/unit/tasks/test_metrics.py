"""Names of metrics."""

from __future__ import annotations

from tasks.metrics import flatten_metrics


def test_metrics_are_named_by_vocabulary_method_and_s() -> None:
    cell = {"value": 0.5, "low": 0.4, "high": 0.6}
    found = {
        "num_filters": 3,
        "evaluation": {"num_pairs": 7, "vocabularies": {"closed": 80}},
        "recall": {"closed": {"original": {"5": cell}}},
        "differences": [],
    }
    assert flatten_metrics(found) == {
        "num_filters": 3.0,
        "evaluation/num_pairs": 7.0,
        "closed/num_words": 80.0,
        "closed/original/recall_at_5": 0.5,
        "closed/original/recall_at_5_low": 0.4,
        "closed/original/recall_at_5_high": 0.6,
    }
