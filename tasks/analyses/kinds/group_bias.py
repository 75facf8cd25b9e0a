"""The analysis `bias`: in which concepts groups of pictures differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lavise.configs.groups import CsvGroups, Groups
from lavise.configs.roles import Role
from lavise.configs.schema import BiasSettings, Config
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset, require_file
from lavise.storage.datasets.groups import make_grouping
from lavise.tasks.analyses.analysis import Analysis, ExplainedLayer, Rows, Table, TextTable
from lavise.tasks.group_bias import analysis

_NUM_DIFFERENCES, _NUM_WORDS = 10, 5


def _list_groups(settings: BiasSettings) -> dict[str, Groups]:
    """By the name of the setting."""
    both: dict[str, Groups | None] = {"groups": settings.groups, "stratify_by": settings.stratify_by}
    return {name: chosen for name, chosen in both.items() if chosen is not None}


def _read(layer: ExplainedLayer) -> analysis.BiasInputs:
    settings = layer.config.bias
    role = Role(settings.images)
    activations, data = layer.activations(role), layer.data(role).value
    keys = ActivationStore(activations.folder).keys
    groupings = {n: make_grouping(chosen, f"bias.{n}", data, keys) for n, chosen in _list_groups(settings).items()}
    return analysis.BiasInputs(
        layer=layer.layer,
        activations=activations,
        thresholds=layer.thresholds(role),
        groups=groupings["groups"],
        strata=groupings.get("stratify_by"),
        words=layer.words,
        settings=settings,
        seed=layer.config.seed,
        progress=layer.computing.progress,
    )


def _check_settings(config: Config) -> None:
    """A CSV file that is not there."""
    for name, chosen in _list_groups(config.bias).items():
        if isinstance(chosen, CsvGroups):
            require_file(chosen.file, f"bias.{name}.file")


def _check_data(config: Config, data: Callable[[Role], Dataset]) -> None:
    """Whatever `make_grouping` refuses."""
    for name, chosen in _list_groups(config.bias).items():
        own = data(Role(config.bias.images))
        make_grouping(chosen, f"bias.{name}", own, [r.key for r in own.records])


def _show(rows_of: Mapping[str, Rows]) -> Iterator[TextTable]:
    for file, what in ((analysis.WORDS_FILE, "words"), (analysis.FILTERS_FILE, "filters")):
        rows = rows_of[file]
        if not rows:
            continue
        found = sorted((r for r in rows if r["found"]), key=lambda r: (r["p_value"], -abs(r["difference"])))
        shown = "" if len(found) <= _NUM_DIFFERENCES else f"; the {_NUM_DIFFERENCES} clearest"
        least = sorted(r["least_difference"] for r in rows if r["least_difference"] is not None)
        points = f"{100 * least[len(least) // 2]:.0f} points" if least else ""
        hint = f" (one of about {points} would probably have been found)" if least else ""
        yield TextTable(
            f"groups differ in {_count(found, rows, what)}{hint}{shown}",
            (what[:-1], "groups", "shares", "difference [95 % interval]", "q", "within strata"),
            [_show_row(row) for row in found[:_NUM_DIFFERENCES]],
            frozenset({2, 4}),
        )


def _count(found: Rows, rows: Rows, what: str) -> str:
    """Of several groups, each with all others has a row."""

    def distinct(some: Rows) -> int:
        return len({r.get("word") or (r.get("layer"), r["filter"]) for r in some})

    counted = f"{distinct(found)} of {distinct(rows)} {what}"
    several = len(rows) > distinct(rows)
    return f"{counted}, in {len(found)} of {len(rows)} comparisons" if several else counted


def _show_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["word"] if "word" in row else f"{row['filter']} {', '.join(row['words'][:_NUM_WORDS])}",
        f"{row['group']} / {row['other']}",
        f"{row['share_group']:.1%} / {row['share_other']:.1%}",
        f"{row['difference']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]",
        f"{row['q_value']:.2g}",
        "" if row["stratified_difference"] is None else row["verdict"],
    )


ANALYSIS = Analysis(
    stage=analysis.STAGE,
    place=1,
    setting="bias.groups",
    is_wanted=lambda config: config.bias.groups is not None,
    inputs=_read,
    compute=analysis.analyse_bias,
    facts_file=analysis.BIAS_FILE,
    tables=(
        Table(analysis.FILTERS_FILE, "differences", ("q_value", "filter"), found_only=True),
        Table(analysis.WORDS_FILE, "differing_words", ("q_value", "word"), found_only=True),
    ),
    show=_show,
    shows_images=lambda config: Role(config.bias.images),
    check_settings=_check_settings,
    check_data=_check_data,
)
