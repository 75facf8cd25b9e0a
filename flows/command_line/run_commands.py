"""Commands about one audit that has ended: what reviewers say, what was expected, the report on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lavise.flows.command_line.guard import EXIT_NO
from lavise.flows.command_line.run_arguments import JsonOption, RunArgument


def review(
    run: RunArgument,
    notes: Annotated[
        list[Path], typer.Argument(help="What reviewers saved from the report's page as CSV; a file for each of them.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Keep reviewers' verdicts with an audit: how many words fit, and how far its confidence agrees with them."""
    from lavise.flows.command_line.review_tables import show_review
    from lavise.flows.past_audits.past_runs import open_stores
    from lavise.flows.past_audits.review import review_run
    from lavise.flows.past_audits.run_list import resolve_run

    run = resolve_run(run)
    tracker, root = open_stores(run)
    result = review_run(run, notes, tracker, root)
    show_review(result)
    if as_json:
        typer.echo(result.to_json())


def expect(
    run: RunArgument,
    must: Annotated[list[str] | None, typer.Option(metavar="WORD", help="A word that must matter.")] = None,
    must_not: Annotated[list[str] | None, typer.Option(metavar="WORD", help="A word that must not matter.")] = None,
    by: Annotated[
        Literal["words", "causes"] | None,
        typer.Option(help="A word matters where a filter says it, or where the answers rest on such filters."),
    ] = None,
    relatives: Annotated[
        Literal["forms", "synonyms", "kinds"] | None,
        typer.Option(help="What says a word besides itself: plurals, also synonyms, also kinds of it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold an audit against words that must, or must not, matter: exit code 0, or 3 where one is broken."""
    from lavise.flows.command_line.tables import show_expectations
    from lavise.flows.past_audits.expectations import choose_expectations, judge_run
    from lavise.flows.past_audits.past_runs import open_past_run, open_stores
    from lavise.flows.past_audits.run_list import resolve_run

    run = resolve_run(run)
    past = open_past_run(run, *open_stores(run))
    result = judge_run(past, choose_expectations(past.config.expect, must, must_not, by, relatives))
    show_expectations(result)
    if as_json:
        typer.echo(result.to_json())
    if result.counts["num_broken"]:
        raise typer.Exit(EXIT_NO)


def report(
    run: RunArgument,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print it into a PDF, with an installed Chromium.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The PDF that is written; else report.pdf in the run folder.")
    ] = None,
    filters: Annotated[int, typer.Option(help="The first so many filters.", min=0, max=300)] = 60,
    sections: Annotated[bool, typer.Option("--sections", help="With all sections, not the overview alone.")] = False,
) -> None:
    """Where the report of an audit is; with --pdf, its overview and first filters on paper."""
    from lavise.flows.command_line.printed_report import find_page, print_report

    page = find_page(run)
    typer.echo(print_report(page, out or page.with_suffix(".pdf"), filters, sections) if pdf else page)
