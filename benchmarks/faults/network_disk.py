"""A file system in user space that hands everything on to a folder, and behaves as network file systems do where asked.

It speaks the kernel's FUSE protocol (linux/fuse.h, version 7.31) over /dev/fuse, so that it needs Linux, root and no
library. Two mounts of one folder are two clients of one server: each has its own cache of names and, where locks are
not passed on, its own locks.

python -m benchmarks.faults.network_disk FOLDER MOUNT BEHAVIOUR_JSON FAULT_FILE
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.environments import REPOSITORY

MAX_WRITE = 1 << 17
"""Bytes of a request."""
_START_SECONDS = 20.0


@dataclass(frozen=True)
class Behaviour:
    """What is other than on a local disk.

    Attributes:
        silly_rename: a file that is deleted or replaced while it is open stays as `.nfsNUMBER` until it is closed.
        locks: `passed`: they hold between clients (NFSv4); `local`: among the processes of one client (nolock,
            local_lock); `refused`: ENOLCK.
        hard_links: whether there are any; else EPERM (SMB, many in user space).
        sync_folders: whether a folder can be synced; else EINVAL (SMB).
        replace_folders: whether a folder can be renamed over an empty one; else EEXIST.
        modes: whether files have modes; else all are 0777, and chmod is EPERM (SMB).
        shared_maps: whether files can be mapped shared; else ENODEV.
        fold_case: names that differ in case are one (SMB).
        names_cached_s: how long a client believes what it knows of names, also that there is none.
    """

    silly_rename: bool = False
    locks: str = "passed"
    hard_links: bool = True
    sync_folders: bool = True
    replace_folders: bool = True
    modes: bool = True
    shared_maps: bool = True
    fold_case: bool = False
    names_cached_s: int = 0


class CannotMountError(Exception):
    """What is missing."""


@contextmanager
def mount(folder: Path, place: Path, behaviour: Behaviour) -> Iterator[Path]:
    """Mount a folder, which is made, at a place, which is made; the value is the path of the fault file.

    While the fault file has a line, it is a fault: `late ENOSPC` (writes are taken, and lost; closing and syncing says
    so), `all EIO` (every read and write), `stale` (of every file that was opened before), `silent` (no answer).

    Raises:
        CannotMountError: there is no FUSE here, or not for this user.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0:
        raise CannotMountError(
            "needs Linux with /dev/fuse, as root (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    fault = place.with_name(f"{place.name}.fault")
    fault.write_text("", "utf-8")
    arguments = [str(folder), str(place), json.dumps(asdict(behaviour)), str(fault)]
    log = place.with_name(f"{place.name}.server.log")
    with log.open("ab") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.network_disk", *arguments],
            stdout=out, stderr=out, start_new_session=True, cwd=REPOSITORY,
        )  # fmt: skip
    deadline = time.monotonic() + _START_SECONDS
    try:
        while not os.path.ismount(place):
            if server.poll() is not None or time.monotonic() > deadline:
                raise CannotMountError(f"cannot mount a file system here: {log.read_text('utf-8').strip()[-200:]}")
            time.sleep(0.05)
        yield fault
    finally:
        fault.write_text("", "utf-8")
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def main() -> None:
    from benchmarks.faults.fuse_server import FuseServer

    folder, place, behaviour, fault = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},max_read={MAX_WRITE}"
    libc = ctypes.CDLL(None, use_errno=True)
    nosuid_nodev = 2 | 4
    if libc.mount(b"lavise-faults", os.fsencode(place), b"fuse.lavise", nosuid_nodev, options.encode()) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    os.umask(0)
    FuseServer(Path(folder), device, Behaviour(**json.loads(behaviour)), Path(fault)).serve()


if __name__ == "__main__":
    main()
