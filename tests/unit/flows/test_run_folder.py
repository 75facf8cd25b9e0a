"""The JSON line."""

from __future__ import annotations

import json
from pathlib import Path

from flows.run_folder import RunResult


def test_json_is_one_line_that_reads_back() -> None:
    stage = {"digest": "ab", "cached": True, "seconds": 0.0}
    result = RunResult("id", None, Path("/runs/id"), {"a/b": 1.0}, {"extract train": stage}, 0)
    line = result.to_json()
    assert "\n" not in line
    assert json.loads(line)["run_dir"] == "/runs/id"
    assert json.loads(line)["stages"] == {"extract train": stage}
