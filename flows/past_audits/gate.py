"""Passing or failing an audit by a policy: in files, in MLflow, and as a Prefect event."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as parquet

from lavise.configs.errors import UserError
from lavise.configs.expectations import ExpectSettings
from lavise.configs.policy import Policy, dump_policy, load_policy
from lavise.flows.past_audits.expectations import judge_run
from lavise.flows.past_audits.past_runs import PastRun, open_past_run
from lavise.storage.state import file_names
from lavise.storage.state.files import write_atomically, write_json
from lavise.storage.tracking import NullRun, NullTracker, Run, Tracker
from lavise.tasks.expectations.judging import JudgedWord
from lavise.tasks.history.filter_matching import SUMMARY_FILE, TABLE_FILE
from lavise.tasks.history.policy_verdicts import RuleVerdict, apply_rules, collect_metrics, has_passed

if TYPE_CHECKING:
    from lavise.flows.shared.results import RunResult

log = logging.getLogger("lavise")
POLICY_FILE, GATE_FILE = "policy.yaml", "gate.json"
GATE_TAG, PREDECESSOR_TAG = "lavise.gate", "lavise.predecessor"


@dataclass(frozen=True)
class GateResult:
    """What `lavise gate --json` prints.

    Attributes:
        outcome: `passed`, `failed` or `invalid`.
        compared_with: the run that rules on the comparison looked at; None where there is none.
    """

    run_id: str
    title: str
    policy: str
    outcome: str
    compared_with: str | None
    verdicts: tuple[RuleVerdict, ...]

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**vars(self), "verdicts": [asdict(v) for v in self.verdicts]})


def check_policy(policy: Policy, folder: Path, diff_folder: Path | None) -> tuple[RuleVerdict, ...]:
    """A verdict for each rule and layer.

    Args:
        folder: a run folder.
        diff_folder: where the comparison with the predecessor lies; None where there is none.

    Raises:
        UserError: a rule names a metric or a layer that the run does not have.
    """
    summary: dict[str, Any] | None = None
    rows: list[dict[str, Any]] | None = None
    if diff_folder is not None:
        summary = json.loads((diff_folder / SUMMARY_FILE).read_text("utf-8"))
        rows = parquet.read_table(diff_folder / TABLE_FILE).to_pylist()
    metrics = collect_metrics(json.loads((folder / file_names.METRICS).read_text("utf-8")), summary)

    @cache
    def judge(expected: ExpectSettings) -> tuple[JudgedWord, ...]:
        return judge_run(open_past_run(str(folder), NullTracker(), folder), expected).words

    filters = parquet.read_table(folder / file_names.FILTERS).to_pylist()
    return apply_rules(policy, metrics, filters, rows, judge)


def record_verdict(
    policy: Policy,
    folder: Path,
    run_id: str,
    title: str,
    compared_with: str | None,
    run: Run,
    diff: Path | None = None,
    is_missing: bool = False,
) -> GateResult:
    """Check a run folder by a policy; write policy.yaml and gate.json into it, log both, tag the run.

    Args:
        compared_with: the run that the comparison is with, if there is one.
        diff: folder of that comparison, where it is not the run folder itself.
        is_missing: there is an earlier audit, but the comparison could not be made: a policy that has rules on it
            is neither passed nor failed but `invalid`.

    Raises:
        UserError: a rule names a metric or a layer that the run does not have.
    """
    verdicts = check_policy(policy, folder, (diff or folder) if compared_with else None)
    outcome = "passed" if has_passed(verdicts) else "failed"
    if is_missing and any(v.outcome == "not_applicable" for v in verdicts):
        outcome = "invalid"
    result = GateResult(run_id, title, policy.name, outcome, compared_with, verdicts)
    write_atomically(folder / POLICY_FILE, dump_policy(policy))
    write_json(folder / GATE_FILE, json.loads(result.to_json()))
    for name in (POLICY_FILE, GATE_FILE):
        run.log_file(folder / name)
    run.log_table([asdict(v) for v in verdicts], "tables/gate.json")
    run.set_tags({GATE_TAG: outcome, "lavise.policy": policy.name})
    return result


def read_verdicts(folder: Path) -> GateResult:
    """What gate.json of a run folder says."""
    content = json.loads((folder / GATE_FILE).read_text("utf-8"))
    verdicts = tuple(RuleVerdict(**{**v, "filters": tuple(v["filters"])}) for v in content.pop("verdicts"))
    return GateResult(**content, verdicts=verdicts)


def list_broken_rules(folder: Path) -> str:
    """The rules that an audit broke, each with what was found: `share_explained at least 0.1 (bn2: 0.02)`.

    Args:
        folder: a run folder; without a verdict, or with one that says nothing against it, the text is empty.
    """
    if not (folder / GATE_FILE).is_file():
        return ""
    broken = [v for v in read_verdicts(folder).verdicts if v.outcome == "failed"]
    return "; ".join(f"{v.rule} ({v.layer}: {v.found})" if v.layer else f"{v.rule} ({v.found})" for v in broken)


def gate_run(run: str, policy_source: str | None, against: str | None, tracker: Tracker, root: Path) -> GateResult:
    """Check an audit that has ended by a policy, and record the verdict with it.

    Args:
        policy_source: a policy's name or file; None takes the one that the run was judged by before.
        against: the run to compare with; None takes the run's predecessor, if it has one. The comparison must have
            been made (`lavise diff`).

    Raises:
        UserError: no such run, no policy, or no such comparison.
    """
    past = open_past_run(run, tracker, root)
    if policy_source is None and not (past.folder / POLICY_FILE).is_file():
        raise UserError(f"--policy: run {past.run_id} was not judged before, so there is no policy; give one")
    policy = load_policy(policy_source or past.folder / POLICY_FILE)
    compared_with, diff_folder = _find_comparison(past, against, root)
    # A run folder may be there without its run: copied to this machine, or deleted in MLflow.
    record = tracker.get(past.run_id)
    run_to_tag = NullRun() if record is None else tracker.resume(past.run_id)
    is_missing = record is not None and PREDECESSOR_TAG in record.tags and compared_with is None
    folder, title = past.folder, past.title
    return record_verdict(
        policy, folder, past.run_id, title, compared_with, run_to_tag, diff_folder, is_missing=is_missing
    )


def _find_comparison(past: PastRun, against: str | None, root: Path) -> tuple[str | None, Path | None]:
    own = past.folder / SUMMARY_FILE
    predecessor = json.loads(own.read_text("utf-8"))["old_run"] if own.is_file() else None
    if against is None or against == predecessor:
        return predecessor, past.folder if predecessor else None
    folder = root / "diffs" / f"{against}..{past.run_id}"
    if "/" in against or not (folder / SUMMARY_FILE).is_file():
        raise UserError(
            f"--against: run {past.run_id} was not compared with {against!r}; run lavise diff {against} {past.run_id}"
        )
    return against, folder


def announce_outcome(result: RunResult) -> None:
    """Tell Prefect of an audit's gate; an audit that has ended is not lost because nobody could be told."""
    if result.gate is None:
        return
    try:
        if (result.run_dir / GATE_FILE).is_file():
            announce(read_verdicts(result.run_dir))
        else:  # the policy could not be applied
            announce(GateResult(result.run_id, result.run_id, "", result.gate, result.predecessor, ()))
    except Exception as err:  # noqa: BLE001 - whatever Prefect's client raises
        log.warning("  Prefect could not be told what came of the policy (%s): %s", result.gate, err)


def announce(result: GateResult) -> bool:
    """Emit the Prefect event `lavise.gate.` and the outcome (passed, failed, invalid), where Prefect has a server.

    An automation can act on it: its resource is `lavise.run.RUN_ID`.

    Returns:
        whether there was a server to tell.
    """
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        return False
    emit_event(
        event=f"lavise.gate.{result.outcome}",
        resource={"prefect.resource.id": f"lavise.run.{result.run_id}", "prefect.resource.name": result.title},
        payload={
            "run_id": result.run_id,
            "policy": result.policy,
            "outcome": result.outcome,
            "compared_with": result.compared_with,
            "failed": [asdict(v) for v in result.verdicts if v.outcome == "failed"],
        },
    )
    # Events are sent in the background; a command that ends at once would take them along.
    EventsWorker.instance().drain()
    return True
