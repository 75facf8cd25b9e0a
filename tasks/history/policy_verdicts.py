"""Whether an audit fulfils a policy: a verdict for each rule and layer, with what was found and what is allowed.

A rule is never passed for want of numbers: without a predecessor, rules on the comparison are `not_applicable`, and a
metric that was not measured fails.
"""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lavise.configs.errors import UserError
from lavise.configs.expectations import MUST_NOT, ExpectSettings
from lavise.configs.policy import ExpectationRule, MetricRule, Policy, WordRule
from lavise.tasks.expectations.judging import BROKEN, IN_WORDS, UNCLEAR, JudgedWord
from lavise.tasks.history.metric_names import flatten_metrics

DIFF_PREFIX = "diff/"
DIFF_METRICS = (
    "num_old",
    "num_new",
    "num_same",
    "num_changed",
    "num_lost",
    "num_new_filters",
    "num_moved",
    "num_uncertain",
    "share_kept",
    "share_changed",
    "share_lost",
    "share_new",
    "mean_similarity",
    "num_images",
    "num_words_gained",
    "num_words_lost",
)
"""Names, without `diff/`, that a rule may use before there is a predecessor."""
Metrics = Mapping[str, Mapping[str, float]]
Judge = Callable[[ExpectSettings], Sequence[JudgedWord]]
Outcome = Literal["passed", "failed", "not_applicable"]
_NUM_CLOSE = 5
_NUM_SHOWN = 5
_NO_PREDECESSOR = "no predecessor to compare with"
_NOT_COMPARED = "the predecessor has no such layer"


@dataclass(frozen=True)
class RuleVerdict:
    """What became of one rule in one layer.

    Attributes:
        rule: its name.
        found: the value, or the words and their filters, or why the rule does not apply.
        allowed: what the rule allows.
        filters: those that break the rule, ascending; only rules on words have them.
    """

    rule: str
    layer: str | None
    outcome: Outcome
    found: str
    allowed: str
    filters: tuple[int, ...] = ()


def collect_metrics(metrics: Mapping[str, Any], diff: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """All numbers that a rule can name, by layer; NaN where there is no value.

    Args:
        metrics: content of a run folder's metrics.json.
        diff: summary of the comparison with the predecessor, {"layers": {layer: {name: number}}}; None where there is
            no predecessor.
    """
    compared = diff["layers"] if diff is not None else {}
    return {
        layer: {
            **flatten_metrics(found),
            "share_explained": found["num_explained"] / found["num_filters"] if found["num_filters"] else math.nan,
            **(_flatten_diff(compared[layer]) if layer in compared else {}),
        }
        for layer, found in metrics["layers"].items()
    }


def apply_rules(
    policy: Policy,
    metrics: Metrics,
    filters: Sequence[Mapping[str, Any]],
    diff_rows: Sequence[Mapping[str, Any]] | None,
    judge: Judge | None = None,
) -> tuple[RuleVerdict, ...]:
    """A verdict for each rule and each layer that it holds for, in the policy's and the run's order.

    Args:
        metrics: what `collect_metrics` gives.
        filters: rows of filters.parquet.
        diff_rows: rows of diff.parquet; None where there is no predecessor.
        judge: what became of expected words, of all layers; asked where a rule expects some.

    Raises:
        UserError: rules name metrics or layers that the run does not have; one line for each.
    """
    _check_names(policy, metrics)
    statuses = _find_statuses(diff_rows or ())
    reason = _NO_PREDECESSOR if diff_rows is None else _NOT_COMPARED
    verdicts: list[RuleVerdict] = []
    for rule in policy.rules:
        for layer in metrics if rule.layer is None else (rule.layer,):
            if not _applies(rule, metrics[layer], statuses.get(layer)):
                verdicts.append(RuleVerdict(rule.title, layer, "not_applicable", reason, rule.allowed))
            elif isinstance(rule, MetricRule):
                verdicts.append(_check_metric(rule, layer, metrics[layer]))
            elif isinstance(rule, ExpectationRule):
                judged = judge(rule.expect) if judge else ()
                verdicts.append(_check_expectation(rule, layer, [row for row in judged if row.layer == layer]))
            else:
                rows = [row for row in filters if row["layer"] == layer]
                verdicts.append(_check_words(rule, layer, rows, statuses.get(layer, {})))
    return tuple(verdicts)


def has_passed(verdicts: Iterable[RuleVerdict]) -> bool:
    """Whether no rule failed; rules that do not apply do not count."""
    return all(verdict.outcome != "failed" for verdict in verdicts)


def _flatten_diff(summary: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in summary.items():
        if isinstance(value, int | float):
            flat[DIFF_PREFIX + name] = float(value)
        elif isinstance(value, list):
            flat[f"{DIFF_PREFIX}num_{name}"] = float(len(value))
        elif value is None:
            flat[DIFF_PREFIX + name] = math.nan
    return flat


def _check_names(policy: Policy, metrics: Metrics) -> None:
    if not metrics:
        raise UserError(f"policy {policy.name}: the run has no layer; give the folder of a finished run")
    measured = {name for found in metrics.values() for name in found}
    known = sorted(measured | {DIFF_PREFIX + name for name in DIFF_METRICS})
    faults = []
    for number, rule in enumerate(policy.rules):
        where = f"policy {policy.name}: rules.{number}"
        if rule.layer is not None and rule.layer not in metrics:
            close = _name_close(rule.layer, list(metrics))
            faults.append(f"{where}.layer: found {rule.layer!r}; allowed: a layer of the run, the closest: {close}")
        if isinstance(rule, MetricRule) and rule.metric not in known:
            close = _name_close(rule.metric, known)
            faults.append(f"{where}.metric: found {rule.metric!r}; allowed: a metric of the run, the closest: {close}")
    if faults:
        raise UserError("\n".join(faults))


def _name_close(name: str, known: Sequence[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, known, n=_NUM_CLOSE, cutoff=0))


def _applies(
    rule: MetricRule | WordRule | ExpectationRule, found: Mapping[str, float], statuses: Mapping[int, str] | None
) -> bool:
    """Whether the rule needs no predecessor, or the layer was compared with one."""
    if isinstance(rule, ExpectationRule):
        return True
    if isinstance(rule, WordRule):
        return not rule.needs_predecessor or statuses is not None
    return not rule.metric.startswith(DIFF_PREFIX) or any(name.startswith(DIFF_PREFIX) for name in found)


def _check_metric(rule: MetricRule, layer: str, found: Mapping[str, float]) -> RuleVerdict:
    value = found.get(rule.metric)
    if value is None:
        return RuleVerdict(rule.title, layer, "failed", "not measured", rule.allowed)
    value = float(value)  # JSON writes some of them as integers
    if not math.isfinite(value):
        return RuleVerdict(rule.title, layer, "failed", f"not a finite number: {value}", rule.allowed)

    def fits(number: float) -> bool:
        return (rule.at_least is None or number >= rule.at_least) and (rule.at_most is None or number <= rule.at_most)

    outcome: Outcome = "passed" if fits(value) else "failed"
    return RuleVerdict(rule.title, layer, outcome, _round_for_reading(value, fits), rule.allowed)


def _round_for_reading(value: float, fits: Callable[[float], bool]) -> str:
    """Four digits, or as many more as it takes not to round a value over the bound that it breaks or keeps."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    texts = (f"{value:.{digits}g}" for digits in range(4, 17))
    return next((text for text in texts if fits(float(text)) == fits(value)), repr(value))


def _find_statuses(diff_rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, str]]:
    """Status of each new filter, by layer; a layer in which all filters were lost stands there too."""
    statuses: dict[str, dict[int, str]] = {}
    for row in diff_rows:
        by_filter = statuses.setdefault(row["layer"], {})
        if row["new_filter"] is not None:
            by_filter[row["new_filter"]] = row["status"]
    return statuses


def _check_words(
    rule: WordRule, layer: str, rows: Sequence[Mapping[str, Any]], statuses: Mapping[int, str]
) -> RuleVerdict:
    """A filter that the comparison does not name counts as new."""
    forbidden = {_fold(word) for word in rule.forbidden_words}
    offending: dict[int, list[str]] = {}
    num_seen = 0
    for row in sorted(rows, key=lambda row: row["filter"]):
        is_meant = not rule.needs_predecessor or statuses.get(row["filter"], "new") in rule.status
        if not row["explained"] or not is_meant:
            continue
        num_seen += 1
        words = [word for word in row["words"][: rule.num_words] if _fold(word) in forbidden]
        if words:
            offending[row["filter"]] = words
    if not offending:
        return RuleVerdict(rule.title, layer, "passed", f"none among {_count(num_seen, 'filter')}", rule.allowed)
    shown = [f"filter {unit}: {', '.join(words)}" for unit, words in list(offending.items())[:_NUM_SHOWN]]
    more = len(offending) - _NUM_SHOWN
    found = "; ".join([*shown, f"and {_count(more, 'more filter')}"] if more > 0 else shown)
    return RuleVerdict(rule.title, layer, "failed", found, rule.allowed, tuple(offending))


def _check_expectation(rule: ExpectationRule, layer: str, judged: Sequence[JudgedWord]) -> RuleVerdict:
    """Fails by a broken word, and by one that cannot be told unless the rule lets it pass."""
    if not judged:
        return RuleVerdict(rule.title, layer, "failed", "not looked at", rule.allowed)
    against = {BROKEN, UNCLEAR} if rule.unclear == "fails" else {BROKEN}
    wrong = [row for row in judged if row.outcome in against]
    filters = sorted({u for row in wrong if row.expected == MUST_NOT for u in row.filters})
    shown = [row for row in judged if row.outcome in (BROKEN, UNCLEAR)]
    found = "; ".join(
        f"{row.expected.replace('_', ' ')} {row.word}: {IN_WORDS[row.outcome]}, {row.why}" for row in shown
    )
    outcome: Outcome = "failed" if wrong else "passed"
    return RuleVerdict(rule.title, layer, outcome, found or f"all {len(judged)} met", rule.allowed, tuple(filters))


def _fold(word: str) -> str:
    """The same for upper and lower case, and for an accent written as part of its letter or after it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", word).casefold())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
