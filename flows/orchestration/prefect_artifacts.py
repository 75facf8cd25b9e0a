"""What a flow run shows in the Prefect UI: tables, a link to the MLflow run, a picture."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from lavise.storage.state import file_names
from lavise.storage.tracking import Tracker

if TYPE_CHECKING:
    from lavise.flows.repeats.reaudit import ReauditResult
    from lavise.flows.shared.results import RunResult


def publish_audit(result: RunResult, tracker: Tracker, title: str) -> None:
    """The report and the MLflow run as links, the most confident filters as a picture, the stages as a table."""
    link = tracker.link(result.run_id)
    if link:
        page = f"{link}/artifacts/{file_names.REPORT}"
        create_link_artifact(link=page, link_text=f"Report of {_plain(title)}", key="lavise-report")
        create_link_artifact(link=link, link_text=f"MLflow run {result.run_id}", key="lavise-mlflow-run")
    else:
        create_markdown_artifact(f"Run folder: `{_plain(str(result.run_dir))}`", key="lavise-run-folder")
    picture = base64.b64encode((result.run_dir / file_names.OVERVIEW).read_bytes()).decode("ascii")
    create_image_artifact(
        image_url=f"data:image/png;base64,{picture}", key="lavise-filters", description="The most confident filters"
    )
    rows: list[dict[str, Any]] = [
        {
            "stage": name,
            "digest": stage["digest"][:12],
            "cached": "yes" if stage["cached"] else "no",
            "seconds": round(stage["seconds"], 1),
        }
        for name, stage in result.stages.items()
    ]
    create_table_artifact(table=rows, key="lavise-stages", description=f"Stages of {_plain(title)}")


def publish_reaudit(result: ReauditResult, tracker: Tracker) -> None:
    """What became of each checkpoint."""
    rows: list[dict[str, Any]] = [
        {
            "checkpoint": _plain(c.name),
            "outcome": c.outcome,
            "policy": c.gate or "",
            "MLflow run": (tracker.link(c.run_id) or c.run_id) if c.run_id else "",
            "detail": _plain(c.detail),
        }
        for c in result.checkpoints
    ]
    if rows:
        create_table_artifact(table=rows, key="lavise-checkpoints", description="What became of each checkpoint")


def _plain(text: str) -> str:
    """Names from data without what markdown would obey."""
    return "".join(c if c.isprintable() and c not in "`<>[]|*" else "\ufffd" for c in text)
