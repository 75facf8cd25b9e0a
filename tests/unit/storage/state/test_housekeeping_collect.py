"""What goes from a state folder, and what a kill at any step leaves."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.housekeeping import Reason, collect, plan_collection
from tests.unit.storage.state.state_folder import (
    HOUR,
    PROJECT,
    RUN_A,
    RUN_B,
    folder_of,
    going,
    plan,
    publish,
    write_needs,
)


def test_leftovers_of_an_interrupted_gc_go_at_once(tmp_path: Path) -> None:
    handle = publish(tmp_path, "extract", "kept")
    write_needs(tmp_path / "runs" / RUN_A, handle)
    trash = [
        f"{folder_of(handle)}.trash",
        f"artefacts/extract/{'7' * 24}.partial.trash",
        f"runs/{RUN_B}.trash",
        f"runs/{RUN_B}.partial.trash",
        "checkpoints/.partial-abcd.trash",
        f"diffs/{RUN_A}..{RUN_B}.trash",
    ]
    for name in trash:
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.npy").write_bytes(b"12")
    found = plan_collection(tmp_path, (), 1000 * HOUR, time.time())
    assert going(found) == dict.fromkeys(trash, Reason.LEFTOVER)
    assert found.num_bytes == 12
    collect(found)
    assert not list(tmp_path.rglob("*.trash"))
    assert ArtefactStore(tmp_path).find("extract", handle.digest) is not None


def test_artefact_goes_though_older_trash_of_it_lies_in_the_way(tmp_path: Path) -> None:
    handle = publish(tmp_path, "extract", "lost")
    found = plan(tmp_path)
    trash = handle.folder.with_suffix(".trash")
    trash.mkdir()
    (trash / "old").write_text("")
    collect(found)
    assert list((tmp_path / "artefacts" / "extract").iterdir()) == []


def test_what_has_vanished_since_the_plan_is_no_fault(tmp_path: Path) -> None:
    one, two = publish(tmp_path, "extract", "one"), publish(tmp_path, "extract", "two")
    found = plan(tmp_path)
    shutil.rmtree(one.folder)
    collect(found)
    assert not two.folder.exists()


KILLED_COLLECT = """
import os, shutil, signal, sys
from pathlib import Path
from lavise.storage.state.housekeeping import collect, plan_collection

template, states, deleted, now = Path(sys.argv[1]), Path(sys.argv[2]), [sys.argv[3]], float(sys.argv[4])
for moment in range(10_000):
    root = states / str(moment)
    shutil.copytree(template, root)
    child = os.fork()
    if not child:
        found, steps = plan_collection(root, deleted, 0.0, now), 0

        def count(event, arguments):
            global steps
            if event in ("os.rename", "os.remove", "os.rmdir"):
                if steps == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps += 1

        sys.addaudithook(count)
        collect(found)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
"""


def test_kill_at_every_step_of_collecting(tmp_path: Path) -> None:
    """A process is killed with -9 before each single rename and removal; the next gc finishes the work."""
    template, states = tmp_path / "template", tmp_path / "states"
    kept = publish(template, "extract", "kept", {"a.npy": b"1", "sub/b.npy": b"2"})
    lost = publish(template, "extract", "lost", {"a.npy": b"1", "sub/b.npy": b"2", "sub/c.npy": b"3"})
    of_deleted = publish(template, "train", "of deleted", {"a.npy": b"1", "b.npy": b"2"})
    partial = ArtefactStore(template).partial_folder("extract", "7" * 64, keep=False)
    (partial / "shard").write_bytes(b"1")
    write_needs(template / "runs" / RUN_A, kept)
    write_needs(template / "runs" / RUN_B, kept, of_deleted)
    now = time.time() + HOUR
    arguments = [str(template), str(states), RUN_B, str(now)]
    subprocess.run([sys.executable, "-c", KILLED_COLLECT, *arguments], cwd=PROJECT, check=True, timeout=60)
    roots = sorted(states.iterdir(), key=lambda p: int(p.name))
    assert len(roots) > 20
    counts = set()
    for root in roots:
        store = ArtefactStore(root)
        left = [h for h in (kept, lost, of_deleted) if (root / folder_of(h)).exists()]
        assert all(store.find(h.stage, h.digest) is not None for h in left)
        assert kept in left
        counts.add(len(left))
        run = root / "runs" / RUN_B
        if run.exists():
            assert sorted(p.name for p in run.iterdir()) == ["artefacts.json", "report.html"]
            assert of_deleted in left
        collect(plan_collection(root, [RUN_B], 0.0, now))
        files = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
        assert files == {
            *(f"{folder_of(kept)}{name}" for name in (".lock", "/a.npy", "/sub/b.npy", "/handle.json")),
            *(f"runs/{RUN_A}/{name}" for name in ("artefacts.json", "report.html")),
        }
        assert {p.name for p in (root / "artefacts" / "extract").iterdir()} == {
            kept.digest[:24],
            f"{kept.digest[:24]}.lock",
        }
    assert counts == {1, 2, 3}


def test_what_can_be_made_or_fetched_again_goes_and_other_files_stay(tmp_path: Path) -> None:
    kept = publish(tmp_path, "extract", "kept")
    write_needs(tmp_path / "runs" / RUN_A, kept)
    for name in ("reruns", "fetched"):
        (tmp_path / name / RUN_A).mkdir(parents=True)
        (tmp_path / name / RUN_A / "file").write_bytes(b"123")
        (tmp_path / name / "mine.txt").write_bytes(b"4")
    found = plan(tmp_path)
    assert going(found) == {f"reruns/{RUN_A}": Reason.UNFINISHED, f"fetched/{RUN_A}": Reason.FETCHED}
    collect(found)
    assert sorted(p.name for p in (tmp_path / "reruns").iterdir()) == ["mine.txt"]
    assert (tmp_path / folder_of(kept) / "handle.json").is_file()
