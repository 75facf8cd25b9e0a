"""What was freed goes back."""

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's habit")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    before, after = (int(n) for n in done.stdout.split())
    assert before - after > 60, (before, after)
