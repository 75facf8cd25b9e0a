"""Verdicts: what passes, what fails, what does not apply, and what is no rule for this run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavise.configs.errors import UserError
from lavise.configs.expectations import ExpectSettings
from lavise.configs.policy import ExpectationRule, MetricRule, Policy, WordRule, load_policy
from lavise.tasks.expectations.evidence import Evidence
from lavise.tasks.expectations.judging import JudgedWord, judge_layer
from lavise.tasks.history.filter_matching import DiffSummary, summarise
from lavise.tasks.history.policy_verdicts import (
    DIFF_METRICS,
    Outcome,
    RuleVerdict,
    apply_rules,
    collect_metrics,
    has_passed,
)
from lavise.tasks.words.tables import FILTERS_SCHEMA
from tests.unit.tasks.helpers import make_diff_row

CELL = {"value": 0.5, "low": 0.4, "high": 0.6}
MEASURED = {
    "num_filters": 4,
    "num_explained": 3,
    "num_saturated": 0,
    "mean_confidence": 0.25,
    "evaluation": {"num_pairs": 7, "num_filters": 4, "num_images": 5, "vocabularies": {"closed": 80}},
    "recall": {"closed": {"filter_attention": {"5": CELL}}},
    "differences": [],
    "regions": {
        "num_regions": 9,
        "p_value": 0.0005,
        "is_valid": True,
        "recall": {"all": {"num_regions": 9, "5": CELL}},
    },
    "panel": {"explained": {"num_judged": 2, "share_right": 0.5, "figures": {"iou": CELL, "f1@1": CELL}}},
}
COMPARED = {
    "num_old": 4,
    "share_changed": 0.25,
    "mean_similarity": None,
    "words_gained": ["face", "eye"],
    "words_lost": [],
    "old_layer": "bn1",
}


def make_filter(unit: int, *words: str, explained: bool = True, layer: str = "bn2") -> dict[str, Any]:
    return {"layer": layer, "filter": unit, "explained": explained, "words": list(words)}


def make_row(status: str, new: int | None, layer: str = "bn2") -> dict[str, Any]:
    return {"layer": layer, "status": status, "old_filter": 0, "new_filter": new}


def check_one(
    rule: MetricRule | WordRule,
    metrics: dict[str, dict[str, float]] | None = None,
    filters: Sequence[dict[str, Any]] = (),
    diff_rows: Sequence[dict[str, Any]] | None = None,
) -> RuleVerdict:
    policy = Policy(name="gate", rules=(rule,))
    (verdict,) = apply_rules(policy, {"bn2": {}} if metrics is None else metrics, filters, diff_rows)
    return verdict


def find_faults(rules: Sequence[MetricRule | WordRule], metrics: dict[str, dict[str, float]]) -> list[str]:
    with pytest.raises(UserError) as caught:
        apply_rules(Policy(name="gate", rules=tuple(rules)), metrics, (), None)
    return str(caught.value).splitlines()


# ---------------------------------------------------------------- metrics


def test_metrics_of_a_run_without_predecessor() -> None:
    assert collect_metrics({"layers": {"bn2": MEASURED}}, None) == {
        "bn2": {
            "num_filters": 4,
            "num_explained": 3,
            "num_saturated": 0,
            "mean_confidence": 0.25,
            "evaluation/num_pairs": 7,
            "evaluation/num_filters": 4,
            "evaluation/num_images": 5,
            "closed/num_words": 80,
            "closed/filter_attention/recall_at_5": 0.5,
            "closed/filter_attention/recall_at_5_low": 0.4,
            "closed/filter_attention/recall_at_5_high": 0.6,
            "regions/num_regions": 9,
            "regions/p_value": 0.0005,
            "regions/is_valid": 1,
            "regions/all/recall_at_5": 0.5,
            "regions/all/recall_at_5_low": 0.4,
            "regions/all/recall_at_5_high": 0.6,
            "panel/explained/num_judged": 2,
            "panel/explained/share_right": 0.5,
            "panel/explained/iou": 0.5,
            "panel/explained/iou_low": 0.4,
            "panel/explained/iou_high": 0.6,
            "panel/explained/f1_at_1": 0.5,
            "panel/explained/f1_at_1_low": 0.4,
            "panel/explained/f1_at_1_high": 0.6,
            "share_explained": 0.75,
        }
    }


def test_numbers_of_the_comparison_belong_to_their_layer() -> None:
    metrics = collect_metrics({"layers": {"bn1": MEASURED, "bn2": MEASURED}}, {"layers": {"bn2": COMPARED}})
    compared = {name: value for name, value in metrics["bn2"].items() if name not in metrics["bn1"]}
    assert math.isnan(compared.pop("diff/mean_similarity"))
    assert compared == {
        "diff/num_old": 4,
        "diff/share_changed": 0.25,
        "diff/num_words_gained": 2,
        "diff/num_words_lost": 0,
    }


def test_share_of_no_filters_is_no_number() -> None:
    metrics = collect_metrics({"layers": {"bn2": MEASURED | {"num_filters": 0, "num_explained": 0}}}, None)
    assert math.isnan(metrics["bn2"]["share_explained"])


def test_known_names_are_those_that_the_comparison_gives() -> None:
    row = make_diff_row("same", 0, 0, 1.0, True)
    counts = summarise([row], [make_filter(0, "cat")], [make_filter(0, "cat")])
    summary = DiffSummary(**counts, num_images=3, old_layer="bn2")
    metrics = collect_metrics({"layers": {"bn2": MEASURED}}, {"layers": {"bn2": summary}})
    assert {n.removeprefix("diff/") for n in metrics["bn2"] if n.startswith("diff/")} == set(DIFF_METRICS)


# ---------------------------------------------------------------- rules on metrics


@pytest.mark.parametrize(
    ("value", "bounds", "outcome", "found"),
    [
        (0.5, {"at_least": 0.4}, "passed", "0.5"),
        (0.4, {"at_least": 0.4}, "passed", "0.4"),
        (0.4, {"at_most": 0.4}, "passed", "0.4"),
        (0.3, {"at_least": 0.4}, "failed", "0.3"),
        (0.5, {"at_most": 0.4}, "failed", "0.5"),
        (0.5, {"at_least": 0.4, "at_most": 0.6}, "passed", "0.5"),
        (0.7, {"at_least": 0.4, "at_most": 0.6}, "failed", "0.7"),
        (12345.0, {"at_least": 1}, "passed", "12345"),
        (1 / 3, {"at_least": 0}, "passed", "0.3333"),
        (0.39999612345, {"at_least": 0.4}, "failed", "0.399996"),
        (0.4000001, {"at_most": 0.4}, "failed", "0.4000001"),
        (math.nan, {"at_least": 0}, "failed", "not a finite number: nan"),
        (math.nan, {"at_most": 0}, "failed", "not a finite number: nan"),
        (math.inf, {"at_least": 0}, "failed", "not a finite number: inf"),
    ],
)
def test_metric_and_bounds(value: float, bounds: dict[str, float], outcome: Outcome, found: str) -> None:
    rule = MetricRule(metric="share_explained", **bounds)
    verdict = check_one(rule, {"bn2": {"share_explained": value}})
    assert verdict == RuleVerdict(rule.title, "bn2", outcome, found, rule.allowed, ())


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.sampled_from(["at_least", "at_most"]))
def test_what_is_printed_says_the_same_as_the_verdict(value: float, bound: float, side: str) -> None:
    rule = MetricRule(metric="m", **{side: bound})
    verdict = check_one(rule, {"bn2": {"m": value}})
    printed, limit = float(verdict.found), float(verdict.allowed.split()[-1])
    assert limit == bound
    assert (verdict.outcome == "passed") == (printed >= limit if side == "at_least" else printed <= limit)
    assert printed == pytest.approx(value, rel=1e-3)


def test_a_rule_without_layer_is_judged_in_each_layer_on_its_own() -> None:
    rules = (MetricRule(metric="m", at_least=2), MetricRule(metric="m", at_least=0, layer="bn2"))
    verdicts = apply_rules(Policy(name="gate", rules=rules), {"bn1": {"m": 1}, "bn2": {"m": 3}}, (), None)
    assert [(v.rule, v.layer, v.outcome) for v in verdicts] == [
        ("m at least 2", "bn1", "failed"),
        ("m at least 2", "bn2", "passed"),
        ("m at least 0 in bn2", "bn2", "passed"),
    ]


def test_metric_that_only_another_layer_has_fails() -> None:
    rule = MetricRule(metric="m", at_least=0)
    verdicts = apply_rules(Policy(name="gate", rules=(rule,)), {"bn1": {}, "bn2": {"m": 3}}, (), None)
    assert [(v.outcome, v.found) for v in verdicts] == [("failed", "not measured"), ("passed", "3")]


# ---------------------------------------------------------------- rules on the comparison


@pytest.mark.parametrize("name", DIFF_METRICS)
def test_without_predecessor_a_rule_on_the_comparison_does_not_apply(name: str) -> None:
    rule = MetricRule(metric=f"diff/{name}", at_most=0.2)
    assert check_one(rule) == RuleVerdict(
        rule.title, "bn2", "not_applicable", "no predecessor to compare with", "at most 0.2"
    )


def test_layer_that_the_predecessor_lacks() -> None:
    rules = (MetricRule(metric="diff/share_changed", at_most=0.2), WordRule(forbidden_words=("face",)))
    metrics = collect_metrics({"layers": {"bn1": MEASURED, "bn2": MEASURED}}, {"layers": {"bn2": COMPARED}})
    verdicts = apply_rules(Policy(name="gate", rules=rules), metrics, [], [make_row("lost", None)])
    assert [(v.layer, v.outcome, v.found) for v in verdicts] == [
        ("bn1", "not_applicable", "the predecessor has no such layer"),
        ("bn2", "failed", "0.25"),
        ("bn1", "not_applicable", "the predecessor has no such layer"),
        ("bn2", "passed", "none among 0 filters"),
    ]


def test_number_that_the_comparison_could_not_give_fails() -> None:
    metrics = collect_metrics({"layers": {"bn2": MEASURED}}, {"layers": {"bn2": COMPARED}})
    rules = (MetricRule(metric="diff/mean_similarity", at_least=0), MetricRule(metric="diff/num_moved", at_most=9))
    verdicts = apply_rules(Policy(name="gate", rules=rules), metrics, [], [make_row("same", 0)])
    assert [(v.outcome, v.found) for v in verdicts] == [
        ("failed", "not a finite number: nan"),
        ("failed", "not measured"),
    ]


# ---------------------------------------------------------------- rules on words


@pytest.mark.parametrize(
    ("status", "expected"),
    [(("any",), (0, 1, 2, 3)), (("new",), (2, 3)), (("changed",), (1,)), (("new", "changed"), (1, 2, 3))],
)
def test_filters_are_chosen_by_status_and_unnamed_ones_are_new(
    status: tuple[Any, ...], expected: tuple[int, ...]
) -> None:
    filters = [make_filter(unit, "face") for unit in (3, 2, 1, 0)]
    rows = [make_row("same", 0), make_row("changed", 1), make_row("new", 2), make_row("lost", None)]
    verdict = check_one(WordRule(forbidden_words=("face",), status=status), None, filters, rows)
    assert (verdict.outcome, verdict.filters) == ("failed", expected)


def test_status_counts_in_its_own_layer_only() -> None:
    filters = [make_filter(0, "face", layer="bn1"), make_filter(1, "face", layer="bn1"), make_filter(0, "face")]
    rows = [make_row("same", 0, "bn1"), make_row("same", 1, "bn1"), make_row("new", 0, "bn2")]
    policy = Policy(name="gate", rules=(WordRule(forbidden_words=("face",)),))
    verdicts = apply_rules(policy, {"bn1": {}, "bn2": {}}, filters, rows)
    assert [(v.layer, v.outcome, v.filters) for v in verdicts] == [("bn1", "passed", ()), ("bn2", "failed", (0,))]


@pytest.mark.parametrize("status", [("new",), ("changed",), ("new", "changed")])
def test_without_predecessor_no_filter_is_new_or_changed(status: tuple[Any, ...]) -> None:
    verdict = check_one(WordRule(forbidden_words=("face",), status=status), None, [make_filter(0, "face")], None)
    assert (verdict.outcome, verdict.found) == ("not_applicable", "no predecessor to compare with")


@pytest.mark.parametrize(
    ("forbidden", "words", "breaks"),
    [
        ("face", ("face",), True),
        ("Face", ("FACE",), True),
        ("straße", ("STRASSE",), True),
        ("caf\u00e9", ("Cafe\u0301",), True),
        ("face", ("surface", "faces", "face paint"), False),
        ("ice cream", ("ice", "cream"), False),
        ("ice cream", ("Ice Cream",), True),
        ("fa.e", ("face",), False),
        ("face", (), False),
    ],
)
def test_exact_words_in_upper_and_lower_case(forbidden: str, words: tuple[str, ...], breaks: bool) -> None:
    rule = WordRule(forbidden_words=(forbidden,), status=("any",), num_words=3)
    assert check_one(rule, None, [make_filter(0, *words)]).outcome == ("failed" if breaks else "passed")


@pytest.mark.parametrize(("num_words", "outcome"), [(1, "passed"), (2, "passed"), (3, "failed"), (50, "failed")])
def test_only_the_first_words_count(num_words: int, outcome: str) -> None:
    rule = WordRule(forbidden_words=("face",), status=("any",), num_words=num_words)
    assert check_one(rule, None, [make_filter(0, "cat", "dog", "face")]).outcome == outcome


def test_unexplained_filters_do_not_count() -> None:
    rule = WordRule(forbidden_words=("face",), status=("any",))
    filters = [make_filter(0, "face", explained=False), make_filter(1, "cat")]
    verdict = check_one(rule, None, filters)
    assert (verdict.outcome, verdict.found, verdict.filters) == ("passed", "none among 1 filter", ())


@pytest.mark.parametrize(
    ("num", "found"),
    [
        (1, "filter 0: Face, skin"),
        (5, "filter 0: Face, skin; filter 1: face; filter 2: face; filter 3: face; filter 4: face"),
        (6, "filter 0: Face, skin; filter 1: face; filter 2: face; filter 3: face; filter 4: face; and 1 more filter"),
        (9, "filter 0: Face, skin; filter 1: face; filter 2: face; filter 3: face; filter 4: face; and 4 more filters"),
    ],
)
def test_first_offenders_are_named_and_all_are_listed(num: int, found: str) -> None:
    filters = [make_filter(0, "Face", "cat", "skin"), *(make_filter(unit, "face") for unit in range(1, num))]
    rule = WordRule(forbidden_words=("face", "skin"), status=("any",), num_words=3)
    verdict = check_one(rule, None, [*filters, make_filter(num, "cat")])
    assert (verdict.found, verdict.filters) == (found, tuple(range(num)))
    assert verdict.allowed == "not among the first 3 words of explained filters"


WORDS = st.lists(st.sampled_from(["face", "Skin", "cat", "dog"]), max_size=4)
STATUSES = st.sampled_from(["same", "changed", "new"])


@given(
    st.lists(st.tuples(WORDS, st.booleans(), STATUSES), min_size=1, max_size=6),
    st.sampled_from([("any",), ("new",), ("changed",), ("new", "changed")]),
    st.integers(1, 4),
)
def test_words_vs_a_plain_loop(
    units: list[tuple[list[str], bool, str]], status: tuple[Any, ...], num_words: int
) -> None:
    filters = [make_filter(n, *words, explained=explained) for n, (words, explained, _) in enumerate(units)]
    rows = [make_row(found, n) for n, (_, _, found) in enumerate(units)]
    expected = []
    for n, (words, explained, found) in enumerate(units):
        meant = explained and ("any" in status or found in status)
        if meant and any(word.lower() in ("face", "skin") for word in words[:num_words]):
            expected.append(n)
    rule = WordRule(forbidden_words=("face", "skin"), status=status, num_words=num_words)
    verdict = check_one(rule, None, filters, rows)
    assert verdict.filters == tuple(expected)
    assert verdict.outcome == ("failed" if expected else "passed")


# ---------------------------------------------------------------- rules that do not fit the run


def test_unknown_names_are_answered_with_the_closest_in_one_line_each() -> None:
    metrics = collect_metrics({"layers": {"bn1": MEASURED, "bn2": MEASURED}}, None)
    rules = (
        MetricRule(metric="share_explaned", at_least=0.4),
        MetricRule(metric="num_filters", at_least=1, layer="bn3"),
        MetricRule(metric="diff/share_chnaged", at_most=0.2),
        WordRule(forbidden_words=("face",), layer="conv"),
    )
    lines = find_faults(rules, metrics)
    assert [line.split("; allowed: ")[0] for line in lines] == [
        "policy gate: rules.0.metric: found 'share_explaned'",
        "policy gate: rules.1.layer: found 'bn3'",
        "policy gate: rules.2.metric: found 'diff/share_chnaged'",
        "policy gate: rules.3.layer: found 'conv'",
    ]
    closest = [line.split("the closest: ")[1].split(", ") for line in lines]
    assert [len(names) for names in closest] == [5, 2, 5, 2]
    assert closest[0][0] == "share_explained"
    assert closest[2][0] == "diff/share_changed"
    assert set(closest[1]) == set(closest[3]) == {"bn1", "bn2"}


def test_line_of_an_unknown_layer_in_full() -> None:
    assert find_faults([WordRule(forbidden_words=("face",), layer="bn3")], {"bn2": {}}) == [
        "policy gate: rules.0.layer: found 'bn3'; allowed: a layer of the run, the closest: bn2"
    ]


def test_line_of_an_unknown_metric_in_full() -> None:
    assert find_faults([MetricRule(metric="diff/share_gone", at_most=1)], {"bn2": {}}) == [
        "policy gate: rules.0.metric: found 'diff/share_gone'; allowed: a metric of the run, the closest: "
        "diff/share_new, diff/share_lost, diff/share_kept, diff/share_changed, diff/num_new"
    ]


def test_a_run_without_layers_passes_nothing() -> None:
    assert find_faults([WordRule(forbidden_words=("face",))], {}) == [
        "policy gate: the run has no layer; give the folder of a finished run"
    ]


# ---------------------------------------------------------------- the whole


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["passed", "not_applicable"], True),
        (["not_applicable"], True),
        (["passed", "failed", "passed"], False),
    ],
)
def test_one_failed_rule_fails_the_audit(outcomes: list[Any], expected: bool) -> None:
    assert has_passed(tuple(RuleVerdict("r", None, outcome, "", "") for outcome in outcomes)) is expected


def test_default_policy_on_rows_as_they_are_stored(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([make_filter(unit, "dog", "Face") for unit in range(4)], FILTERS_SCHEMA)
    parquet.write_table(table, tmp_path / "filters.parquet")
    filters = parquet.read_table(tmp_path / "filters.parquet").to_pylist()
    run, policy = {"layers": {"bn2": MEASURED}}, load_policy("default")
    alone = apply_rules(policy, collect_metrics(run, None), filters, None)
    assert [v.outcome for v in alone] == ["passed", "not_applicable", "not_applicable", "not_applicable"]
    assert has_passed(alone)
    summary = {"layers": {"bn2": COMPARED | {"share_lost": 0.0}}}
    rows = [make_row("same", 0), make_row("changed", 1), make_row("same", 2), make_row("same", 3)]
    compared = apply_rules(policy, collect_metrics(run, summary), filters, rows)
    assert [(v.outcome, v.filters) for v in compared] == [
        ("passed", ()),
        ("failed", ()),
        ("passed", ()),
        ("failed", (1,)),
    ]
    assert not has_passed(compared)


# Expected words


def judge_nothing(layer: str, outcomes: dict[str, str]) -> Callable[[ExpectSettings], list[JudgedWord]]:
    """What became of each word, whatever is asked."""

    def judge(expected: ExpectSettings) -> list[JudgedWord]:
        evidence = Evidence(layer, [{"filter": 3, "explained": True, "words": ["moon"], "confidence": 0.5}], [])
        judged, _ = judge_layer(evidence, expected)
        return [replace(row, outcome=outcomes.get(row.word, row.outcome)) for row in judged]

    return judge


@pytest.mark.parametrize(
    ("outcomes", "unclear", "outcome"),
    [
        ({"dog": "met"}, "fails", "passed"),
        ({"dog": "unclear"}, "fails", "failed"),
        ({"dog": "unclear"}, "passes", "passed"),
        ({"dog": "broken"}, "passes", "failed"),
    ],
)
def test_a_rule_expects_words(outcomes: dict[str, str], unclear: str, outcome: str) -> None:
    rule = ExpectationRule.model_validate({"expect": {"must": "dog"}, "unclear": unclear})
    policy = Policy(name="gate", rules=(rule,))
    (verdict,) = apply_rules(policy, {"bn2": {}}, (), None, judge_nothing("bn2", outcomes))
    assert (verdict.rule, verdict.layer, verdict.outcome) == ("must matter: dog", "bn2", outcome)
    assert verdict.found == "all 1 met" if outcomes["dog"] == "met" else verdict.found.startswith("must dog: ")


def test_filters_of_a_word_that_must_not_matter_are_named() -> None:
    rule = ExpectationRule.model_validate({"expect": {"must_not": ["moon", "dog"]}, "unclear": "passes"})
    (verdict,) = apply_rules(Policy(name="gate", rules=(rule,)), {"bn2": {}}, (), None, judge_nothing("bn2", {}))
    assert (verdict.outcome, verdict.filters) == ("failed", (3,))
    assert verdict.found.startswith("must not moon: broken, 1 filter says it (moon); ")
    assert "; must not dog: cannot be told, " in verdict.found


def test_what_nobody_has_looked_at_is_not_passed() -> None:
    rule = ExpectationRule.model_validate({"expect": {"must": "dog"}, "unclear": "passes"})
    (verdict,) = apply_rules(Policy(name="gate", rules=(rule,)), {"bn2": {}}, (), None)
    assert (verdict.outcome, verdict.found) == ("failed", "not looked at")
