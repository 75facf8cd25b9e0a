"""What was freed is kept for the next large array, and goes back when it is asked to."""

import os
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
import resource, sys
import numpy as np
from lavise.storage.state.memory import freed_memory_kept, keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
if sys.argv[1] == "kept within":
    keep_freed_memory()
if sys.argv[1] in ("kept before", "kept within"):
    with freed_memory_kept():
        np.empty(48 << 20, np.uint8).fill(1)
np.empty(48 << 20, np.uint8).fill(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.empty(48 << 20, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _count_page_faults(how: str, **environment: str) -> int:
    """Of five arrays of 48 MB, one after the other, without huge pages (which numpy asks for)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    kept |= {"NUMPY_MADVISE_HUGEPAGE": "0"} | environment
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS_SCRIPT, how], capture_output=True, text=True, check=True, env=kept
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's habit")
def test_large_arrays_come_from_freed_memory() -> None:
    pages = 5 * (48 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert _count_page_faults("as it is") >= pages
    assert _count_page_faults("kept") < pages / 50
    assert _count_page_faults("kept before") >= pages
    assert _count_page_faults("kept within") < pages / 50


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's habit")
def test_the_environment_has_the_last_word_on_memory() -> None:
    pages = 5 * (48 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert _count_page_faults("kept", MALLOC_MMAP_THRESHOLD_="1000000") >= pages


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's habit")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    before, after = (int(n) for n in done.stdout.split())
    assert before - after > 60, (before, after)
