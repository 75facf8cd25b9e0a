"""Shards beside annotations: only those of the same pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.geometry import Geometry
from lavise.tasks.masks.annotated_shards import annotate_shards
from tests.unit.tasks.helpers import write_store


def test_store_of_other_pictures_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", np.zeros((1, 1, 2, 2)), keys=["stranger.png"])
    with pytest.raises(ValueError, match=r"other pictures: \['stranger.png'\]"):
        annotate_shards(store, Dataset("scene", ()), Geometry(16))
