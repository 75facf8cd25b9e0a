"""Locks between real processes: had or not had at once, and gone with whoever held them."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.storage.state.locks import is_locked, try_lock

_HOLD = """
import sys
from pathlib import Path
from lavise.storage.state.locks import is_locked, try_lock
with try_lock(Path(sys.argv[1])) as free:
    print(free, flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that tries to have the lock, and says whether it has."""
    root = Path(__file__).resolve().parents[4]
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def is_free(path: Path) -> bool:
    with try_lock(path) as free:
        return free


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with holding(path) as process:
        assert hear(process) == "True"
        assert not is_free(path)
        assert is_free(tmp_path / "other.lock")
        say(process)
        assert hear(process) == "left"
        # It lives on, and its lock is free all the same.
        assert process.poll() is None
        assert is_free(path)


def test_another_process_does_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with try_lock(path) as free:
        assert free
        with holding(path) as process:
            assert hear(process) == "False"
            say(process)
            assert hear(process) == "left"
            # Whoever did not have the lock does not free it by leaving.
            assert not is_free(path)
    assert is_free(path)


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with holding(path) as process:
        assert hear(process) == "True"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.exists()
        assert is_free(path)


def test_child_that_was_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    path, (reading, writing) = tmp_path / "one.lock", os.pipe()
    with try_lock(path) as free:
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    assert free
    assert is_free(path)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0


def test_lock_is_not_had_twice_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with try_lock(path) as first, try_lock(path) as second:
        assert (first, second) == (True, False)
    with try_lock(path) as third:
        assert third


def test_error_in_the_block_comes_through_and_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with pytest.raises(ValueError, match="inside"), try_lock(path):
        raise ValueError("inside")
    assert is_free(path)
    with try_lock(path), pytest.raises(ValueError, match="without"), try_lock(path):
        raise ValueError("without")


def test_folder_of_the_lock_is_made_for_the_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "locks" / "one.lock"
    assert is_free(path)
    assert [p.stat().st_mode & 0o777 for p in (path.parent, path.parent.parent)] == [0o700, 0o700]


def test_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(UserError, match=r"^storage\.root: cannot write to "), try_lock(tmp_path / "state" / "one.lock"):
        pass


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests/unit/benchmarks/test_network_disk.py sees on a real one, where that can be mounted."""

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    (tmp_path / "a.lock").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    line = r"^storage\.root: cannot lock .*a\.lock \(No locks available\); set storage\.root or LAVISE_HOME to a folder"
    with pytest.raises(UserError, match=line), try_lock(tmp_path / "a.lock"):
        pass
    with pytest.raises(UserError, match=line):
        is_locked(tmp_path / "a.lock")
