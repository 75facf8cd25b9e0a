"""The report: one self-contained HTML page. Everything that comes from data is text, never markup.

Each target picture is in the page once, as a thumbnail; the region of a filter is an outline drawn over it (the level
line of the upsampled map at T_u).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as parquet
from PIL import Image

from configs.schema import DiffSettings, ReportSettings
from storage.activations import ActivationStore
from storage.datasets.base import Dataset
from storage.digest import digest_of
from storage.geometry import FloatArray, Geometry, upsample_maps
from storage.images import BrokenImageError, load_square
from storage.progress import Progress, no_progress
from tasks.evaluate import MOST_FREQUENT, RANDOM, load_evaluation, state_supported_order
from tasks.explain import CALIBRATION_FILE, RELIABILITY_FILE, load_pairs
from tasks.figures import OverviewRow, draw_diff, draw_overview
from tasks.panel import load_panel
from tasks.stage import Stage
from tasks.validate import load_validation

STAGE = Stage("report", version=3)
REPORT_FILE, OVERVIEW_FILE = "report.html", "overview.png"
_OVERVIEW_FILTERS, _OVERVIEW_PICTURES, _OVERVIEW_PX = 10, 5, 112
_MAX_DIFF_ROWS = 300
_SAFE = "!*'()"  # what encodeURIComponent in the page's script leaves as it is
_OUTLINE_GRID = 64
_MEANING_WORDS = 3
_PANEL_FIGURES = (
    ("iou", "IoU"),
    ("pearson_image", "Pearson, pictures"),
    ("pearson_position", "Pearson, positions"),
    ("auprc_image", "AUPRC, pictures"),
    ("auprc_position", "AUPRC, positions"),
)
_PANEL_ROWS = ("explained", "all_filters")
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class LayerPart:
    """What the report shows of one layer; the paths are folders of artefacts."""

    layer: str
    shape: tuple[int, int, int]
    explained: Path
    evaluated: Path
    panel: Path
    validated: Path
    activations: Path
    thresholds: FloatArray
    explainer: Path


@dataclass(frozen=True)
class DiffPart:
    """What the report shows of the comparison with an earlier audit.

    Attributes:
        old_run: id of the earlier audit's run.
        old_name: of the earlier audit, for people.
        old_checkpoint: start of the digest of its weights; empty where it is not known.
        rows: of diff.parquet, all layers.
        summary: by layer, of diff.json.
    """

    old_run: str
    old_name: str
    old_checkpoint: str
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Mapping[str, Any]]
    settings: DiffSettings


def digest_templates() -> str:
    """Of the page's own files: another layout is another report."""
    folder = resources.files("tasks") / "templates"
    return digest_of({f.name: f.read_text("utf-8") for f in folder.iterdir() if f.is_file()})


def write_report(
    parts: Sequence[LayerPart],
    target: Dataset,
    geometry: Geometry,
    facts: Mapping[str, str],
    settings: ReportSettings,
    folder: Path,
    diff: DiffPart | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write folder/report.html and folder/overview.png.

    Args:
        facts: lines of the heading, label -> text.
        diff: the comparison with an earlier audit, where there is one.

    Returns:
        facts: num_filters, num_pictures, size_bytes.
    """
    paths = {r.key: r.path for r in target.records}
    pictures: dict[str, int] = {}
    filters: list[dict[str, Any]] = []
    for part in parts:
        filters += _describe_filters(part, settings, pictures, progress)
    page = render_page(
        heading=facts,
        recalls=[_describe_recall(p) | _describe_trust(p) for p in parts],
        layers=[_describe_layer(p, filters) for p in parts],
        data={
            "thumbnail": settings.thumbnail_px,
            "grid": _OUTLINE_GRID,
            "names": list(pictures),
            "pictures": _make_thumbnails(list(pictures), paths, geometry, settings.thumbnail_px, progress),
            "filters": filters,
        },
        diff=diff,
    )
    (folder / REPORT_FILE).write_text(page, "utf-8")
    (folder / OVERVIEW_FILE).write_bytes(_draw_overview(parts, paths, geometry, facts["Audit"]))
    return {"num_filters": len(filters), "num_pictures": len(pictures), "size_bytes": len(page.encode("utf-8"))}


def render_page(
    heading: Mapping[str, str],
    recalls: Sequence[Mapping[str, Any]],
    layers: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    diff: DiffPart | None = None,
) -> str:
    """The page. Its policy allows its own script and style (by hash) and pictures inside it, and nothing else."""
    return _render(
        "report.html.j2",
        heading=heading,
        recalls=recalls,
        layers=layers,
        data=_trust(escape_json(data)),
        diff=_describe_diff(diff, with_links=True) if diff else None,
    )


def render_diff_page(heading: Mapping[str, str], diff: DiffPart) -> str:
    """A page of the comparison alone."""
    return _render("diff_page.html.j2", heading=heading, diff=_describe_diff(diff, with_links=False))


def _render(name: str, **values: Any) -> str:
    import jinja2

    folder = resources.files("tasks") / "templates"
    script, style = (folder.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("js", "css"))
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_hash_source(script)}'; style-src '{_hash_source(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template(name)
    return template.render(policy=policy, script=_trust(script), style=_trust(style), **values)


def _trust(text: str) -> Any:
    """Not escaped again: our own files, and what `escape_json` has escaped."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - see above


def escape_json(value: Any) -> str:
    """JSON that is safe inside a script element: no character that could end it or open another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def outline_region(map_hw: FloatArray, threshold: float, grid: int = _OUTLINE_GRID) -> str:
    """Outline of {upsampled map > threshold} as an SVG path on a grid x grid square; empty where there is none."""
    from skimage.measure import approximate_polygon, find_contours

    fine = upsample_maps(map_hw[None], grid)[0]
    # A frame below the threshold closes the outlines that run into the border.
    framed = np.pad(fine, 1, constant_values=min(float(fine.min()), threshold) - 1.0)
    strokes = []
    for contour in find_contours(framed, threshold):
        points = np.clip(approximate_polygon(contour, 0.5) - 1 + 0.5, 0, grid)
        if len(points) > 2:
            strokes.append("M" + "L".join(f"{x:.0f} {y:.0f}" for y, x in points) + "Z")
    return "".join(strokes)


def _describe_filters(
    part: LayerPart, settings: ReportSettings, pictures: dict[str, int], progress: Progress
) -> list[dict[str, Any]]:
    rows = parquet.read_table(part.explained / "filters.parquet").to_pylist()
    words = parquet.read_table(part.explained / "explanations.parquet").to_pylist()
    words_of: dict[int, list[list[Any]]] = {}
    for word in words:
        entry = [
            word["word"],
            word["votes"],
            round(word["confidence"], 2),
            int(word["novel"]),
            int(word["significant"]),
            f"named by {word['votes']} of its top pictures ({word['share']:.0%}, 95 % interval {word['share_low']:.0%} "
            f"to {word['share_high']:.0%}); by {word['background']:.1%} of those of other filters; "
            f"p = {word['p_value']:.1g}, q = {word['q_value']:.1g}",
        ]
        words_of.setdefault(word["filter"], []).append(entry)
    store = ActivationStore(part.activations)
    pairs = load_pairs(part.explained)
    first = np.searchsorted(pairs.filter, np.arange(len(rows) + 1))
    shown = [np.arange(first[u], min(first[u] + settings.images_per_filter, first[u + 1])) for u in range(len(rows))]
    outlines = _draw_outlines(store, part.thresholds, pairs.filter, pairs.image, np.concatenate(shown), progress)
    described = []
    for row, positions in zip(rows, shown, strict=True):
        top = []
        for position in positions:
            key = store.keys[pairs.image[position]]
            number = pictures.setdefault(key, len(pictures))
            top.append([number, round(float(pairs.peak[position]), 2), outlines[int(position)]])
        described.append(
            {
                "l": part.layer,
                "f": row["filter"],
                "t": round(row["threshold"], 4),
                "c": round(row["confidence"], 3),
                "r": row["reason"],
                "n": row["num_images"],
                "w": words_of.get(row["filter"], []),
                "m": [[round(m["share"], 2), m["words"][:_MEANING_WORDS]] for m in row["meanings"]],
                "i": top,
            }
        )
    return described


def _draw_outlines(
    store: ActivationStore,
    thresholds_C: FloatArray,
    filters: Any,
    images: Any,
    positions: Any,
    progress: Progress,
) -> dict[int, str]:
    """Outline of each of some pairs, reading each picture's maps once."""
    outlines = {}
    wanted = np.unique(images[positions])
    with progress("outlines", len(wanted)) as bar:
        for image in wanted:
            maps_CHW = store.read_images([int(image)])[0]
            for position in positions[images[positions] == image]:
                unit = filters[position]
                own = maps_CHW[unit].astype(np.float32)
                outlines[int(position)] = outline_region(own, float(thresholds_C[unit]))
            bar.advance()
    return outlines


def _make_thumbnails(
    keys: Sequence[str], paths: Mapping[str, Path], geometry: Geometry, size_px: int, progress: Progress
) -> list[str]:
    """data: URIs, in the network's own framing, so that outlines fit."""
    small = Geometry(size_px, geometry.fit, geometry.crop_share, geometry.interpolation)
    uris = []
    with progress("thumbnails", len(keys)) as bar:
        for key in keys:
            square = _load_picture(paths[key], small)
            buffer = io.BytesIO()
            Image.fromarray(square).save(buffer, "JPEG", quality=_JPEG_QUALITY)
            uris.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"))
            bar.advance()
    return uris


def _describe_layer(part: LayerPart, filters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [f for f in filters if f["l"] == part.layer]
    facts = json.loads((part.explainer / "explainer.json").read_text("utf-8"))
    return {
        "name": part.layer,
        "shape": " x ".join(str(n) for n in part.shape),
        "num_filters": len(own),
        "num_explained": sum(not f["r"] for f in own),
        "num_never": sum(f["n"] == 0 for f in own),
        "num_supervised": len(facts["supervised"]),
        "num_held_out": len(facts["held_out"]),
    }


def _describe_recall(part: LayerPart) -> dict[str, Any]:
    found = load_evaluation(part.evaluated)
    tables = []
    for vocabulary, methods in found["recall"].items():
        baselines = {MOST_FREQUENT, RANDOM}
        at = sorted(next(iter(methods.values())), key=int)
        rows = [
            {
                "method": method.replace("_", " "),
                "baseline": method in baselines,
                "cells": [by_s[s] for s in at],
            }
            for method, by_s in methods.items()
        ]
        size = found["vocabularies"][vocabulary]
        tables.append({"vocabulary": vocabulary, "size": size, "at": at, "rows": rows})
    methods = [m for m in next(iter(found["recall"].values()), {}) if m not in (MOST_FREQUENT, RANDOM)]
    return {
        "layer": part.layer,
        "num_pairs": found["num_pairs"],
        "num_filters": found["num_filters"],
        "num_images": found["num_images"],
        "tables": tables,
        "order": state_supported_order(found, methods),
    }


def _describe_trust(part: LayerPart) -> dict[str, Any]:
    """What the words can be held to: regions that can be judged, confidence, and the panel beside its baselines."""
    calibration = json.loads((part.explained / CALIBRATION_FILE).read_text("utf-8"))
    picture = base64.b64encode((part.explained / RELIABILITY_FILE).read_bytes()).decode("ascii")
    panel = load_panel(part.panel)
    columns = [*_PANEL_FIGURES, *((f"f1@{k}", f"F1@{k}") for k in _panel_at(panel))]
    validation = load_validation(part.validated)
    return {
        "validation": {**validation, "recall": {g: _order_by_s(by_s) for g, by_s in validation["recall"].items()}},
        "calibration": calibration,
        "reliability": f"data:image/png;base64,{picture}",
        "panel": {
            "num_images": panel["num_images"],
            "columns": [title for _, title in columns],
            "rows": [
                {
                    "name": name.replace("_", " "),
                    "baseline": name not in _PANEL_ROWS,
                    "num_statements": row["num_judged"],
                    "share_right": row["share_right"],
                    "share_explained": row.get("share_explained"),
                    "cells": [row["figures"].get(figure) for figure, _ in columns],
                }
                for name, row in sorted(panel["rows"].items(), key=lambda item: _place_of(item[0]))
            ],
        },
    }


def _order_by_s(by_s: Mapping[str, Any]) -> dict[str, Any]:
    """Files are sorted by text, where 10 goes before 5."""
    return dict(sorted(by_s.items(), key=lambda item: int(item[0]) if item[0].isdigit() else -1))


def _place_of(row: str) -> tuple[int, str]:
    """What is judged first, then its baselines."""
    return (_PANEL_ROWS.index(row) if row in _PANEL_ROWS else len(_PANEL_ROWS), row)


def _panel_at(panel: Mapping[str, Any]) -> list[int]:
    figures = {figure for row in panel["rows"].values() for figure in row["figures"]}
    return sorted(int(figure.removeprefix("f1@")) for figure in figures if figure.startswith("f1@"))


def _describe_diff(diff: DiffPart, with_links: bool) -> dict[str, Any]:
    other = [r for r in diff.rows if r["status"] != "same"]
    other.sort(key=lambda r: (-2.0 if r["similarity"] is None else r["similarity"], r["layer"]))
    picture = base64.b64encode(draw_diff(diff.rows, diff.summary)).decode("ascii")
    return {
        "old_run": diff.old_run,
        "old_name": diff.old_name,
        "old_checkpoint": diff.old_checkpoint,
        "same_at": diff.settings.same_at,
        "related_at": diff.settings.related_at,
        "num_images": max(found["num_images"] for found in diff.summary.values()),
        "layers": [{"name": layer, **found} for layer, found in diff.summary.items()],
        "chart": f"data:image/png;base64,{picture}",
        "num_not_same": len(other),
        "rows": [
            {**row, "anchor": f"#filter-{quote(row['layer'], safe=_SAFE)}-{row['new_filter']}" if with_links else ""}
            for row in other[:_MAX_DIFF_ROWS]
        ],
    }


def _draw_overview(parts: Sequence[LayerPart], paths: Mapping[str, Path], geometry: Geometry, name: str) -> bytes:
    """The most confident filters of all layers with their first pictures."""
    small = Geometry(_OVERVIEW_PX, geometry.fit, geometry.crop_share, geometry.interpolation)
    chosen = []
    for number, part in enumerate(parts):
        rows = parquet.read_table(part.explained / "filters.parquet").to_pylist()
        chosen += [(number, row) for row in rows if row["explained"]]
    chosen.sort(key=lambda entry: (-entry[1]["confidence"], entry[0], entry[1]["filter"]))
    shown = []
    for number, row in chosen[:_OVERVIEW_FILTERS]:
        part, unit = parts[number], row["filter"]
        store = ActivationStore(part.activations)
        position = {key: i for i, key in enumerate(store.keys)}
        keys = row["top_images"][:_OVERVIEW_PICTURES]
        maps = store.read_images([position[k] for k in keys])[:, unit].astype(np.float32) - part.thresholds[unit]
        title = f"{row['layer']}, filter {unit}, confidence {row['confidence']:.2f}"
        pictures = [_load_picture(paths[k], small) for k in keys]
        shown.append(OverviewRow(title, row["words"], pictures, list(upsample_maps(maps, _OVERVIEW_PX))))
    return draw_overview(shown, f"{name}: the most confident filters")


def _load_picture(path: Path, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Black where the picture can no longer be read."""
    try:
        return load_square(path, geometry)
    except BrokenImageError:
        return np.zeros((geometry.size_px, geometry.size_px, 3), np.uint8)


def _hash_source(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
