"""The analysis `classes`: which classes lean on which filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lavise.configs.roles import Role
from lavise.tasks.analyses.analysis import Analysis, ExplainedLayer, Rows, Table, TextTable, classifier_of
from lavise.tasks.classifier import attribution

_NUM_CLASSES, _NUM_FILTERS = 10, 3


def _read(layer: ExplainedLayer) -> attribution.ContributionInputs:
    return attribution.ContributionInputs(
        network=classifier_of(layer),
        pictures=layer.pictures(Role.TARGET),
        words=layer.words,
        settings=layer.config.classes,
        computing=layer.computing,
    )


def _show(rows_of: Mapping[str, Rows]) -> Iterator[TextTable]:
    by_class: dict[tuple[str, int], Rows] = {}
    for row in rows_of[attribution.TABLE_FILE]:
        if row["rank"] <= _NUM_FILTERS:
            by_class.setdefault((row["layer"], row["class"]), []).append(row)
    order = sorted(by_class, key=lambda key: (-by_class[key][0]["num_images"], key))[:_NUM_CLASSES]
    if order:
        yield TextTable(
            f"what classes lean on; the {len(order)} of {len(by_class)} that the network names most",
            ("class", "pictures", "filters (words), contribution to the logit"),
            [_show_class(sorted(by_class[key], key=lambda r: r["rank"])) for key in order],
            frozenset({1}),
        )


def _show_class(rows: Rows) -> tuple[str, ...]:
    leans = [
        f"{r['filter']}{' (' + ', '.join(r['words'][:2]) + ')' if r['words'] else ''} {r['contribution']:+.2f}"
        for r in rows
    ]
    return rows[0]["class_name"], str(rows[0]["num_images"]), "; ".join(leans)


ANALYSIS = Analysis(
    stage=attribution.STAGE,
    place=2,
    setting="classes.enabled",
    is_wanted=lambda config: config.classes.enabled,
    inputs=_read,
    compute=attribution.measure_contributions,
    facts_file=attribution.SUMMARY_FILE,
    tables=(Table(attribution.TABLE_FILE, "classes"),),
    show=_show,
)
