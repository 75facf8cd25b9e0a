"""Names of metrics."""

from __future__ import annotations

import json
import math
from typing import Any

from lavise.tasks.history.metric_names import flatten_metrics, spell_numbers

CELL = {"value": 0.5, "low": 0.4, "high": 0.6}
RECALL: dict[str, Any] = {
    "num_filters": 3,
    "evaluation": {"num_pairs": 7, "vocabularies": {"closed": 80}},
    "recall": {"closed": {"original": {"5": CELL}}},
    "differences": [],
}
NAMED_RECALL = {
    "num_filters": 3.0,
    "evaluation/num_pairs": 7.0,
    "closed/num_words": 80.0,
    "closed/original/recall_at_5": 0.5,
    "closed/original/recall_at_5_low": 0.4,
    "closed/original/recall_at_5_high": 0.6,
}
NO_REGIONS: dict[str, Any] = {"num_regions": 0, "p_value": 1.0, "is_valid": False, "recall": {}}


def test_metrics_are_named_by_vocabulary_method_and_s() -> None:
    found = flatten_metrics({**RECALL, "regions": NO_REGIONS, "panel": {}})
    assert found == {**NAMED_RECALL, "regions/num_regions": 0, "regions/p_value": 1, "regions/is_valid": 0}
    assert {type(v) for v in found.values()} == {float}


def test_regions_are_named_by_group_and_s() -> None:
    regions = {
        "num_regions": 9,
        "hit_rate": 0.75,
        "is_valid": True,
        "recall": {"all": {"num_regions": 9, "5": CELL}, "held_out": {"num_regions": 2, "10": CELL}},
    }
    found = flatten_metrics({**RECALL, "regions": regions, "panel": {}})
    assert {k: v for k, v in found.items() if k not in NAMED_RECALL} == {
        "regions/num_regions": 9,
        "regions/hit_rate": 0.75,
        "regions/is_valid": 1,
        "regions/all/recall_at_5": 0.5,
        "regions/all/recall_at_5_low": 0.4,
        "regions/all/recall_at_5_high": 0.6,
        "regions/held_out/recall_at_10": 0.5,
        "regions/held_out/recall_at_10_low": 0.4,
        "regions/held_out/recall_at_10_high": 0.6,
    }


def test_panel_is_named_by_row_and_figure() -> None:
    """A share that nothing can be said about is no number; and MLflow takes no @ in a name."""
    panel = {
        "explained": {"num_judged": 4, "share_right": 0.25, "share_explained": 0.5, "figures": {"f1@5": CELL}},
        "random_words": {"num_judged": 0, "share_right": None, "figures": {}},
    }
    found = flatten_metrics({**RECALL, "regions": NO_REGIONS, "panel": panel})
    assert {k: v for k, v in found.items() if k.startswith("panel/")} == {
        "panel/explained/num_judged": 4,
        "panel/explained/share_right": 0.25,
        "panel/explained/share_explained": 0.5,
        "panel/explained/f1_at_5": 0.5,
        "panel/explained/f1_at_5_low": 0.4,
        "panel/explained/f1_at_5_high": 0.6,
        "panel/random_words/num_judged": 0,
    }


def test_runs_of_earlier_versions_have_no_regions_and_no_panel() -> None:
    assert flatten_metrics(RECALL) == NAMED_RECALL


def test_findings_are_named_by_their_kind() -> None:
    found = flatten_metrics({**RECALL, "bias": {"num_found": 3}, "causes": {"num_used": 2, "direct": True}})
    assert {k: v for k, v in found.items() if k not in NAMED_RECALL} == {
        "bias/num_found": 3,
        "causes/num_used": 2,
        "causes/direct": 1,
    }


def test_numbers_that_json_lacks_are_written_as_text_and_read_again() -> None:
    measured = {**RECALL, "regions": NO_REGIONS, "panel": {}}
    found = {**measured, "loudness": math.inf, "quiet": math.nan, "few": [1.0, -math.inf]}
    written = json.dumps(spell_numbers(found), allow_nan=False)
    again = flatten_metrics(json.loads(written))
    assert again["loudness"] == math.inf
    assert math.isnan(again["quiet"])
    assert json.loads(written)["few"] == [1.0, "-inf"]
    finite = flatten_metrics(measured)
    assert {k: v for k, v in again.items() if k in finite} == finite
