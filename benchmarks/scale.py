"""Time and memory of every stage of an audit, by the number of pictures.

    python -m benchmarks.scale [--sizes 5000,15000,50000] [--filters 512] [--work FOLDER] [SECTION.KEY=VALUE ...]

Each part (training, evaluation, target) has so many pictures: a few drawn ones under many names (hard links), with
polygons in COCO's form. The network is one convolution with random weights and maps of 7 x 7. An audit of each size
runs in a process of its own, through all stages. Of each stage are kept: wall seconds, processor seconds of the process
and its workers, and the highest memory of the process itself and of its largest worker: `hwm` as the system counts it,
pages of mapped files included, and `anon` without those (seen every 20 ms), which nothing but the process can give
back. `exponent` is the slope of log seconds over log pictures, so that two sizes are needed, `grows` the memory at the
largest size over that at the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn

from benchmarks.common import save_result

CONCEPTS = ("cat", "dog", "car", "tree", "chair", "bottle", "bird", "boat", "horse", "person")
SIDE_PX, CELL_PX = 56, 8
_DISTINCT = 97  # drawn pictures of each part
_SAMPLE_SECONDS = 0.02
_MB = 1e6
FILTERS_VARIABLE = "LAVISE_SCALE_FILTERS"
_SETTINGS = (
    "model.arch=benchmarks.scale:make_network",
    "model.weights=random",
    "model.layers=maps",
    "model.preprocessing={size_px: 56, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}",
    "reference={kind: coco, root: DATA}",
    "target={kind: image_folder, root: DATA/target}",
    "words.vocabulary_size=3000",
    "train.max_epochs=3",
    "evaluate.methods=[original, activation_masking, filter_attention]",
    "evaluate.baselines=[random_words, dealt_words, most_frequent_words]",
    "report.images_per_filter=2",
    "causes.enabled=false",
    "tracking.enabled=false",
)


class _Cells(nn.Module):
    """Filters over cells of the picture, and a classifier of their means."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, filters, CELL_PX, stride=CELL_PX), nn.ReLU())
        self.classifier = nn.Linear(filters, len(CONCEPTS))

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.maps(images_NCHW).mean(dim=(2, 3)))
        return scores


def make_network() -> nn.Module:
    """The audited network; how many filters it has is said by a variable of the environment."""
    return _Cells(int(os.environ[FILTERS_VARIABLE]))


def write_pictures(root: Path, num: int) -> None:
    """train2017, val2017 and target, with annotations of the first two."""
    (root / "annotations").mkdir(parents=True)
    for number, part in enumerate(("train2017", "val2017", "target")):
        rng = np.random.default_rng(number)
        folder, drawn = root / part, root / f"drawn-{part}"
        folder.mkdir()
        drawn.mkdir()
        boxes = [_draw_picture(drawn / f"{i}.png", rng) for i in range(_DISTINCT)]
        for i in range(num):
            os.link(drawn / f"{i % _DISTINCT}.png", folder / f"{i:06d}.png")
        if part == "target":
            continue
        annotations = [
            {
                "id": len(CONCEPTS) * i + n,
                "image_id": i,
                "category_id": concept + 1,
                "iscrowd": 0,
                "bbox": [x, y, w, h],
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                "area": w * h,
            }
            for i in range(num)
            for n, (concept, x, y, w, h) in enumerate(boxes[i % _DISTINCT])
        ]
        images = [{"id": i, "file_name": f"{i:06d}.png", "height": SIDE_PX, "width": SIDE_PX} for i in range(num)]
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CONCEPTS)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


def _draw_picture(path: Path, rng: np.random.Generator) -> list[tuple[int, int, int, int, int]]:
    """Two or three rectangles, each in the colours of its concept; concept, x, y, width and height of each."""
    picture = rng.integers(0, 80, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    found = []
    for concept in rng.permutation(len(CONCEPTS))[: rng.integers(2, 4)].tolist():
        width, height = (int(n) for n in rng.integers(12, 30, 2))
        x, y = int(rng.integers(0, SIDE_PX - width)), int(rng.integers(0, SIDE_PX - height))
        colour = 60 + 190 * np.array([concept & 1, concept >> 1 & 1, concept >> 2 & 1]) - 6 * concept
        noise = rng.integers(-20, 20, (height, width, 3))
        picture[y : y + height, x : x + width] = np.clip(colour + noise, 0, 255)
        found.append((concept, x, y, width, height))
    Image.fromarray(picture).save(path)
    return found


class _Watch:
    """Processor time and memory of this process and of those that it started."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._anon: dict[int, float] = {}
        self._stop = threading.Event()

    def measure(self, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        """What the work gives; wall_s, cpu_s, main_hwm_mb, main_anon_mb, worker_hwm_mb, worker_anon_mb."""
        workers = self._list_workers()
        for process in (self._own, *workers):
            # 5: the system's own highest mark of memory is what there is now (proc(5)).
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        self._anon = {}
        self._stop.clear()
        sampler = threading.Thread(target=self._sample)
        sampler.start()
        wall, cpu = time.perf_counter(), self._sum_cpu()
        try:
            result = work()
        finally:
            wall, cpu = time.perf_counter() - wall, self._sum_cpu() - cpu
            self._stop.set()
            sampler.join()
        marks = {p.pid: _read_status(p.pid).get("VmHWM", 0.0) for p in (self._own, *self._list_workers())}
        own = self._own.pid
        return result, {
            "wall_s": round(wall, 3),
            "cpu_s": round(cpu, 3),
            "main_hwm_mb": round(marks.pop(own), 1),
            "main_anon_mb": round(self._anon.pop(own, 0.0), 1),
            "worker_hwm_mb": round(max(marks.values(), default=0.0), 1),
            "worker_anon_mb": round(max(self._anon.values(), default=0.0), 1),
        }

    def _list_workers(self) -> list[psutil.Process]:
        return self._own.children(recursive=True)

    def _sum_cpu(self) -> float:
        """Seconds; of processes that ended between two calls nothing is counted that their parent has not reaped."""
        times = self._own.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for process in self._list_workers():
            try:
                own = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += own.user + own.system
        return float(total)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            for process in (self._own, *self._list_workers()):
                anon = _read_status(process.pid).get("RssAnon", 0.0)
                self._anon[process.pid] = max(self._anon.get(process.pid, 0.0), anon)


def _read_status(pid: int) -> dict[str, float]:
    """Megabytes by name, from the system's page about a process; empty where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) * 1024 / _MB for f in fields if len(f) == 3 and f[2] == "kB"}


def run_one(folder: Path, overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """An audit of the pictures in folder/data: figures of each stage by its title."""
    from lavise.configs.loading import load_config
    from lavise.flows.audit.run import run_audit
    from lavise.storage.state.progress import no_progress
    from lavise.storage.tracking import NullTracker
    from lavise.tasks.engine.stage import StageOutcome

    settings = [s.replace("DATA", str(folder / "data")) for s in _SETTINGS]
    config = load_config("demo", (*settings, f"storage.root={folder / 'state'}", *overrides))
    watch, stages = _Watch(), dict[str, dict[str, float]]()

    def execute(title: str, work: Callable[[], StageOutcome], uses_device: bool) -> StageOutcome:
        outcome: StageOutcome
        outcome, stages[title] = watch.measure(work)
        (folder / "stages.json").write_text(json.dumps(stages))  # of a run that is stopped, too
        return outcome

    _, whole = watch.measure(lambda: run_audit(config, NullTracker(), no_progress, execute))
    stages["whole"] = {name: whole[name] for name in ("wall_s", "cpu_s")}
    for figure in ("main_hwm_mb", "main_anon_mb", "worker_hwm_mb", "worker_anon_mb"):
        stages["whole"][figure] = max(own[figure] for title, own in stages.items() if title != "whole")
    return stages


def compare_sizes(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Of each stage: exponent of wall and of processor time, and growth of each memory from the least to the most."""
    sizes = sorted(found)
    first, last = sizes[0], sizes[-1]
    rows = {}
    for title in found[last]:
        if any(title not in found[size] for size in sizes):
            continue
        row = {}
        for figure in ("wall_s", "cpu_s"):
            seconds = [max(found[size][title][figure], 1e-3) for size in sizes]
            row[f"{figure.removesuffix('_s')}_exponent"] = round(
                float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]), 2
            )
        for figure in ("main_hwm_mb", "main_anon_mb", "worker_hwm_mb", "worker_anon_mb"):
            few, many = found[first][title][figure], found[last][title][figure]
            row[f"{figure.removesuffix('_mb')}_grows"] = round(many / few, 3) if few else 1.0
            row[f"{figure.removesuffix('_mb')}_bytes_per_picture"] = round((many - few) * _MB / (last - first))
        rows[title] = row
    return rows


def print_table(
    found: Mapping[int, Mapping[str, Mapping[str, float]]], rows: Mapping[str, Mapping[str, float]]
) -> None:
    """A line for each stage; figures of the largest size beside what they come to."""
    most = found[max(found)]
    print(f"{'stage':34}{'cpu s':>8}{'exp':>6}{'main MB':>9}{'B/pic':>8}{'grows':>7}{'worker MB':>11}{'grows':>7}")
    for title, row in rows.items():
        print(
            f"{title:34}{most[title]['cpu_s']:8.1f}{row['cpu_exponent']:6.2f}{most[title]['main_anon_mb']:9.0f}"
            f"{row['main_anon_bytes_per_picture']:8.0f}{row['main_anon_grows']:7.2f}"
            f"{most[title]['worker_anon_mb']:11.0f}{row['worker_anon_grows']:7.2f}"
        )


@contextmanager
def _open_work(chosen: Path | None) -> Iterator[Path]:
    if chosen:
        chosen.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=chosen) as folder:
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", default="5000,15000,50000", help="pictures of each part, the numbers parted by commas"
    )
    parser.add_argument("--filters", type=int, default=512)
    parser.add_argument("--work", type=Path, help="folder for the pictures and the state; both are removed in the end")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="SECTION.KEY=VALUE, as of lavise run --set")
    arguments = parser.parse_args()
    if arguments.one:
        stages = run_one(arguments.one, arguments.overrides)
        (arguments.one / "stages.json").write_text(json.dumps(stages))
        return
    found: dict[int, dict[str, dict[str, float]]] = {}
    sizes = sorted({int(s) for s in arguments.sizes.split(",")})
    if len(sizes) < 2:
        parser.error("--sizes: two different ones at least")
    for size in sizes:
        with _open_work(arguments.work) as folder:
            write_pictures(folder / "data", size)
            command = [sys.executable, "-m", "benchmarks.scale", "--one", str(folder), *arguments.overrides]
            subprocess.run(command, env={**os.environ, FILTERS_VARIABLE: str(arguments.filters)}, check=True)
            found[size] = json.loads((folder / "stages.json").read_text())
    rows = compare_sizes(found)
    save_result("scale", {"filters": arguments.filters, "sizes": {str(n): s for n, s in found.items()}, "stages": rows})
    print_table(found, rows)


if __name__ == "__main__":
    main()
