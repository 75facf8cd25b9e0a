"""Stages: nothing is computed twice, nothing damaged is used, nothing half-made is left."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.configs.schema import TrackingSettings
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.tracking import open_tracker
from lavise.tasks.engine.stage import Stage, StageOutcome, StageRunner, Work, describe_artefacts, flatten
from lavise.tasks.engine.stage_inputs import Given, Request, StageInputs

STAGE = Stage("sum", version=1)


@dataclass(frozen=True)
class Number(StageInputs):
    """What asks for the same as `requests_of`."""

    number: int
    data: Given[None] = field(default_factory=lambda: Given(None, "abc"))


class Counter:
    """A computation that remembers for which folders it was called."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, folders: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
        self.calls.append(sorted(folders))
        for i, folder in folders.items():
            (folder / "value.txt").write_text(f"value {i}, call {len(self.calls)}", "utf-8")
        return {i: {"size": i, "shape": [i, 2]} for i in folders}


def make_runner(root: Path) -> StageRunner:
    return StageRunner(ArtefactStore(root))


def requests_of(*numbers: int) -> list[Request]:
    return [Request({"number": n}, {"data": "abc"}) for n in numbers]


def read(handle: Handle) -> str:
    return handle.path("value.txt").read_text("utf-8")


def test_second_run_is_cached_and_computes_nothing(tmp_path: Path) -> None:
    compute = Counter()
    first = make_runner(tmp_path)
    made = first.run(STAGE, "sum", requests_of(1), compute)
    second = make_runner(tmp_path)
    found = second.run(STAGE, "sum", requests_of(1), compute)
    assert compute.calls == [[0]]
    assert found == made
    assert [r.outcomes["sum"].cached for r in (first, second)] == [False, True]
    assert first.outcomes["sum"].digest == second.outcomes["sum"].digest == made[0].digest
    assert (made[0].info, made[0].inputs, made[0].settings) == (
        {"size": 0, "shape": [0, 2]},
        {"data": "abc"},
        {"number": 1},
    )


def test_a_state_folder_that_is_removed_meanwhile_is_told_of(tmp_path: Path) -> None:
    def remove_and_write(folders: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
        shutil.rmtree(tmp_path / "state")
        (folders[0] / "value.txt").write_text("lost", "utf-8")
        raise AssertionError

    with pytest.raises(UserError, match=r"^storage\.root: .*artefacts is gone; it was removed while sum was computed"):
        make_runner(tmp_path / "state").run(STAGE, "sum", requests_of(1), remove_and_write)
    assert make_runner(tmp_path / "state").run(STAGE, "sum", requests_of(1), Counter())


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_that_another_machine_takes_away_is_told_of(tmp_path: Path, fails: bool) -> None:
    """Locks do not hold between the two; nothing empty is published in its place."""

    def compute(folders: Mapping[int, Path]) -> Mapping[int, Mapping[str, Any]]:
        found = Counter()(folders)
        folders[1].rename(folders[1].with_suffix(""))
        if fails:
            raise RuntimeError("I/O error: No such file")
        return found

    with pytest.raises(UserError, match=r"^storage\.root: .*\.partial is gone; somebody else removed it while sum was"):
        make_runner(tmp_path).run(STAGE, "sum", requests_of(1, 2), compute)
    assert make_runner(tmp_path).run(STAGE, "sum", requests_of(1, 2), Counter())[1].files


def test_what_another_run_has_made_meanwhile_was_not_computed_here(tmp_path: Path) -> None:
    """The second waits for the lock of the first, and its outcome says that it made nothing."""
    begun, may_end = threading.Event(), threading.Event()
    compute, waiting = Counter(), Counter()

    def slowly(folders: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
        begun.set()
        assert may_end.wait(30)
        return compute(folders)

    first, second = make_runner(tmp_path), make_runner(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        made = threads.submit(first.run, STAGE, "sum", requests_of(1), slowly)
        assert begun.wait(30)
        found = threads.submit(second.run, STAGE, "sum", requests_of(1), waiting)
        time.sleep(0.1)
        assert not found.done()
        may_end.set()
        assert found.result() == made.result()
    assert (compute.calls, waiting.calls) == ([[0]], [])
    assert [r.outcomes["sum"].cached for r in (first, second)] == [False, True]


@pytest.mark.parametrize(
    ("stage", "request_"),
    [
        (Stage("sum", version=2), Request({"number": 1}, {"data": "abc"})),
        (Stage("other", version=1), Request({"number": 1}, {"data": "abc"})),
        (STAGE, Request({"number": 2}, {"data": "abc"})),
        (STAGE, Request({"number": 1}, {"data": "abd"})),
        (STAGE, Request({"number": 1, "more": 0}, {"data": "abc"})),
    ],
)
def test_whatever_it_depends_on_makes_it_anew(tmp_path: Path, stage: Stage, request_: Request) -> None:
    compute, runner = Counter(), make_runner(tmp_path)
    (first,) = runner.run(STAGE, "sum", requests_of(1), compute)
    (second,) = runner.run(stage, "again", [request_], compute)
    assert compute.calls == [[0], [0]]
    assert first.digest != second.digest
    assert first.folder != second.folder


def test_settings_that_are_none_change_nothing(tmp_path: Path) -> None:
    compute, runner = Counter(), make_runner(tmp_path)
    runner.run(STAGE, "sum", requests_of(1), compute)
    runner.run(STAGE, "again", [Request({"number": 1, "later": None}, {"data": "abc"})], compute)
    assert runner.outcomes["again"].cached


@pytest.mark.parametrize("damage", ["change", "grow", "remove", "handle"])
def test_damaged_artefact_is_made_anew(tmp_path: Path, damage: str) -> None:
    compute, runner = Counter(), make_runner(tmp_path)
    (handle,) = runner.run(STAGE, "sum", requests_of(1), compute)
    file = handle.path("value.txt")
    if damage == "change":
        file.write_text(read(handle).replace("value", "VALUE"), "utf-8")
    elif damage == "grow":
        file.write_text(read(handle) + "!", "utf-8")
    elif damage == "remove":
        file.unlink()
    else:
        (handle.folder / "handle.json").write_text("{", "utf-8")
    (again,) = runner.run(STAGE, "sum", requests_of(1), compute)
    assert len(compute.calls) == 2
    assert not runner.outcomes["sum"].cached
    assert read(again) == "value 0, call 2"
    assert again.digest == handle.digest


def test_group_computes_only_what_is_missing(tmp_path: Path) -> None:
    compute, runner = Counter(), make_runner(tmp_path)
    runner.run(STAGE, "some", requests_of(2), compute)
    handles = runner.run(STAGE, "all", requests_of(1, 2, 3), compute)
    assert compute.calls == [[0], [0, 2]]
    assert [h.settings["number"] for h in handles] == [1, 2, 3]
    assert [read(h) for h in handles] == ["value 0, call 2", "value 0, call 1", "value 2, call 2"]
    assert not runner.outcomes["all"].cached
    runner.run(STAGE, "once more", requests_of(3, 1), compute)
    assert len(compute.calls) == 2


def test_equal_requests_share_one_artefact(tmp_path: Path) -> None:
    compute, runner = Counter(), make_runner(tmp_path)
    handles = runner.run(STAGE, "twice", requests_of(1, 1), compute)
    assert [read(h) for h in handles] == [read(handles[0])] * 2
    assert handles[0].digest == handles[1].digest
    assert runner.run(STAGE, "again", requests_of(1), compute)[0].files.keys() == {"value.txt"}


def test_error_leaves_no_artefact(tmp_path: Path) -> None:
    def fail(folders: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
        (folders[0] / "half.txt").write_text("half", "utf-8")
        raise ValueError("no more room")

    runner, compute = make_runner(tmp_path), Counter()
    with pytest.raises(ValueError, match="no more room"):
        runner.run(STAGE, "sum", requests_of(1), fail)
    assert "sum" not in runner.outcomes
    assert not list(tmp_path.rglob("handle.json"))
    (handle,) = runner.run(STAGE, "sum", requests_of(1), compute)
    assert set(handle.files) == {"value.txt"}


@pytest.mark.parametrize("resumable", [True, False])
def test_only_resumable_stages_find_what_was_left(tmp_path: Path, resumable: bool) -> None:
    stage = Stage("parts", version=1, resumable=resumable)
    seen: list[list[str]] = []

    def fail_once(inputs: Number, folder: Path) -> dict[str, Any]:
        seen.append(sorted(p.name for p in folder.iterdir()))
        (folder / f"part{len(seen)}").write_text("x", "utf-8")
        if len(seen) == 1:
            raise KeyboardInterrupt
        return {}

    runner = make_runner(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runner.run_one(stage, "parts", Number(1), fail_once)
    handle = runner.run_one(stage, "parts", Number(1), fail_once)
    assert seen == [[], ["part1"] if resumable else []]
    assert sorted(handle.files) == (["part1", "part2"] if resumable else ["part2"])


def test_a_single_artefact_is_made_of_what_is_declared(tmp_path: Path) -> None:
    """The computation gets the very value that the request is made from."""
    seen: list[Number] = []

    def compute(inputs: Number, folder: Path) -> dict[str, Any]:
        seen.append(inputs)
        (folder / "value.txt").write_text(str(inputs.number), "utf-8")
        return {"twice": 2 * inputs.number}

    inputs = Number(21)
    handle = make_runner(tmp_path).run_one(STAGE, "one", inputs, compute)
    assert (handle.settings, handle.inputs, handle.info) == ({"number": 21}, {"data": "abc"}, {"twice": 42})
    assert seen[0] is inputs
    (same,) = make_runner(tmp_path).run(STAGE, "same", requests_of(21), Counter())
    assert same == handle


def test_moved_state_folder_is_still_found(tmp_path: Path) -> None:
    compute = Counter()
    make_runner(tmp_path / "old").run(STAGE, "sum", requests_of(1), compute)
    (tmp_path / "old").rename(tmp_path / "new")
    (handle,) = make_runner(tmp_path / "new").run(STAGE, "sum", requests_of(1), compute)
    assert len(compute.calls) == 1
    assert read(handle) == "value 0, call 1"


def test_executor_runs_the_work_and_knows_whether_it_uses_the_device(tmp_path: Path) -> None:
    asked = []

    def execute(title: str, work: Work, uses_device: bool) -> StageOutcome:
        asked.append((title, uses_device))
        return work()

    runner = StageRunner(ArtefactStore(tmp_path), execute=execute)
    compute = Counter()
    runner.run(STAGE, "sum", requests_of(1), compute)
    runner.run(Stage("train", version=1, uses_device=True), "train", requests_of(1), compute)
    runner.run_one(Stage("train", version=1, uses_device=True), "again", Number(1), _must_not_run)
    assert asked == [("sum", False), ("train", True), ("again", True)]
    assert len(compute.calls) == 2


def _must_not_run(inputs: Number, folder: Path) -> dict[str, Any]:
    raise AssertionError("it is stored")


def test_outcomes_are_found_by_stage_and_role_whatever_their_title(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)

    def compute(folders: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
        for folder in folders.values():
            (folder / "file").write_text("x", "utf-8")
        return {i: {} for i in folders}

    for number, (title, role, subject) in enumerate((("a", "train", "twin"), ("b", "target", ""), ("c", "train", ""))):
        runner.run(STAGE, title, requests_of(number), compute, role=role, subject=subject)
    assert runner.find(STAGE, "train") is runner.outcomes["c"]
    assert runner.find(STAGE, "target") is runner.outcomes["b"]
    with pytest.raises(KeyError, match="stage sum evaluation has not run"):
        runner.find(STAGE, "evaluation")


def test_what_the_stages_made(tmp_path: Path) -> None:
    """In the order of execution, whether it was computed or found; each file by the sha256 of its content."""

    def compute(folders: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
        for i, folder in folders.items():
            (folder / "sub").mkdir()
            (folder / "sub" / "value.txt").write_text(f"value {i}", "utf-8")
            (folder / "a.txt").write_text("a", "utf-8")
        return {i: {} for i in folders}

    runner = make_runner(tmp_path)
    handles = runner.run(STAGE, "two layers", requests_of(1, 2), compute, role="target", subject="twin")
    runner.run(Stage("other", version=1), "another", requests_of(3), compute)
    found = describe_artefacts(runner.outcomes)
    assert list(found) == ["stages"]
    assert list(found["stages"]) == ["two layers", "another"]
    assert found["stages"]["two layers"] == [
        {
            "stage": "sum",
            "role": "target",
            "subject": "twin",
            "digest": handles[i].digest,
            "files": {
                "a.txt": hashlib.sha256(b"a").hexdigest(),
                "sub/value.txt": hashlib.sha256(f"value {i}".encode()).hexdigest(),
            },
        }
        for i in range(2)
    ]
    assert found["stages"]["another"][0]["stage"] == "other"
    again = make_runner(tmp_path)
    again.run(STAGE, "two layers", requests_of(1, 2), compute, role="target", subject="twin")
    assert again.outcomes["two layers"].cached
    assert describe_artefacts(again.outcomes)["stages"]["two layers"] == found["stages"]["two layers"]
    assert json.loads(json.dumps(found)) == found


def test_stages_are_child_runs_in_mlflow(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    tracker = open_tracker(TrackingSettings(experiment="stages"), tmp_path)
    parent = tracker.start("audit", {})
    runner = StageRunner(ArtefactStore(tmp_path), tracker, parent)
    runner.run(STAGE, "made", requests_of(1), Counter())
    runner.run(STAGE, "found", requests_of(1), Counter())

    def fail(folders: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        runner.run(STAGE, "failed", requests_of(2), fail)
    parent.end()
    client = MlflowClient(tracking_uri=tracker.uri)
    experiment = client.get_experiment_by_name("stages")
    assert experiment is not None
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    children = {n: r for n, r in runs.items() if r.data.tags.get("mlflow.parentRunId") == parent.run_id}
    assert {n: r.info.status for n, r in children.items()} == {
        "made": "FINISHED",
        "found": "FINISHED",
        "failed": "FAILED",
    }
    assert [children[n].data.tags["lavise.cached"] for n in ("made", "found")] == ["false", "true"]
    assert children["made"].data.tags["lavise.digest"] == runner.outcomes["made"].digest
    assert children["made"].data.params == {"number": "1", "input.data": "abc"}
    assert children["found"].data.metrics["size"] == 0


def test_flatten_joins_the_keys() -> None:
    assert flatten({"a": 1, "b": {"c": {"d": [2]}, "e": None}}) == {"a": 1, "b.c.d": [2], "b.e": None}
