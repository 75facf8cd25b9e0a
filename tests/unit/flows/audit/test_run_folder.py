"""The JSON line, and where the evidence of each layer lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavise.flows.audit.layer_context import LayerResult
from lavise.flows.audit.run_folder import _copy_evidence
from lavise.flows.shared.results import RunResult, StageFacts
from lavise.storage.models.layers import Layer
from tests.unit.tasks.helpers import publish

EVIDENCE = {"calibration.json", "reliability.png", "panel.json"}


def test_json_is_one_line_that_reads_back() -> None:
    stage = StageFacts(digest="ab", cached=True, seconds=0.0)
    result = RunResult("id", None, Path("/runs/id"), {"a/b": 1.0}, {"extract train": stage}, 0)
    line = result.to_json()
    assert "\n" not in line
    assert json.loads(line)["run_dir"] == "/runs/id"
    assert json.loads(line)["stages"] == {"extract train": stage}


def make_result(root: Path, layer: str) -> LayerResult:
    """Files say which layer they are of."""

    def explain(folder: Path) -> None:
        for name in ("calibration.json", "reliability.png", "filters.parquet"):
            (folder / name).write_text(f"{name} of {layer}", "utf-8")

    def measure_panel(folder: Path) -> None:
        (folder / "panel.json").write_text(f"panel.json of {layer}", "utf-8")

    explained, panel = publish(root, "explain", explain), publish(root, "panel", measure_panel)
    result = LayerResult(Layer(layer, "ReLU", 4, 2, 2), {})
    for handle in (explained, panel):
        result.keep(handle)
    return result


def files_below(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in folder.rglob("*") if p.is_file()}


def test_evidence_of_a_single_layer_lies_in_the_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    _copy_evidence(tmp_path / "run", make_result(tmp_path / "a", "body.1"), alone=True)
    assert files_below(tmp_path / "run") == {name: f"{name} of body.1" for name in EVIDENCE}


def test_evidence_of_several_layers_lies_in_folders_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for number, layer in enumerate(("body.1", "tail")):
        _copy_evidence(tmp_path / "run", make_result(tmp_path / str(number), layer), alone=False)
    assert files_below(tmp_path / "run") == {
        f"layers/{layer}/{name}": f"{name} of {layer}" for layer in ("body.1", "tail") for name in EVIDENCE
    }


def test_evidence_of_a_layer_that_was_not_judged_is_missed(tmp_path: Path) -> None:
    result = make_result(tmp_path, "tail")
    del result.made["panel"]
    with pytest.raises(KeyError, match="stage panel of layer tail has not run"):
        _copy_evidence(tmp_path / "run", result, alone=True)
