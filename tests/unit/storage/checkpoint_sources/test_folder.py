"""A folder that is written to: what is found, what waits, what is never followed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from lavise.configs.base import Settings
from lavise.configs.errors import UserError
from lavise.configs.sources import FolderSource
from lavise.storage.checkpoint_sources.base import SCANNERS, FoundCheckpoint, Looking, Scan
from lavise.storage.checkpoint_sources.scan import scan_checkpoints
from lavise.storage.checkpoint_sources.snapshots import take_snapshot
from lavise.storage.state.progress import Bar, Progress, no_progress
from tests.unit.storage.checkpoint_sources.helpers import HOUR, found_at, names, scan, sha256, write


def acting(act: Callable[[], object]) -> Progress:
    """Does something when the files have been listed and are about to be read."""

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Bar]:
        with no_progress(title, total) as bar:
            act()
            yield bar

    return progress


def test_weights_files_at_any_depth(folder: Path) -> None:
    write(folder / "a.pt", b"a", age=3)
    write(folder / "run 1" / "b.pth", b"b", age=2)
    write(folder / "run 1" / "fold" / "c.safetensors", b"c", age=1)
    for other in ("README.md", "model.pt3", "model.onnx", "pt", "log.pt.txt", "d.PT.gz"):
        write(folder / other)
    result = scan(folder)
    assert names(result) == ["a.pt", "run 1/b.pth", "run 1/fold/c.safetensors"]
    assert [f.sha256 for f in result.found] == [sha256(b"a"), sha256(b"b"), sha256(b"c")]
    assert [f.path.read_bytes() for f in result.found] == [b"a", b"b", b"c"]
    assert (result.waiting, result.unusable) == ((), ())


def test_oldest_first_then_by_name(folder: Path) -> None:
    for name, age in (("z.pt", 300.0), ("a.pt", 100.0), ("m.pt", 200.0)):
        write(folder / name, age=age)
    for name in ("y.pt", "b/c.pt", "b.pt"):
        write(folder / name)
        os.utime(folder / name, ns=(0, 10**18))
    assert names(scan(folder)) == ["b.pt", "b/c.pt", "y.pt", "z.pt", "m.pt", "a.pt"]


def test_hidden_and_partial_files_are_no_checkpoints(folder: Path) -> None:
    for name in (".a.pt", ".cache/b.pt", "run/.c/d.pt", "last.pt.tmp", "last.pt.part", "e.safetensors.part"):
        write(folder / name)
    assert scan(folder) == Scan((), (), (), num_other=3)
    assert scan(folder, pattern=".cache/*") == Scan((), (), ())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.pt", ["last.pt"]),
        ("**/last.pt", ["a/b/last.pt", "a/last.pt", "last.pt"]),
        ("a/*", ["a/last.pt", "a/x1.pth"]),
        ("a/**", ["a/b/last.pt", "a/last.pt", "a/x1.pth"]),
        ("a/**/*.pt", ["a/b/last.pt", "a/last.pt"]),
        ("*/x[0-9].pth", ["a/x1.pth"]),
        ("*/*/*", ["a/b/last.pt"]),
        ("./last.pt", ["last.pt"]),
        ("**", ["a/b/last.pt", "a/last.pt", "a/x1.pth", "last.pt"]),
        ("LAST.PT", []),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    for name in ("last.pt", "a/last.pt", "a/x1.pth", "a/b/last.pt"):
        write(folder / name)
    assert sorted(names(scan(folder, pattern))) == expected


def test_the_same_content_twice_is_listed_twice(folder: Path) -> None:
    write(folder / "epoch_3.pt", b"same", age=5)
    write(folder / "last.pt", b"same")
    one, other = scan(folder).found
    assert (one.name, other.name) == ("epoch_3.pt", "last.pt")
    assert one.sha256 == other.sha256 == sha256(b"same")


def test_a_file_is_stable_when_it_has_not_changed_for_so_long(folder: Path) -> None:
    changed = write(folder / "last.pt").stat().st_ctime
    source = FolderSource(folder=folder, stable_seconds=30)
    assert scan_checkpoints(source, lambda: None, folder, changed + 29.5).waiting == ("last.pt",)
    assert names(scan_checkpoints(source, lambda: None, folder, changed + 30.5)) == ["last.pt"]
    at_once = FolderSource(folder=folder, stable_seconds=0)
    assert names(scan_checkpoints(at_once, lambda: None, folder, changed + 0.5)) == ["last.pt"]


def test_an_old_time_set_by_a_copy_does_not_make_a_file_stable(folder: Path) -> None:
    original = write(folder.parent / "old.pt", b"old", age=10 * HOUR)
    shutil.copy2(original, folder / "copy.pt")
    assert (folder / "copy.pt").stat().st_mtime < time.time() - 9 * HOUR
    assert scan(folder, later=1).waiting == ("copy.pt",)
    assert names(scan(folder, later=HOUR)) == ["copy.pt"]


def test_a_time_that_lies_ahead_is_waited_out_by_looks(folder: Path) -> None:
    """As after a clock was set back: from the first look on, whichever process looks."""
    path = write(folder / "ahead.pt", age=-24 * HOUR)
    source, now = FolderSource(folder=folder, stable_seconds=30), time.time()
    cache = folder.parent / "cache"

    def look(at: float) -> Scan:
        return scan_checkpoints(source, lambda: None, cache, now + at)

    assert look(0).waiting == look(29).waiting == ("ahead.pt",)
    write(path, b"written again", age=-24 * HOUR)
    assert look(31).waiting == look(60).waiting == ("ahead.pt",)
    assert names(look(62)) == names(look(63)) == ["ahead.pt"]
    assert look(-HOUR).waiting == ("ahead.pt",)  # the clock was set back once more
    assert names(look(30 - HOUR)) == ["ahead.pt"]
    path.unlink()
    look(64)
    assert [p.read_text() for p in cache.glob("ahead-*")] == ["{}"]


def test_a_file_that_a_process_appends_to_waits_until_it_is_done(folder: Path) -> None:
    write(folder / "done.pt", b"done")
    now = time.time() + HOUR
    code = (
        "import os, sys, time\n"
        "with open(sys.argv[1], 'ab', buffering=0) as file:\n"
        "    while not os.path.exists(sys.argv[2]):\n"
        "        file.write(b'x' * 4096)\n"
        f"        os.utime(sys.argv[1], ({now}, {now}))\n"
        "        print('wrote', flush=True)\n"
        "        time.sleep(0.01)\n"
    )
    stop = folder.parent / "stop"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "last.pt"), str(stop)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(5):
            assert writer.stdout.readline() == "wrote\n"
            result = scan(folder)
            assert (names(result), result.waiting) == (["done.pt"], ("last.pt",))
        stop.touch()
        writer.stdout.read()
    assert writer.returncode == 0
    done, last = scan(folder, later=2 * HOUR).found
    assert (done.name, last.name) == ("done.pt", "last.pt")
    assert last.sha256 == sha256((folder / "last.pt").read_bytes())


def test_a_file_that_changes_while_it_is_read_waits(folder: Path) -> None:
    for name in ("appended.pt", "replaced.pt", "deleted.pt", "kept.pt", "rewritten.pt", "pipe.pt"):
        write(folder / name, b"before")

    def change() -> None:
        with (folder / "appended.pt").open("ab") as file:
            file.write(b" and after")
        times = (folder / "replaced.pt").stat()
        (folder / "new").write_bytes(b"_after")
        os.utime(folder / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(folder / "new", folder / "replaced.pt")
        (folder / "deleted.pt").unlink()
        times = (folder / "rewritten.pt").stat()
        with (folder / "rewritten.pt").open("r+b") as file:
            file.write(b"_after")
        os.utime(folder / "rewritten.pt", ns=(times.st_atime_ns, times.st_mtime_ns))
        (folder / "pipe.pt").unlink()
        os.mkfifo(folder / "pipe.pt")

    result = scan(folder, progress=acting(change))
    assert names(result) == ["kept.pt"]
    assert result.waiting == ("appended.pt", "deleted.pt", "pipe.pt", "replaced.pt", "rewritten.pt")
    assert result.unusable == ()


def hash_then(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Does something in the moment after a file's last byte was read."""
    digest = hashlib.file_digest

    def digest_then_act(file: Any, name: str) -> Any:
        result = digest(file, name)
        act()
        return result

    monkeypatch.setattr(hashlib, "file_digest", digest_then_act)


def test_a_file_that_changes_in_the_last_moment_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = write(folder / "last.pt", b"before")
    hash_then(monkeypatch, lambda: last.write_bytes(b"_after"))
    assert scan(folder) == Scan((), ("last.pt",), ())


def test_a_link_that_leads_elsewhere_for_a_moment_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "a" / "one.pt", b"one")
    secret = write(folder.parent / "secret.pt", b"secret")
    link = folder / "last.pt"

    def lead_to(target: Path) -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    lead_to(folder / "a" / "one.pt")
    hash_then(monkeypatch, lambda: lead_to(folder / "a" / "one.pt"))
    result = scan(folder, pattern="*.pt", progress=acting(lambda: lead_to(secret)))
    assert result == Scan((), ("last.pt",), ())


def test_links_that_lead_out_are_not_followed(folder: Path) -> None:
    secret = write(folder.parent / "secret" / "weights.pt", b"secret")
    write(folder / "good.pt", b"good")
    (folder / "out.pt").symlink_to(secret)
    (folder / "out").symlink_to(secret.parent)
    (folder / "up.pt").symlink_to(Path("..") / "secret" / "weights.pt")
    (folder / "nowhere.pt").symlink_to(folder / "gone.pt")
    (folder / "circle.pt").symlink_to(folder / "circle.pt")
    result = scan(folder)
    assert names(result) == ["good.pt"]
    assert [name for name, _ in result.unusable] == ["circle.pt", "nowhere.pt", "out", "out.pt", "up.pt"]
    assert all("link" in reason for _, reason in result.unusable)
    result = scan(folder, pattern="*/*.pt")
    assert (names(result), [name for name, _ in result.unusable]) == ([], ["out"])


def test_a_folder_beside_with_a_longer_name_is_outside(folder: Path) -> None:
    secret = write(folder.with_name(folder.name + "-secret") / "weights.pt")
    (folder / "out.pt").symlink_to(secret)
    assert names(scan(folder)) == []


def test_links_that_stay_below_are_followed(folder: Path) -> None:
    write(folder / "run_2" / "epoch_9.pt", b"nine")
    (folder / "last.pt").symlink_to(Path("run_2") / "epoch_9.pt")
    (folder / "latest").symlink_to("run_2")
    result = scan(folder)
    assert names(result) == ["last.pt", "run_2/epoch_9.pt"]
    assert {found.sha256 for found in result.found} == {sha256(b"nine")}
    assert names(scan(folder, pattern="latest/*.pt")) == ["latest/epoch_9.pt"]
    assert names(scan(folder, pattern="latest/**/*.pt")) == ["latest/epoch_9.pt"]


def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    write(folder / "a.pt")
    (folder.parent / "link").symlink_to(folder)
    assert names(scan(folder.parent / "link")) == ["a.pt"]


def test_links_in_a_circle_end(folder: Path) -> None:
    write(folder / "a" / "one.pt")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "a" / "same").symlink_to(folder / "a")
    result = scan(folder)
    assert (names(result), result.unusable) == (["a/one.pt"], ())
    result = scan(folder, pattern="a/**/*.pt")
    assert names(result) == ["a/one.pt"]
    assert [name for name, _ in result.unusable] == ["a/up"]


def test_one_bad_entry_does_not_stop_the_others(folder: Path) -> None:
    write(folder / "good.pt", b"good")
    write(folder / "empty.pt", b"")
    os.mkfifo(folder / "pipe.pt")
    (folder / "folder.pt").mkdir()
    write(folder / "folder.pt" / "inside.pt", b"inside")
    result = scan(folder)
    assert sorted(names(result)) == ["folder.pt/inside.pt", "good.pt"]
    assert result.unusable == (("empty.pt", "the file is empty"), ("pipe.pt", "not a regular file"))


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder of a user who is not allowed everything, also where the tests run as root."""
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())
    try:
        if root:
            os.chown(folder, 65534, -1)
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in folder.iterdir():
            path.chmod(0o700)
        shutil.rmtree(folder)


def test_what_may_not_be_read_does_not_stop_the_others() -> None:
    with ordinary_user() as folder:
        write(folder / "good.pt", b"good")
        write(folder / "closed.pt").chmod(0)
        write(folder / "shut" / "inside.pt")
        (folder / "shut").chmod(0)
        result = scan(folder)
        assert names(result) == ["good.pt"]
        assert result.unusable == (
            ("closed.pt", "Permission denied"),
            ("shut", "the folder cannot be read: Permission denied"),
        )
        assert scan(folder, pattern="*").unusable == (("closed.pt", "Permission denied"),)
        with pytest.raises(UserError, match=r"source\.folder: cannot read .*Permission denied"):
            scan(folder / "shut")


@pytest.mark.parametrize("name", ["missing", "file.pt", "bad\0name"])
def test_a_folder_that_is_none(folder: Path, name: str) -> None:
    write(folder / "file.pt")
    with pytest.raises(UserError, match=r"source\.folder: cannot read .*; allowed: a folder of checkpoint files"):
        scan(folder / name)


def test_hostile_names_are_printable_and_stay_inside(folder: Path) -> None:
    hostile = [b"red\x1b[31m.pt", b"two\nlines.pt", b"not-utf8-\xff.pt", "rtl\u202etp.pt".encode(), b"-rf *;$(x).pt"]
    for number, name in enumerate(hostile):
        write(folder / os.fsdecode(name), bytes([number]))
    result = scan(folder)
    assert len(result.found) == len(hostile)
    snapshots = folder.parent / "snapshots"
    for found in result.found:
        assert found.name.isprintable()
        found.name.encode("utf-8")
        assert take_snapshot(found, snapshots) == snapshots / f"{found.sha256}.pt"
    assert {f.sha256 for f in result.found} == {sha256(bytes([n])) for n in range(len(hostile))}


def test_equal_checkpoints_compare_equal_whatever_their_origin() -> None:
    found = FoundCheckpoint("a", Path("a.pt"), "0" * 64)
    assert replace(found, origin=("s3://user:password@bucket", "a.pt")) == found
    assert "password" not in repr(replace(found, origin=("s3://user:password@bucket", "a.pt")))


def test_a_new_kind_of_source_is_one_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ListSource(Settings):
        kind: Literal["list"] = "list"
        files: tuple[Path, ...]

    def look_up(source: ListSource, look: Looking) -> Scan:
        return Scan(tuple(found_at(path) for path in source.files), (), ())

    monkeypatch.setitem(SCANNERS, "list", look_up)
    path = write(tmp_path / "a.pt")
    source: Any = ListSource(files=(path,))
    assert names(scan_checkpoints(source, lambda: None, tmp_path, 0.0)) == ["a.pt"]
