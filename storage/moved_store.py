"""A state folder that was moved or copied: MLflow's store in it has to know where its artifacts lie now.

MLflow (3.17.2) writes the absolute path of artifacts into each experiment, run and model, and has no command that
changes it: artifacts of earlier runs are not found after a move, and those of new ones are written to the old place.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lavise.configs.errors import UserError
from lavise.storage.state.housekeeping import LOCK_FILE
from lavise.storage.state.locks import LockedError, hold_lock

log = logging.getLogger("lavise")
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
_SECONDS = 60.0


def follow_move(state_root: Path) -> None:
    """Let the store of a state folder name the artifacts that lie beside it, where it names those of another folder.

    Nothing is done where that folder is the same by another name, or where nothing lies here that could be meant.

    Raises:
        UserError: somebody is at work in the state folder, which then must not change under them; or the store cannot
            be written.
    """
    database = state_root / "mlflow" / "mlflow.db"
    artifacts = database.with_name("artifacts")
    if not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=_SECONDS)) as store:
        if not (found := _find_others(store, artifacts)):
            return
        try:
            with hold_lock(state_root / LOCK_FILE):
                for old in found:
                    _replace(store, old.as_uri(), artifacts.as_uri())
        except LockedError:
            if not _find_others(store, artifacts):
                return  # whoever is at work has seen to it a moment ago
            raise UserError(
                f"storage.root: {state_root} was moved here from {found[0].parents[1]}, and somebody is at work in it; "
                "start this again when it is done"
            ) from None
        except sqlite3.OperationalError as err:
            raise UserError(
                f"storage.root: {state_root} was moved here from {found[0].parents[1]}, and {database.name} in it "
                f"cannot be written ({err}); see to that, and start this again"
            ) from None
    log.info("  %s was moved: artifacts of earlier runs are looked for in %s", found[0].parents[1], artifacts)


def _find_others(store: sqlite3.Connection, artifacts: Path) -> list[Path]:
    """Folders of artifacts of state folders that are meant, while ours is another one."""
    try:
        rows = store.execute("SELECT artifact_location FROM experiments ORDER BY experiment_id").fetchall()
    except sqlite3.DatabaseError:
        return []  # no store of MLflow, or a broken one, of which MLflow says what is wrong
    found: dict[Path, None] = {}
    for (location,) in rows:
        address = urlsplit(str(location))
        folder = Path(url2pathname(address.path))
        root = folder.parent
        if address.scheme != "file" or root == artifacts or root.parts[-2:] != artifacts.parts[-2:]:
            continue
        if root.exists() and artifacts.exists() and root.samefile(artifacts):
            continue
        if (artifacts / folder.name).is_dir() or not root.exists():
            found[root] = None
    return list(found)


def _replace(store: sqlite3.Connection, old: str, new: str) -> None:
    """All of them or, where this is killed, none."""
    with store:
        store.execute("BEGIN IMMEDIATE")
        there = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in _ADDRESSES:
            if table in there:
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608 - names of ours
                    f" WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
