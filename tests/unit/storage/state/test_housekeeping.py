from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.storage.checkpoint_sources.base import FoundCheckpoint
from lavise.storage.checkpoint_sources.snapshots import take_snapshot
from lavise.storage.models.weight_files import WEIGHT_SUFFIXES
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.digest import digest_file
from lavise.storage.state.housekeeping import (
    Reason,
    StageUse,
    collect,
    find_references,
    measure_disk_use,
    plan_collection,
)
from tests.unit.storage.state.state_folder import (
    HOUR,
    RUN_A,
    RUN_B,
    RUN_C,
    SHA,
    folder_of,
    going,
    listing,
    plan,
    publish,
    set_age,
    write_needs,
)

# Plan


def test_every_kind_of_thing_that_goes(tmp_path: Path) -> None:
    kept, lost, of_deleted = (publish(tmp_path, "extract", n) for n in ("kept", "lost", "of deleted"))
    store = ArtefactStore(tmp_path)
    store.partial_folder("extract", "7" * 64, keep=False)
    with store.lock("extract", "7" * 64), store.lock("train", "8" * 64):
        pass
    write_needs(tmp_path / "runs" / RUN_A, kept, checkpoint=f"{SHA}.pt")
    write_needs(tmp_path / "runs" / RUN_B, of_deleted)
    write_needs(tmp_path / "runs" / f"{RUN_C}.partial")
    write_needs(tmp_path / "diffs" / f"{RUN_A}..{RUN_B}", kept)
    (tmp_path / "diffs" / f"{RUN_A}..{RUN_A}.partial").mkdir()
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for name in (f"{SHA}.pt", f"{'6' * 64}.safetensors", ".lock", f".partial-ab_1/{'6' * 64}.pth"):
        (checkpoints / name).parent.mkdir(exist_ok=True)
        (checkpoints / name).write_bytes(b"123")
    found = plan(tmp_path, RUN_B)
    assert going(found) == {
        f"diffs/{RUN_A}..{RUN_B}": Reason.ORPHANED_DIFF,
        f"runs/{RUN_B}": Reason.DELETED_RUN,
        f"runs/{RUN_C}.partial": Reason.UNFINISHED_RUN,
        folder_of(lost): Reason.UNREFERENCED,
        folder_of(of_deleted): Reason.UNREFERENCED,
        f"diffs/{RUN_A}..{RUN_A}.partial": Reason.UNFINISHED,
        f"artefacts/extract/{'7' * 24}.partial": Reason.UNFINISHED,
        "checkpoints/.partial-ab_1": Reason.UNFINISHED,
        f"checkpoints/{'6' * 64}.safetensors": Reason.CHECKPOINT,
        f"{folder_of(lost)}.lock": Reason.LOCK,
        f"{folder_of(of_deleted)}.lock": Reason.LOCK,
        f"artefacts/extract/{'7' * 24}.lock": Reason.LOCK,
        f"artefacts/train/{'8' * 24}.lock": Reason.LOCK,
    }
    assert [e.reason for e in found.entries] == sorted((e.reason for e in found.entries), key=list(Reason).index)
    sizes = {e.path.name: e.num_bytes for e in found.entries}
    assert sizes[f"{'6' * 64}.safetensors"] == 3
    assert sizes[lost.digest[:24]] == 5 + (lost.folder / "handle.json").stat().st_size
    assert found.num_bytes == sum(sizes.values())
    assert {e.stage for e in found.entries} == {"diffs", "runs", "extract", "train", "checkpoints"}
    collect(found)
    assert going(plan(tmp_path)) == {}
    assert store.find("extract", kept.digest) is not None
    rest = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert rest == {
        f"{folder_of(kept)}.lock",
        f"{folder_of(kept)}/a.npy",
        f"{folder_of(kept)}/handle.json",
        f"runs/{RUN_A}/artefacts.json",
        f"runs/{RUN_A}/report.html",
        f"checkpoints/{SHA}.pt",
        "checkpoints/.lock",
    }


def test_what_two_runs_share_stays_until_both_are_deleted(tmp_path: Path) -> None:
    shared = publish(tmp_path, "extract", "shared")
    for run in (RUN_A, RUN_B):
        write_needs(tmp_path / "runs" / run, shared, checkpoint=f"{SHA}.pth")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"{SHA}.pth").write_bytes(b"1")
    collect(plan(tmp_path, RUN_A))
    assert not (tmp_path / "runs" / RUN_A).exists()
    assert ArtefactStore(tmp_path).find("extract", shared.digest) is not None
    assert (tmp_path / "checkpoints" / f"{SHA}.pth").exists()
    collect(plan(tmp_path, RUN_A, RUN_B))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_same_digest_of_another_stage_is_another_artefact(tmp_path: Path) -> None:
    handle = publish(tmp_path, "train", "one")
    shutil.copytree(tmp_path / "artefacts" / "train", tmp_path / "artefacts" / "transfer")
    write_needs(tmp_path / "runs" / RUN_A, handle)
    assert folder_of(handle) not in going(plan(tmp_path))
    assert f"artefacts/transfer/{handle.digest[:24]}" in going(plan(tmp_path))


def test_nothing_young_goes(tmp_path: Path) -> None:
    handle = publish(tmp_path, "extract", "lost", {"sub/deep/a.npy": b"1"})
    ArtefactStore(tmp_path).partial_folder("extract", "7" * 64, keep=False)
    write_needs(tmp_path / "runs" / f"{RUN_C}.partial")
    now = time.time()
    assert going(plan_collection(tmp_path, (), HOUR, now)) == {}
    set_age(tmp_path, now - 2 * HOUR)
    assert len(going(plan_collection(tmp_path, (), HOUR, now))) == 4
    # One young file anywhere inside keeps the whole, and the lock beside it.
    os.utime(handle.folder / "sub" / "deep" / "a.npy", (now, now))
    found = going(plan_collection(tmp_path, (), HOUR, now))
    assert folder_of(handle) not in found
    assert f"{folder_of(handle)}.lock" not in found
    assert len(found) == 2


def test_lock_of_work_that_is_kept_stays(tmp_path: Path) -> None:
    store, now = ArtefactStore(tmp_path), time.time()
    partial = store.partial_folder("extract", "7" * 64, keep=False)
    with store.lock("extract", "7" * 64):
        pass
    set_age(tmp_path, now - 2 * HOUR)
    os.utime(partial, (now, now))
    assert going(plan_collection(tmp_path, (), HOUR, now)) == {}
    partial.rmdir()
    stray = f"artefacts/extract/{'7' * 24}.lock"
    assert going(plan_collection(tmp_path, (), HOUR, now)) == {stray: Reason.LOCK}
    os.utime(tmp_path / stray, (now, now))
    assert going(plan_collection(tmp_path, (), HOUR, now)) == {}


def test_young_run_that_was_deleted_is_kept_with_what_it_needs(tmp_path: Path) -> None:
    handle = publish(tmp_path, "extract", "one")
    run = write_needs(tmp_path / "runs" / RUN_A, handle)
    now = time.time()
    set_age(tmp_path, now - 2 * HOUR)
    os.utime(run / "report.html", (now, now))
    assert going(plan_collection(tmp_path, [RUN_A], HOUR, now)) == {}
    assert set(going(plan_collection(tmp_path, [RUN_A], 0.0, now))) == {
        f"runs/{RUN_A}",
        folder_of(handle),
        f"{folder_of(handle)}.lock",
    }


def test_diff_keeps_what_it_needs_while_both_runs_are_kept(tmp_path: Path) -> None:
    handle = publish(tmp_path, "diff", "one")
    for run in (RUN_A, RUN_B):
        write_needs(tmp_path / "runs" / run)
    write_needs(tmp_path / "diffs" / f"{RUN_A}..{RUN_B}", handle)
    (tmp_path / "diffs" / f"{RUN_B}..{RUN_A}").mkdir()  # says nothing of artefacts
    (tmp_path / "diffs" / f"{RUN_C}..{RUN_A}").mkdir()  # with a run of another machine
    assert going(plan(tmp_path)) == {}
    assert going(plan(tmp_path, RUN_C)) == {f"diffs/{RUN_C}..{RUN_A}": Reason.ORPHANED_DIFF}
    assert f"diffs/{RUN_A}..{RUN_B}" in going(plan(tmp_path, RUN_A))
    assert folder_of(handle) in going(plan(tmp_path, RUN_B))
    (tmp_path / "diffs" / f"{RUN_A}..{RUN_B}").rename(tmp_path / "diffs" / "my comparison")
    assert going(plan(tmp_path)) == {}
    assert folder_of(handle) not in going(plan(tmp_path, RUN_B))


def test_copy_that_another_process_is_making_stays(tmp_path: Path) -> None:
    copy = tmp_path / "checkpoints" / ".partial-abcd"
    copy.mkdir(parents=True)
    with (tmp_path / "checkpoints" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert going(plan(tmp_path)) == {}
    assert going(plan(tmp_path)) == {"checkpoints/.partial-abcd": Reason.UNFINISHED}


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    publish(tmp_path, "extract", "lost")
    foreign = [
        "notes.txt",
        "artefacts/README",
        "artefacts/extract/notes.txt",
        "artefacts/extract/my folder/a.npy",
        f"artefacts/extract/{'7' * 23}/a.npy",
        f"artefacts/extract/{'7' * 24}.bak/a.npy",
        f"artefacts/extract/{'7' * 24}",
        f"artefacts/extract/{'6' * 24}.lock/a",
        f"artefacts/my stage/{'7' * 24}/a.npy",
        "runs/notes/a.txt",
        "runs/a.txt",
        f"runs/{RUN_A}",
        "checkpoints/mine.pt",
        f"checkpoints/{SHA}.onnx",
        f"checkpoints/{SHA}.pt/a",
        f"other/{'7' * 24}/a.npy",
    ]
    for name in foreign:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    collect(plan(tmp_path, RUN_A))
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(foreign)


def test_file_with_two_names_counts_once(tmp_path: Path) -> None:
    one = publish(tmp_path, "extract", "one", {"a.npy": bytes(1000)})
    two = publish(tmp_path, "extract", "two", {"b.npy": bytes(10)})
    (two.folder / "b.npy").unlink()
    (two.folder / "b.npy").hardlink_to(one.folder / "a.npy")
    handles = sum((h.folder / "handle.json").stat().st_size for h in (one, two))
    assert plan(tmp_path).num_bytes == 1000 + handles
    use = next(u for u in measure_disk_use(tmp_path) if u.stage == "extract")
    assert use.bytes == 1000 + handles


def test_state_folder_without_anything(tmp_path: Path) -> None:
    assert plan(tmp_path).entries == ()
    collect(plan(tmp_path))
    assert list(tmp_path.iterdir()) == []


# What the runs need


def test_find_references(tmp_path: Path) -> None:
    one, two = publish(tmp_path, "extract", "one"), publish(tmp_path, "train", "two")
    write_needs(tmp_path / "runs" / RUN_A, one, checkpoint=f"{SHA}.pt")
    write_needs(tmp_path / "runs" / RUN_B, two)
    write_needs(tmp_path / "runs" / "the best one", one, two)
    found = find_references(tmp_path, {RUN_B})
    assert found.runs == {RUN_A, "the best one"}
    assert found.artefacts == {("extract", one.digest[:24]), ("train", two.digest[:24])}
    assert found.checkpoints == {f"{SHA}.pt"}
    assert find_references(tmp_path, {RUN_B, "the best one"}).artefacts == {("extract", one.digest[:24])}


def test_runs_that_do_not_say_what_they_need_stop_everything(tmp_path: Path) -> None:
    publish(tmp_path, "extract", "lost")
    for run in (RUN_A, RUN_B):
        write_needs(tmp_path / "runs" / run)
        (tmp_path / "runs" / run / "artefacts.json").unlink()
    before = listing(tmp_path)
    with pytest.raises(UserError) as caught:
        plan(tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"'{tmp_path / 'runs' / r}'" for r in (RUN_A, RUN_B)]
    assert all("has no artefacts.json" in line and "delete that run in MLflow" in line for line in lines)
    assert listing(tmp_path) == before
    # A run that was deleted need not say anything.
    assert f"runs/{RUN_A}" in going(plan(tmp_path, RUN_A, RUN_B))


def test_run_under_a_name_of_the_users_must_say_what_it_needs_too(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "best\x1b[31m"
    folder.mkdir(parents=True)
    (folder / "stages.json").write_text("{}")
    with pytest.raises(UserError, match=r"best\\x1b\[31m': has no artefacts\.json") as caught:
        plan(tmp_path)
    assert str(caught.value).isprintable()


NEEDS: dict[str, Any] = {"stages": {}, "checkpoint_file": None}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "\xff",
        "[" * 100_000,
        json.dumps({"stages": {}}),
        json.dumps({**NEEDS, "stages": []}),
        json.dumps({**NEEDS, "stages": {"a": [{"stage": "extract"}]}}),
        json.dumps({**NEEDS, "stages": {"a": [{"stage": "extract", "digest": "ab"}]}}),
        json.dumps({**NEEDS, "stages": {"a": [{"stage": "extract", "digest": "7" * 64 + "\n"}]}}),
        json.dumps({**NEEDS, "stages": {"a": [{"stage": "../x", "digest": "7" * 64}]}}),
        json.dumps({**NEEDS, "stages": {"a": [{"stage": "extract", "digest": "../" * 8 + "x" * 40}]}}),
        json.dumps({**NEEDS, "checkpoint_file": "../x"}),
        json.dumps({**NEEDS, "checkpoint_file": f"../{SHA}.pt"}),
    ],
)
def test_damaged_artefacts_json_stops_everything(tmp_path: Path, text: str) -> None:
    root = tmp_path / "state"
    publish(root, "extract", "lost")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("outside")
    run = write_needs(root / "runs" / RUN_A)
    (run / "artefacts.json").write_text(text, "latin-1")
    before = listing(tmp_path)
    with pytest.raises(UserError, match=rf"runs/{RUN_A}': artefacts\.json is damaged \(") as caught:
        plan(root)
    assert len(str(caught.value).splitlines()) == 1
    assert listing(tmp_path) == before


def test_artefacts_json_that_is_no_file(tmp_path: Path) -> None:
    run = write_needs(tmp_path / "runs" / RUN_A)
    (run / "artefacts.json").rename(tmp_path / "elsewhere.json")
    (run / "artefacts.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"artefacts\.json cannot be read \(not a file\)"):
        plan(tmp_path)
    (run / "artefacts.json").unlink()
    os.mkfifo(run / "artefacts.json")
    with pytest.raises(UserError, match=r"artefacts\.json cannot be read \(not a file\)"):
        plan(tmp_path)


def test_damaged_diff_stops_everything(tmp_path: Path) -> None:
    write_needs(tmp_path / "runs" / RUN_A)
    diff = write_needs(tmp_path / "diffs" / f"{RUN_A}..{RUN_A}")
    (diff / "artefacts.json").write_text("{")
    with pytest.raises(UserError, match=rf"diffs/{RUN_A}\.\.{RUN_A}': artefacts\.json is damaged"):
        plan(tmp_path)
    assert f"diffs/{RUN_A}..{RUN_A}" in going(plan(tmp_path, RUN_A))


def test_names_in_artefacts_json_never_lead_outside(tmp_path: Path) -> None:
    """Titles and file names mean nothing to gc, so they may be anything."""
    root = tmp_path / "state"
    lost = publish(root, "extract", "lost")
    for name in ("x", "state.lock", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("outside")
    outside = [e for e in listing(tmp_path) if "/state/" not in e[0]]
    run = write_needs(root / "runs" / RUN_A)
    entry = {"stage": "extract", "digest": "7" * 64, "files": {"../../../../x/file": "../x", "/etc/passwd": ""}}
    (run / "artefacts.json").write_text(json.dumps({**NEEDS, "stages": {"../../x": [entry], "\x1b[31m": []}}))
    collect(plan(root))
    assert not lost.folder.exists()
    deleted = ["..", ".", "", "../x", "../../state", str(tmp_path / "x"), f"../runs/{RUN_A}", "*", "\0"]
    collect(plan(root, *deleted))
    assert [e[0::3] for e in listing(tmp_path) if "/state/" not in e[0]] == [e[0::3] for e in outside]
    assert run.exists()


# Symbolic links


def test_links_are_not_followed_and_not_counted(tmp_path: Path) -> None:
    root, outside = tmp_path / "state", tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub" / "big").write_bytes(bytes(100_000))
    handle = publish(root, "extract", "lost")
    (handle.folder / "folder").symlink_to(outside)
    (handle.folder / "file").symlink_to(outside / "sub" / "big")
    (root / "checkpoints").mkdir()
    links = [
        root / "artefacts" / "extract" / ("7" * 24),
        root / "artefacts" / "extract" / f"{'7' * 24}.partial",
        root / "artefacts" / "extract" / f"{'7' * 24}.trash",
        root / "artefacts" / "train",
        root / "checkpoints" / f"{SHA}.pt",
        root / "mlflow",
    ]
    shutil.copytree(handle.folder, outside / handle.folder.name, symlinks=True)
    for link in links:
        link.symlink_to(outside / "sub" / "big" if link.suffix == ".pt" else outside)
    before = listing(outside)
    assert sum(u.bytes for u in measure_disk_use(root)) < 2000
    found = plan(root)
    assert set(going(found)) == {folder_of(handle), f"{folder_of(handle)}.lock"}
    assert found.num_bytes < 1000
    collect(found)
    assert not handle.folder.exists()
    assert listing(outside) == before
    assert all(link.is_symlink() for link in links)


def test_artefacts_behind_a_link_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path / "disk", "extract", "lost")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "artefacts").symlink_to(tmp_path / "disk" / "artefacts")
    with caplog.at_level(logging.WARNING, "lavise"):
        assert plan(tmp_path / "state").entries == ()
    assert "artefacts is a symbolic link; what lies there is left alone" in caplog.text


@pytest.mark.parametrize("moved", ["runs", f"runs/{RUN_A}", "runs/best", "diffs", f"diffs/{RUN_A}..{RUN_A}"])
def test_run_behind_a_link_stops_everything(tmp_path: Path, moved: str) -> None:
    """What it needs lies elsewhere, perhaps on a disk that is not there now."""
    root = tmp_path / "state"
    handle = publish(root, "extract", "one")
    for name in (RUN_A, "best"):
        write_needs(root / "runs" / name, handle)
    write_needs(root / "diffs" / f"{RUN_A}..{RUN_A}", handle)
    (root / moved).rename(tmp_path / "moved")
    (root / moved).symlink_to(tmp_path / "moved")
    with pytest.raises(UserError, match=r"found a symbolic link, which is not followed"):
        plan(root)


def test_dangling_link_in_place_of_a_run_stops_everything(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / RUN_A).symlink_to(tmp_path / "disk that is not mounted")
    with pytest.raises(UserError, match=r"found a symbolic link"):
        plan(tmp_path)


def test_link_from_one_run_to_another_does_no_harm(tmp_path: Path) -> None:
    handle = publish(tmp_path, "extract", "one")
    write_needs(tmp_path / "runs" / RUN_A, handle)
    (tmp_path / "runs" / "latest").symlink_to(RUN_A)
    assert going(plan(tmp_path)) == {}
    collect(plan(tmp_path, RUN_A))
    assert (tmp_path / "runs" / "latest").is_symlink()
    assert not (tmp_path / "runs" / RUN_A).exists()


def test_folder_that_became_a_link_after_the_plan_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "state", tmp_path / "outside"
    lost = publish(root, "extract", "lost")
    other = publish(root, "train", "other")
    found = plan(root)
    (root / "artefacts" / "extract").rename(outside)
    (root / "artefacts" / "extract").symlink_to(outside)
    before = listing(outside)
    with pytest.raises(UserError) as caught:
        collect(found)
    assert str(caught.value).splitlines() == [
        f"{folder_of(lost)}{ending}: cannot be removed (not in the state folder); set its permissions, then start "
        "`lavise gc` again"
        for ending in ("", ".lock")
    ]
    assert listing(outside) == before
    assert not other.folder.exists()


# Collecting


# Disk use


def test_disk_use(tmp_path: Path) -> None:
    kept = publish(tmp_path, "extract", "kept", {"a.npy": bytes(5000)})
    lost = publish(tmp_path, "extract", "lost", {"a.npy": bytes(3000)})
    small = publish(tmp_path, "train", "small")
    partial = ArtefactStore(tmp_path).partial_folder("extract", "7" * 64, keep=False)
    (partial / "shard").write_bytes(bytes(700))
    for run in (RUN_A, RUN_B):
        write_needs(tmp_path / "runs" / run, kept, small, checkpoint=f"{SHA}.pt")
    write_needs(tmp_path / "diffs" / f"{RUN_A}..{RUN_B}", kept)
    for name, size in (
        (f"checkpoints/{SHA}.pt", 100_000),
        (f"checkpoints/{'6' * 64}.pt", 1000),
        ("mlflow/mlflow.db", 50_000),
        ("mlflow/artifacts/1/a", 1),
        ("logs/a.log", 2),
        ("fetched/run/a", 3),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    size_of = {h.digest: sum(p.stat().st_size for p in h.folder.iterdir()) for h in (kept, lost, small)}
    run_bytes = [sum(p.stat().st_size for p in (tmp_path / "runs" / r).iterdir()) for r in (RUN_A, RUN_B)]
    diff_bytes = sum(p.stat().st_size for p in (tmp_path / "diffs").rglob("*") if p.is_file())
    extract = StageUse("extract", 2, size_of[kept.digest] + size_of[lost.digest] + 700, 1, size_of[kept.digest])
    uses = measure_disk_use(tmp_path)
    assert uses[:3] == [
        StageUse("checkpoints", 2, 101_000, 1, 100_000),
        StageUse("mlflow", 2, 50_001, 2, 50_001),
        extract,
    ]
    assert {u.stage: u for u in uses[3:]} == {
        "runs": StageUse("runs", 2, sum(run_bytes), 2, sum(run_bytes)),
        "diffs": StageUse("diffs", 1, diff_bytes, 1, diff_bytes),
        "train": StageUse("train", 1, size_of[small.digest], 1, size_of[small.digest]),
        "logs": StageUse("logs", 1, 2, 1, 2),
        "fetched": StageUse("fetched", 1, 3, 1, 3),
        "prefect": StageUse("prefect", 0, 0, 0, 0),
    }
    assert [u.bytes for u in uses] == sorted((u.bytes for u in uses), reverse=True)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert sum(u.bytes for u in uses) == sum(p.stat().st_size for p in files)
    after = {u.stage: u for u in measure_disk_use(tmp_path, find_references(tmp_path, [RUN_B]))}
    assert after["runs"] == StageUse("runs", 2, sum(run_bytes), 1, run_bytes[0])
    assert after["diffs"] == StageUse("diffs", 1, diff_bytes, 0, 0)
    assert after["extract"] == extract


# Holding the state folder


@pytest.mark.parametrize("suffix", WEIGHT_SUFFIXES)
def test_the_copy_of_a_checkpoint_of_every_kind_is_known(tmp_path: Path, suffix: str) -> None:
    """A name that gc does not take for a copy's would stop it for ever."""
    path = tmp_path / f"epoch1{suffix}"
    path.write_bytes(b"weights")
    copy = take_snapshot(FoundCheckpoint(path.name, path, digest_file(path)), tmp_path / "checkpoints")
    folder = tmp_path / "runs" / RUN_A
    folder.mkdir(parents=True)
    (folder / "artefacts.json").write_text(json.dumps({"stages": {}, "checkpoint_file": copy.name}), "utf-8")
    assert find_references(tmp_path, set()).checkpoints == {copy.name}
