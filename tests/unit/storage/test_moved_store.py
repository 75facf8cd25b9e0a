"""State folders that were moved or copied, with a real store of MLflow in them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from lavise.configs.errors import UserError
from lavise.configs.schema import TrackingSettings
from lavise.storage.moved_store import follow_move
from lavise.storage.state.locks import hold_lock
from lavise.storage.tracking import local_tracking_uri, open_tracker


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A state folder with a run that has a file and a model, which nobody is to change; and the run's id."""
    root = tmp_path_factory.mktemp("state") / "first place"
    (note := root.parent / "note.txt").write_text("kept")
    (model := root.parent / "model").mkdir()
    (model / "weights.bin").write_bytes(b"weights")
    run = open_tracker(TrackingSettings(), root).start("tiny", {})
    run.log_file(note)
    run.log_model(model, "network", {}, None)
    run.end()
    return root, run.run_id


def read_addresses(root: Path) -> list[str]:
    with closing(sqlite3.connect(root / "mlflow" / "mlflow.db")) as store:
        query = (
            "SELECT artifact_uri FROM runs UNION ALL SELECT artifact_location FROM logged_models UNION ALL "
            "SELECT artifact_location FROM experiments WHERE name = 'lavise'"
        )
        return [address for (address,) in store.execute(query)]


def check(root: Path, run_id: str) -> None:
    """The earlier run's files are found, those of a new one lie here."""
    tracker = open_tracker(TrackingSettings(), root)
    client = MlflowClient(tracking_uri=local_tracking_uri(root))
    assert Path(client.download_artifacts(run_id, "note.txt")).read_text() == "kept"
    assert all(address.startswith(f"{root.as_uri()}/mlflow/artifacts/") for address in read_addresses(root))
    new = tracker.start("another", {})
    (root / "new.txt").write_text("new")
    new.log_file(root / "new.txt")
    assert list((root / "mlflow" / "artifacts").rglob(f"{new.run_id}/artifacts/new.txt"))


def test_a_folder_that_was_moved(written: tuple[Path, str], tmp_path: Path) -> None:
    root, run_id = written
    shutil.copytree(root, tmp_path / "a")
    check(tmp_path / "a", run_id)
    moved = (tmp_path / "a").rename(tmp_path / "100 % b")
    check(moved, run_id)
    assert [p.name for p in tmp_path.iterdir()] == [moved.name]


def test_a_copy_leaves_the_first_alone(written: tuple[Path, str], tmp_path: Path) -> None:
    root, run_id = written
    before = read_addresses(root)
    shutil.copytree(root, tmp_path / "copy")
    check(tmp_path / "copy", run_id)
    assert read_addresses(root) == before
    assert len(before) == 3


def test_the_same_folder_by_another_name_is_not_moved(written: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = written
    before = read_addresses(root)
    (tmp_path / "link").symlink_to(root)
    follow_move(tmp_path / "link")
    assert read_addresses(root) == before


def test_files_that_lie_nowhere_else_stay_where_they_are(written: tuple[Path, str], tmp_path: Path) -> None:
    """A copy of the database alone."""
    root, _ = written
    before = read_addresses(root)
    (tmp_path / "mlflow").mkdir()
    shutil.copy(root / "mlflow" / "mlflow.db", tmp_path / "mlflow")
    follow_move(tmp_path)
    assert read_addresses(tmp_path) == before


def test_nothing_moves_under_somebody_at_work(written: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = written
    copy = shutil.copytree(root, tmp_path / "copy")
    before = read_addresses(copy)
    with hold_lock(copy / "state.lock", shared=True), pytest.raises(UserError, match=r"^storage\.root: .* was moved"):
        follow_move(copy)
    assert read_addresses(copy) == before


@pytest.mark.parametrize("content", [b"", b"no database at all, but a text that is long enough" * 20])
def test_what_is_no_store_is_left_to_mlflow(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(content)
    follow_move(tmp_path)
    assert (tmp_path / "mlflow" / "mlflow.db").read_bytes() == content
    follow_move(tmp_path / "not there")
