"""Which checkpoints are audited, and what is said of the others: on real files, a real MLflow store and real locks."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lavise.configs.errors import CheckpointError, UserError
from lavise.configs.policy import load_policy
from lavise.configs.schema import Config
from lavise.configs.sources import FolderSource, RegisteredModelSource
from lavise.flows.audit.results import Occasion
from lavise.flows.audit.run import digest_identity
from lavise.flows.audit.run_folder import find_snapshot
from lavise.flows.repeats.reaudit import (
    MAX_ATTEMPTS,
    MAX_ENDS,
    STATE_TAG,
    CheckpointOutcome,
    Reaudit,
    ReauditResult,
    failed_outcomes,
    reaudit_here,
)
from lavise.flows.shared.results import RunResult
from lavise.storage.state.digest import digest_file, digest_tensors
from lavise.storage.state.locks import try_lock
from lavise.storage.state.progress import no_progress
from lavise.storage.tracking import NullTracker
from tests.unit.flows.helpers import client_of, held, make_config, tags_of, write_run_folder
from tests.unit.flows.repeats.watched_folder import Tensors, Watched, file_tag, make_weights, raising

# Exactly once


def test_audited_once_then_known(watched: Watched) -> None:
    path = watched.drop("epoch1.pth", make_weights(1))
    first = watched.look()["epoch1.pth"]
    assert (first.outcome, first.gate) == ("audited", None)
    assert first.run_id
    tags = tags_of(watched.tracker, first.run_id)
    assert (tags["lavise.checkpoint_name"], tags[STATE_TAG]) == ("epoch1.pth", "audited")
    assert tags[file_tag(path)] == "seen"
    again = watched.look()["epoch1.pth"]
    assert (again.outcome, again.run_id) == ("known", first.run_id)
    assert watched.audits.num_started == 1


def test_the_same_bytes_under_another_name(watched: Watched) -> None:
    path = watched.drop("epoch1.pth", make_weights(1), age=60)
    shutil.copyfile(path, watched.folder / "z_last.pth")
    assert watched.outcomes() == {"epoch1.pth": "audited", "z_last.pth": "known"}
    path.rename(watched.folder / "best.pth")
    assert watched.outcomes() == {"best.pth": "known", "z_last.pth": "known"}
    assert watched.audits.names == ["epoch1.pth"]


def test_the_same_weights_in_other_bytes_are_loaded_once(watched: Watched) -> None:
    weights = make_weights(1)
    watched.drop("epoch1.pth", weights, age=60)
    run_id = watched.look()["epoch1.pth"].run_id
    assert run_id
    other = watched.drop("resaved.pth", dict(reversed(weights.items())), age=30)
    assert digest_file(other) != digest_file(watched.folder / "epoch1.pth")
    found = watched.look()["resaved.pth"]
    assert (found.outcome, found.run_id, found.detail) == ("known", run_id, "the same weights")
    assert tags_of(watched.tracker, run_id)[file_tag(other)] == "seen"
    # From now on by its bytes alone: what is loaded would first be copied.
    shutil.rmtree(watched.root / "checkpoints")
    assert watched.look()["resaved.pth"].detail == ""
    assert not list((watched.root / "checkpoints").glob("*.pth"))
    assert watched.audits.names == ["epoch1.pth"]


def test_an_audit_by_hand_counts(watched: Watched, tmp_path: Path) -> None:
    torch.save(make_weights(1), tmp_path / "mine.pth")
    model = watched.config.model.model_copy(update={"weights": str(tmp_path / "mine.pth")})
    by_hand = watched.audits(watched.config.model_copy(update={"model": model}), Occasion()).run_id
    watched.drop("epoch1.pth", make_weights(1), age=60)
    watched.drop("epoch2.pth", make_weights(2), age=30)
    found = watched.look()
    assert (found["epoch1.pth"].outcome, found["epoch1.pth"].run_id) == ("known", by_hand)
    assert watched.audits.audited[-1][0::2] == ("epoch2.pth", by_hand)


def test_a_run_deleted_in_mlflow_is_audited_again(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    first = watched.look()["epoch1.pth"].run_id
    client_of(watched.tracker).delete_run(str(first))
    second = watched.look()["epoch1.pth"]
    assert second.outcome == "audited"
    assert second.run_id != first
    assert watched.outcomes() == {"epoch1.pth": "known"}


def test_a_rerun_alone_does_not_count(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    first = watched.look()["epoch1.pth"].run_id
    assert first
    tags = {k: v for k, v in tags_of(watched.tracker, first).items() if k.startswith("lavise.")}
    rerun = watched.tracker.start("tiny", {**tags, "lavise.rerun_of": first})
    rerun.end()
    assert watched.look()["epoch1.pth"].run_id == first
    client_of(watched.tracker).delete_run(first)
    assert watched.outcomes() == {"epoch1.pth": "audited"}


@pytest.mark.parametrize(
    ("sections", "outcome"),
    [
        ({"name": "another-name"}, "known"),
        ({"statistics": {"num_workers": 7}}, "known"),
        ({"report": {"thumbnail_px": 64}}, "known"),
        ({"seed": 1}, "audited"),
        ({"explain": {"top_images": 24}}, "audited"),
        ({"model": {"layers": ["stem"]}}, "audited"),
    ],
)
def test_what_makes_another_audit(watched: Watched, sections: dict[str, Any], outcome: str) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    watched.look()
    assert watched.outcomes(config=make_config(watched.root, **sections)) == {"epoch1.pth": outcome}
    assert watched.outcomes() == {"epoch1.pth": "known"}


# Faults


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a checkpoint", "is no checkpoint"),
        (b"PK\x03\x04 cut off", "cannot read"),
        ({"stem.weight": torch.zeros(6, 3, 3, 3)}, "does not fit the architecture"),
        ({k: v[:1] for k, v in make_weights(0).items()}, "does not fit the architecture"),
    ],
)
def test_broken_is_recorded_once_and_stops_no_other(watched: Watched, content: Tensors | bytes, reason: str) -> None:
    broken = watched.drop("a_broken.pth", content, age=60)
    watched.drop("epoch1.pth", make_weights(1), age=30)
    found = watched.look()
    assert {name: c.outcome for name, c in found.items()} == {"a_broken.pth": "broken", "epoch1.pth": "audited"}
    assert reason in found["a_broken.pth"].detail
    assert "checkpoints/" not in found["a_broken.pth"].detail  # its own name, not that of the copy that was read
    (record,) = watched.find_runs("FAILED")
    assert record.run_id == found["a_broken.pth"].run_id
    assert record.name == "tiny a_broken.pth"
    assert record.tags["lavise.reaudit"] == "broken"
    assert record.tags["lavise.error"] == found["a_broken.pth"].detail
    assert record.tags["lavise.config_digest"] == digest_identity(watched.config)
    assert record.tags["lavise.checkpoint_name"] == "a_broken.pth"
    assert record.tags[file_tag(broken)] == "seen"
    again = watched.look()["a_broken.pth"]
    assert (again.outcome, again.run_id) == ("known", record.run_id)
    assert again.detail.startswith("broken")
    assert len(watched.find_runs()) == 2
    assert watched.audits.names == ["epoch1.pth"]


def test_broken_as_only_the_audit_could_see(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1), age=60)
    watched.audits.during = raising(CheckpointError("model.weights: activations that are not finite"))
    found = watched.look()["epoch1.pth"]
    assert (found.outcome, found.detail) == ("broken", "model.weights: activations that are not finite")
    (record,) = watched.find_runs("FAILED")
    assert record.run_id == found.run_id
    assert (record.tags["lavise.reaudit"], record.tags["lavise.error"]) == ("broken", found.detail)
    watched.drop("epoch2.pth", make_weights(2), age=30)
    watched.audits.during = lambda config, occasion: None
    assert watched.outcomes() == {"epoch1.pth": "known", "epoch2.pth": "audited"}


def test_another_fault_is_tried_again_and_given_up(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1), age=60)
    watched.audits.during = raising(ConnectionError("the scheduler\nis gone"))
    for _ in range(3):
        found = watched.look()["epoch1.pth"]
        assert (found.outcome, found.detail) == ("failed", "ConnectionError: the scheduler is gone")
    watched.audits.during = lambda config, occasion: None
    found = watched.look()["epoch1.pth"]
    assert found.outcome == "given up"
    assert "3 audits of it failed and 0 were killed; delete their runs in MLflow" in found.detail
    assert watched.audits.num_started == 3
    assert found.run_id == watched.find_runs("FAILED")[-1].run_id
    for run in watched.find_runs("FAILED"):
        client_of(watched.tracker).delete_run(run.run_id)
    assert watched.outcomes() == {"epoch1.pth": "audited"}


def test_after_a_fault_that_passed_it_is_audited_and_known(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    watched.audits.during = raising(MemoryError())
    assert watched.outcomes() == {"epoch1.pth": "failed"}
    watched.audits.during = lambda config, occasion: None
    assert watched.outcomes() == {"epoch1.pth": "audited"}
    assert watched.outcomes() == {"epoch1.pth": "known"}


def test_a_fault_stops_none_of_the_others(watched: Watched) -> None:
    for number in range(3):
        watched.drop(f"epoch{number}.pth", make_weights(number), age=60 - number)

    def during(config: Config, occasion: Occasion) -> None:
        if occasion.checkpoint_name == "epoch1.pth":
            raise ConnectionError("the reference is away")

    watched.audits.during = during
    result = watched.make_reaudit().run()
    assert [c.outcome for c in result.checkpoints] == ["audited", "failed", "audited"]
    assert failed_outcomes(result) == [result.checkpoints[1]]
    # The predecessor is the last one that ended well.
    assert watched.audits.audited[1][2] == result.checkpoints[0].run_id


def test_a_mistake_in_the_settings_ends_the_look_and_counts_against_no_checkpoint(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    watched.audits.during = raising(UserError("reference.root: found '/away', which is no folder"))
    for _ in range(MAX_ATTEMPTS + 1):
        with pytest.raises(UserError, match="/away"):
            watched.make_reaudit().run()
    assert {r.tags[STATE_TAG] for r in watched.find_runs("FAILED")} == {"settings"}
    watched.audits.during = lambda config, occasion: None
    assert watched.outcomes() == {"epoch1.pth": "audited"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_or_failing_disk_outside_of_stages_counts_against_no_checkpoint(watched: Watched, number: int) -> None:
    """While results are written down, for example, or copied to MLflow."""
    watched.drop("epoch1.pth", make_weights(1))
    watched.audits.during = raising(OSError(number, os.strerror(number), "runs/x.partial/report.html"))
    for _ in range(MAX_ATTEMPTS + 1):
        with pytest.raises(UserError, match=r"report\.html'\); .*, and run it again: what was finished is kept$"):
            watched.make_reaudit().run()
    assert {r.tags[STATE_TAG] for r in watched.find_runs("FAILED")} == {"settings"}
    watched.audits.during = lambda config, occasion: None
    assert watched.outcomes() == {"epoch1.pth": "audited"}


def test_a_mistake_that_leaves_no_run_is_no_mark_on_an_earlier_one(watched: Watched) -> None:
    """What an audit finds before it begins leaves no run; the FAILED one is of another fault and goes on counting."""
    watched.drop("epoch1.pth", make_weights(1))
    watched.audits.during = raising(ConnectionError("the scheduler is gone"))
    assert watched.outcomes() == {"epoch1.pth": "failed"}

    def refuse(config: Config, occasion: Occasion) -> RunResult:
        raise UserError("reference.root: found '/away', which is no folder")

    with pytest.raises(UserError, match="/away"):
        watched.look(audit=refuse)
    (failed,) = watched.find_runs()
    assert STATE_TAG not in failed.tags


def test_broken_without_a_run_of_its_own_is_recorded(watched: Watched) -> None:
    def refuse(config: Config, occasion: Occasion) -> RunResult:
        raise CheckpointError("model.weights: activations that are not finite")

    watched.drop("epoch1.pth", make_weights(1))
    found = watched.look(audit=refuse)["epoch1.pth"]
    (record,) = watched.find_runs("FAILED")
    assert (found.outcome, found.run_id) == ("broken", record.run_id)
    assert watched.outcomes() == {"epoch1.pth": "known"}


def test_a_snapshot_that_cannot_be_taken_stops_none_of_the_others(watched: Watched) -> None:
    path = watched.drop("epoch1.pth", make_weights(1), age=60)
    watched.drop("epoch2.pth", make_weights(2), age=30)
    in_its_way = watched.root / "checkpoints" / f"{digest_file(path)}.pth"
    in_its_way.mkdir(parents=True)
    assert watched.outcomes() == {"epoch1.pth": "failed", "epoch2.pth": "audited"}
    assert watched.audits.num_started == 1
    in_its_way.rmdir()
    assert watched.outcomes() == {"epoch1.pth": "audited", "epoch2.pth": "known"}


@pytest.mark.filterwarnings("ignore")
def test_what_torch_cannot_load_stops_none_of_the_others(watched: Watched) -> None:
    weights = make_weights(1)
    watched.drop("sparse.pth", {**weights, "stem.weight": weights["stem.weight"].to_sparse()}, age=60)
    watched.drop("epoch1.pth", make_weights(1), age=30)
    found = watched.look()
    assert found["sparse.pth"].outcome in ("failed", "broken")
    assert found["epoch1.pth"].outcome == "audited"
    assert watched.audits.names == ["epoch1.pth"]


def test_killed_audits_do_not_count_as_attempts(watched: Watched) -> None:
    path = watched.drop("epoch1.pth", make_weights(1))
    watched.audits.during = raising(KeyboardInterrupt())
    reaudit = watched.make_reaudit()
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            reaudit.run()
        for digest in (digest_file(path), digest_tensors(make_weights(1))):
            with try_lock(reaudit._lock_path(digest)) as free:
                assert free
    assert [r.status for r in watched.find_runs()] == ["KILLED"] * 4
    watched.audits.during = lambda config, occasion: None
    assert watched.outcomes() == {"epoch1.pth": "audited"}


def test_a_mistake_in_the_settings_is_nobodys_checkpoint(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    config = make_config(watched.root, model={"arch": "tests.unit.tasks.helpers:HugeNetwork"})
    with pytest.raises(UserError, match=r"model\.arch: cannot import"):
        watched.look(config=config)
    assert watched.find_runs() == []


def test_audits_that_ended_with_their_container_are_counted(watched: Watched) -> None:
    """Another host name each night, so that nobody can look for the process: the runs go on saying RUNNING."""
    path = watched.drop("epoch1.pth", make_weights(1), age=60)
    watched.drop("epoch2.pth", make_weights(2), age=30)
    for night in range(MAX_ENDS):
        tags = {file_tag(path): "seen", "lavise.config_digest": digest_identity(watched.config)}
        run = watched.tracker.start("tiny epoch1.pth", tags)
        stage = watched.tracker.start("extract", {}, run.run_id)
        for started in (run, stage):
            started.set_tags({"lavise.host": f"container-{night}", "lavise.pid": "1"})
    assert watched.outcomes() == {"epoch1.pth": "given up", "epoch2.pth": "audited"}
    assert {r.status for r in watched.find_runs()} == {"KILLED", "FINISHED"}


def test_a_run_of_somebody_who_is_at_work_is_left_alone(watched: Watched) -> None:
    path = watched.drop("epoch1.pth", make_weights(1))
    run = watched.tracker.start(
        "tiny epoch1.pth", {file_tag(path): "seen", "lavise.config_digest": digest_identity(watched.config)}
    )
    with held(watched.make_reaudit()._lock_path(digest_tensors(make_weights(1)))):
        assert watched.outcomes() == {"epoch1.pth": "busy"}
    (found,) = watched.find_runs()
    assert (found.run_id, found.status) == (run.run_id, "RUNNING")


# Two at a time
# Two at a time


def test_busy_by_the_file(watched: Watched) -> None:
    path = watched.drop("epoch1.pth", make_weights(1), age=60)
    watched.drop("epoch2.pth", make_weights(2), age=30)
    with held(watched.make_reaudit()._lock_path(digest_file(path))):
        assert watched.outcomes() == {"epoch1.pth": "busy", "epoch2.pth": "audited"}
        assert [p.stem for p in (watched.root / "checkpoints").glob("*.pth")] == [
            digest_file(watched.folder / "epoch2.pth")
        ]
    assert watched.outcomes() == {"epoch1.pth": "audited", "epoch2.pth": "known"}


def test_busy_by_the_weights(watched: Watched) -> None:
    """The other one has them in a file with other bytes."""
    watched.drop("epoch1.pth", make_weights(1))
    with held(watched.make_reaudit()._lock_path(digest_tensors(make_weights(1)))):
        found = watched.look()["epoch1.pth"]
        assert (found.outcome, found.run_id) == ("busy", None)
        assert watched.find_runs() == []
    assert watched.outcomes() == {"epoch1.pth": "audited"}


def test_another_config_does_not_wait(watched: Watched) -> None:
    path = watched.drop("epoch1.pth", make_weights(1))
    with held(watched.make_reaudit()._lock_path(digest_file(path))):
        assert watched.outcomes(config=make_config(watched.root, seed=1)) == {"epoch1.pth": "audited"}


# Files that change


def test_what_is_still_written_waits(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    watched.drop("empty.pth", b"")
    soon = FolderSource(folder=watched.folder, stable_seconds=3600)
    assert watched.outcomes(source=soon) == {"empty.pth": "waiting", "epoch1.pth": "waiting"}
    assert watched.find_runs() == []
    found = watched.look()
    assert (found["empty.pth"].outcome, found["empty.pth"].detail) == ("unusable", "the file is empty")
    assert found["epoch1.pth"].outcome == "audited"


def test_the_snapshot_is_what_is_audited(watched: Watched) -> None:
    path = watched.drop("last.pth", make_weights(1))
    sha256 = digest_file(path)

    def during(config: Config, occasion: Occasion) -> None:
        torch.save(make_weights(2), path)
        assert Path(config.model.weights) == watched.root / "checkpoints" / f"{sha256}.pth"

    watched.audits.during = during
    assert watched.outcomes() == {"last.pth": "audited"}
    assert watched.audits.audited == [("last.pth", digest_tensors(make_weights(1)), None)]
    first = watched.find_runs()[0].run_id
    watched.audits.during = lambda config, occasion: None
    assert watched.outcomes() == {"last.pth": "audited"}
    assert watched.audits.audited[1] == ("last.pth", digest_tensors(make_weights(2)), first)


def test_overwritten_before_its_turn_waits_for_the_next_look(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1), age=60)
    last = watched.drop("last.pth", make_weights(2), age=30)

    def during(config: Config, occasion: Occasion) -> None:
        torch.save(make_weights(3), last)

    watched.audits.during = during
    assert watched.outcomes() == {"epoch1.pth": "audited", "last.pth": "waiting"}
    watched.audits.during = lambda config, occasion: None
    assert watched.outcomes() == {"epoch1.pth": "known", "last.pth": "audited"}
    assert watched.audits.audited[1][1] == digest_tensors(make_weights(3))


@pytest.mark.parametrize("name", ["état \N{GRINNING FACE}", "a: 'b' #c, [d] {e} = *f", "50% \N{LINE SEPARATOR} off"])
def test_any_state_folder(watched: Watched, tmp_path: Path, name: str) -> None:
    watched.root = watched.audits.root = tmp_path / name
    watched.config = make_config(watched.root)
    watched.drop("epoch1.pth", make_weights(1))
    assert watched.outcomes() == {"epoch1.pth": "audited"}
    assert watched.audits.audited[0][1] == digest_tensors(make_weights(1))


def test_only_snapshots_of_this_state_folder_are_told_apart(watched: Watched, tmp_path: Path) -> None:
    """By their name, gc keeps them with the run."""
    watched.drop("epoch1.pth", make_weights(1))
    watched.look()
    (snapshot,) = (watched.root / "checkpoints").glob("*.pth")
    assert find_snapshot(str(snapshot), watched.root) == snapshot.name
    assert find_snapshot(str(snapshot), tmp_path) is None
    for other in (watched.folder / "epoch1.pth", watched.root / "checkpoints" / "registered" / snapshot.name):
        assert find_snapshot(str(other), watched.root) is None
    for word in ("random", "pretrained", "package:checkpoints", "checkpoints/a.pth"):
        assert find_snapshot(word, watched.root) is None


# Predecessors


def test_the_oldest_first_and_each_with_the_one_before(watched: Watched) -> None:
    for name, age in (("c.pth", 90), ("a.pth", 60), ("b.pth", 30)):
        watched.drop(name, make_weights(age), age=age)
    found = watched.look()
    assert list(found) == watched.audits.names == ["c.pth", "a.pth", "b.pth"]
    runs = [c.run_id for c in found.values()]
    assert [p for _, _, p in watched.audits.audited] == [None, *runs[:2]]
    watched.drop("d.pth", make_weights(5), age=600)
    watched.look()
    # The last audited, whatever the files' times say.
    assert watched.audits.audited[3][0::2] == ("d.pth", runs[2])


def test_reruns_other_configs_and_stages_are_no_predecessors(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1), age=60)
    first = watched.look()["epoch1.pth"].run_id
    assert first
    tags = {k: v for k, v in tags_of(watched.tracker, first).items() if k.startswith("lavise.config")}
    rerun = watched.tracker.start("tiny", {**tags, "lavise.checkpoint": "1" * 64, "lavise.rerun_of": first})
    write_run_folder(watched.root / "runs" / rerun.run_id, watched.config)
    rerun.end()
    watched.tracker.start("train tail", {"lavise.stage": "train"}, rerun.run_id).end()
    watched.look(config=make_config(watched.root, seed=1))
    failed = watched.tracker.start("tiny", {**tags, "lavise.checkpoint": "2" * 64})
    failed.end("FAILED")
    watched.drop("epoch2.pth", make_weights(2), age=30)
    watched.look()
    assert watched.audits.audited[-1][0::2] == ("epoch2.pth", first)


def test_a_predecessor_whose_files_are_gone(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.drop("epoch1.pth", make_weights(1), age=60)
    first = watched.look()["epoch1.pth"].run_id
    shutil.rmtree(watched.root / "runs" / str(first))
    watched.drop("epoch2.pth", make_weights(2), age=30)
    assert watched.outcomes() == {"epoch1.pth": "known", "epoch2.pth": "audited"}
    assert watched.audits.audited[-1] == ("epoch2.pth", digest_tensors(make_weights(2)), None)
    assert f"no comparison with the audit before, run {first}" in caplog.text


# A registered model


# What is asked for, and what is said


def test_without_tracking_there_is_no_memory(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FolderSource(folder=watched.folder)
    reaudit = Reaudit(watched.config, source, None, NullTracker(), watched.root, no_progress, audit=watched.audits)
    with pytest.raises(UserError, match=r"tracking\.enabled: .* set it to true"):
        reaudit.run()
    monkeypatch.setenv("LAVISE_HOME", str(watched.root))
    for kind in (source, RegisteredModelSource(model="classifier")):
        with pytest.raises(UserError, match=r"tracking\.enabled"):
            reaudit_here("demo", ["tracking.enabled=false"], kind, None, no_progress)


def test_the_policy_reaches_the_audit_and_its_outcome_comes_back(watched: Watched) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    seen = []
    watched.audits.during = lambda config, occasion: seen.append(occasion.policy)
    watched.audits.gate = "failed"
    result = watched.make_reaudit(policy="default").run()
    assert seen == [load_policy("default")]
    assert result.checkpoints[0].gate == "failed"
    assert result.summarise() == "1 audited; 1 did not pass the policy"


def test_the_summary_in_one_line() -> None:
    outcomes = [
        CheckpointOutcome("a", "known"),
        CheckpointOutcome("b", "audited", "1", "invalid"),
        CheckpointOutcome("c", "known"),
        CheckpointOutcome("d", "audited", "2", "passed"),
    ]
    result = ReauditResult(tuple(outcomes))
    assert result.summarise() == "2 known, 2 audited; 1 did not pass the policy"
    assert (result.count("known"), result.count("busy"), failed_outcomes(result)) == (2, 0, [])
    assert "\n" not in result.to_json()
    assert json.loads(result.to_json())["checkpoints"][1] == {
        "name": "b",
        "outcome": "audited",
        "run_id": "1",
        "gate": "invalid",
        "detail": "",
    }
    assert ReauditResult(()).summarise() == "no checkpoint found"
