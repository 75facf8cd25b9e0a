"""Seconds of a first look at a folder of checkpoints, and of a second one at the same files.

python -m benchmarks.watching --files 1000 --megabytes 5
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import save_result
from lavise.configs.sources import FolderSource
from lavise.storage.checkpoint_sources.scan import scan_checkpoints


def main() -> None:
    """Write the files, and look twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        folder, cache = Path(home) / "incoming", Path(home) / "cache"
        folder.mkdir()
        numbers = arguments.megabytes * 10**6 // 4
        for number in range(arguments.files):
            path = folder / f"step-{number:05d}.pt"
            torch.save({"state_dict": {"weight": torch.full((numbers // 1000, 1000), float(number))}}, path)
            os.utime(path, (time.time() - 3600,) * 2)
        time.sleep(3)  # what was changed just now is not remembered
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            found = scan_checkpoints(
                FolderSource(folder=folder, stable_seconds=0), lambda: None, cache, time.time() + 3600
            )
            seconds.append(time.perf_counter() - start)
            assert len(found.found) == arguments.files
    first, second = seconds
    content = {"files": arguments.files, "megabytes": arguments.megabytes}
    save_result(
        "watching",
        {**content, "first_s": round(first, 2), "second_s": round(second, 3), "ratio": round(first / second)},
    )


if __name__ == "__main__":
    main()
