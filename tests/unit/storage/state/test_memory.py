"""What was freed is kept for the next large array, and goes back when it is asked to."""

import os
import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import threading
from pathlib import Path
from lavise.storage.state.memory import give_memory_back

def measure():
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("RssAnon"))
    return int(line.split()[1]) >> 10

def fill():
    # Pieces that glibc takes from its heaps, with some left at the end that hold these in place.
    kept.append([bytes(2000) for _ in range(50_000)][-1])

kept, threads = [], [threading.Thread(target=fill) for _ in range(2)]
fill()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
before = measure()
give_memory_back()
print(before, measure())
"""

_FAULTS_SCRIPT = """
import ctypes, resource, sys
import numpy as np
from lavise.storage.state.memory import freed_memory_kept, keep_freed_memory

def fill():
    np.empty(int(sys.argv[2]), np.uint8).fill(1)

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a huge page is one fault, whoever asks for it
if sys.argv[1] in ("kept", "kept within"):
    keep_freed_memory()
if sys.argv[1] in ("kept before", "kept within"):
    with freed_memory_kept():
        fill()
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_LARGE, _SMALLER = 48 << 20, 8 << 20
only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's habit")


def _share_asked_for(how: str, size: int = _LARGE, **environment: str) -> float:
    """Of the pages of five arrays, one after the other, the share that the system is asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", _FAULTS_SCRIPT, how, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=kept | environment)
    return int(done.stdout) / (5 * size / os.sysconf("SC_PAGE_SIZE"))


@only_glibc
def test_large_arrays_come_from_freed_memory() -> None:
    assert _share_asked_for("as it is") >= 1
    assert _share_asked_for("kept") < 0.02
    assert _share_asked_for("kept before") >= 1
    assert _share_asked_for("kept within") < 0.02


@only_glibc
def test_the_environment_has_the_last_word_on_memory() -> None:
    assert _share_asked_for("kept", MALLOC_MMAP_THRESHOLD_="1000000") >= 1
    # As in Dask's workers, which give back at once.
    trimmed = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    assert _share_asked_for("as it is", _SMALLER, **trimmed) >= 1
    assert _share_asked_for("kept", _SMALLER, **trimmed) < 0.02
    assert _share_asked_for("kept before", _SMALLER, **trimmed) >= 1
    assert _share_asked_for("kept before", _SMALLER) < 0.02


@only_glibc
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    before, after = (int(n) for n in done.stdout.split())
    assert before - after > 60, (before, after)
