"""Keeping what reviewers say with an audit: in its run folder and in MLflow, with how far its confidence agrees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lavise.flows.past_audits.past_runs import open_past_run
from lavise.storage.state.files import write_atomically, write_json
from lavise.storage.tracking import NullRun, Tracker
from lavise.tasks.history.review_agreement import list_metrics, measure_review
from lavise.tasks.history.review_notes import VERDICTS, ReviewNote, read_notes, write_notes

NOTES_FILE, REVIEW_FILE = "review.csv", "review.json"
REVIEW_TAG = "lavise.review"


@dataclass(frozen=True)
class ReviewResult:
    """What `lavise review` shows.

    Attributes:
        folder: of the run, with review.csv and review.json.
        measured: see `tasks.history.review_agreement.measure_review`.
        refused: explained filters whose word somebody refuses, the most confident first.
    """

    run_id: str
    title: str
    folder: Path
    measured: Mapping[str, Any]
    refused: Sequence[Mapping[str, Any]]

    @property
    def verdict(self) -> str:
        """A sentence."""
        found = self.measured["all"]
        said = [f"{found['num_reviewed']:,} of {found['num_filters']:,} filters reviewed"]
        for kind, label in (("words", "words"), ("guesses", "best guesses")):
            if found[kind]["num_verdicts"]:
                shares = ", ".join(f"{found[kind][f'share_{name}']:.0%} {name}" for name in VERDICTS)
                said.append(f"{label}: {shares}")
        return "; ".join(said)

    def to_json(self) -> str:
        """One line."""
        content = {"run_id": self.run_id, "folder": str(self.folder), **self.measured, "refused": list(self.refused)}
        return json.dumps(content, allow_nan=False)


def review_run(run: str, paths: Sequence[Path], tracker: Tracker, root: Path) -> ReviewResult:
    """Read reviewers' notes on an audit that has ended, and keep them with it, instead of what was kept before.

    Raises:
        UserError: no such run; a file that is not what the report's page saves; notes that do not fit the audit.
    """
    past = open_past_run(run, tracker, root)
    filters = [row for layer in past.layers for row in past.read_filters(layer)]
    notes = read_notes(paths, filters)
    measured = measure_review(filters, notes, past.config.seed)
    result = ReviewResult(past.run_id, past.title, past.folder, measured, _list_refused(filters, notes))
    write_atomically(past.folder / NOTES_FILE, write_notes(notes))
    write_json(past.folder / REVIEW_FILE, {"run_id": past.run_id, **measured})
    # A run folder may be there without its run: copied to this machine, or deleted in MLflow.
    kept = NullRun() if tracker.get(past.run_id) is None else tracker.resume(past.run_id)
    for name in (NOTES_FILE, REVIEW_FILE):
        kept.log_file(past.folder / name)
    kept.log_table([asdict(note) for note in notes], "tables/review.json")
    kept.log_metrics(list_metrics(measured))
    kept.set_tags({REVIEW_TAG: result.verdict})
    return result


def _list_refused(filters: Sequence[Mapping[str, Any]], notes: Sequence[ReviewNote]) -> list[dict[str, Any]]:
    confidence = {(row["layer"], row["filter"]): row["confidence"] for row in filters if row["explained"]}
    found = [
        {**asdict(note), "confidence": confidence[note.layer, note.filter]}
        for note in notes
        if note.verdict == "no" and (note.layer, note.filter) in confidence
    ]
    return sorted(found, key=lambda row: -row["confidence"])
