"""`lavise runs` and `lavise open`: which audits there are, and the page of one."""

from __future__ import annotations

import json
import webbrowser

import typer

from lavise.configs.errors import UserError
from lavise.flows.command_line.printed_report import find_page
from lavise.flows.past_audits.run_list import ListedRun, list_runs
from lavise.flows.shared.console import escape, make_console, make_table
from lavise.storage.state.environment import find_state_root

_GATE_COLOURS = {"passed": "green", "failed": "bold red", "invalid": "bold red"}
_ID_CHARACTERS = 8


def show_runs(limit: int, as_json: bool) -> None:
    """A line for each audit, the newest first.

    Args:
        limit: at most so many; 0 is all.
    """
    root = find_state_root(None)
    found = list_runs(root)
    shown = found[: limit or None]
    if as_json:
        typer.echo(json.dumps({"root": str(root), "runs": [run.describe() for run in shown]}))
        return
    console = make_console()
    if not found:
        console.print(f"no audit in {root / 'runs'}; make one with `lavise run CONFIG`", highlight=False, markup=False)
        return
    left = f", the {len(shown)} newest (--limit 0 for all)" if len(shown) < len(found) else ""
    table = make_table(f"{len(found)} audit{'s' if len(found) > 1 else ''} in {root / 'runs'}{left}")
    for heading in ("run", "written", "name", "model", "weights", "layers", "explained", "gate"):
        table.add_column(heading, justify="right" if heading == "explained" else "left", overflow="fold")
    for run in shown:
        table.add_row(*_make_row(run))
    console.print(table)
    console.print("lavise open RUN shows the report, lavise diff RUN_A RUN_B what changed", highlight=False)


def _make_row(run: ListedRun) -> tuple[str, ...]:
    start, written = run.run_id[:_ID_CHARACTERS], f"{run.written.astimezone():%Y-%m-%d %H:%M}"
    if run.damage:
        return start, written, f"[bold red]cannot be read[/] {escape(run.damage)}", "", "", "", "", ""
    gate = f"[{_GATE_COLOURS.get(run.gate, 'yellow')}]{escape(run.gate)}[/]" if run.gate else ""
    explained = f"{run.num_explained} of {run.num_filters}"
    layers = escape(", ".join(run.layers))
    return start, written, escape(run.name), escape(run.arch), escape(run.checkpoint), layers, explained, gate


def open_report(run: str, only_path: bool) -> None:
    """Show an audit's page in the browser, and say where it is.

    Args:
        run: id of its MLflow run or the start of it, `latest`, or its run folder.
        only_path: open nothing.

    Raises:
        UserError: no such audit, or one without a page.
    """
    page = find_page(run)
    typer.echo(page)
    if not only_path and not webbrowser.open(page.as_uri()):
        raise UserError(f"open: no browser was found on this machine; open {page} yourself, or copy it to where one is")
