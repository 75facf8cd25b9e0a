"""Mosaics of patterns as an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from lavise.storage.state.artefacts import compute_stage_digest
from lavise.tasks.inputs.pattern_pictures import STAGE, PatternInputs, draw_patterns, load_patterns
from tests.unit.tasks.helpers import publish

SPLITS = {"train": 3, "evaluation": 2}


def digest(splits: Mapping[str, int], size_px: int, seed: int) -> str:
    request = PatternInputs(splits, size_px, seed).request()
    return compute_stage_digest(STAGE.name, STAGE.version, request.settings, request.inputs)


def test_digest_follows_what_the_pictures_depend_on() -> None:
    digests = [
        digest(SPLITS, 64, 0),
        digest(SPLITS, 96, 0),
        digest(SPLITS, 64, 1),
        digest({**SPLITS, "train": 5}, 64, 0),
        digest({"target": 3, "evaluation": 2}, 64, 0),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(dict(sorted(SPLITS.items())), 64, 0) == digests[0]


def test_all_splits_are_there_and_come_again(tmp_path: Path) -> None:
    drawn = [
        publish(tmp_path / name, "patterns", partial(draw_patterns, PatternInputs(SPLITS, 64, seed)))
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    ]
    assert drawn[0].info == {"num_images": 5}
    for split, number in SPLITS.items():
        data = load_patterns(drawn[0], split)
        assert (data.name, len(data.records)) == (f"patterns/{split}", number)
        assert all(r.file.is_file() and r.annotations for r in data.records)
    assert drawn[1].files == drawn[0].files
    pictures = [name for name in drawn[0].files if name.endswith(".png")]
    assert len(pictures) == 5
    assert all(drawn[2].files[name] != drawn[0].files[name] for name in pictures)
