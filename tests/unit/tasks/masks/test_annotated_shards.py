"""Shards beside annotations: only those of the same pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.tasks.masks.annotated_shards import annotate_shards, find_looked_for
from tests.unit.tasks.helpers import write_store


def test_store_of_other_pictures_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", np.zeros((1, 1, 2, 2)), keys=["stranger.png"])
    with pytest.raises(ValueError, match=r"other pictures: \['stranger.png'\]"):
        annotate_shards(store, Dataset("scene", ()), Geometry(16))


def test_what_was_looked_for_on_the_pictures_of_a_store(tmp_path: Path) -> None:
    records = [
        ImageRecord("b.png", Path("b.png"), looked_for=frozenset({"cat"})),
        ImageRecord("a.png", Path("a.png"), (Annotation("dog"),)),
    ]
    store = write_store(tmp_path / "s", np.zeros((2, 1, 1, 1)), keys=["a.png", "b.png"])
    known = find_looked_for(store, Dataset("x", tuple(records), ("cat", "dog")))
    assert known is not None
    assert known.tolist() == [[True, True], [True, False]]
    assert find_looked_for(store, Dataset("x", tuple(replace(r, looked_for=None) for r in records), ("cat",))) is None
