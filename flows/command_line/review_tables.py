"""What `lavise review` prints: how many words fit, how far confidence agrees, and which sure words are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lavise.flows.shared.console import escape, make_console, make_table

if TYPE_CHECKING:
    from rich.table import Table

    from lavise.flows.past_audits.review import ReviewResult

_NUM_REFUSED = 10
_COUNTED = {"fits": "fits", "fits_or_partly": "fits or partly"}


def show_review(result: ReviewResult) -> None:
    """The verdict, tables, and where it is kept."""
    console = make_console()
    measured = result.measured
    by = ", ".join(name for name in measured["reviewers"] if name)
    console.print(f"[bold]{escape(result.title)}: {result.verdict}[/]", highlight=False)
    console.print(_make_counts(measured, f"verdicts by {by}" if by else "verdicts"))
    if measured["all"]["confidence"]["fits"]:
        console.print(_make_agreement(measured))
    if measured["agreement"]:
        console.print(_make_kappas(measured))
    if result.refused:
        console.print(_make_refused(result))
    console.print(f"kept in {result.folder / 'review.csv'}", soft_wrap=True, highlight=False, markup=False)


def _list_parts(measured: Mapping[str, Any]) -> dict[str, Any]:
    """By layer, and of several layers also together."""
    layers: dict[str, Any] = dict(measured["layers"])
    return layers if len(layers) == 1 else {**layers, "all": measured["all"]}


def _make_counts(measured: Mapping[str, Any], title: str) -> Table:
    table = make_table(title)
    for heading in ("layer", "filters", "reviewed", "on", "verdicts", "fits", "partly", "no"):
        table.add_column(heading, justify="left" if heading in ("layer", "on") else "right")
    for layer, part in _list_parts(measured).items():
        for kind, label in (("words", "words"), ("guesses", "best guesses")):
            if kind == "words" or part[kind]["num_verdicts"]:
                filters = [f"{part[f'num_{name}']:,}" for name in ("filters", "reviewed")]
                counts = [f"{part[kind][f'num_{name}']:,}" for name in ("verdicts", "fits", "partly", "no")]
                table.add_row(escape(layer), *filters, label, *counts)
    return table


def _make_agreement(measured: Mapping[str, Any]) -> Table:
    table = make_table("stated confidence of the explained filters against the verdicts")
    headings = ("layer", "right is", "verdicts", "right", "confidence", "AUROC \\[95 % interval]", "Brier")
    for heading in (*headings, "base rate's", "calibration error"):
        table.add_column(heading, justify="left" if heading in ("layer", "right is") else "right")
    for layer, part in _list_parts(measured).items():
        for name, label in _COUNTED.items():
            if found := part["confidence"][name]:
                auroc = "" if found["auroc"] is None else f"{found['auroc']:.2f}"
                interval = f" \\[{found['auroc_low']:.2f}, {found['auroc_high']:.2f}]" if auroc else ""
                figures = (found[k] for k in ("brier", "base_brier", "expected_calibration_error"))
                table.add_row(
                    escape(layer),
                    *(label, f"{found['num']:,}", f"{found['share_right']:.0%}", f"{found['mean_confidence']:.2f}"),
                    *(auroc + interval, *(f"{figure:.3f}" for figure in figures)),
                )
    return table


def _make_kappas(measured: Mapping[str, Any]) -> Table:
    table = make_table("reviewers with each other")
    for heading in ("reviewer", "and", "filters of both", "agreed", "Cohen's kappa"):
        table.add_column(heading, justify="left" if heading in ("reviewer", "and") else "right")
    for pair in measured["agreement"]:
        kappa = "" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
        names = [escape(pair[k] or "without a name") for k in ("first", "second")]
        table.add_row(*names, str(pair["num_filters"]), f"{pair['agreed']:.0%}", kappa)
    return table


def _make_refused(result: ReviewResult) -> Table:
    num = len(result.refused)
    table = make_table(
        "refused, the most confident first"
        if num <= _NUM_REFUSED
        else f"refused, {_NUM_REFUSED} of {num}, the most confident first"
    )
    for heading in ("layer", "filter", "confidence", "word", "note", "reviewer"):
        table.add_column(heading, justify="right" if heading in ("filter", "confidence") else "left")
    for row in result.refused[:_NUM_REFUSED]:
        note = " ".join(row["note"].split())
        table.add_row(
            escape(row["layer"]),
            str(row["filter"]),
            f"{row['confidence']:.2f}",
            *(escape(t) for t in (row["word"], note, row["reviewer"])),
        )
    return table
