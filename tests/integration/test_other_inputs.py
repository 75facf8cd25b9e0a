"""Whole audits of networks whose input is not square, or has bands instead of colours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml

from lavise.configs.loading import load_config
from lavise.storage.datasets.band_images import read_bands
from lavise.storage.datasets.coco import load_coco_reference
from lavise.storage.datasets.geometry import Geometry
from lavise.tasks.masks.overlaps import load_overlaps
from tests.integration.other_inputs import CONCEPTS, write_planted_coco
from tests.integration.tiny import Finished, run_here
from tests.unit.tasks.report_fixtures import fill_outline

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "words": {"vocabulary_size": 2000},
    "extract": {"batch_size": 8, "shard_images": 16},
    "statistics": {"quantile": 0.9},
    "train": {"max_epochs": 30, "patience_epochs": 30},
    "explainer": {"kind": "learned"},
    "evaluate": {
        "methods": ["original", "image_masking", "activation_masking", "filter_attention"],
        "bootstrap_samples": 100,
        "baselines": ["random_words"],
    },
    "explain": {"top_images": 10, "min_images": 3},
    "report": {"images_per_filter": 2, "thumbnail_px": 96},
    "classes": {"enabled": False},
    "causes": {"enabled": False},
}
NUM = 40
NOT_SQUARE = {"size_px": [96, 64], "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear"}
BANDS = {"size_px": 64, "mean": [0] * 5, "std": [1] * 5, "interpolation": "bilinear"}


def audit(home: Path, channels: int, preprocessing: dict[str, Any], **more: Any) -> Finished:
    root = write_planted_coco(home / "data", NUM, channels)
    config = {
        "name": "planted",
        "model": {
            "arch": "tests.integration.other_inputs:Planted",
            "options": {"channels": channels},
            "preprocessing": preprocessing,
        },
        "reference": {"kind": "coco", "root": str(root)},
        "target": {"kind": "image_folder", "root": str(root / "val2017")},
        **SETTINGS,
        **more,
    }
    (home / "planted.yaml").write_text(yaml.safe_dump(config))
    done = run_here(home, "run", str(home / "planted.yaml"), "--json")
    assert done.code == 0, done.stderr
    return done


def read_page(done: Finished) -> tuple[dict[str, Any], dict[str, int]]:
    """The page's data, and the number of each picture by its name."""
    page = (Path(done.result["run_dir"]) / "report.html").read_text("utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    chunks = re.findall(r'<script type="text/plain" id="pictures-\d+">(.*?)</script>', page, re.DOTALL)
    names = [name for chunk in chunks for name in json.loads(chunk)[0]]
    return json.loads(data), {name: number for number, name in enumerate(names)}


def measure_outlines(home: Path, done: Finished, geometry: Geometry, first: int) -> list[float]:
    """IoU of each shown outline of a planted filter with the mask of its concept, both stretched over the picture.

    Args:
        first: the filter of the first concept.
    """
    config = load_config(home / "planted.yaml")
    records = {r.path.name: r for r in load_coco_reference(config.reference).evaluation.records}  # type: ignore[arg-type]
    data, number_of = read_page(done)
    name_of = {number: Path(name).name for name, number in number_of.items()}
    found = []
    for entry in data["filters"]:
        concept = entry["f"] - first
        if concept not in range(len(CONCEPTS)):
            continue
        for number, _, outline in entry["i"]:
            record = records[name_of[number]]
            (annotation,) = (a for a in record.annotations if a.concept == CONCEPTS[concept])
            height, width = annotation.rle["size"] if annotation.rle else geometry_of(record.path)
            mask = geometry.shrink_mask(annotation.make_mask(height, width), 64, 64) >= 0.5
            drawn = fill_outline(outline)
            found.append(float((mask & drawn).sum() / (mask | drawn).sum()))
    return found


def geometry_of(path: Path) -> tuple[int, int]:
    from lavise.storage.datasets.input_images import read_input_size

    return read_input_size(path)


def find_overlaps(home: Path) -> Path:
    (path,) = (home / "artefacts").glob("overlaps/*/overlaps.npz")
    return path


@pytest.fixture(scope="module")
def not_square(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    home = tmp_path_factory.mktemp("not-square")
    return home, audit(home, 3, NOT_SQUARE)


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    home = tmp_path_factory.mktemp("bands")
    return home, audit(home, 5, BANDS, report={"images_per_filter": 2, "bands": [3, 4, 5]})


def test_maps_have_the_aspect_ratio_of_the_input(not_square: tuple[Path, Finished]) -> None:
    rows = parquet.read_table(Path(not_square[1].result["run_dir"]) / "filters.parquet").to_pylist()
    assert len(rows) == 5
    data, _ = read_page(not_square[1])
    assert data["shape"] == [96, 64]
