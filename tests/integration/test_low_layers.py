"""An early layer explained with patterns, from the preset, on a small scale."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from lavise.storage.datasets.readers.patterns import WORDS
from tests.integration.tiny import run_here

pytestmark = pytest.mark.slow

SETTINGS = {
    "model.layers": "[bn1]",
    "model.preprocessing.size_px": 96,
    "reference.train_images": 160,
    "reference.evaluation_images": 48,
    "reference.image_px": 96,
    "target.images": 96,
    "target.image_px": 96,
    "extract.batch_size": 16,
    "extract.shard_images": 48,
    "words.vocabulary_size": 1000,
    "evaluate.methods": "[filter_attention]",
    "evaluate.bootstrap_samples": 100,
    "evaluate.baselines": "[random_words,most_frequent_words]",
    "report.images_per_filter": 2,
    "report.thumbnail_px": 48,
    "tracking.enabled": "false",
}


def test_words_of_an_early_layer_are_of_patterns(tmp_path: Path) -> None:
    arguments = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    done = run_here(tmp_path, "run", "low-layers", "--json", *arguments)
    assert done.code == 0, done.stderr
    folder = Path(done.result["run_dir"])
    rows = parquet.read_table(folder / "filters.parquet").to_pylist()
    assert len(rows) == 32
    said = [row["words"][0] if row["explained"] else row["guess"] for row in rows]
    assert sum(word in WORDS for word in said) > len(said) / 2
    assert json.loads((folder / "panel.json").read_text())
    page = (folder / "report.html").read_text()
    assert "patterns/train: 160 pictures to train, 48 to evaluate, 25 categories" in page
    assert "patterns/target: 96 pictures, no labels read" in page
    assert "OpenMoji" not in page
