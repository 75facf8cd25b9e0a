"""`lavise gc` on real state folders, with a real MLflow store."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from lavise.configs.errors import UserError
from lavise.flows.command_line.gc import find_deleted_runs, find_stage_runs, format_bytes, open_store, run_gc
from lavise.storage.state.artefacts import ArtefactStore, Handle, compute_stage_digest
from lavise.storage.state.housekeeping import hold_state

PROJECT = Path(__file__).resolve().parents[4]


@dataclass(frozen=True)
class Store:
    """A folder with an MLflow store in SQLite, and the ids of its runs."""

    folder: Path
    kept: str
    deleted: str
    in_deleted_experiment: str
    restored: str


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    first, second = client.create_experiment("audits"), client.create_experiment("other audits")
    kept, deleted = (client.create_run(first).info.run_id for _ in range(2))
    gone, restored = (client.create_run(second).info.run_id for _ in range(2))
    client.delete_run(deleted)
    client.delete_experiment(second)
    client.restore_run(restored)
    return Store(folder, kept, deleted, gone, restored)


@pytest.fixture
def root(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder, two hours old: runs of the store share artefacts; see `shared`, `own` and `lost`."""
    folder = tmp_path / "state folder"
    shutil.copytree(store.folder, folder / "mlflow")
    shared, own, other, lost = (publish(folder, *n) for n in (("extract", "a"), ("train", "b"), ("train", "c"), LOST))
    write_run(folder, store.kept, shared)
    write_run(folder, store.restored, other)
    write_run(folder, store.deleted, shared, own)
    write_run(folder, store.in_deleted_experiment, lost)
    two_hours_ago = time.time() - 7200
    for path in folder.rglob("*"):
        os.utime(path, (two_hours_ago, two_hours_ago))
    monkeypatch.setenv("LAVISE_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


LOST = ("extract", "lost")


def publish(root: Path, stage: str, name: str) -> Handle:
    artefacts, digest = ArtefactStore(root), compute_stage_digest(stage, 1, {"name": name}, {})
    (artefacts.partial_folder(stage, digest, keep=False) / "a.npy").write_bytes(bytes(2_000_000))
    return artefacts.publish(stage, 1, digest, {"name": name}, {}, {})


def find(root: Path, stage: str, name: str) -> Handle | None:
    return ArtefactStore(root).find(stage, compute_stage_digest(stage, 1, {"name": name}, {}))


def write_run(root: Path, run_id: str, *handles: Handle) -> None:
    folder = root / "runs" / run_id
    folder.mkdir(parents=True)
    entries = [{"stage": h.stage, "digest": h.digest, "files": {}} for h in handles]
    (folder / "artefacts.json").write_text(json.dumps({"stages": {"a": entries}, "checkpoint_file": None}))


def listing(folder: Path) -> dict[str, Any]:
    """Names, kinds, times and contents of everything below a folder."""
    return {
        str(p): (p.lstat().st_mode, p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
        for p in folder.rglob("*")
    }


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# Deleted runs


def test_deleted_runs_of_the_local_store(root: Path, store: Store) -> None:
    assert find_deleted_runs(root, open_store(root)) == {store.deleted, store.in_deleted_experiment}


def test_deleted_runs_of_the_store_that_the_environment_names(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    assert find_deleted_runs(tmp_path / "elsewhere", open_store(tmp_path / "elsewhere")) == {
        store.deleted,
        store.in_deleted_experiment,
    }


def test_more_deleted_runs_than_a_page_holds(root: Path) -> None:
    """MLflow answers with 1,000 at most."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    experiment = client.create_experiment("many")
    # Straight into the table: a thousand requests would take a minute.
    import sqlite3

    with sqlite3.connect(root / "mlflow" / "mlflow.db") as database:
        database.executemany(
            "INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, lifecycle_stage, "
            "artifact_uri, experiment_id) VALUES (?, 'n', 'LOCAL', 'u', 'FINISHED', 0, 'deleted', '/x', ?)",
            [(f"{i:032x}", int(experiment)) for i in range(1500)],
        )
    database.close()
    assert len(client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)) == 1000
    assert {f"{i:032x}" for i in range(1500)} < find_deleted_runs(root, open_store(root))


@pytest.mark.parametrize("where", ["local", "environment"])
def test_without_a_store_no_run_is_deleted_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if where == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'not there.db'}")
    assert find_deleted_runs(tmp_path, open_store(tmp_path)) == frozenset()
    assert list(tmp_path.iterdir()) == []


def test_server_that_does_not_answer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listing(root / "artefacts")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{held.getsockname()[1]}")
        with pytest.raises(UserError, match=r"does not answer \(.*refused.*\)") as caught:
            run_gc(dry_run=False, keep_hours=0, as_json=False)
    assert len(str(caught.value).splitlines()) == 1
    assert listing(root / "artefacts") == before


def test_damaged_store(root: Path) -> None:
    (root / "mlflow" / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"mlflow\.db does not say which runs were deleted \(.*not a database"):
        run_gc(dry_run=False, keep_hours=0, as_json=False)


def test_password_of_the_address_is_not_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://me:hush@host")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI: nonsense://host does not say") as caught:
        find_deleted_runs(root, open_store(root))
    assert "hush" not in str(caught.value)


def test_address_of_no_known_kind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI: nonsense://host does not say"):
        find_deleted_runs(root, open_store(root))


def test_stages_of_deleted_audits_are_offered_and_deleted(
    root: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow deletes the audit's own run alone, whether by its page or by its API."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_run(store.kept).info.experiment_id

    def begin(parent: str | None, stage: bool = True) -> str:
        tags = {"mlflow.parentRunId": parent} if parent else {}
        made = client.create_run(experiment, tags={**tags, **({"lavise.stage": "train"} if stage else {})})
        return str(made.info.run_id)

    lost = sorted([begin(store.deleted), begin("0" * 32)])  # deleted; and gone by `mlflow gc`
    kept = [begin(store.kept), begin(store.restored), begin(None), begin(store.deleted, stage=False)]
    assert find_stage_runs(root, open_store(root), time.time() + 1) == lost
    assert find_stage_runs(root, open_store(root), time.time() - 3600) == []

    run_gc(dry_run=True, keep_hours=0, as_json=True)
    shown = capsys.readouterr().out
    assert "2 runs of stages would be deleted in MLflow" in shown
    assert json.loads(shown.splitlines()[-1])["stage_runs"] == lost
    assert {client.get_run(i).info.lifecycle_stage for i in (*lost, *kept)} == {"active"}

    run_gc(dry_run=False, keep_hours=0, as_json=False)
    assert "2 runs of stages were deleted in MLflow" in capsys.readouterr().out
    assert {client.get_run(i).info.lifecycle_stage for i in lost} == {"deleted"}
    assert {client.get_run(i).info.lifecycle_stage for i in kept} == {"active"}


# gc


def test_gc_removes_what_no_kept_run_needs(root: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run_gc(dry_run=False, keep_hours=1, as_json=True)
    assert names(root / "runs") == {store.kept, store.restored}
    # Shared with the run that was deleted.
    assert find(root, "extract", "a") is not None
    assert find(root, "train", "c") is not None
    assert find(root, "train", "b") is None
    assert find(root, *LOST) is None
    assert len(names(root / "artefacts" / "extract")) == len(names(root / "artefacts" / "train")) == 1
    *text, line = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["dry_run"], found["root"]) == (False, str(root))
    assert {(e["reason"], e["stage"]) for e in found["entries"]} == {
        ("run deleted in MLflow", "runs"),
        ("artefact no kept run refers to", "extract"),
        ("artefact no kept run refers to", "train"),
    }
    assert f"runs/{store.deleted}" in {e["path"] for e in found["entries"]}
    assert found["num_bytes"] == sum(e["bytes"] for e in found["entries"]) > 4_000_000
    uses = {u["stage"]: u for u in found["disk_use"]}
    assert (uses["train"]["num_artefacts"], uses["train"]["num_referenced"]) == (2, 1)
    assert uses["mlflow"]["bytes"] > 100_000
    shown = "\n".join(text)
    assert "what went" in shown
    assert "freed 4.0 MB" in shown


def test_gc_again_finds_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_gc(dry_run=False, keep_hours=1, as_json=False)
    before = listing(root)
    capsys.readouterr()
    run_gc(dry_run=False, keep_hours=0, as_json=True)
    *text, line = capsys.readouterr().out.splitlines()
    assert text[-1] == "nothing to remove"
    assert (json.loads(line)["entries"], json.loads(line)["num_bytes"]) == ([], 0)
    assert listing(root) == before


@pytest.mark.parametrize("audited", [False, True])
def test_dry_run_changes_nothing(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, audited: bool
) -> None:
    if audited:
        with hold_state(root, exclusive=False):
            pass
    monkeypatch.chdir(root.parent)
    before = listing(root.parent)
    run_gc(dry_run=True, keep_hours=0, as_json=True)
    assert listing(root.parent) == before
    *text, line = capsys.readouterr().out.splitlines()
    planned = json.loads(line)
    assert planned["dry_run"] is True
    assert "what would go" in "\n".join(text)
    assert "would free 4.0 MB" in text
    run_gc(dry_run=False, keep_hours=0, as_json=True)
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {**done, "dry_run": True} == {**planned, "disk_use": done["disk_use"]}
    assert not any((root / e["path"]).exists() for e in planned["entries"])


def test_tables_are_aligned_by_number(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_gc(dry_run=True, keep_hours=0, as_json=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    sizes = [line for line in lines if line.startswith(("extract ", "train ", "prefect ", "total "))]
    assert len(sizes) == 4
    end = {line.index(size) + len(size) for line, size in zip(sizes[:2], ("4.0 MB", "4.0 MB"), strict=True)}
    prefect = next(line for line in sizes if line.startswith("prefect"))
    assert end == {prefect.index("0 B") + len("0 B")}
    assert prefect.split() == ["prefect", "0", "0", "B", "-", "-"]
    grouped = [line.split("  ") for line in lines if line.startswith("artefact no kept run refers to")]
    assert [[cell.strip() for cell in g if cell.strip()] for g in grouped] == [
        ["artefact no kept run refers to", "extract", "1", "2.0 MB"],
        ["artefact no kept run refers to", "train", "1", "2.0 MB"],
    ]


def test_nothing_younger_than_the_hours_given_goes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(root / "artefacts")
    run_gc(dry_run=False, keep_hours=3, as_json=False)
    assert listing(root / "artefacts") == before
    assert "nothing to remove" in capsys.readouterr().out


@pytest.mark.parametrize("hours", [-1.0, float("nan")])
def test_hours_that_make_no_sense(root: Path, hours: float) -> None:
    with pytest.raises(UserError, match=r"^--keep-hours: found (-1\.0|nan); allowed: 0 or more$"):
        run_gc(dry_run=True, keep_hours=hours, as_json=False)


@pytest.mark.parametrize("dry_run", [False, True])
def test_gc_while_an_audit_of_another_process_runs(root: Path, dry_run: bool) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lavise.storage.state.housekeeping import hold_state\n"
        "with hold_state(Path(sys.argv[1]), exclusive=False):\n"
        "    print('inside', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(root)]
    audit = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert audit.stdout is not None
    assert audit.stdout.readline() == "inside\n"
    before = listing(root)
    with pytest.raises(UserError, match="an audit or another `lavise gc` is at work"):
        run_gc(dry_run, keep_hours=0, as_json=False)
    assert listing(root) == before
    audit.kill()
    audit.communicate()
    run_gc(dry_run, keep_hours=0, as_json=False)
    assert (find(root, *LOST) is None) == (not dry_run)


def test_run_that_does_not_say_what_it_needs(root: Path, store: Store) -> None:
    (root / "runs" / store.kept / "artefacts.json").unlink()
    (root / "runs" / store.deleted / "artefacts.json").unlink()
    before = listing(root / "artefacts") | listing(root / "runs")
    with pytest.raises(UserError, match=rf"runs/{store.kept}': has no artefacts\.json") as caught:
        run_gc(dry_run=False, keep_hours=0, as_json=False)
    assert store.deleted not in str(caught.value)
    assert listing(root / "artefacts") | listing(root / "runs") == before
    MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}").delete_run(store.kept)
    run_gc(dry_run=False, keep_hours=0, as_json=False)
    assert names(root / "runs") == {store.restored}


def test_no_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"^storage\.root: found no state folder .*none; "):
        run_gc(dry_run=False, keep_hours=0, as_json=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678_901, "12.3 GB"),
        (10**20, "100000.0 PB"),
    ],
)
def test_format_bytes(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text
