"""Checks of the machine and of what is installed on it: Python, packages, torch, GPU, memory, state folder, disk."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lavise.flows.doctor.check import ANSWER_SECONDS, CHECKOUT, Check, Status, describe_error, ok
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.file_system import FileSystemError, require_file_system
from lavise.storage.state.files import write_atomically
from lavise.storage.state.locks import try_lock

_GB = 10**9
_LOW_MEMORY, _LOW_DISK, _NO_DISK = 4 * _GB, 10 * _GB, 1 * _GB


def check_python() -> Iterator[Check]:
    """This interpreter against Requires-Python of lavise."""
    here, wanted = platform.python_version(), metadata.metadata("lavise")["Requires-Python"]
    fits = SpecifierSet(wanted).contains(here, prereleases=True)
    advice = "" if fits else f"make the environment anew with a Python {wanted}"
    yield Check("Python", "ok" if fits else "failed", f"{here} (needs {wanted}), {sys.executable}", advice)


def check_packages() -> Iterator[Check]:
    """Every dependency of lavise: installed, and of a version within its range."""
    declared = [Requirement(line) for line in metadata.requires("lavise") or []]
    wanted = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    faults = {str(r): fault for r in wanted if (fault := find_package_fault(r))}
    if faults:
        pip = f"`{shlex.quote(sys.executable)} -m pip install {shlex.join(faults)}`"
        checkout = f"in {CHECKOUT}: `rm -f .venv/.synced && make setup`"
        advice = checkout if (CHECKOUT / "uv.lock").is_file() else pip
        yield Check("packages", "failed", "; ".join(faults.values()), advice)
    else:
        yield ok("packages", f"lavise {metadata.version('lavise')}; all {len(wanted)} that it needs, in their ranges")


def find_package_fault(requirement: Requirement) -> str | None:
    """What is wrong with an installed package, or None."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    fits = requirement.specifier.contains(version, prereleases=True)
    return None if fits else f"{requirement.name} {version} is outside {requirement.specifier}"


def check_torch() -> Iterator[Check]:
    """torch and torchvision fit each other: the compiled operators of torchvision run."""
    versions = f"torch {metadata.version('torch')}, torchvision {metadata.version('torchvision')}"
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([0.5]), 0.5)
    except Exception as err:  # noqa: BLE001 - builds that do not fit fail in any way
        yield Check("torch", "failed", f"{versions}: {err}", "install both from one release and one index")
    else:
        yield ok("torch", f"{versions}; torchvision's operators run")


def check_device(wanted: str) -> Iterator[Check]:
    """The GPU, tried out, or the cores of the CPU.

    Args:
        wanted: `device` of the settings.
    """
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    build = f"torch for CUDA {torch.version.cuda}" if torch.version.cuda else "torch without CUDA"
    found, advice = f"CPU, {usable} cores; {build}", ""
    status: Status = "ok"
    if wanted != "cpu" and torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        found = f"{facts.name}, {_gb(facts.total_memory)}; {build}; {torch.cuda.device_count()} GPUs, the first is used"
        try:
            (torch.ones((64, 64), device="cuda") @ torch.ones((64, 64), device="cuda")).sum().item()
        except RuntimeError as err:
            status, found = "failed", f"{found}; does not compute: {err}"
            advice = "update the driver, or install a build of torch for this GPU, or set device: cpu"
    elif wanted != "cpu" and (gpu := _ask_nvidia_smi()):
        status, found = "warning", f"{gpu}, which torch does not see; {found}"
        advice = "install a build of torch and torchvision for CUDA, see https://pytorch.org/get-started"
        if torch.version.cuda:
            advice = "update the NVIDIA driver, and look whether CUDA_VISIBLE_DEVICES hides the GPU"
    if wanted == "cuda" and not torch.cuda.is_available():
        status, advice = "failed", advice or "set device: auto, or run where there is an NVIDIA GPU with its driver"
    yield Check("device", status, found, advice)


def _ask_nvidia_smi() -> str:
    """The first GPU that the driver knows; empty where there is no driver."""
    command = [shutil.which("nvidia-smi") or "nvidia-smi", "-L"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition(" (UUID")[0].strip()


def check_memory() -> Iterator[Check]:
    """Memory that can be had, also in a container or a batch job."""
    advice = "close other programs, or lower extract.batch_size and statistics.num_workers"
    yield check_room("memory", find_free_memory(), "can be had", (0, _LOW_MEMORY), advice)


def find_free_memory() -> int:
    """Bytes that this process can have."""
    import psutil

    limits = [psutil.virtual_memory().available]
    with contextlib.suppress(OSError, ValueError):  # no Linux, or another layout
        limits += find_group_memory(Path("/proc/self/cgroup").read_text("utf-8"), Path("/sys/fs/cgroup"))
    return min(limits)


def find_group_memory(own: str, mount: Path) -> list[int]:
    """Bytes that each limit on the way from a process's control group to the top still leaves; versions 1 and 2.

    Args:
        own: the text of /proc/self/cgroup.
        mount: /sys/fs/cgroup.
    """
    free = []
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        names = ("memory.max", "memory.current", "inactive_file")
        if controllers == "memory":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        top = mount / controllers
        group = top / path.strip("/")
        for folder in (f for f in (group, *group.parents) if f.is_relative_to(top) and (f / names[0]).is_file()):
            limit, used = ((folder / name).read_text("utf-8").strip() for name in names[:2])
            facts = dict(row.split() for row in (folder / "memory.stat").read_text("utf-8").splitlines())
            if limit != "max":  # the kernel gives back at once what it only holds of files
                free.append(max(int(limit) - int(used) + int(facts[names[2]]), 0))
    return free


def check_state_folder(configured: Path | None) -> Iterator[Check]:
    """The state folder, or the one that it will be made in, can be written to, has locks, and is the user's alone."""
    root = find_state_root(configured)
    there = _find_existing(root)
    mode = there.stat().st_mode & 0o777
    if fault := try_out_folder(there):
        advice = "set storage.root or LAVISE_HOME to a folder on a local disk"
        yield Check("state folder", "failed", f"{there}: {fault}", advice)
    elif there == root and mode & 0o077:
        found, advice = f"{root}: mode {mode:04o}, others can look into it", f"`chmod 700 {shlex.quote(str(root))}`"
        yield Check("state folder", "warning", found, advice)
    else:
        made = "" if there == root else "made by the first run; "
        yield ok("state folder", f"{root}: {made}writes, renames and locks")


def try_out_folder(folder: Path) -> str | None:
    """Do to a file in the folder what a run does to its files; the step that fails, with its reason, or None."""
    step = "cannot write"
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as scratch:
            probe = Path(scratch) / "probe"
            write_atomically(probe, "probe")
            require_file_system(Path(scratch), modes=True)
            step = "cannot lock (flock)"
            with try_lock(probe) as first, try_lock(probe) as second:
                return None if first and not second else "a lock (flock) does not keep others out"
    except FileSystemError as err:
        return err.reason
    except OSError as err:
        return f"{step}: {describe_error(err)}"


def check_disk(configured: Path | None) -> Iterator[Check]:
    """Room where the state folder is."""
    root = find_state_root(configured)
    advice = "free some room (`lavise gc` removes what no kept run needs), or set storage.root to another disk"
    free = shutil.disk_usage(_find_existing(root)).free
    yield check_room("disk", free, f"free for {root}", (_NO_DISK, _LOW_DISK), advice)


def check_room(name: str, free: int, where: str, limits: tuple[int, int], advice: str) -> Check:
    """Whether so many bytes are enough: below the first limit it fails, below the second it warns."""
    too_few, few = limits
    found = f"{_gb(free)} {where}"
    if free >= few:
        return ok(name, found)
    return Check(name, "failed" if free < too_few else "warning", f"{found}; {_gb(few)} are advisable", advice)


def _find_existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / _GB:.1f} GB"
