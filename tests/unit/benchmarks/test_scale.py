"""What the benchmark of scale makes of its measurements, and the pictures that it draws."""

from __future__ import annotations

import gc
import json
import mmap
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.scale import CONCEPTS, SIDE_PX, _Watch, compare_sizes, write_pictures
from lavise.storage.state.memory import give_memory_back


def make_figures(seconds: float, memory: float) -> dict[str, float]:
    return {
        "wall_s": 2 * seconds,
        "cpu_s": seconds,
        **dict.fromkeys(("main_hwm_mb", "main_anon_mb", "worker_hwm_mb"), memory),
        "worker_anon_mb": 0.0,
    }


def test_exponents_and_growth() -> None:
    sizes = (100, 300, 1000)
    found = {n: {"flat": make_figures(n / 10, 50), "steep": make_figures(n**2 / 1e3, 50 + n / 100)} for n in sizes}
    found[1000]["late"] = make_figures(1, 1)  # not at every size
    rows = compare_sizes(found)
    assert list(rows) == ["flat", "steep"]
    assert (rows["flat"]["cpu_exponent"], rows["flat"]["wall_exponent"]) == (1, 1)
    assert rows["steep"]["cpu_exponent"] == 2
    assert (rows["flat"]["main_anon_grows"], rows["flat"]["worker_anon_grows"]) == (1, 1)
    assert rows["steep"]["main_anon_grows"] == pytest.approx(60 / 51, abs=1e-3)
    assert rows["steep"]["main_anon_bytes_per_picture"] == 10_000


def test_watch_sees_memory_that_was_there_for_a_moment() -> None:
    def work() -> int:
        # Pages of its own: an array could lie where others were freed, on pages that the process has already.
        with mmap.mmap(-1, 240_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
            for start in range(0, len(held), 1_000_000):
                held[start : start + 1_000_000] = b"1" * 1_000_000
            time.sleep(0.2)
            return int(held[-1:])

    gc.collect()
    give_memory_back()  # what others have freed is not given back in the middle
    watch = _Watch()
    _, before = watch.measure(lambda: time.sleep(0.1))
    result, found = watch.measure(work)
    _, after = watch.measure(lambda: time.sleep(0.1))
    assert result == 1
    for figure in ("main_anon_mb", "main_hwm_mb"):
        assert found[figure] - before[figure] == pytest.approx(240, rel=0.2)
        assert found[figure] - after[figure] > 150
    assert found["wall_s"] >= 0.2


def test_pictures_are_linked_and_labelled(tmp_path: Path) -> None:
    write_pictures(tmp_path, 100)
    for part in ("train2017", "val2017", "target"):
        paths = sorted((tmp_path / part).iterdir())
        assert len(paths) == 100
        assert paths[0].stat().st_ino == paths[97].stat().st_ino != paths[1].stat().st_ino
        assert Image.open(paths[3]).size == (SIDE_PX, SIDE_PX)
    content = json.loads((tmp_path / "annotations" / "instances_val2017.json").read_text())
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(ids) == len(set(ids)) >= 200
    assert {annotation["category_id"] for annotation in content["annotations"]} == set(range(1, len(CONCEPTS) + 1))
    of_first = [a["bbox"] for a in content["annotations"] if a["image_id"] == 0]
    assert of_first == [a["bbox"] for a in content["annotations"] if a["image_id"] == 97]
