"""Extraction by workers of one thread each, beside this process with one thread, in turns in one run.

    python -m benchmarks.cluster --root COCO [--workers 1 2] [--times 4]

`speedup` is one worker over so many of them; wanted are 1.7 for two on two cores. The stores have to be the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.common import save_result
from lavise.configs.loading import load_config, make_absolute
from lavise.configs.schema import CocoReference, StatisticsSettings
from lavise.storage.datasets.readers.coco import load_coco_reference
from lavise.storage.models.target_model import load_target_model
from lavise.tasks.activations.extract import ExtractionInputs, MakeBlocks, extract_activations, extract_here
from lavise.tasks.activations.worker_extraction import extract_on_workers
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage_inputs import Given

LAYER = "bn2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder with COCO's layout")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--times", type=int, default=4, help="every picture so often, under other names")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    config = make_absolute(
        load_config(
            "coco-mini", [f"reference.root={arguments.root}", "extract.shard_images=64", "extract.decode_threads=1"]
        )
    )
    assert isinstance(config.reference, CocoReference)
    data = load_coco_reference(config.reference).train
    records = [replace(r, key=f"{n}-{r.key}") for n in range(arguments.times) for r in data.records]
    model = load_target_model(config.model, config.seed)
    pictures = Given(replace(data, records=tuple(records)), "")
    inputs = ExtractionInputs(model, (LAYER,), pictures, config.extract, "cpu")
    torch.set_num_threads(1)
    clusters = {n: StatisticsCluster(StatisticsSettings(num_workers=n)) for n in arguments.workers}
    ways: dict[str, MakeBlocks] = {"here, one thread": extract_here}
    ways |= {f"{n} workers": partial(extract_on_workers, cluster) for n, cluster in clusters.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    digests = set()
    try:
        for turn in range(arguments.repeats + 1):
            for name, make_blocks in ways.items():
                taken, digest = _extract(inputs, make_blocks)
                digests.add(digest)
                if turn:  # the first starts workers and prepares kernels
                    seconds[name].append(taken)
    finally:
        for cluster in clusters.values():
            cluster.__exit__(None, None, None)
    medians = {name: median(own) for name, own in seconds.items()}
    one = medians.get("1 workers", medians["here, one thread"])
    save_result(
        "cluster",
        {
            "num_images": len(records),
            "seconds": seconds,
            "speedup": {name: one / own for name, own in medians.items()},
            "same_bytes": len(digests) == 1,
        },
    )


def _extract(inputs: ExtractionInputs, make_blocks: MakeBlocks) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        extract_activations(inputs, {LAYER: Path(folder)}, make_blocks)
        taken = time.perf_counter() - start
        content = b"".join(p.name.encode() + p.read_bytes() for p in sorted(Path(folder).iterdir()))
    return taken, hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
