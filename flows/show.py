"""What the command line prints: tables that read well, on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as parquet
from rich import box
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from configs.loading import list_presets, load_config
from configs.schema import ModelSettings
from flows.run_folder import RunResult

_NUM_FILTERS = 10
_NUM_WORDS = 5
_WIDTH_NO_TERMINAL = 120


def show_result(result: RunResult) -> None:
    """The most confident filters, recall, stages, and where everything is."""
    console = _console()
    measured = json.loads((result.run_dir / "metrics.json").read_text("utf-8"))["layers"]
    rows = parquet.read_table(result.run_dir / "filters.parquet").to_pylist()
    for layer, found in measured.items():
        console.print(_filters_table(layer, [r for r in rows if r["layer"] == layer], found["num_filters"]))
        for vocabulary, methods in found["recall"].items():
            console.print(_recall_table(layer, vocabulary, found["evaluation"], methods))
    console.print(_stages_table(result))
    console.print(f"report    {result.run_dir / 'report.html'}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"run       {result.run_id}", soft_wrap=True, highlight=False, markup=False)
    if result.tracking_uri:
        console.print(f"MLflow    {result.tracking_uri}", soft_wrap=True, highlight=False, markup=False)


def show_layers(model: str, as_json: bool) -> None:
    """The modules of a network that one can explain."""
    from storage.checkpoints import load_target_model
    from storage.layers import list_layers

    if model in list_presets() or Path(model).suffix in {".yaml", ".yml"}:
        settings = load_config(model).model
    else:
        settings = ModelSettings(arch=model)
    target = load_target_model(settings, seed=0)
    found = list_layers(target.network, target.geometry.size_px)
    table = _table(f"{target.arch}: modules that one can explain, input {target.geometry.size_px} px")
    for heading in ("layer", "module", "filters", "map"):
        table.add_column(heading, justify="right" if heading in ("filters", "map") else "left")
    for layer in found:
        table.add_row(escape(layer.name), layer.kind, str(layer.channels), f"{layer.height} x {layer.width}")
    _console().print(table)
    if as_json:
        print(json.dumps({"arch": target.arch, "layers": [vars(layer) for layer in found]}), flush=True)


def _filters_table(layer: str, rows: list[dict[str, object]], num_filters: int) -> Table:
    explained = [r for r in rows if r["explained"]]
    table = _table(f"{layer}: {len(explained)} of {num_filters} filters explained; the most confident ones")
    for heading in ("filter", "words", "confidence", "pictures"):
        table.add_column(heading, justify="left" if heading == "words" else "right")
    for row in sorted(explained, key=lambda r: (-float(str(r["confidence"])), r["filter"]))[:_NUM_FILTERS]:
        words = row["words"]
        assert isinstance(words, list)
        named = ", ".join(escape(w) for w in words[:_NUM_WORDS])
        table.add_row(str(row["filter"]), named, f"{row['confidence']:.2f}", str(row["num_images"]))
    return table


def _recall_table(
    layer: str, vocabulary: str, counts: dict[str, dict[str, int]], methods: dict[str, dict[str, dict[str, float]]]
) -> Table:
    size = counts["vocabularies"][vocabulary]
    title = f"{layer}: recall, {vocabulary} vocabulary of {size:,} words, {counts['num_pairs']} filter-picture pairs"
    table = _table(title)
    table.add_column("method")
    at = sorted(next(iter(methods.values())), key=int)
    for s in at:
        table.add_column(f"@{s} \\[95 % interval]", justify="right")
    for method, by_s in methods.items():
        cells = [f"{by_s[s]['value']:.3f} \\[{by_s[s]['low']:.3f}, {by_s[s]['high']:.3f}]" for s in at]
        table.add_row(method.replace("_", " "), *cells)
    return table


def _stages_table(result: RunResult) -> Table:
    table = _table(f"stages; {result.images_decoded} pictures decoded")
    for heading in ("stage", "digest", "", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for name, stage in result.stages.items():
        table.add_row(
            escape(name), stage["digest"][:12], "cached" if stage["cached"] else "", f"{stage['seconds']:.1f}"
        )
    return table


def escape(text: str) -> str:
    """Names from data as plain text: no markup, and no control characters that a terminal would obey."""
    return escape_markup("".join(c if c.isprintable() else "\ufffd" for c in text))


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_NO_TERMINAL)
