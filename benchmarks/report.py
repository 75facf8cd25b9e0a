"""The report at its largest: 2,048 filters with 25 pictures each; its size, what it costs, and how fast a browser shows
it.

    python -m benchmarks.report [--distinct 5000 51200] [--photos FOLDER] [--without-browser]

Two cases: 5,000 distinct pictures, as filters share them, and the worst, where no two are the same. Pictures are crops
of photographs with noise on them, which WebP shrinks badly; words, maps and outlines are drawn at random. Seconds of
the processor are given for outlines, of many maps at once and, in turns, of one after the other by scikit-image, and
for writing the page. For the rest it needs Chromium (see tests/browser.py). Times are medians over loads of the page
from disk: to the first paint, until the gallery can be used, and from typing a word to the frame after the one that
shows its filters.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from benchmarks.common import save_result
from lavise.configs.schema import ReportSettings
from lavise.storage.images.geometry import Geometry
from lavise.storage.state import file_names
from lavise.tasks.report.filter_entries import TARGET, DescribedFilters
from lavise.tasks.report.outlines import BLOCK_MAPS, outline_regions
from lavise.tasks.report.page import write_page
from lavise.tasks.report.pictures import LARGE_PER_FILTER, ImageBook, ReportImages
from lavise.tasks.report.sections.concepts import DescribedConcepts
from lavise.tasks.report.sections.layers import LayerCard
from tests.browser import find_browser
from tests.unit.tasks.report.test_outlines import outline_by_library

FILTERS, IMAGES, WORDS, CLASSES = 2048, 25, 10, 8
LIMITS = {"size_mb": 60.0, "first_paint_s": 3.0, "filter_s": 0.2}
GEOMETRY = Geometry(224, "squash", interpolation="bilinear")
_SOURCE_PX = 128
_FILTER = """async (word) => {
  const field = document.getElementById("query");
  field.value = word;
  const start = performance.now();
  field.dispatchEvent(new Event("input", {bubbles: true}));
  await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  return [(performance.now() - start) / 1000, document.getElementById("count").textContent];
}"""
_PAINT = (
    """() => performance.getEntriesByType("paint").find((p) => p.name === "first-contentful-paint")?.startTime / 1000"""
)


def make_images(folder: Path, num: int, photos: list[Path]) -> dict[str, Path]:
    """Distinct pictures: a crop of a photograph (of a slope, without any), and noise."""
    rng = np.random.default_rng(0)
    if photos:
        bases = [np.asarray(Image.open(p).convert("RGB").resize((256, 256)), np.int16) for p in photos]
    else:
        bases = [np.add.outer(np.linspace(0, 200, 256), [0, 20, 40]).astype(np.int16)[None].repeat(256, 0)]
    noises = rng.integers(-12, 13, size=(40, _SOURCE_PX, _SOURCE_PX, 3)).astype(np.int16)
    paths = {}
    for i in range(num):
        top, left = rng.integers(0, 256 - _SOURCE_PX, size=2)
        crop = bases[i % len(bases)][top : top + _SOURCE_PX, left : left + _SOURCE_PX]
        mixed = np.clip(crop + np.roll(noises[i % len(noises)], i, axis=1), 0, 255).astype(np.uint8)
        path = folder / f"picture_{i:06d}.jpg"
        Image.fromarray(mixed).save(path, quality=85)
        paths[path.name] = path
    return paths


def measure_outlines(repeats: int = 3) -> dict[str, float]:
    """Seconds of the processor for 2,000 outlines; the least of several, taken in turns."""
    rng = np.random.default_rng(2)
    maps = rng.gamma(0.5, size=(2000, 7, 7)).astype(np.float16).astype(np.float32)
    thresholds = np.quantile(maps, 0.98, axis=(1, 2)).astype(np.float32)
    blocks = [slice(start, start + BLOCK_MAPS) for start in range(0, len(maps), BLOCK_MAPS)]
    work = {
        "at_once": lambda: [path for b in blocks for path in outline_regions(maps[b], thresholds[b])],
        "one_by_one": lambda: [outline_by_library(m, float(t)) for m, t in zip(maps, thresholds, strict=True)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    found = {}
    for _ in range(repeats):
        for name, draw in work.items():
            start = time.process_time()
            found[name] = draw()
            seconds[name].append(time.process_time() - start)
    if found["at_once"] != found["one_by_one"]:
        raise AssertionError("the outlines are not the same")
    return {name: min(own) for name, own in seconds.items()}


def describe(paths: dict[str, Path]) -> tuple[DescribedFilters, ImageBook]:
    """Filters as `tasks.report.filter_entries.describe_filters` makes them, each with 25 of the pictures."""
    rng = np.random.default_rng(1)
    keys, total = list(paths), FILTERS * IMAGES
    if len(keys) >= total:
        chosen = rng.permutation(len(keys))[:total].reshape(FILTERS, IMAGES)
    else:
        chosen = np.stack([rng.choice(len(keys), IMAGES, replace=False) for _ in range(FILTERS)])
    book = ImageBook()
    for part in (chosen[:, :LARGE_PER_FILTER], chosen):
        for i in part.ravel():
            book.add(TARGET, keys[i])
        if part.shape[1] == LARGE_PER_FILTER:
            book.end_large()
    maps = rng.gamma(0.5, size=(300, 7, 7)).astype(np.float32)
    outlines = outline_regions(maps, np.quantile(maps, 0.9, axis=(1, 2)))
    entries, rest = [], []
    for unit in range(FILTERS):
        named = [f"word{n}" for n in rng.integers(0, 5000, size=WORDS)]
        shown: list[Any] = [
            [book.add(TARGET, keys[i]), 3.14, outlines[rng.integers(len(outlines))]] for i in chosen[unit]
        ]
        words = [[word, 0.52, 0.61, 0, int(n < 6)] for n, word in enumerate(named)]
        entries.append(
            {"l": 0, "f": unit, "t": 1.234, "c": round(float(rng.random()), 3), "g": "", "n": 400, "r": "", "w": words,
             "m": 1, "j": None, "d": None, "i": shown[:LARGE_PER_FILTER]}
        )  # fmt: skip
        heat = [base64.b64encode(rng.bytes(49)).decode("ascii") for _ in shown]
        rest.append(
            {"w": [[13, 0.31, 0.72, 0.004, 1.2e-05, 0.00031, 0.93, 0.9, 0.97, "category", ""]] * WORDS, "m": [],
             "i": shown[LARGE_PER_FILTER:], "y": [named[0], [1] * 20 + [0] * 5, 20, IMAGES, 400, 400, []],
             "h": heat, "z": [7, 7, 0, 6.5], "g": [0, 6.5, rng.integers(0, 100_000, size=48).tolist()],
             "c": [[f"class {n}", 0.41, 0.3, 0.5, 3, n] for n in range(CLASSES)], "a": None, "u": [], "b": [],
             "j": None, "near": [[(unit + n) % FILTERS, 0.9 - n / 10] for n in range(1, 6)]}
        )  # fmt: skip
    return DescribedFilters(entries, rest), book


def write(folder: Path, paths: dict[str, Path]) -> Path:
    described, book = describe(paths)
    layer = LayerCard(
        name="layer4",
        shape="2048 x 7 x 7",
        num_filters=FILTERS,
        num_explained=FILTERS,
        num_several=0,
        num_novel=0,
        num_never=0,
        num_saturated=0,
        advice="",
        num_supervised=80,
        num_held_out=0,
    )
    concepts = DescribedConcepts([], [], [])
    sections = {"layers": [layer], "concepts": concepts, "qualities": [], "analyses": [], "diff": None}
    facts = {"Audit": f"synthetic, {len(paths)} pictures"}
    settings = ReportSettings(images_per_filter=IMAGES)
    write_page(facts, sections, [described], book, ReportImages(GEOMETRY, {TARGET: paths}), settings, folder)
    return folder / file_names.REPORT


def measure(browser: Browser, path: Path, loads: int = 3) -> dict[str, float]:
    """Medians over loads, and the longest time to filter by a word."""
    paints, ready, filtered = [], [], []
    for _ in range(loads):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("#cards .card", state="attached", timeout=120_000)
        ready.append(time.perf_counter() - start)
        page.wait_for_load_state("load", timeout=120_000)
        loaded = time.perf_counter() - start
        while page.evaluate(_PAINT) is None:
            page.wait_for_timeout(50)
        paints.append(page.evaluate(_PAINT))
        page.locator("#filters").scroll_into_view_if_needed()
        for word in ("word12", "word4", "word49", "", "word777"):
            seconds, _ = page.evaluate(_FILTER, word)
            filtered.append(seconds)
        page.close()
    return {
        "first_paint_s": statistics.median(paints),
        "gallery_usable_s": statistics.median(ready),
        "loaded_s": loaded,
        "filter_s": statistics.median(filtered),
        "filter_longest_s": max(filtered),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--distinct", type=int, nargs="+", default=[5000, FILTERS * IMAGES])
    parser.add_argument("--photos", type=Path, help="folder of photographs to cut pictures from")
    parser.add_argument("--without-browser", action="store_true", help="measure only what writing the page costs")
    arguments = parser.parse_args()
    photos = sorted(arguments.photos.glob("*.jpg"))[:100] if arguments.photos else []
    executable = None if arguments.without_browser else find_browser()
    if executable is None and not arguments.without_browser:
        raise SystemExit("no Chromium found; set LAVISE_TEST_BROWSER to one, or give --without-browser")
    outlines, cases = measure_outlines(), {}
    print(f"outlines: {outlines}")
    for num in arguments.distinct:
        with tempfile.TemporaryDirectory() as folder:
            paths = make_images(Path(folder), num, photos)
            start = time.process_time()
            page = write(Path(folder), paths)
            found: dict[str, Any] = {"size_mb": page.stat().st_size / 1e6, "write_cpu_s": time.process_time() - start}
            if executable:
                with sync_playwright() as driver:
                    browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
                    found |= measure(browser, page)
                    browser.close()
        found["within_limits"] = all(found[k] <= limit for k, limit in LIMITS.items() if k in found)
        cases[str(num)] = found
        print(found)
    content = {"filters": FILTERS, "pictures_per_filter": IMAGES, "limits": LIMITS, "outlines": outlines}
    save_result("report", {**content, "cases": cases})


if __name__ == "__main__":
    main()
