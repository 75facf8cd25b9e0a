"""The analysis `bias`: in which concepts groups of pictures differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lavise.configs.groups import CsvGroups, Groups
from lavise.configs.roles import Role
from lavise.configs.schema import BiasSettings, Config
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset, require_file
from lavise.storage.datasets.groups import Grouping, make_grouping
from lavise.storage.state.digest import digest_of
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.analyses.analysis import Analysis, ExplainedLayer, Rows, Table, TextTable
from lavise.tasks.engine.stage import Request
from lavise.tasks.group_bias import analysis

_NUM_DIFFERENCES, _NUM_WORDS = 10, 5


def _list_groups(settings: BiasSettings) -> dict[str, Groups]:
    """By the name of the setting."""
    both: dict[str, Groups | None] = {"groups": settings.groups, "stratify_by": settings.stratify_by}
    return {name: chosen for name, chosen in both.items() if chosen is not None}


def _make_groupings(layer: ExplainedLayer) -> dict[str, Grouping]:
    settings = layer.config.bias
    role = Role(settings.images)
    keys = ActivationStore(layer.activations(role).folder).keys
    return {
        name: make_grouping(chosen, f"bias.{name}", layer.data(role), keys)
        for name, chosen in _list_groups(settings).items()
    }


def _request(layer: ExplainedLayer) -> Request:
    settings, groupings = layer.config.bias, _make_groupings(layer)
    role = Role(settings.images)
    strata = groupings.get("stratify_by")
    return Request(
        {
            **settings.model_dump(mode="json", exclude={"groups", "stratify_by"}),
            "groups": _describe_grouping(groupings["groups"]),
            "strata": _describe_grouping(strata) if strata else None,
            "words": digest_of(layer.words),
            "layer": layer.layer,
            "seed": layer.config.seed,
        },
        {"activations": layer.activations(role).digest, "thresholds": layer.thresholds(role).digest},
    )


def _describe_grouping(grouping: Grouping) -> dict[str, Any]:
    return {"title": grouping.title, "names": list(grouping.names), "of_image": digest_of(grouping.of_image.tolist())}


def _compute(layer: ExplainedLayer, folder: Path) -> dict[str, Any]:
    settings, groupings = layer.config.bias, _make_groupings(layer)
    role = Role(settings.images)
    return analysis.analyse_bias(
        layer.layer,
        ActivationStore(layer.activations(role).folder),
        load_thresholds(layer.thresholds(role)),
        groupings["groups"],
        groupings.get("stratify_by"),
        layer.words,
        settings,
        layer.config.seed,
        folder,
        layer.computing.progress,
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
        hint = f" (least difference that could be shown: about {least[len(least) // 2]:.0%})" if least else ""
        yield TextTable(
            f"groups differ in {len(found)} of {len(rows)} {what}{hint}{shown}",
            (what[:-1], "groups", "shares", "difference [95 % interval]", "q", "within strata"),
            [_show_row(row) for row in found[:_NUM_DIFFERENCES]],
            frozenset({2, 4}),
        )


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
    request=_request,
    compute=_compute,
    facts_file=analysis.BIAS_FILE,
    tables=(
        Table(analysis.FILTERS_FILE, "differences", ("q_value", "filter"), found_only=True),
        Table(analysis.WORDS_FILE, "differing_words", ("q_value", "word"), found_only=True),
    ),
    show=_show,
    shows_pictures=lambda config: Role(config.bias.images),
    check_settings=_check_settings,
    check_data=_check_data,
)
