"""The run folder: what an audit leaves for people and for other programs, and in MLflow."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as parquet

from configs.loading import dump_config
from configs.schema import Config
from storage.artefacts import Handle, write_atomically, write_json
from storage.images import num_decoded
from storage.tracking import NullRun, Run
from tasks.evaluate import load_evaluation
from tasks.report import REPORT_FILE
from tasks.stage import StageOutcome

if TYPE_CHECKING:
    from flows.audit import LayerResult

_TABLES = ("explanations.parquet", "filters.parquet")


@dataclass(frozen=True)
class RunResult:
    """What `lavise run --json` prints."""

    run_id: str
    tracking_uri: str | None
    run_dir: Path
    metrics: dict[str, float]
    stages: dict[str, dict[str, Any]]
    images_decoded: int

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**vars(self), "run_dir": str(self.run_dir)}, allow_nan=False)


def write_run_folder(
    config: Config,
    root: Path,
    run: Run,
    tracking_uri: str | None,
    outcomes: Mapping[str, StageOutcome],
    results: Sequence[LayerResult],
    page: Handle,
    environment: Mapping[str, Any],
    skipped: Mapping[str, Any],
) -> RunResult:
    """Write ROOT/runs/RUN_ID and log it to the run."""
    final = root / "runs" / run.run_id
    folder = final.with_name(final.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    for name in _TABLES:
        tables = [parquet.read_table(r.done("explained").path(name)) for r in results]
        parquet.write_table(pa.concat_tables(tables), folder / name)
    by_layer = {r.layer.name: _measure(r) for r in results}
    stages = {title: {"digest": o.digest, "cached": o.cached, "seconds": o.seconds} for title, o in outcomes.items()}
    write_json(folder / "metrics.json", {"layers": by_layer})
    write_json(folder / "stages.json", stages)
    write_json(folder / "skipped.json", skipped)
    _write_explainers(folder, results)
    write_atomically(folder / "config.yaml", dump_config(config))
    write_json(folder / "environment.json", {**environment, "seed": config.seed})
    shutil.copyfile(page.path(REPORT_FILE), folder / REPORT_FILE)
    os.replace(folder, final)
    metrics = {f"{layer}/{name}": value for layer, found in by_layer.items() for name, value in _flat(found).items()}
    run.log_metrics({**metrics, "images_decoded": num_decoded()})
    run.log_folder(final)
    _log_explainer_model(run, final, results)
    return RunResult(run.run_id, tracking_uri, final, metrics, stages, num_decoded())


def _measure(result: LayerResult) -> dict[str, Any]:
    explained, evaluated = result.done("explained"), load_evaluation(result.done("evaluated").folder)
    thresholds = result.thresholds["target"].info
    return {
        **explained.info,
        "num_saturated": thresholds["num_saturated"],
        "evaluation": {k: evaluated[k] for k in ("num_pairs", "num_filters", "num_images", "vocabularies")},
        "recall": evaluated["recall"],
        "differences": evaluated["differences"],
    }


def _flat(found: Mapping[str, Any]) -> dict[str, float]:
    """Names as `closed/filter_attention/recall_at_5`, with `_low` and `_high` for the interval."""
    flat = {k: float(v) for k, v in found.items() if isinstance(v, int | float)}
    flat.update({f"evaluation/{k}": float(v) for k, v in found["evaluation"].items() if isinstance(v, int | float)})
    for vocabulary, methods in found["recall"].items():
        flat[f"{vocabulary}/num_words"] = float(found["evaluation"]["vocabularies"][vocabulary])
        for method, by_s in methods.items():
            for s, summary in by_s.items():
                name = f"{vocabulary}/{method}/recall_at_{s}"
                flat |= {name: summary["value"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
    return flat


def _write_explainers(folder: Path, results: Sequence[LayerResult]) -> None:
    """All layers' explainers in one file; tensors are named LAYER::TENSOR."""
    from safetensors.torch import load_file, save_file

    tensors, facts = {}, {}
    for result in results:
        handle, layer = result.done("explainer"), result.layer.name
        for name, tensor in load_file(handle.path("explainer.safetensors")).items():
            tensors[f"{layer}::{name}"] = tensor
        facts[layer] = {
            **json.loads(handle.path("explainer.json").read_text("utf-8")),
            "digest": handle.digest,
            "vocabulary": result.done("explained").inputs["vocabulary"],
        }
    save_file(tensors, folder / "explainer.safetensors")
    write_json(folder / "explainer.json", {"layers": facts})


def _log_explainer_model(run: Run, folder: Path, results: Sequence[LayerResult]) -> None:
    """Each explainer as an MLflow model with its signature: region features [n, C] -> semantic vectors [n, E]."""
    if isinstance(run, NullRun):
        return
    from flows.explainer_model import save_explainer_model

    for result in results:
        name = "explainer" if len(results) == 1 else f"explainer-{result.layer.name}"
        with tempfile.TemporaryDirectory() as scratch:
            destination = Path(scratch) / "explainer"
            save_explainer_model(result.done("explainer").folder, destination)
            run.log_folder(destination, name)
