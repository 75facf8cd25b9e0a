"""`lavise gc`: what takes up space in the state folder, and removal of what no kept run needs.

MLflow says which runs were deleted; their folders go, and the runs of their stages, which MLflow leaves, are deleted
there, too. What MLflow itself keeps of deleted runs goes with `mlflow gc`.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import typer
from rich.console import Console
from rich.table import Table

from lavise.configs.errors import UserError
from lavise.configs.schema import TrackingSettings
from lavise.flows.shared.console import make_console, make_table
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.housekeeping import (
    LOCK_FILE,
    SERVICES,
    Plan,
    Reason,
    StageUse,
    collect,
    hold_state,
    measure_disk_use,
    plan_collection,
)
from lavise.storage.tracking import find_tracking_uri
from lavise.storage.tracking_addresses import hide_credentials, pass_credentials, require_answer

log = logging.getLogger("lavise")
_SECONDS_PER_HOUR = 3600.0
_UNIT = 1000
_SQLITE = "sqlite:///"
_PAGE = 1000


def run_gc(dry_run: bool, keep_hours: float, as_json: bool) -> None:
    """Print disk use, remove what no kept run needs, and print what went.

    Args:
        dry_run: remove nothing and say what would go.
        keep_hours: nothing younger goes.
        as_json: print one JSON object as the last line of standard output.

    Raises:
        UserError: an audit is running, a run does not say what it needs, MLflow does not answer, or something could
            not be removed.
    """
    if not keep_hours >= 0:
        raise UserError(f"--keep-hours: found {keep_hours}; allowed: 0 or more")
    root = find_state_root(None)
    if not any((root / name).exists() for name in ("artefacts", "runs")):
        raise UserError(f"storage.root: found no state folder {root}; start this where audits ran, or set LAVISE_HOME")
    # Looking changes nothing, not even by a new lock file; without one no audit was ever here that could be running.
    holds = not dry_run or (root / LOCK_FILE).exists()
    with hold_state(root, exclusive=True) if holds else nullcontext():
        client = open_store(root)
        keep_seconds, now = keep_hours * _SECONDS_PER_HOUR, time.time()
        plan = plan_collection(root, find_deleted_runs(root, client), keep_seconds, now)
        stage_runs = find_stage_runs(root, client, now - keep_seconds)
        uses = measure_disk_use(root, plan.references)
        console = make_console()
        console.print(_use_table(f"disk use of {root}" + ("" if dry_run else ", before"), uses))
        if not dry_run:
            collect(plan)
            with _explaining(root):
                for run in stage_runs:
                    client.delete_run(run)
        _show_plan(console, plan, len(stage_runs), dry_run)
    if as_json:
        typer.echo(json.dumps(_to_json(plan, uses, stage_runs, dry_run), allow_nan=False))


def open_store(root: Path) -> Any:
    """A client of the store that MLFLOW_TRACKING_URI names, or of the SQLite file in the state folder; None where there
    is neither.

    Raises:
        UserError: MLflow does not answer.
    """
    uri = find_tracking_uri(TrackingSettings(), root)
    if uri.startswith(_SQLITE) and not _has_content(Path(uri.removeprefix(_SQLITE).partition("?")[0])):
        # Opening it would make it.
        log.info("  no MLflow store at %s: no run counts as deleted", uri)
        return None
    for chatty in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    require_answer(uri)
    with _explaining(root):
        return MlflowClient(tracking_uri=pass_credentials(uri))


def find_deleted_runs(root: Path, client: Any) -> frozenset[str]:
    """Ids of the runs that were deleted in MLflow, in whatever experiment, and can still be restored there.

    Raises:
        UserError: MLflow does not answer.
    """
    if client is None:
        return frozenset()
    from mlflow.entities import ViewType

    with _explaining(root):
        deleted = partial(client.search_runs, _list_experiments(client), run_view_type=ViewType.DELETED_ONLY)
        return frozenset(r.info.run_id for r in _all_pages(deleted))


def find_stage_runs(root: Path, client: Any, before: float) -> list[str]:
    """Ids of the runs of stages whose audit was deleted in MLflow, or is no longer there at all; sorted.

    Args:
        before: seconds since the epoch; what was begun later is not among them.

    Raises:
        UserError: MLflow does not answer.
    """
    if client is None:
        return []
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    with _explaining(root):
        active = partial(client.search_runs, _list_experiments(client), max_results=_PAGE)
        stages = list(_all_pages(partial(active, filter_string="tags.`lavise.stage` != ''")))
        parents = {r.info.run_id: r.data.tags.get(MLFLOW_PARENT_RUN_ID) for r in stages}
        there = {r.info.run_id for r in _all_pages(active)}
        # Asked for once more, since what others add and delete meanwhile moves the pages.
        lost = {p for p in set(parents.values()) - there if p is not None and not _is_active(client, p)}
    return sorted(
        r.info.run_id for r in stages if parents[r.info.run_id] in lost and r.info.start_time / 1000 <= before
    )


def _is_active(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as err:
        if err.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _list_experiments(client: Any) -> list[str]:
    from mlflow.entities import ViewType

    return [e.experiment_id for e in _all_pages(partial(client.search_experiments, view_type=ViewType.ALL))]


@contextmanager
def _explaining(root: Path) -> Iterator[None]:
    """What MLflow raises, in a line for the user."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError) as err:
        uri = find_tracking_uri(TrackingSettings(), root)
        reason = hide_credentials(" ".join(str(err).split()))[:200]
        raise UserError(
            f"MLFLOW_TRACKING_URI: {hide_credentials(uri)} does not say which runs were deleted ({reason}); "
            "start that server, or leave MLFLOW_TRACKING_URI empty for the local SQLite file"
        ) from None


def format_bytes(num_bytes: int) -> str:
    """For people, in powers of 1000: `999 B`, `1.0 kB`, `12.3 GB`."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB", "PB"]
    # What would be rounded up to 1000.0 is the next unit already.
    while size >= _UNIT - 0.05 and len(units) > 1:
        size, units = size / _UNIT, units[1:]
    return f"{num_bytes} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _all_pages(search: Callable[..., Any]) -> Iterator[Any]:
    """Everything that a search of MLflow finds."""
    page = search()
    yield from page
    while page.token:
        page = search(page_token=page.token)
        yield from page


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _use_table(title: str, uses: Sequence[StageUse]) -> Table:
    table = _table(title, ("stage", "number", "size", "needed", "size needed"))
    for use in uses:
        table.add_row(
            use.stage,
            f"{use.num_artefacts:,}",
            format_bytes(use.bytes),
            *(("-", "-") if use.stage in SERVICES else (f"{use.num_referenced:,}", format_bytes(use.bytes_referenced))),
        )
    table.add_section()
    table.add_row("total", "", format_bytes(sum(u.bytes for u in uses)), "", "")
    return table


def _show_plan(console: Console, plan: Plan, num_stage_runs: int, dry_run: bool) -> None:
    if num_stage_runs:
        what = "would be deleted" if dry_run else "were deleted"
        console.print(f"{num_stage_runs:,} runs of stages {what} in MLflow: their audit was deleted", highlight=False)
    if not plan.entries:
        if not num_stage_runs:
            console.print("nothing to remove")
        return
    table = _table("what would go" if dry_run else "what went", ("reason", "stage", "number", "size"))
    for reason, stage, number, num_bytes in group_entries(plan):
        table.add_row(reason.value, stage, f"{number:,}", format_bytes(num_bytes))
    console.print(table)
    console.print(f"{'would free' if dry_run else 'freed'} {format_bytes(plan.num_bytes)}", highlight=False)


def group_entries(plan: Plan) -> list[tuple[Reason, str, int, int]]:
    """(reason, stage, number, bytes), in the order of the reasons, the largest stage first."""
    groups: dict[tuple[Reason, str], list[int]] = defaultdict(list)
    for entry in plan.entries:
        groups[entry.reason, entry.stage].append(entry.num_bytes)
    order = list(Reason)
    rows = [(reason, stage, len(sizes), sum(sizes)) for (reason, stage), sizes in groups.items()]
    return sorted(rows, key=lambda r: (order.index(r[0]), -r[3], r[1]))


class JsonEntry(TypedDict):
    """A folder that is, or would be, removed."""

    path: str
    reason: str
    stage: str
    bytes: int


class JsonPlan(TypedDict):
    """What `lavise gc --json` prints."""

    root: str
    dry_run: bool
    disk_use: list[dict[str, int | str]]
    entries: list[JsonEntry]
    num_bytes: int
    stage_runs: list[str]


def _to_json(plan: Plan, uses: Sequence[StageUse], stage_runs: list[str], dry_run: bool) -> JsonPlan:
    entries: list[JsonEntry] = [
        {
            "path": e.path.relative_to(plan.root).as_posix(),
            "reason": e.reason.value,
            "stage": e.stage,
            "bytes": e.num_bytes,
        }
        for e in plan.entries
    ]
    return {
        "root": str(plan.root),
        "dry_run": dry_run,
        "disk_use": [asdict(u) for u in uses],
        "entries": entries,
        "num_bytes": plan.num_bytes,
        "stage_runs": stage_runs,
    }


def _table(title: str, headings: Sequence[str]) -> Table:
    """Names and reasons on the left, numbers on the right."""
    table = make_table(title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("stage", "reason") else "right", no_wrap=True)
    return table
