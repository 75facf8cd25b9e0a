"""What a stage is: work with a content address. Same digest, same result; nothing is computed twice.

A stage asks for one or more artefacts. Those that exist are used, the others are made under a lock and published whole.
Orchestration is passed in (`Executor`): in-process, or as a Prefect task.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypedDict, TypeVar

from lavise.configs.errors import UserError
from lavise.storage.state.artefacts import ArtefactStore, Handle, compute_stage_digest
from lavise.storage.state.digest import digest_of, short
from lavise.storage.state.disk_faults import find_write_fault
from lavise.storage.state.free_space import format_bytes, measure_free_bytes
from lavise.storage.state.memory import give_memory_back
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.state.text import one_line
from lavise.storage.tracking import NullRun, NullTracker, Run, Tracker
from lavise.tasks.engine.stage_inputs import Request, StageInputs

log = logging.getLogger("lavise")
# An artefact's file of this name holds [metric, value, step] rows: the curves of its run.
HISTORY_FILE = "history.json"
# A fact of an artefact: by name, of files that are compressed, the sha256 of what they would be without.
PLAIN_FILES = "plain_files"
# Attributes of the log records that say what became of a stage: `started`, `done` or `cached`, and its title.
STAGE_EVENT, STAGE_TITLE = "lavise_event", "lavise_stage"


@dataclass(frozen=True)
class Stage:
    """A kind of work. Raise `version` whenever the same settings and inputs would give another result.

    Attributes:
        resumable: a killed attempt leaves finished parts that the next one may use.
        uses_device: computes on the GPU where there is one, which two at a time would have to share.
        libraries: packages whose version can change the result; it is part of the digest. (torch stands in the settings
            of whatever computes with it.)
    """

    name: str
    version: int
    resumable: bool = False
    uses_device: bool = False
    libraries: tuple[str, ...] = ()

    def complete(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings of a request with the versions of the libraries."""
        if not self.libraries:
            return settings
        return {**settings, "libraries": {name: metadata.version(name) for name in self.libraries}}

    def find_digest(self, request: Request) -> str:
        """The content address of what is asked for."""
        return compute_stage_digest(self.name, self.version, self.complete(request.settings), request.inputs)


@dataclass(frozen=True)
class StageOutcome:
    """What came of a stage.

    Attributes:
        stage, role, subject: what it is found by: the stage's name, the part of the data that it read ("" where that
            is not one), and who was audited ("" for the audit itself, else a baseline or another audit).
    """

    handles: tuple[Handle, ...]
    cached: bool
    seconds: float
    digest: str
    stage: str
    role: str = ""
    subject: str = ""


Info = Mapping[str, Any]
# Fills the folders of the artefacts that are missing (by position in the requests) and returns facts about each.
Compute = Callable[[Mapping[int, Path]], Mapping[int, Info]]
Work = Callable[[], StageOutcome]
Read = TypeVar("Read", bound=StageInputs)


class Executor(Protocol):
    """Runs a stage's work: in-process, or as an orchestrator's task."""

    def __call__(self, title: str, work: Work, uses_device: bool) -> StageOutcome: ...


def run_inline(title: str, work: Work, uses_device: bool) -> StageOutcome:
    """In this process, as it is."""
    return work()


@dataclass
class StageRunner:
    """Runs the stages of one audit and remembers what each did.

    Attributes:
        parent: the audit's run; each stage becomes a child of it.
        outcomes: title -> outcome, in the order of execution.
    """

    store: ArtefactStore
    tracker: Tracker = field(default_factory=NullTracker)
    parent: Run = field(default_factory=NullRun)
    progress: Progress = no_progress
    execute: Executor = run_inline
    outcomes: dict[str, StageOutcome] = field(default_factory=dict)

    def run(
        self,
        stage: Stage,
        title: str,
        requests: Sequence[Request],
        compute: Compute,
        *,
        role: str = "",
        subject: str = "",
    ) -> tuple[Handle, ...]:
        """The artefacts of `requests`, in their order; `compute` makes those that are not there.

        Args:
            title: for people, in logs and in tracking.
            role, subject: see StageOutcome.
        """

        def work() -> StageOutcome:
            return replace(self._materialise(stage, title, requests, compute), role=role, subject=subject)

        outcome = self.execute(title, work, stage.uses_device)
        self.outcomes[title] = outcome
        return outcome.handles

    def run_one(
        self,
        stage: Stage,
        title: str,
        inputs: Read,
        compute: Callable[[Read, Path], Info],
        *,
        role: str = "",
        subject: str = "",
    ) -> Handle:
        """A single artefact: of what is declared in `inputs`, by a function that gets just that and the folder."""
        made = self.run(
            *(stage, title, [inputs.request()], lambda folders: {0: compute(inputs, folders[0])}),
            role=role,
            subject=subject,
        )
        return made[0]

    def find(self, stage: Stage, role: str = "") -> StageOutcome:
        """What came of a stage of the audit itself.

        Raises:
            KeyError: it has not run.
        """
        for outcome in self.outcomes.values():
            if (outcome.stage, outcome.role, outcome.subject) == (stage.name, role, ""):
                return outcome
        raise KeyError(f"stage {stage.name} {role}".rstrip() + " has not run")

    def _materialise(self, stage: Stage, title: str, requests: Sequence[Request], compute: Compute) -> StageOutcome:
        start = time.monotonic()
        digests = [stage.find_digest(request) for request in requests]
        requests = [replace(request, settings=stage.complete(request.settings)) for request in requests]
        found = {i: h for i, d in enumerate(digests) if (h := self.store.find(stage.name, d))}
        combined = digests[0] if len(digests) == 1 else digest_of(digests)
        run = self.tracker.start(title, {"lavise.stage": stage.name, "lavise.digest": combined}, self.parent.run_id)
        cached = len(found) == len(requests)
        try:
            if cached:
                log.info("%-28s cached   %s", title, short(combined), extra=_mark(title, "cached"))
            else:
                log.info("%-28s started  %s", title, short(combined), extra=_mark(title, "started"))
                found, cached = self._compute_missing(stage, requests, digests, compute)
                give_memory_back()
                seconds, became = time.monotonic() - start, "cached" if cached else "done"
                log.info("%-28s %-8s %s  %.1f s", title, became, short(combined), seconds, extra=_mark(title, became))
            handles = tuple(found[i] for i in range(len(requests)))
            seconds = time.monotonic() - start
            self._record(run, requests, handles, cached, seconds)
            run.end()
        except BaseException as err:
            end_after(run, err)
            raise
        return StageOutcome(handles, cached, round(seconds, 3), combined, stage.name)

    def _compute_missing(
        self, stage: Stage, requests: Sequence[Request], digests: Sequence[str], compute: Compute
    ) -> tuple[dict[int, Handle], bool]:
        """The artefacts, and whether another run has made all that was missing while this one waited for it."""
        with ExitStack() as locks:
            # Always in the same order, so that two runs that share artefacts cannot wait for each other.
            for digest in sorted(set(digests)):
                locks.enter_context(self.store.lock(stage.name, digest))
            found = {i: h for i, d in enumerate(digests) if (h := self.store.find(stage.name, d))}
            # Equal requests are one artefact: the first of them stands for all.
            folders = {
                i: self.store.partial_folder(stage.name, d, keep=stage.resumable)
                for i, d in enumerate(digests)
                if i not in found and i == digests.index(d)
            }
            if folders:
                unfinished = list(folders.values())
                with _tell_write_faults(stage, self.store, unfinished):
                    infos = compute(folders)
                    for i in folders:
                        request = requests[i]
                        found[i] = self.store.publish(
                            stage.name, stage.version, digests[i], request.settings, request.inputs, infos[i]
                        )
                        unfinished.remove(folders[i])
        return {i: found[i] if i in found else found[digests.index(d)] for i, d in enumerate(digests)}, not folders

    def _record(
        self, run: Run, requests: Sequence[Request], handles: Sequence[Handle], cached: bool, seconds: float
    ) -> None:
        run.set_tags({"lavise.cached": str(cached).lower()})
        metrics: dict[str, float] = {"seconds": seconds}
        for number, (request, handle) in enumerate(zip(requests, handles, strict=True)):
            prefix = f"{number}." if len(requests) > 1 else ""
            facts = {**flatten(request.settings), **flatten(request.inputs, "input.")}
            run.log_params({f"{prefix}{k}": v for k, v in facts.items() if v is not None})
            numbers = {k: v for k, v in flatten(handle.info).items() if isinstance(v, int | float)}
            metrics |= {f"{prefix}{k}": v for k, v in numbers.items()}
            if HISTORY_FILE in handle.files:
                run.log_history(json.loads(handle.path(HISTORY_FILE).read_text("utf-8")))
        run.log_metrics(metrics)


@contextmanager
def _tell_write_faults(stage: Stage, store: ArtefactStore, unfinished: Sequence[Path]) -> Iterator[None]:
    """That nothing can be written is the user's to mend.

    Raises:
        UserError: the disk, or the quota, is full, it has become read-only, or a file would be larger than is allowed;
            or the state folder was removed, or a folder that was being filled.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as err:
        fault = find_write_fault(err)
        if fault is None and not store.root.exists():
            raise UserError(
                f"storage.root: {store.root} is gone; it was removed while {stage.name} was computed. Run it again: "
                "what was in it is made anew"
            ) from err
        if fault is None and (gone := next((f for f in unfinished if not f.exists()), None)):
            raise UserError(
                f"storage.root: {gone} is gone; somebody else removed it while {stage.name} was computed. Are several "
                "machines at work in that state folder, and locks (flock) do not hold between them? Run it again; give "
                "each a state folder on a local disk if it happens again"
            ) from err
        if fault is None:
            raise
        free = format_bytes(measure_free_bytes(store.root))
        raise UserError(
            f"storage.root: {fault.says} while {stage.name} was written to {store.root} ({free} free); {fault.remedy}, "
            "or set storage.root to another disk, and run it again: it goes on from what was finished there"
        ) from err


def _mark(title: str, event: str) -> dict[str, str]:
    return {STAGE_TITLE: title, STAGE_EVENT: event}


class DescribedArtefact(TypedDict):
    """What a stage made, and the sha256 of every file (of one that is compressed, of what it would be without); stage,
    role and subject as in StageOutcome."""

    stage: str
    role: str
    subject: str
    digest: str
    files: dict[str, str]


class DescribedArtefacts(TypedDict):
    """By the title of the stage, in the order of execution."""

    stages: dict[str, list[DescribedArtefact]]


def describe_artefacts(outcomes: Mapping[str, StageOutcome]) -> DescribedArtefacts:
    """Of each stage, in the order of execution: what it made, and the sha256 of every file.

    Of a file that is compressed, it is that of what the file would be without: how an artefact is kept is no part of
    what it is.
    """
    return {
        "stages": {
            title: [
                {
                    "stage": h.stage,
                    "role": outcome.role,
                    "subject": outcome.subject,
                    "digest": h.digest,
                    "files": {n: h.info.get(PLAIN_FILES, {}).get(n, e.sha256) for n, e in h.files.items()},
                }
                for h in outcome.handles
            ]
            for title, outcome in outcomes.items()
        }
    }


def end_after(run: Run, error: BaseException) -> None:
    """Mark a run as failed or killed; a tracker that is gone must not hide why."""
    try:
        # What is no Exception is somebody's wish to stop: Ctrl-C, or SystemExit by the orchestrator.
        run.end("FAILED" if isinstance(error, Exception) else "KILLED")
    except Exception as lost:  # noqa: BLE001 - whatever the tracker raises, the first error is the one to show
        log.warning("  the run could not be marked as failed: %s", one_line(lost)[:200])


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `outer.inner` keys."""
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        name = f"{prefix}{key}"
        if isinstance(entry, Mapping):
            flat.update(flatten(entry, f"{name}."))
        else:
            flat[name] = entry
    return flat
