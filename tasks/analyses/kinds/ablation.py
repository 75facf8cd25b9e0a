"""The analysis `causes`: what the network answers without the filters of a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lavise.configs.roles import Role
from lavise.tasks.analyses.analysis import Analysis, ExplainedLayer, Rows, Table, TextTable, classifier_of
from lavise.tasks.classifier import ablation

_NUM_WORDS = 10


def _read(layer: ExplainedLayer) -> ablation.CauseInputs:
    return ablation.CauseInputs(
        network=classifier_of(layer),
        data=layer.data(Role.EVALUATION),
        activations=layer.activations(Role.EVALUATION),
        words=layer.words,
        settings=layer.config.causes,
        computing=layer.computing,
        language=layer.config.words.language,
    )


def _show(rows_of: Mapping[str, Rows]) -> Iterator[TextTable]:
    rows = rows_of[ablation.WORDS_FILE]
    if rows:
        used = sum(bool(r["used"]) for r in rows)
        first = sorted(rows, key=lambda r: (not r["used"], r["q_value"], r["own_logit"]))[:_NUM_WORDS]
        yield TextTable(
            f"without the filters of a word: {used} of {len(rows)} words do more than random filters",
            ("word", "filters", "logit with it", "random", _name_changes(first[0]), "q", ""),
            [_show_row(row) for row in first],
            frozenset({1, 2, 3, 4, 5}),
        )


def _show_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    logit = row["own_logit"] if row["own_logit_with"] is None else row["own_logit_with"]
    return (
        row["word"],
        str(row["num_filters"]),
        f"{logit:+.2f}",
        "" if row["random_own_logit"] is None else f"{row['random_own_logit']:+.2f}",
        f"{row['num_lost']}, {row['num_gained']} of {row['num_answers']}"
        if _is_multi_label(row)
        else f"{row['changed']:.1%}",
        f"{row['q_value']:.2g}",
        "used" if row["used"] else "not used",
    )


def _is_multi_label(row: Mapping[str, Any]) -> bool:
    return "num_lost" in row


def _name_changes(row: Mapping[str, Any]) -> str:
    return "lost, gained" if _is_multi_label(row) else "changed answers"


ANALYSIS = Analysis(
    stage=ablation.STAGE,
    place=3,
    setting="causes.enabled",
    is_wanted=lambda config: config.causes.enabled,
    inputs=_read,
    compute=ablation.measure_causes,
    facts_file=ablation.SUMMARY_FILE,
    tables=(
        Table(ablation.WORDS_FILE, "causes"),
        Table(ablation.FILTERS_FILE, in_browser=False),
        Table(ablation.CLASSES_FILE, "answers", in_browser=False, needs="model.head: sigmoid"),
        Table(ablation.IMAGES_FILE, in_browser=False, needs="model.head: sigmoid"),
    ),
    show=_show,
)
