"""OpenMoji scenes as an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavise.storage.datasets.readers.openmoji import GRADIENT
from lavise.storage.state.artefacts import Handle, compute_stage_digest
from lavise.tasks.inputs.scenes import STAGE, SceneInputs, draw_scenes, load_scenes
from tests.unit.tasks.helpers import publish

SPLITS = {"train": 4, "evaluation": 3}


def digest(splits: Mapping[str, int], size_px: int, seed: int) -> str:
    request = SceneInputs(splits, size_px, seed).request()
    return compute_stage_digest(STAGE.name, STAGE.version, request.settings, request.inputs)


def test_digest_follows_what_the_scenes_depend_on() -> None:
    digests = [
        digest(SPLITS, 64, 0),
        digest(SPLITS, 96, 0),
        digest(SPLITS, 64, 1),
        digest({**SPLITS, "train": 5}, 64, 0),
        digest({"target": 4, "evaluation": 3}, 64, 0),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(dict(sorted(SPLITS.items())), 64, 0) == digests[0]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Handle:
    root = tmp_path_factory.mktemp("scenes")
    return publish(root, "scenes", lambda folder: draw_scenes(SceneInputs(SPLITS, 64, 0), folder))


def test_all_splits_are_there(drawn: Handle) -> None:
    assert drawn.info == {"num_scenes": 7}
    for split, num in SPLITS.items():
        data = load_scenes(drawn, split)
        assert data.name == f"openmoji/{split}"
        assert len(data.records) == num
        assert all(r.file.is_file() for r in data.records)


def test_masks_fit_the_pictures_and_do_not_overlap(drawn: Handle) -> None:
    data = load_scenes(drawn, "train")
    assert GRADIENT in data.concepts
    for record in data.records:
        with Image.open(record.file) as picture:
            assert picture.size == (64, 64)
        masks = np.stack([a.make_mask(64, 64) for a in record.annotations])
        assert masks.sum(axis=0).max() == 1
        assert masks.any(axis=(1, 2)).all()
        assert 1 <= len(masks) <= 4
        assert {a.concept for a in record.annotations} <= set(data.concepts)


def test_same_seed_same_bytes_and_other_seed_other_pictures(tmp_path: Path, drawn: Handle) -> None:
    again = publish(tmp_path / "again", "scenes", lambda folder: draw_scenes(SceneInputs(SPLITS, 64, 0), folder))
    other = publish(tmp_path / "other", "scenes", lambda folder: draw_scenes(SceneInputs(SPLITS, 64, 1), folder))
    assert again.files == drawn.files
    pictures = [n for n in drawn.files if n.endswith(".png")]
    assert len(pictures) == 7
    assert all(other.files[n] != drawn.files[n] for n in pictures)


def test_splits_of_one_seed_differ(drawn: Handle) -> None:
    contents = [drawn.files[f"{split}/{i:06d}.png"].sha256 for split in SPLITS for i in range(3)]
    assert len(set(contents)) == 6
