"""What was tried against audits and their services, one part at a time.

python -m benchmarks.faults kills --rounds 200
python -m benchmarks.faults pairs --rounds 50
python -m benchmarks.faults disk
python -m benchmarks.faults network
python -m benchmarks.faults services
python -m benchmarks.faults soak --rounds 24
python -m benchmarks.faults clock

Each part prints a table, and writes benchmarks/results/faults-PART-DATE.json; lines of rounds that are over stand in
WORK/PART.jsonl as they end. Audits are of a tiny network on 96 pictures, in processes of their own.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import tempfile
from pathlib import Path

from benchmarks.faults.parts import Options, Part

PARTS = {
    "kills": "kills:measure_kills",
    "pairs": "pairs:measure_pairs",
    "disk": "disk:measure_disk",
    "services": "services:measure_services",
    "network": "network:measure_network",
    "soak": "soak:measure_soak",
    "clock": "clock:measure_clock",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, help="how often; each part has its own default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a new folder, which is kept; else a temporary one")
    arguments = parser.parse_args()
    module, name = PARTS[arguments.part].split(":")
    measure: Part = getattr(importlib.import_module(f"benchmarks.faults.{module}"), name)
    work = arguments.work.absolute() if arguments.work else Path(tempfile.mkdtemp(prefix="lavise-faults-"))
    work.mkdir(parents=True, exist_ok=True)
    measure(Options(work, arguments.rounds, arguments.seed))
    if not arguments.work:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
