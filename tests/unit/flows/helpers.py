"""What the tests of the flows are made of: one real MLflow store, run folders in their true form, held locks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from mlflow.tracking import MlflowClient

from lavise.configs.loading import dump_config
from lavise.configs.schema import Config
from lavise.storage.state.files import write_json
from lavise.storage.table_rows import write_rows
from lavise.storage.tracking import MlflowTracker
from lavise.tasks.history import filter_matching
from lavise.tasks.words.tables import FILTERS_SCHEMA
from tests.unit.tasks.helpers import make_diff_row

ARCH = "tests.unit.tasks.helpers:TinyNetwork"
UNKNOWN_RUN = "0" * 32
_HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
"""


def make_tracker(factory: pytest.TempPathFactory, folder: Path) -> MlflowTracker:
    """An experiment of the test's own, in the SQLite store that all tests share, since making one takes seconds.

    Args:
        folder: where its artifacts go.
    """
    store = factory.getbasetemp() / "an mlflow store"
    store.mkdir(exist_ok=True)
    return MlflowTracker(f"sqlite:///{store / 'mlflow.db'}", f"lavise {folder.name}", folder / "artifacts")


def client_of(tracker: MlflowTracker) -> MlflowClient:
    """A client that shares nothing with the tracker but the address."""
    return MlflowClient(tracking_uri=tracker.uri)


def tags_of(tracker: MlflowTracker, run_id: str) -> Mapping[str, str]:
    record = tracker.get(run_id)
    assert record is not None
    return record.tags


def make_config(root: Path, **sections: Any) -> Config:
    """An audit of the tiny network; its data need not be there."""
    data: dict[str, Any] = {
        "name": "tiny",
        "device": "cpu",
        "model": {"arch": ARCH, "preprocessing": {"size_px": 32}},
        "reference": {"kind": "image_folder", "root": str(root / "reference")},
        "target": {"kind": "image_folder", "root": str(root / "target")},
        "storage": {"root": str(root)},
    }
    for section, value in sections.items():
        data[section] = {**data[section], **value} if isinstance(data.get(section), dict) else value
    return Config.model_validate(data)


def make_filters(layer: str, words: Sequence[str | None]) -> list[dict[str, Any]]:
    """Rows of filters.parquet: a filter for each first word, unexplained where there is none."""
    return [
        {
            "layer": layer,
            "filter": number,
            "threshold": 0.5,
            "peak": 1.0,
            "explained": word is not None,
            "reason": "" if word else "the pictures do not agree",
            "confidence": 0.5 if word else 0.0,
            "num_images": 5,
            "words": [word] if word else [],
            "meanings": [],
            "top_images": ["a.png"],
            "top_peaks": [1.0],
        }
        for number, word in enumerate(words)
    ]


def write_run_folder(
    folder: Path,
    config: Config,
    words: Mapping[str, Sequence[str | None]] | None = None,
    stages: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    **inputs: Any,
) -> Path:
    """What an audit leaves, as far as later commands read it.

    Args:
        words: first word of each filter, by layer.
        inputs: what inputs.json shall say instead.
    """
    layers = words or {"tail": ["dog", "cat", None, "tree"]}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config), "utf-8")
    write_json(folder / "artefacts.json", {"stages": stages or {}, "checkpoint_file": None})
    roles = ("train", "evaluation", "target")
    given = {
        "arch": ARCH,
        "checkpoint": "c" * 64,
        "checkpoint_name": None,
        "layers": list(layers),
        "data": dict.fromkeys(roles, "d" * 64),
        "pictures": dict.fromkeys(roles, "e" * 64),
        "vectors": "f" * 64,
    }
    write_json(folder / "inputs.json", given | inputs)
    write_json(folder / "environment.json", {"python": "3.11.0", "device": "cpu", "packages": {}, "git": {}, "seed": 0})
    metrics = {
        layer: {
            "num_filters": len(found),
            "num_explained": sum(word is not None for word in found),
            "evaluation": {},
            "recall": {},
            "regions": {"num_regions": 0, "p_value": 1.0, "is_valid": False, "recall": {}},
            "panel": {},
        }
        for layer, found in layers.items()
    }
    write_json(folder / "metrics.json", {"layers": metrics})
    rows = [row for layer, found in layers.items() for row in make_filters(layer, found)]
    parquet.write_table(pa.Table.from_pylist(rows, FILTERS_SCHEMA), folder / "filters.parquet")
    return folder


def write_diff(folder: Path, old_run: str, statuses: Sequence[str], layer: str = "tail") -> None:
    """diff.json and diff.parquet of a comparison in which each filter kept its index."""
    rows = [replace(make_diff_row(status, u, u, 0.95, True), layer=layer) for u, status in enumerate(statuses)]
    old, new = make_filters(layer, ["word"] * len(rows)), make_filters(layer, ["word"] * len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / filter_matching.SUMMARY_FILE,
        {"old_run": old_run, "layers": {layer: filter_matching.summarise(rows, old, new)}},
    )
    write_rows(filter_matching.DiffRow, rows, folder / filter_matching.TABLE_FILE)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process has the lock while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.kill()


def read_table(tracker: MlflowTracker, run_id: str, name: str, folder: Path) -> dict[str, Any]:
    """A table that was logged, as it is in the store now."""
    folder.mkdir()
    path = client_of(tracker).download_artifacts(run_id, name, str(folder))
    found: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    return found
