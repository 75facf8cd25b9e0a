"""The run folder: what an audit leaves for people and for other programs, and in MLflow."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as parquet

from lavise.configs.errors import UserError
from lavise.configs.loading import dump_config
from lavise.configs.roles import Role
from lavise.flows.past_audits.compare import Comparison, not_same
from lavise.flows.shared.results import RunResult, StageFacts
from lavise.storage.models.packed_network import PackedNetwork, keep_weights
from lavise.storage.state import file_names
from lavise.storage.state.files import write_atomically, write_json
from lavise.storage.tracking import NullRun, Run, Tracker
from lavise.storage.tracking_addresses import hide_credentials
from lavise.tasks.analyses.analysis import Rows, list_analyses
from lavise.tasks.engine.stage import Info, describe_artefacts
from lavise.tasks.evaluation import layer_panel, recall
from lavise.tasks.explainer import validation
from lavise.tasks.history.metric_names import flatten_metrics, spell_numbers
from lavise.tasks.report.chart_files import FIGURES_FOLDER
from lavise.tasks.report.summary import describe_run, summarise_changes
from lavise.tasks.report.verdict import list_headlines, summarise
from lavise.tasks.words import explain

if TYPE_CHECKING:
    from lavise.flows.audit.layer_context import LayerResult
    from lavise.flows.audit.results import EndedAudit

_TABLES = (file_names.EXPLANATIONS, file_names.FILTERS)

REGISTERED_MODEL = "lavise-explainer"
log = logging.getLogger("lavise")


def write_run_folder(ended: EndedAudit, root: Path, run: Run, tracker: Tracker) -> RunResult:
    """Write ROOT/runs/RUN_ID and log it to the run."""
    config, results, comparison = ended.config, ended.results, ended.comparison
    final = root / "runs" / run.run_id
    folder = final.with_name(final.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    for name in _TABLES:
        _write_table(folder / name, [r.of(explain.STAGE).path(name) for r in results])
    for analysis in list_analyses():
        found = [r.of(analysis.stage) for r in results if r.find(analysis.stage)]
        for table in analysis.tables:
            made = [handle for handle in found if not table.needs or table.file in handle.files]
            if made:
                _write_table(folder / table.file, [handle.path(table.file) for handle in made])
    by_layer = {r.layer.name: _measure(r) for r in results}
    stages = {t: StageFacts(digest=o.digest, cached=o.cached, seconds=o.seconds) for t, o in ended.outcomes.items()}
    write_json(folder / file_names.METRICS, spell_numbers({"layers": by_layer}))
    write_json(folder / file_names.STAGES, stages)
    write_json(folder / file_names.SKIPPED, ended.skipped)
    write_json(folder / file_names.INPUTS, ended.inputs)
    snapshot = {"checkpoint_file": find_snapshot(config.model.weights, root)}
    write_json(folder / file_names.ARTEFACTS, {**describe_artefacts(ended.outcomes), **snapshot})
    _write_explainers(folder, results)
    write_atomically(folder / file_names.CONFIG, dump_config(config))
    write_json(folder / file_names.ENVIRONMENT, {**ended.environment, "seed": config.seed, **_tell_time()})
    for result in results:
        _copy_evidence(folder, result, alone=len(results) == 1)
    for name in (file_names.REPORT, file_names.OVERVIEW):
        shutil.copyfile(ended.page.path(name), folder / name)
    _copy_folder(ended.page.folder / FIGURES_FOLDER, folder / FIGURES_FOLDER)
    if comparison:
        comparison.write(folder)
    os.replace(folder, final)
    metrics = {
        f"{layer}/{name}": value for layer, found in by_layer.items() for name, value in flatten_metrics(found).items()
    }
    metrics |= comparison.measure() if comparison else {}
    verdict = summarise(by_layer)
    run.log_metrics({**metrics, "images_decoded": ended.images_decoded})
    run.log_folder(final)
    _log_tables(run, final, comparison)
    if not isinstance(run, NullRun):
        _log_explainers(run, ended)
        run.log_metrics(_name_headlines(by_layer))
        compared = comparison.compared if comparison else None
        note = describe_run(by_layer, compared, run.run_id, tracker.place(run.run_id))
        changed = {"lavise.changed": summarise_changes(compared.layers)} if compared else {}
        run.set_tags({"mlflow.note.content": note, "lavise.verdict": verdict, **changed})
    predecessor = comparison.old.run_id if comparison else None
    uri = hide_credentials(tracker.uri) if tracker.uri else None
    return RunResult(run.run_id, uri, final, metrics, stages, ended.images_decoded, predecessor, verdict=verdict)


def _tell_time() -> dict[str, str]:
    """A copied folder has the times of its copying."""
    return {file_names.WRITTEN: datetime.now(UTC).isoformat(timespec="microseconds")}


def _name_headlines(by_layer: Mapping[str, Info]) -> dict[str, float]:
    """The few figures that one looks at first, under a prefix of their own among the many."""
    return {
        f"verdict/{layer}/{name}": value
        for layer, found in by_layer.items()
        for name, value in list_headlines(found).items()
    }


def _copy_folder(source: Path, destination: Path) -> None:
    """Contents alone: some network file systems have no modes, which shutil.copytree sets."""
    for path in [source, *sorted(source.rglob("*"))]:
        copy = destination / path.relative_to(source)
        if path.is_dir():
            copy.mkdir()
        else:
            shutil.copyfile(path, copy)


def _write_table(path: Path, parts: Sequence[Path]) -> None:
    """The tables of all layers in one."""
    parquet.write_table(pa.concat_tables([parquet.read_table(part) for part in parts]), path)


def find_snapshot(weights: str, root: Path) -> str | None:
    """Name of the weights' file, if it is one of the state folder's own snapshots of checkpoints."""
    path = Path(weights)
    return path.name if path.parent == root / file_names.SNAPSHOTS_FOLDER else None


def _log_tables(run: Run, folder: Path, comparison: Comparison | None) -> None:
    """For the MLflow UI, which shows JSON tables but no parquet."""
    filters = parquet.read_table(folder / file_names.FILTERS).to_pylist()
    shown = [
        {
            "layer": r["layer"],
            "filter": r["filter"],
            "words": r["words"] if r["explained"] else [],
            "confidence": round(r["confidence"], 3),
            "guess": r["guess"],
            "unexplained because": r["reason"],
            "threshold": round(r["threshold"], 4),
            "pictures": r["num_images"],
        }
        for r in sorted(filters, key=lambda r: (-r["confidence"], r["layer"], r["filter"]))
    ]
    run.log_table(shown, "tables/filters.json")
    explanations = parquet.read_table(folder / file_names.EXPLANATIONS).to_pylist()
    run.log_table(explanations, "tables/explanations.json")
    for name, rows in _read_analyses(folder).items():
        run.log_table(rows, f"tables/{name}.json")
    if comparison:
        run.log_table(not_same(comparison.read_table().to_pylist()), "tables/changes.json")


def _read_analyses(folder: Path) -> dict[str, Rows]:
    """What is worth reading in a browser, by the table's name."""
    found = {}
    for table in (t for a in list_analyses() for t in a.tables if t.in_browser):
        if (folder / table.file).is_file():
            rows = parquet.read_table(folder / table.file).to_pylist()
            found[Path(table.file).stem] = [r for r in rows if r["found"]] if table.found_only else rows
    return {name: rows for name, rows in found.items() if rows}


def _measure(result: LayerResult) -> Info:
    explained, evaluated = result.of(explain.STAGE), recall.load_evaluation(result.of(recall.STAGE).folder)
    thresholds = result.thresholds[Role.TARGET].info
    return {
        **explained.info,
        "num_saturated": thresholds["num_saturated"],
        "evaluation": {
            "num_pairs": evaluated["num_pairs"],
            "num_filters": evaluated["num_filters"],
            "num_images": evaluated["num_images"],
            "vocabularies": evaluated["vocabularies"],
        },
        "recall": evaluated["recall"],
        "differences": evaluated["differences"],
        "regions": dict(validation.load_validation(result.of(validation.STAGE).folder)),
        "panel": layer_panel.load_panel(result.of(layer_panel.STAGE).folder)["rows"],
        **{name: handle.info for name, handle in result.find_analyses().items()},
    }


def _copy_evidence(folder: Path, result: LayerResult, alone: bool) -> None:
    """What the confidence rests on, and the panel; one file of each per layer, in a folder of the layer's name."""
    destination = folder if alone else folder / "layers" / result.layer.name
    destination.mkdir(parents=True, exist_ok=True)
    for name in (file_names.CALIBRATION, file_names.RELIABILITY):
        shutil.copyfile(result.of(explain.STAGE).path(name), destination / name)
    shutil.copyfile(result.of(layer_panel.STAGE).path(file_names.PANEL), destination / file_names.PANEL)
    for analysis in list_analyses():
        if handle := result.find(analysis.stage):
            shutil.copyfile(handle.path(analysis.facts_file), destination / analysis.facts_file)


def _write_explainers(folder: Path, results: Sequence[LayerResult]) -> None:
    """All layers' explainers in one file; tensors are named LAYER::TENSOR."""
    from safetensors.torch import load_file, save_file

    tensors, facts = {}, {}
    for result in results:
        handle, layer = result.final_explainer, result.layer.name
        for name, tensor in load_file(handle.path(file_names.EXPLAINER_WEIGHTS)).items():
            tensors[f"{layer}::{name}"] = tensor
        facts[layer] = {
            **json.loads(handle.path(file_names.EXPLAINER_FACTS).read_text("utf-8")),
            "digest": handle.digest,
            "vocabulary": result.of(explain.STAGE).inputs["vocabulary"],
        }
    save_file(tensors, folder / file_names.EXPLAINER_WEIGHTS)
    write_json(folder / file_names.EXPLAINER_FACTS, {"layers": facts})


def _log_explainers(run: Run, ended: EndedAudit) -> None:
    """Each explainer as an MLflow model: region features, or pictures with boxes, to words."""
    from lavise.flows.serving.explainer_model import save_explainer_model

    config, results = ended.config, ended.results
    vocabulary = ended.vocabulary.folder
    for result in results:
        layer = result.layer.name
        name = "explainer" if len(results) == 1 else f"explainer-{layer}"
        kept_at = None if config.tracking.pack_network else keep_weights(config.model, config.seed)
        network = PackedNetwork(ended.model, config.model.num_classes, layer, kept_at)
        with tempfile.TemporaryDirectory() as scratch:
            destination = Path(scratch) / "explainer"
            explainer = result.final_explainer.folder
            try:
                save_explainer_model(destination, explainer, vocabulary, network)
            except UserError as err:
                log.warning("  the explainer's model is logged without the network, for region features only: %s", err)
                shutil.rmtree(destination, ignore_errors=True)
                save_explainer_model(destination, explainer, vocabulary, None)
            tags = {"lavise.checkpoint": ended.model.digest, "lavise.arch": ended.model.arch, "lavise.layer": layer}
            register_as = REGISTERED_MODEL if config.tracking.register_model else None
            version = run.log_model(destination, name, tags, register_as)
        if version:
            log.info("  registered %s version %s", REGISTERED_MODEL, version)
