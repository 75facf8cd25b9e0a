"""A file system in user space that behaves as network file systems do; needs /dev/fuse and root, else it is skipped."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.faults.network_disk import Behaviour, CannotMountError, mount
from lavise.configs.errors import UserError
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.files import write_bytes
from lavise.storage.state.locks import try_lock


@contextmanager
def mounted(folder: Path, behaviour: Behaviour, name: str = "client") -> Iterator[tuple[Path, Path]]:
    """The place and its fault file."""
    with ExitStack() as stack:
        try:
            fault = stack.enter_context(mount(folder / "server", folder / name, behaviour))
        except CannotMountError as err:
            pytest.skip(str(err))
        yield folder / name, fault


def publish(root: Path) -> Path:
    store = ArtefactStore(root)
    with store.lock("sum", "d" * 64):
        (store.partial_folder("sum", "d" * 64, keep=False) / "a").write_bytes(b"abc" * 50_000)
        return store.publish("sum", 1, "d" * 64, {}, {}, {}).folder


def test_an_artefact_and_its_lock(tmp_path: Path) -> None:
    with mounted(tmp_path, Behaviour(sync_folders=False, replace_folders=False, hard_links=False)) as (place, _):
        first = publish(place)
        with (first / "a").open("rb") as file:
            assert publish(place) == first
            assert file.read() == b"abc" * 50_000
        assert ArtefactStore(place).find("sum", "d" * 64) is not None
    assert (tmp_path / "server" / first.relative_to(place) / "a").read_bytes() == b"abc" * 50_000


def test_no_locks_is_one_line(tmp_path: Path) -> None:
    with (
        mounted(tmp_path, Behaviour(locks="refused")) as (place, _),
        pytest.raises(UserError, match=r"^storage\.root: cannot lock .*\.lock \(No locks available\); set storage"),
    ):
        publish(place)


@pytest.mark.parametrize(("locks", "seen"), [("passed", False), ("local", True)])
def test_locks_between_clients(tmp_path: Path, locks: str, seen: bool) -> None:
    with (
        mounted(tmp_path, Behaviour(locks=locks), "one") as (one, _),
        mounted(tmp_path, Behaviour(locks=locks), "other") as (other, _),
        try_lock(one / "a.lock") as first,
        try_lock(one / "a.lock") as again,
        try_lock(other / "a.lock") as second,
    ):
        assert (first, again, second) == (True, False, seen)


def test_open_files_that_are_deleted_keep_a_name(tmp_path: Path) -> None:
    with mounted(tmp_path, Behaviour(silly_rename=True)) as (place, _):
        (place / "folder").mkdir()
        (place / "folder" / "a").write_bytes(b"abc")
        with (place / "folder" / "a").open("rb") as file:
            with pytest.raises(OSError, match="not empty"):
                shutil.rmtree(place / "folder")
            assert [p.name[:4] for p in (place / "folder").iterdir()] == [".nfs"]
            assert file.read() == b"abc"
        assert not list((place / "folder").iterdir())


@pytest.mark.parametrize("name", ["EIO", "ENOSPC"])
def test_what_is_lost_late_is_no_file(tmp_path: Path, name: str) -> None:
    with mounted(tmp_path, Behaviour()) as (place, fault):
        write_bytes(place / "a", b"before")
        fault.write_text(f"late {name}", "utf-8")
        with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
            write_bytes(place / "a", b"after")
        fault.write_text("", "utf-8")
        assert {p.name: p.read_bytes() for p in place.iterdir()} == {"a": b"before"}


def test_an_artefact_that_another_client_has_made_unseen(tmp_path: Path) -> None:
    behaviour = Behaviour(silly_rename=True, names_cached_s=2)
    with mounted(tmp_path, behaviour, "one") as (one, _), mounted(tmp_path, behaviour, "other") as (other, _):
        assert ArtefactStore(other).find("sum", "d" * 64) is None
        made = publish(one)
        assert publish(other).relative_to(other) == made.relative_to(one)
        assert sorted(p.name for p in made.parent.iterdir()) == ["d" * 24, f"{'d' * 24}.lock"]
