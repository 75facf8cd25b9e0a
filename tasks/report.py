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

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

from configs.schema import ReportSettings
from storage.activations import ActivationStore
from storage.datasets.base import Dataset
from storage.digest import digest_of
from storage.geometry import FloatArray, Geometry, upsample_maps
from storage.images import BrokenImageError, load_square
from storage.progress import Progress, no_progress
from tasks.evaluate import MOST_FREQUENT, RANDOM, load_evaluation, state_supported_order
from tasks.explain import load_pairs
from tasks.stage import Stage

STAGE = Stage("report", version=1)
REPORT_FILE = "report.html"
_OUTLINE_GRID = 64
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class LayerPart:
    """What the report shows of one layer; the paths are folders of artefacts."""

    layer: str
    shape: tuple[int, int, int]
    explained: Path
    evaluated: Path
    activations: Path
    thresholds: FloatArray
    explainer: Path


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
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write folder/report.html.

    Args:
        facts: lines of the heading, label -> text.

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
        recalls=[_describe_recall(p) for p in parts],
        layers=[_describe_layer(p, filters) for p in parts],
        data={
            "thumbnail": settings.thumbnail_px,
            "grid": _OUTLINE_GRID,
            "names": list(pictures),
            "pictures": _make_thumbnails(list(pictures), paths, geometry, settings.thumbnail_px, progress),
            "filters": filters,
        },
    )
    (folder / REPORT_FILE).write_text(page, "utf-8")
    return {"num_filters": len(filters), "num_pictures": len(pictures), "size_bytes": len(page.encode("utf-8"))}


def render_page(
    heading: Mapping[str, str],
    recalls: Sequence[Mapping[str, Any]],
    layers: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
) -> str:
    """The page. Its policy allows its own script and style (by hash) and pictures inside it, and nothing else."""
    import jinja2

    folder = resources.files("tasks") / "templates"
    script = folder.joinpath("report.js").read_text("utf-8")
    style = folder.joinpath("report.css").read_text("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_hash_source(script)}'; style-src '{_hash_source(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        folder.joinpath("report.html.j2").read_text("utf-8")
    )
    from markupsafe import Markup

    return template.render(
        policy=policy,
        script=Markup(script),  # noqa: S704 - our own file
        style=Markup(style),  # noqa: S704 - our own file
        heading=heading,
        recalls=recalls,
        layers=layers,
        data=Markup(escape_json(data)),  # noqa: S704 - escaped by escape_json
    )


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
        entry = [word["word"], word["votes"], round(word["score"], 3), int(word["novel"])]
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
            try:
                square = load_square(paths[key], small)
            except BrokenImageError:
                square = np.zeros((size_px, size_px, 3), np.uint8)
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


def _hash_source(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
