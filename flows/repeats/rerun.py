"""Repeating an audit: from what MLflow keeps of it, from scratch, compared bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.configs.loading import with_overrides
from lavise.configs.schema import Config, StorageSettings
from lavise.flows.audit.results import Occasion
from lavise.flows.audit.run import run_audit
from lavise.flows.past_audits.past_runs import PastRun, open_past_run
from lavise.flows.shared.inputs import open_inputs
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.digest import short
from lavise.storage.state.environment import choose_device, describe_environment
from lavise.storage.state.files import write_json
from lavise.storage.state.housekeeping import hold_state
from lavise.storage.state.locks import try_lock
from lavise.storage.state.progress import Progress
from lavise.storage.tracking import Tracker
from lavise.storage.words.word_vectors import digest_vectors
from lavise.tasks.engine.stage import Executor, StageRunner
from lavise.tasks.history.rerun_verdict import Finding, compare_results, compare_stages, conclude_repetition

RERUN_FILE = "rerun.json"
_FOLDER = "reruns"


@dataclass(frozen=True)
class RerunResult:
    """What `lavise rerun --json` prints.

    Attributes:
        verdict: `identical`, `within tolerance` or `different`.
        repeated: identical; or within tolerance, where the device is of another class.
        findings: what was compared, and what came of it.
        notes: what of the environment is another one now.
    """

    original: str
    rerun: str
    run_dir: Path
    verdict: str
    repeated: bool
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """One line."""
        findings = [asdict(f) for f in self.findings]
        return json.dumps({**vars(self), "run_dir": str(self.run_dir), "findings": findings}, allow_nan=False)


def rerun_audit(
    run: str,
    overrides: Sequence[str],
    anyway: bool,
    tracker: Tracker,
    root: Path,
    progress: Progress,
    execute: Executor,
) -> RerunResult:
    """Repeat an audit in a store of its own, so that nothing is taken from the first time.

    Args:
        overrides: where an input is now, `section.key=value`.
        anyway: run even if an input is not what it was.

    Raises:
        UserError: no such run, or inputs that are not the same, each of them named.
    """
    past = open_past_run(run, tracker, root)
    config = with_overrides(past.config.model_copy(update={"storage": StorageSettings(root=root)}), overrides)
    scratch = root / _FOLDER / past.run_id
    with hold_state(root, exclusive=False), try_lock(scratch.with_suffix(".lock")) as free:
        if not free:
            raise UserError(f"run: {past.run_id} is being repeated already by another process; wait for it")
        changed = find_changed_inputs(past, config, scratch, progress)
        if changed and not anyway:
            raise UserError("\n".join([*changed, "nothing was run; mend this, or repeat it --anyway"]))
        occasion = Occasion(
            tags={"lavise.rerun_of": past.run_id},
            checkpoint_name=_name_checkpoint(past, config),
            artefacts=scratch,
        )
        result = run_audit(config, tracker, progress, execute, occasion)
        now = describe_environment(choose_device(config.device))
        notes = (*changed, *describe_changes(past.environment, now))
        artefacts = json.loads((result.run_dir / file_names.ARTEFACTS).read_text("utf-8"))["stages"]
        findings = (*compare_stages(past.artefacts, artefacts), *compare_results(past.folder, result.run_dir))
        same_class = past.environment["device"] == now["device"]
        verdict, repeated = conclude_repetition(findings, same_class)
        found = RerunResult(past.run_id, result.run_id, result.run_dir, verdict, repeated, findings, notes)
        _record(found, tracker)
        # What is left of a rerun that was killed is used by the next one; that of a whole one is not needed.
        shutil.rmtree(scratch, ignore_errors=True)
    return found


def _name_checkpoint(past: PastRun, config: Config) -> str | None:
    """As the report named it then, also where the file has another name now."""
    name: str | None = past.inputs["checkpoint_name"]
    before = past.config.model.weights
    return name or (Path(before).name if config.model.weights != before else None)


def find_changed_inputs(past: PastRun, config: Config, scratch: Path, progress: Progress) -> list[str]:
    """A line for each input that is not what it was: checkpoint, pictures, annotations, word vectors."""
    model = load_target_model(config.model, config.seed)
    inputs = open_inputs(config, StageRunner(ArtefactStore(scratch), progress=progress), progress)
    now = {
        "checkpoint": (model.digest, config.model.weights),
        **{f"{role} data": (digest, inputs.of(role).name) for role, digest in inputs.digests.items()},
        "word vectors": (digest_vectors(config.words), config.words.vectors),
    }
    before = {
        "checkpoint": past.inputs["checkpoint"],
        **{f"{role} data": digest for role, digest in past.inputs["data"].items()},
        "word vectors": past.inputs["vectors"],
    }
    return [
        f"input: the {what} ({source}) is not what it was: {short(digest)} instead of {short(str(before[what]))}"
        for what, (digest, source) in now.items()
        if digest != before[what]
    ]


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each part of the environment that is another one now."""
    keys = ("python", "platform", "device", "gpu", "cpu_threads")
    pairs = {k: (before.get(k), now[k]) for k in keys}
    pairs |= {p: (before["packages"].get(p), v) for p, v in now["packages"].items()}
    pairs["git commit"] = (before["git"].get("commit"), now["git"].get("commit"))
    lines = [f"{what}: {a} then, {b} now" for what, (a, b) in pairs.items() if a != b]
    dirty = [when for when, found in (("then", before), ("now", now)) if found["git"].get("dirty")]
    return lines + [f"git: the checkout had changes {when} that no commit holds" for when in dirty]


def _record(found: RerunResult, tracker: Tracker) -> None:
    """In the new run's folder, and as tags of both runs."""
    content = {k: v for k, v in json.loads(found.to_json()).items() if k != "run_dir"}
    write_json(found.run_dir / RERUN_FILE, content)
    new = tracker.resume(found.rerun)
    new.log_file(found.run_dir / RERUN_FILE)
    new.log_table([asdict(f) for f in found.findings], "tables/rerun.json")
    new.set_tags({"lavise.rerun_verdict": found.verdict})
    if tracker.get(found.original) is not None:
        old = tracker.resume(found.original)
        old.set_tags({"lavise.rerun_verdict": found.verdict, "lavise.rerun_by": found.rerun})
