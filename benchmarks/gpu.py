"""What a GPU is kept busy with, in one run and one JSON: extraction, training of large sets, image masking.

    python -m benchmarks.gpu --root COCO [--device cuda] [--seconds 300] [--share 1.0] [--threads 16]

Each is its own benchmark, started one after the other with so many seconds left for all of them; what did not end in
time is written down as such. With --device cpu the same lines run where there is no GPU (with a small --share).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, save_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="COCO folder: train2017, val2017, annotations")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--seconds", type=float, default=300.0, help="for all of them")
    parser.add_argument("--share", type=float, default=1.0, help="of 117,000 pictures, in training")
    parser.add_argument("--epochs", type=int, default=2, help="of training")
    parser.add_argument("--times", type=int, default=8, help="how often the pictures are taken, in extraction")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    device = ("--device", arguments.device)
    extraction = (
        *("--root", str(arguments.root), *device, "--threads", str(arguments.threads)),
        *("--times", str(arguments.times), "--repeats", "2"),
    )
    training = (*device, "--share", str(arguments.share), "--epochs", str(arguments.epochs), "--objectives", "softmax")
    masking = ("--photos", str(arguments.root / "val2017"), *device, "--repeats", "2")
    commands = {"extraction": extraction, "masking": masking, "training": training}
    found = {name: _run(name, command, end - time.monotonic()) for name, command in commands.items()}
    save_result("gpu", {"device_asked_for": arguments.device, **found}, arguments.device)


def _run(name: str, arguments: tuple[str, ...], seconds: float) -> dict[str, Any]:
    """What a benchmark wrote, with the seconds that it took; or how it ended."""
    result = RESULTS / f"{name}-{date.today().isoformat()}.json"
    before = result.read_bytes() if result.is_file() else None
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *arguments],
            capture_output=True,
            text=True,
            timeout=max(seconds, 1),
            check=False,
        )
        if done.returncode:
            return {"failed": done.stderr.strip().splitlines()[-3:]}
        content: dict[str, Any] = json.loads(result.read_text("utf-8"))
    except subprocess.TimeoutExpired:
        return {"failed": [f"not ended after {seconds:.0f} s"]}
    finally:
        if before is not None:  # what it wrote is in this run's file
            result.write_bytes(before)
        else:
            result.unlink(missing_ok=True)
    dropped = ("machine", "environment", "date")
    return {"took_s": round(time.monotonic() - start, 1), **{k: v for k, v in content.items() if k not in dropped}}


if __name__ == "__main__":
    main()
