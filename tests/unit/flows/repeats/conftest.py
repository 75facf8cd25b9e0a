"""Fixtures of several modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.flows.helpers import make_tracker
from tests.unit.flows.repeats.watched_folder import Watched


@pytest.fixture
def watched(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Watched(tmp_path, make_tracker(tmp_path_factory, tmp_path))
