"""An audit and `lavise gc` do not meet in one state folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.storage.state.housekeeping import hold_state
from tests.unit.storage.state.state_folder import PROJECT

HOLD = """
import sys, time
from pathlib import Path
from lavise.storage.state.housekeeping import hold_state

with hold_state(Path(sys.argv[1]), exclusive=sys.argv[2] == "alone"):
    print("inside", flush=True)
    if sys.argv[3] == "stay":
        sys.stdin.read()
"""


def start(root: Path, kind: str, then: str = "stay") -> subprocess.Popen[str]:
    """A process that holds the state folder, until its standard input ends if it is to stay."""
    command = [sys.executable, "-c", HOLD, str(root), kind, then]
    return subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_until_inside(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"


def test_gc_gives_up_while_an_audit_of_another_process_runs(tmp_path: Path) -> None:
    process = start(tmp_path, "shared")
    wait_until_inside(process)
    with pytest.raises(UserError, match="is at work in") as caught, hold_state(tmp_path, exclusive=True):
        pytest.fail("must not get in")
    assert len(str(caught.value).splitlines()) == 1
    with hold_state(tmp_path, exclusive=False):
        pass  # another audit may
    process.communicate()
    with hold_state(tmp_path, exclusive=True):
        pass


def test_two_gcs_do_not_meet(tmp_path: Path) -> None:
    process = start(tmp_path, "alone")
    wait_until_inside(process)
    with pytest.raises(UserError, match="is at work in"), hold_state(tmp_path, exclusive=True):
        pytest.fail("must not get in")
    process.communicate()


def test_audit_waits_for_gc_and_says_so(tmp_path: Path) -> None:
    code = (
        "import logging, sys\n"
        "logging.basicConfig(stream=sys.stdout, level=logging.INFO, format='%(message)s')\n"
        "sys.stdout.reconfigure(line_buffering=True)\n"
    )
    with hold_state(tmp_path, exclusive=True):
        command = [sys.executable, "-c", code + HOLD, str(tmp_path), "shared", "go"]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == f"  waiting for `lavise gc` in {tmp_path}\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
    assert process.communicate(timeout=30)[0] == "inside\n"
    assert process.returncode == 0


@pytest.mark.parametrize("kind", ["shared", "alone"])
def test_hold_goes_with_a_killed_process(tmp_path: Path, kind: str) -> None:
    process = start(tmp_path, kind)
    wait_until_inside(process)
    process.kill()
    process.communicate()
    with hold_state(tmp_path, exclusive=True):
        assert (tmp_path / "state.lock").exists()


def test_hold_is_freed_by_an_exception(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), hold_state(tmp_path / "new", exclusive=True):
        raise RuntimeError("inside")
    with hold_state(tmp_path / "new", exclusive=True):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.lock").symlink_to(tmp_path / "outside")
    with (
        pytest.raises(UserError, match=r"^storage\.root: cannot open .*state\.lock"),
        hold_state(tmp_path / "state", exclusive=False),
    ):
        pytest.fail("must not get in")
    assert not (tmp_path / "outside").exists()
