"""Re-audits: each new checkpoint of a source, by content, is audited exactly once per config.

What was audited is read from MLflow, which is where people look: a run that they delete there is audited again. Two
re-audits at the same moment share the state folder's locks; whoever comes second leaves the checkpoint to the first.
A lock goes with its process, and a killed audit leaves no FINISHED run, so that the next re-audit goes on with it.
Those who share MLflow but no state folder see each other's claims there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from lavise.configs.errors import AmbiguousWeightsError, CheckpointError, UserError
from lavise.configs.loading import describe_faults, load_config, read_overrides
from lavise.configs.policy import Policy, load_policy
from lavise.configs.schema import Config
from lavise.configs.sources import CheckpointSource, list_sources
from lavise.flows.audit.results import Occasion
from lavise.flows.audit.run import digest_identity, run_audit
from lavise.flows.past_audits.gate import PREDECESSOR_TAG, announce_outcome, list_broken_rules
from lavise.flows.past_audits.past_runs import PastRun, open_past_run
from lavise.flows.repeats.claims import SETTLE_SECONDS, hold_claim
from lavise.flows.shared.results import RunResult
from lavise.flows.shared.retries import run_with_retries
from lavise.storage.checkpoint_sources.base import CheckpointChangedError, FoundCheckpoint
from lavise.storage.checkpoint_sources.scan import fetch_checkpoint, scan_checkpoints
from lavise.storage.checkpoint_sources.snapshots import take_snapshot
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state import file_names
from lavise.storage.state.disk_faults import explain_disk_fault, find_write_fault
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.housekeeping import hold_state
from lavise.storage.state.locks import try_lock
from lavise.storage.state.progress import Progress
from lavise.storage.tracking import RunRecord, Tracker, open_tracker

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger("lavise")
MAX_ATTEMPTS = 3
MAX_ENDS = 6
STATE_TAG, ERROR_TAG, TWICE_TAG = "lavise.reaudit", "lavise.error", "lavise.audited_twice"
Outcome = Literal["audited", "known", "broken", "failed", "given up", "busy", "waiting", "unusable", "unclear"]
Audit = Callable[[Config, Occasion], RunResult]


@dataclass(frozen=True)
class CheckpointOutcome:
    """What became of one checkpoint.

    Attributes:
        outcome: audited now; known (was audited before); broken (its own fault, recorded once); failed (another fault,
            tried again next time); given up (failed too often); busy (another re-audit is on it); waiting (still being
            written); unusable (not a file that can be taken); unclear (it holds several networks that fit, and the
            settings do not say which; looked at again next time).
        gate: `passed`, `failed` or `invalid`; None without a policy.
    """

    name: str
    outcome: Outcome
    run_id: str | None = None
    gate: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class ReauditResult:
    """What `lavise reaudit --json` prints.

    Attributes:
        num_skipped: files beside checkpoints that hold no network.
    """

    checkpoints: tuple[CheckpointOutcome, ...]
    num_skipped: int = 0

    def count(self, outcome: Outcome) -> int:
        return sum(c.outcome == outcome for c in self.checkpoints)

    def summarise(self) -> str:
        """For people, in one line: only what there is."""
        outcomes = dict.fromkeys(c.outcome for c in self.checkpoints)
        gates = [c for c in self.checkpoints if c.gate and c.gate != "passed"]
        parts = [f"{self.count(o)} {o}" for o in outcomes] or ["no checkpoint found"]
        parts += [f"{self.num_skipped} without a network"] if self.num_skipped else []
        return ", ".join(parts) + (f"; {len(gates)} did not pass the policy" if gates else "")

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"checkpoints": [asdict(c) for c in self.checkpoints], "num_skipped": self.num_skipped})


@dataclass(frozen=True)
class Reaudit:
    """One look at a source.

    Attributes:
        audit: runs an audit, in this process or as a flow of its own.
        settle_seconds: until a claim in MLflow is looked at again.
    """

    config: Config
    source: CheckpointSource
    policy: Policy | None
    tracker: Tracker
    root: Path
    progress: Progress
    audit: Audit
    settle_seconds: float = SETTLE_SECONDS

    def run(self) -> ReauditResult:
        """Audit what is new, the oldest first; one checkpoint's fault stops none of the others.

        Raises:
            UserError: a mistake in the settings or the source, or tracking is switched off.
        """
        if self.tracker.uri is None:
            raise UserError("tracking.enabled: re-audits need MLflow to know what was audited; set it to true")
        cache = self.root / file_names.SNAPSHOTS_FOLDER / "registered"
        scan = scan_checkpoints(self.source, self._open_registry, cache, time.time(), self.progress)
        outcomes = [self._consider(found) for found in scan.found]
        outcomes += [CheckpointOutcome(name, "waiting", detail="still being written") for name in scan.waiting]
        outcomes += [CheckpointOutcome(name, "unusable", detail=reason) for name, reason in scan.unusable]
        if scan.skipped or scan.num_other:
            log.info(
                "%d files without a network and %d with other endings are passed over",
                len(scan.skipped),
                scan.num_other,
            )
        for outcome in outcomes:
            log.info("%s: %s%s", outcome.name, outcome.outcome, f" ({outcome.detail})" if outcome.detail else "")
        return ReauditResult(tuple(outcomes), len(scan.skipped))

    def _consider(self, found: FoundCheckpoint) -> CheckpointOutcome:
        known = self._look_up(found)
        if known:
            return known
        with try_lock(self._lock_path(found.sha256)) as free:
            if not free:
                return CheckpointOutcome(found.name, "busy", detail="another re-audit is on it")
            # It may have been finished between the look and the lock.
            return self._look_up(found) or self._take_on(found)

    def _take_on(self, found: FoundCheckpoint) -> CheckpointOutcome:
        with hold_state(self.root, exclusive=False):
            try:
                snapshot = take_snapshot(
                    fetch_checkpoint(found, self._open_registry), self.root / file_names.SNAPSHOTS_FOLDER
                )
            except CheckpointChangedError as err:
                return CheckpointOutcome(found.name, "waiting", detail=str(err))
            except (UserError, OSError) as err:
                if find_write_fault(err):  # the same for every checkpoint
                    raise UserError(str(explain_disk_fault(err))) from err
                return CheckpointOutcome(found.name, "failed", detail=_one_line(err))
            log.info("%s: new; its copy is %s", found.name, snapshot.name)
            model = self.config.model.model_copy(update={"weights": str(snapshot)})
            config = self.config.model_copy(update={"model": model})
            try:
                digest = load_target_model(config.model, config.seed).digest
            except CheckpointError as err:
                return self._record(found, "broken", CheckpointError(_name_file(err, snapshot, found)))
            except AmbiguousWeightsError as err:
                return CheckpointOutcome(found.name, "unclear", detail=_name_file(err, snapshot, found))
            except UserError:
                raise  # a mistake in the settings, the same for every checkpoint
            except Exception as err:
                log.exception("%s cannot be loaded", found.name)
                return self._record(found, "failed", err)
            # The same weights may lie in a file with other bytes, which another re-audit may have in hand.
            with try_lock(self._lock_path(digest)) as free:
                if not free:
                    return CheckpointOutcome(found.name, "busy", detail="another re-audit is on the same weights")
                with hold_claim(self.tracker, self._lock_path(digest).stem, self.settle_seconds) as other:
                    if other:
                        return CheckpointOutcome(found.name, "busy", detail=f"another re-audit is on it: {other}")
                    self._end_abandoned(found)
                    if known := self._look_up(found):
                        return known
                    if same := self._find_whole(digest):
                        self.tracker.resume(same[-1].run_id).set_tags({_file_tag(found): "seen"})
                        return CheckpointOutcome(found.name, "known", same[-1].run_id, detail="the same weights")
                    return self._tell_twice(self._audit(config, found, digest), digest)

    def _end_abandoned(self, found: FoundCheckpoint) -> None:
        """Runs of re-audits of this file that still say RUNNING, while lock and claim are here: nobody works on it.

        They were killed on another machine, or in a container that is gone; only there could a process be looked for.
        """
        for run in self._find({_file_tag(found): "seen"}):
            if run.status == "RUNNING":
                below = [r for r in self.tracker.find({"mlflow.parentRunId": run.run_id}) if r.status == "RUNNING"]
                for left in (*below, run):
                    self.tracker.resume(left.run_id).end("KILLED")

    def _find_whole(self, digest: str) -> list[RunRecord]:
        """Audits of these weights that ended well, the oldest first."""
        return [r for r in self._find({"lavise.checkpoint": digest}) if _is_whole(r)]

    def _tell_twice(self, outcome: CheckpointOutcome, digest: str) -> CheckpointOutcome:
        """Say so where another re-audit has audited the same at the same moment, as claims can miss each other."""
        others = [r.run_id for r in self._find_whole(digest) if r.run_id != outcome.run_id]
        if outcome.outcome != "audited" or outcome.run_id is None or not others:
            return outcome
        self.tracker.resume(outcome.run_id).set_tags({TWICE_TAG: ", ".join(others)[:500]})
        return replace(outcome, detail=f"audited at the same moment as run {others[-1]}")

    def _audit(self, config: Config, found: FoundCheckpoint, digest: str) -> CheckpointOutcome:
        tags = {_file_tag(found): "seen", "lavise.checkpoint_name": found.name}
        record = self._find_predecessor(digest)
        tags |= {PREDECESSOR_TAG: record.run_id} if record else {}
        predecessor = self._open_predecessor(record) if record else None
        occasion = Occasion(tags, found.name, predecessor, self.policy, comparison_expected=record is not None)
        before = {run.run_id for run in self._find({_file_tag(found): "seen"})}
        try:
            result = self.audit(config, occasion)
        except CheckpointError as err:
            # Known only now, for example activations that are not finite.
            own = self._find_new(found, before)
            if own is None:
                return self._record(found, "broken", err)
            self.tracker.resume(own.run_id).set_tags({STATE_TAG: "broken", ERROR_TAG: str(err)})
            return CheckpointOutcome(found.name, "broken", own.run_id, detail=str(err))
        except UserError as err:
            # A mistake in the settings, or data that are away: the same for all checkpoints, and none is at fault.
            # Where it was found before anything was begun, there is no run.
            self._tag_mistake(found, before, str(err))
            raise
        except Exception as err:
            if line := explain_disk_fault(err):
                # The disk's, outside of any stage: no checkpoint is at fault.
                self._tag_mistake(found, before, line)
                raise UserError(line) from err
            log.exception("the audit of %s failed", found.name)
            return CheckpointOutcome(found.name, "failed", detail=_one_line(err))
        self.tracker.resume(result.run_id).set_tags({STATE_TAG: "audited"})
        broken = list_broken_rules(result.run_dir)
        return CheckpointOutcome(
            found.name, "audited", result.run_id, result.gate, f"broken: {broken}" if broken else ""
        )

    def _tag_mistake(self, found: FoundCheckpoint, before: Collection[str], said: str) -> None:
        """That the run which this audit has left, where it left one, counts against no checkpoint."""
        try:
            if own := self._find_new(found, before):
                self.tracker.resume(own.run_id).set_tags({STATE_TAG: "settings", ERROR_TAG: said})
        except Exception as lost:  # noqa: BLE001 - whatever the tracker raises, the first error is the one to show
            log.warning("  the run of %s could not be tagged: %s", found.name, _one_line(lost))

    def _find_new(self, found: FoundCheckpoint, before: Collection[str]) -> RunRecord | None:
        """The run that this audit has left; None where it left none."""
        new = [run for run in self._find({_file_tag(found): "seen"}) if run.run_id not in before]
        return new[-1] if new else None

    def _record(self, found: FoundCheckpoint, outcome: Outcome, error: Exception) -> CheckpointOutcome:
        """A FAILED run for what could not be audited at all."""
        tags = {
            "lavise.config": self.config.name,
            "lavise.config_digest": digest_identity(self.config),
            "lavise.checkpoint_name": found.name,
            _file_tag(found): "seen",
            STATE_TAG: outcome,
            ERROR_TAG: str(error),
        }
        run = self.tracker.start(f"{self.config.name} {found.name}", tags)
        run.end("FAILED")
        detail = str(error) if isinstance(error, UserError) else _one_line(error)
        return CheckpointOutcome(found.name, outcome, run.run_id, detail=detail)

    def _look_up(self, found: FoundCheckpoint) -> CheckpointOutcome | None:
        """What is known of a file with these bytes; None where it has yet to be audited."""
        runs = self._find({_file_tag(found): "seen"})
        whole = [r for r in runs if _is_whole(r)]
        if whole:
            return CheckpointOutcome(found.name, "known", whole[-1].run_id)
        failed = [r for r in runs if r.status == "FAILED" and r.tags.get(STATE_TAG) != "settings"]
        killed = [r for r in runs if r.status == "KILLED"]
        if any(r.tags.get(STATE_TAG) == "broken" for r in failed):
            return CheckpointOutcome(found.name, "known", failed[-1].run_id, detail="broken, as recorded before")
        if len(failed) >= MAX_ATTEMPTS or len(failed) + len(killed) >= MAX_ENDS:
            detail = f"{len(failed)} audits of it failed and {len(killed)} were killed; delete their runs in MLflow"
            return CheckpointOutcome(found.name, "given up", runs[-1].run_id, detail=f"{detail} to have it tried again")
        return None

    def _find_predecessor(self, digest: str) -> RunRecord | None:
        """The last audit of another checkpoint with this config."""
        others = [r for r in self._find({}) if _is_whole(r) and r.tags.get("lavise.checkpoint") != digest]
        return others[-1] if others else None

    def _open_predecessor(self, record: RunRecord) -> PastRun | None:
        try:
            return open_past_run(record.run_id, self.tracker, self.root)
        except Exception as err:  # noqa: BLE001 - its files may be anywhere; the new audit is worth having without
            log.warning("  no comparison with the audit before, run %s: %s", record.run_id, _one_line(err))
            return None

    def _find(self, tags: dict[str, str]) -> list[RunRecord]:
        return self.tracker.find({"lavise.config_digest": digest_identity(self.config), **tags})

    def _open_registry(self) -> MlflowClient | None:
        """For sources that need it; it is MLflow's where the audits are tracked."""
        if self.tracker.uri is None:
            return None
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.tracker.uri)

    def _lock_path(self, digest: str) -> Path:
        return self.root / "locks" / f"{digest_identity(self.config)[:16]}-{digest[:32]}.lock"


def _is_whole(run: RunRecord) -> bool:
    """An audit that ended well, and is not the repetition of another one."""
    return run.status == "FINISHED" and "lavise.rerun_of" not in run.tags


def _file_tag(found: FoundCheckpoint) -> str:
    return f"lavise.file.{found.sha256[:32]}"


def _name_file(error: Exception, snapshot: Path, found: FoundCheckpoint) -> str:
    """The message with the checkpoint's own name instead of the snapshot's."""
    return str(error).replace(str(snapshot), found.name).replace(snapshot.name, found.name)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def make_source(
    folder: Path | None,
    pattern: str,
    stable: float,
    model: str | None,
    aliases: Sequence[str],
    settings: Sequence[str] = (),
) -> CheckpointSource:
    """The source that the command line names.

    Args:
        settings: `key=value` of any kind of source, the kind among them.

    Raises:
        UserError: not one of a folder, a registered model and other settings, or more; or a fault in one of them.
    """
    if (folder is not None) + (model is not None) + bool(settings) != 1:
        raise UserError(
            "--folder, --model, --source: give one of them: a folder, the name of a registered model, or the settings "
            "of any source (--source kind=...)"
        )
    if aliases and model is None:
        raise UserError(f"--alias: found {', '.join(aliases)} without --model; allowed: with it")
    given: dict[str, Any]
    if folder is not None:
        given = {"kind": "folder", "folder": folder, "pattern": pattern, "stable_seconds": stable}
    elif model is not None:
        select = "aliases" if aliases else "all"
        given = {"kind": "registered_model", "model": model, "select": select, "aliases": tuple(aliases)}
    else:
        given = read_overrides(settings, "--source", "key=value")
    kinds = list_sources()
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        *others, last = [repr(name) for name in kinds]
        allowed = f"{', '.join(others)} or {last}"
        raise UserError(f"--source kind: found {kind!r}; allowed: {allowed}")
    try:
        return kinds[kind].model_validate(given)
    except ValidationError as err:
        where = "on the command line (--source {field}=...)" if settings else "on the command line"
        raise UserError(describe_faults(err, "source", kinds[kind], where)) from None


def reaudit_here(
    config: str, overrides: Sequence[str], source: CheckpointSource, policy: str | None, progress: Progress
) -> ReauditResult:
    """One look at a source, with the audits in this process.

    Raises:
        UserError: a mistake in the settings, the policy or the source.
    """
    settings = load_config(config, overrides)
    rules = load_policy(policy) if policy else None
    root = find_state_root(settings.storage.root)
    tracker = open_tracker(settings.tracking, root)

    def audit(chosen: Config, occasion: Occasion) -> RunResult:
        result = run_audit(chosen, tracker, progress, run_with_retries, occasion)
        announce_outcome(result)
        return result

    return Reaudit(settings, source, rules, tracker, root, progress, audit).run()


def failed_outcomes(result: ReauditResult) -> Sequence[CheckpointOutcome]:
    """Those that a person should look at; broken ones are said once, when they are found."""
    return [c for c in result.checkpoints if c.outcome in ("failed", "given up", "unclear")]
