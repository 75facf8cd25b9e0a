"""Whole audits of networks whose input is not square, or has bands instead of colours."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import yaml
from PIL import Image

from lavise.configs.loading import load_config
from lavise.configs.schema import CocoReference
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.input_images import read_input_size
from lavise.storage.datasets.readers.coco import load_coco_reference
from lavise.storage.images.geometry import Geometry
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
    records = {r.file.name: r for r in read_reference(home).evaluation.records}
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
            mask = geometry.shrink_mask(annotation.make_mask(*read_input_size(record.path)), 64, 64) >= 0.5
            drawn = fill_outline(outline)
            found.append(float((mask & drawn).sum() / (mask | drawn).sum()))
    return found


def read_reference(home: Path) -> Reference:
    settings = load_config(home / "planted.yaml").reference
    assert isinstance(settings, CocoReference)
    return load_coco_reference(settings)


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


def test_outlines_lie_on_the_patches(not_square: tuple[Path, Finished]) -> None:
    found = measure_outlines(not_square[0], not_square[1], Geometry((96, 64)), first=0)
    assert len(found) == 6
    assert min(found) > 0.5


def test_regions_meet_the_masks_of_their_concepts(not_square: tuple[Path, Finished]) -> None:
    check_overlaps(not_square[0], first=0)


def test_pictures_are_encoded_in_the_aspect_ratio_of_the_input(not_square: tuple[Path, Finished]) -> None:
    page = (Path(not_square[1].result["run_dir"]) / "report.html").read_text("utf-8")
    (chunk,) = re.findall(r'<script type="text/plain" id="pictures-0">(.*?)</script>', page, re.DOTALL)
    for content in json.loads(chunk)[1]:
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert (picture.height, picture.width) == (96, 64)


def test_logged_model_takes_a_picture_and_a_box(not_square: tuple[Path, Finished]) -> None:
    check_served_boxes(not_square[0], not_square[1], first=0)


def test_concepts_in_bands_are_named_and_outlined(bands: tuple[Path, Finished]) -> None:
    rows = parquet.read_table(Path(bands[1].result["run_dir"]) / "filters.parquet").to_pylist()
    assert [list(row["words"])[:1] for row in rows[2:5]] == [[concept] for concept in CONCEPTS]
    found = measure_outlines(bands[0], bands[1], Geometry(64), first=2)
    assert len(found) == 6
    assert min(found) > 0.5
    check_overlaps(bands[0], first=2)


def test_report_says_which_bands_it_shows(bands: tuple[Path, Finished]) -> None:
    page = (Path(bands[1].result["run_dir"]) / "report.html").read_text("utf-8")
    text = " ".join(page.split())
    assert "Pictures have 5 bands. Shown: bands 3, 4, 5 as red, green and blue" in text


def test_logged_model_takes_a_tiff_and_a_box(bands: tuple[Path, Finished]) -> None:
    check_served_boxes(bands[0], bands[1], first=2)


def test_pictures_of_another_number_of_bands_are_told_of(bands: tuple[Path, Finished]) -> None:
    arguments = ["--set", "model.options={channels: 4}", "--set", "report.bands=[1]"]
    numbers = "[0.0, 0.0, 0.0, 0.0]", "[1.0, 1.0, 1.0, 1.0]"
    for name, value in zip(("mean", "std"), numbers, strict=True):
        arguments += ["--set", f"model.preprocessing.{name}={value}"]
    done = run_here(bands[0], "run", str(bands[0] / "planted.yaml"), *arguments)
    assert done.code == 2
    assert "found 5 bands; the network takes 4" in " ".join(done.stderr.split())


def test_scenes_in_colours_are_refused_at_once(bands: tuple[Path, Finished]) -> None:
    done = run_here(bands[0], "run", str(bands[0] / "planted.yaml"), "--set", "target={kind: openmoji}")
    assert done.code == 2
    assert "target.kind: found openmoji, drawn in red, green and blue; the network takes 5 bands" in " ".join(
        done.stderr.split()
    )


def check_overlaps(home: Path, first: int) -> None:
    """Regions of the planted filters lie on the masks of their concepts, and not on others'."""
    (path,) = (home / "artefacts").glob("overlaps/*/overlaps.npz")
    overlaps = load_overlaps(path.parent)
    iou = overlaps.compute_iou()
    for planted in range(len(CONCEPTS)):
        for concept in range(len(CONCEPTS)):
            own = iou[(overlaps.filter == first + planted) & (overlaps.concept == find_number(home, concept))]
            if planted == concept:
                assert len(own) > 10
                assert own.mean() > 0.6
            else:
                assert own.size == 0 or own.mean() < 0.4


def find_number(home: Path, concept: int) -> int:
    return read_reference(home).evaluation.concepts.index(CONCEPTS[concept])


def check_served_boxes(home: Path, done: Finished, first: int) -> None:
    """A box on a patch gives a feature in which the filter of its concept is the largest of the planted ones."""
    import mlflow.artifacts

    from lavise.flows.serving.explainer_pyfunc import _load_pyfunc

    mlflow.set_tracking_uri(done.result["tracking_uri"])
    folder = mlflow.artifacts.download_artifacts(f"runs:/{done.result['run_id']}/explainer", dst_path=str(home / "got"))
    (facts,) = Path(folder).rglob("network.json")
    model = _load_pyfunc(str(facts.parent), {"device": "cpu"})
    record = read_reference(home).evaluation.records[0]
    height, width = read_input_size(record.path)
    for annotation in record.annotations:
        rows, columns = np.nonzero(annotation.make_mask(height, width))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        frame = pd.DataFrame({"image": [record.path.read_bytes()], "box": [[float(v) for v in box]]})
        feature = model.pool_rows(frame)[0, first : first + len(CONCEPTS)]
        assert CONCEPTS[int(feature.argmax())] == annotation.concept
        assert model.predict(frame)["words"][0][0] == annotation.concept
