"""A folder of checkpoints that is looked through, with audits that cost nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lavise.configs.policy import load_policy
from lavise.configs.schema import Config
from lavise.configs.sources import CheckpointSource, FolderSource
from lavise.flows.audit.results import Occasion
from lavise.flows.audit.run import digest_identity
from lavise.flows.repeats.reaudit import Audit, CheckpointOutcome, Reaudit
from lavise.flows.shared.results import RunResult
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state.digest import digest_file
from lavise.storage.state.progress import no_progress
from lavise.storage.tracking import MlflowTracker, RunRecord
from lavise.tasks.engine.stage import end_after
from tests.unit.flows.helpers import make_config, write_run_folder
from tests.unit.tasks.helpers import TinyNetwork

Tensors = dict[str, torch.Tensor]


class Audits:
    """In the place of `run_audit`: leaves a run with the tags of a real one, and remembers what it was asked for.

    Attributes:
        during: what happens while an audit runs; what it raises ends the run as a real one is ended.
        audited: of each audit, name of the checkpoint, digest of its weights, id of the predecessor.
    """

    def __init__(self, tracker: MlflowTracker, root: Path) -> None:
        self.tracker, self.root = tracker, root
        self.during: Callable[[Config, Occasion], None] = lambda config, occasion: None
        self.audited: list[tuple[str | None, str, str | None]] = []
        self.num_started = 0
        self.gate: str | None = None

    def __call__(self, config: Config, occasion: Occasion) -> RunResult:
        tags = {"lavise.config": config.name, "lavise.config_digest": digest_identity(config), **occasion.tags}
        run = self.tracker.start(f"{config.name} {occasion.checkpoint_name}", tags)
        self.num_started += 1
        try:
            self.during(config, occasion)
            digest = load_target_model(config.model, config.seed).digest
            run.set_tags({"lavise.checkpoint": digest})
            folder = write_run_folder(self.root / "runs" / run.run_id, config, checkpoint=digest)
            run.end()
        except BaseException as err:
            end_after(run, err)
            raise
        predecessor = occasion.predecessor.run_id if occasion.predecessor else None
        self.audited.append((occasion.checkpoint_name, digest, predecessor))
        return RunResult(run.run_id, self.tracker.uri, folder, {}, {}, 0, predecessor, self.gate)

    @property
    def names(self) -> list[str | None]:
        return [name for name, _, _ in self.audited]


class Watched:
    """A folder that checkpoints come to, a state folder, and a store of its own."""

    def __init__(self, home: Path, tracker: MlflowTracker) -> None:
        self.folder, self.root, self.tracker = home / "incoming", home / "state", tracker
        self.folder.mkdir()
        self.config = make_config(self.root)
        self.audits = Audits(tracker, self.root)

    def drop(self, name: str, content: Tensors | bytes, age: float = 60.0) -> Path:
        """A file last modified so many seconds ago."""
        path = self.folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        os.utime(path, (time.time() - age,) * 2)
        return path

    def make_reaudit(
        self,
        config: Config | None = None,
        source: CheckpointSource | None = None,
        audit: Audit | None = None,
        policy: str | None = None,
    ) -> Reaudit:
        chosen = source or FolderSource(folder=self.folder, stable_seconds=0)
        rules = load_policy(policy) if policy else None
        doing = audit or self.audits
        return Reaudit(config or self.config, chosen, rules, self.tracker, self.root, no_progress, doing, 0)

    def look(self, **changes: Any) -> dict[str, CheckpointOutcome]:
        """By name, in the order of the result."""
        return {c.name: c for c in self.make_reaudit(**changes).run().checkpoints}

    def outcomes(self, **changes: Any) -> dict[str, str]:
        return {name: c.outcome for name, c in self.look(**changes).items()}

    def find_runs(self, status: str | None = None) -> list[RunRecord]:
        return [r for r in self.tracker.find({}) if status in (None, r.status)]


def make_weights(seed: int) -> Tensors:
    torch.manual_seed(seed)
    return {k: v.clone() for k, v in TinyNetwork().state_dict().items()}


def raising(error: BaseException) -> Callable[[Config, Occasion], None]:
    def during(config: Config, occasion: Occasion) -> None:
        raise error

    return during


def file_tag(path: Path) -> str:
    return f"lavise.file.{digest_file(path)[:32]}"
