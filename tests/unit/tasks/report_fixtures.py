"""Layers with all that a report can show, in the formats of the stages that make it, with hostile text in every field.

Words, names of classes, groups, layers and files are markup, formulas, words without end, and text from right to left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from skimage.draw import polygon2mask

from lavise.configs.schema import DiffSettings, ReportSettings
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.storage.state import file_names
from lavise.storage.state.files import write_json
from lavise.tasks.activations.thresholds import count_high_bytes
from lavise.tasks.activations.top_images import select_top_images
from lavise.tasks.evaluation.layer_panel import FILTER_SCORES_FILE, save_panel
from lavise.tasks.evaluation.panel import Panel, PanelRow
from lavise.tasks.evaluation.recall import MOST_FREQUENT, RANDOM, Evaluation, MethodDifference, save_evaluation
from lavise.tasks.explainer.validation import VALIDATION_FILE
from lavise.tasks.numerics.bootstrap import Estimate
from lavise.tasks.numerics.reliability import measure_reliability
from lavise.tasks.report.page import DiffPart, LayerPart, write_report
from lavise.tasks.report.pictures import ReportImages
from lavise.tasks.words.naming_precision import KindPrecision, NamingPrecision
from lavise.tasks.words.tables import EXPLANATIONS_SCHEMA, FILTERS_SCHEMA
from tests.unit.tasks.helpers import AnyArray, write_image, write_store

MARKUP = "<img src=x onerror=alert(1)>"
HOSTILE = (MARKUP, "</script><script>alert(2)</script>", "a&b\"'\u2028<!--")
RIGHT_TO_LEFT = "\u0643\u0644\u0628 \u05db\u05dc\u05d1"
STRANGE = (
    *HOSTILE,
    "=1+1",
    "@SUM(A1)",
    "w" * 120,
    RIGHT_TO_LEFT,
    "{{ 7*7 }} ${x}",
    '-2;"a",\tb',
)
PLAIN = ("dog", "kettle", "jug", "sky", "sea", "grass", "wheel", "window", "face", "text")
KINDS = ("animal", "object", "colour", "scene")
GEOMETRY = Geometry(32, "center_crop", 0.8, "bilinear")
RICH_LAYER = 'features"><b>.0'


def points_of(path: str) -> list[list[tuple[float, float]]]:
    """Closed strokes of an SVG path, as (x, y)."""
    assert re.fullmatch(r"(M\d+ \d+(L\d+ \d+)+Z)*", path)
    strokes = [s.removesuffix("Z").split("L") for s in path.split("M")[1:]]
    return [[(float(p.split()[0]), float(p.split()[1])) for p in s] for s in strokes]


def fill_outline(path: str, grid: int = 64) -> AnyArray:
    """Pixels inside an odd number of strokes."""
    inside = np.zeros((grid, grid), bool)
    for stroke in points_of(path):
        inside ^= polygon2mask((grid, grid), [(y - 0.5, x - 0.5) for x, y in stroke])
    return inside


def evaluation_of(recall: bool = True) -> Evaluation:
    cell = Estimate(value=0.5, low=0.25, high=0.75)
    row = {"5": cell, "10": Estimate(value=0.625, low=0.25, high=0.75)}
    methods = {"original": row, "filter_attention": row, MOST_FREQUENT: row, RANDOM: row}
    difference = MethodDifference(
        vocabulary="open",
        at=5,
        first="original",
        second="filter_attention",
        supported=True,
        value=-0.1,
        low=-0.2,
        high=-0.05,
    )
    return {
        "num_pairs": 12,
        "num_filters": 3,
        "num_images": 5,
        "vocabularies": {"closed": 3, "open": 65000},
        "recall": {"closed": methods, "open": methods} if recall else {},
        "differences": [difference] if recall else [],
    }


def panel_of() -> Panel:
    """What is judged, with all figures and with one, and a baseline that has nothing to judge."""
    figures = ("iou", "pearson_position", "pearson_image", "auprc_position", "auprc_image", "lift", "f1@1", "f1@5")
    cells = {figure: Estimate(value=n / 8, low=n / 16, high=n / 4) for n, figure in enumerate(figures)}

    def make_row(num: int, figures: dict[str, Estimate], share_right: float | None) -> PanelRow:
        return {
            "num_filters": 4 * num,
            "num_statements": 3 * num,
            "num_judged": 2 * num,
            "num_pairs": 12 * num,
            "figures": figures,
            "share_right": share_right,
        }

    return {
        "num_images": 17,
        "samples": 100,
        "samples_by_figure": dict.fromkeys(figures, 100),
        "rows": {
            "explained": {**make_row(1, cells, 0.875), "share_explained": 0.8125},
            "all_filters": make_row(1, {"iou": cells["lift"]}, 0.5),
            "dealt_words": make_row(0, {}, None),
        },
        "differences": [],
    }


def validation_of(is_valid: bool = True) -> dict[str, Any]:
    cell = {"value": 0.5, "low": 0.25, "high": 0.75}
    return {
        "num_regions": 23,
        "hit_rate": 0.375,
        "chance_rate": 0.125,
        "p_value": 0.0005 if is_valid else 0.5,
        "is_valid": is_valid,
        "recall": {"all": {"num_regions": 23, "5": cell, "10": cell}, "held_out": {"num_regions": 4, "5": cell}},
    }


def write_judgements(folder: Path) -> None:
    """What the report asks of the folders evaluated, panel, validated and explainer."""
    for name in ("evaluated", "panel", "validated", "explainer"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_evaluation(evaluation_of(), folder / "evaluated")
    save_panel(panel_of(), [], folder / "panel")
    write_json(folder / "validated" / VALIDATION_FILE, validation_of())
    write_json(folder / "explainer" / "explainer.json", {"supervised": list(HOSTILE), "held_out": [MARKUP]})


def word_of(unit: int, rank: int) -> str:
    """The words of filter u: those of the first filters are strange, others are plain."""
    if unit < len(STRANGE) and rank == 0:
        return STRANGE[unit]
    return PLAIN[(unit * 3 + rank * 7) % len(PLAIN)]


def write_words(
    folder: Path, layer: str, keys: Sequence[str], pairs: Any, peaks: AnyArray, thresholds: AnyArray
) -> None:
    """filters.parquet and explanations.parquet: every fifth filter is unexplained, every seventh has two meanings."""
    filters, words = [], []
    for unit in range(len(thresholds)):
        own = np.flatnonzero(pairs.filter == unit)
        top = [keys[pairs.image[p]] for p in own]
        reason = f"no word, says {MARKUP}" if unit % 5 == 4 else ""
        names = [word_of(unit, rank) for rank in range(4)]
        meanings = [{"share": 1.0, "words": names[:2], "top_images": top}]
        if unit % 7 == 3:
            meanings = [
                {"share": 0.6, "words": names[:1], "top_images": top[::2]},
                {"share": 0.4, "words": names[1:2], "top_images": top[1::2]},
            ]
        filters.append(
            {
                "layer": layer, "filter": unit, "threshold": float(thresholds[unit]),
                "peak": float(peaks[:, unit].max()), "explained": not reason, "reason": reason,
                "confidence": 0.0 if reason else 1 - unit / 100,
                "num_images": int((peaks[:, unit] > thresholds[unit]).sum()), "words": [] if reason else names[:3],
                "meanings": [] if reason else meanings, "top_images": top,
                "top_peaks": [float(pairs.peak[p]) for p in own], "guess": word_of(unit, 0) if reason else "",
                "guess_confidence": unit / 200 if reason else 0.0, "saturated": unit % 6 == 0,
                "auroc": None if reason else 0.9,
                "concept_kind": "" if reason else KINDS[unit % len(KINDS)],
                "top_has_word": [i % 3 != 2 for i in range(len(top))],
                "num_with_word": None if unit % 4 == 1 else len(top) + 5,
                "num_with_word_above": None if unit % 4 == 1 else len(top),
                "silent_images": [] if unit % 4 == 1 else [f"not among them {MARKUP}", *keys[:2]],
                "silent_peaks": [] if unit % 4 == 1 else [0.0, 0.125, 0.25],
            }
        )  # fmt: skip
        words += [
            {
                "layer": layer, "filter": unit, "rank": rank + 1, "word": name, "score": 0.5, "votes": 9 - rank,
                "weight": 0.5, "share": 0.9 - rank / 5, "share_low": 0.7 - rank / 5, "share_high": 0.95 - rank / 5,
                "background": 0.03, "p_value": 10.0 ** (rank - 9), "q_value": 10.0 ** (rank - 7),
                "significant": not reason and rank < 3, "confidence": 1 - unit / 100 - rank / 10,
                "novel": rank == 1 and unit % 3 == 0, "kind": "class", "auroc": 0.9 - rank / 10,
                "auroc_low": 0.85 - rank / 10, "auroc_high": 0.95 - rank / 10,
            }
            for rank, name in enumerate(names)
        ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(filters, FILTERS_SCHEMA), folder / "filters.parquet")
    parquet.write_table(pa.Table.from_pylist(words, EXPLANATIONS_SCHEMA), folder / "explanations.parquet")
    np.savez(folder / "pairs.npz", filter=pairs.filter, image=pairs.image, peak=pairs.peak)
    rng = np.random.default_rng(0)
    reliability = measure_reliability(rng.random(60), rng.random(60) < 0.6)
    kind = KindPrecision((0.0,), (1.0,), (2.0,), (1.0,), 0.0, 8.0, 120, 90)
    content = {
        "limits": {"confidence": 0.4, "q_value": 1e-5},
        "rule": "auroc",
        "calibration": {"note": ""},
        "reliability": reliability.to_json(),
        "statements": {"num_judged": 60, "num_right": 36},
        "precision": NamingPrecision(kind, kind, {}).to_json(),
        "certainty": {"target": 0.75, "evaluation": 0.5},
    }
    write_json(folder / file_names.CALIBRATION, content)


def write_classes(folder: Path, layer: str, num_filters: int, examples: Sequence[str] = ()) -> Path:
    folder.mkdir(parents=True)
    names = (STRANGE[0], "teapot", STRANGE[3], STRANGE[5], STRANGE[6])
    rng = np.random.default_rng(1)
    contribution = rng.normal(0, 0.4, size=(len(names), num_filters)).astype(np.float32)
    classes = [
        {"class": 10 + i, "name": n, "num_images": 9 - i, "mean_logit": 7.5 - i, "examples": list(examples[i : i + 6])}
        for i, n in enumerate(names)
    ]
    write_json(
        folder / "classes.json",
        {"num_images": 30, "num_pictures_offered": 40, "direct": True, "reason": "", "max_abs_difference": 2e-6,
         "max_abs_contribution": float(np.abs(contribution).max()), "classes": classes},
    )  # fmt: skip
    rows = []
    for i, entry in enumerate(classes):
        for rank, unit in enumerate(np.argsort(-contribution[i], kind="stable")[:10], start=1):
            value, few = float(contribution[i, unit]), entry["num_images"] == 5
            rows.append(
                {"layer": layer, "class": entry["class"], "class_name": entry["name"],
                 "num_images": entry["num_images"], "rank": rank, "filter": int(unit),
                 "words": [word_of(int(unit), 0), word_of(int(unit), 1)], "contribution": value,
                 "low": None if few else value - 0.1, "high": None if few else value + 0.1, "share": 0.3 / rank,
                 "weight": 0.02 * rank}
            )  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), folder / "classes.parquet")
    arrays: dict[str, Any] = {"class": np.array([c["class"] for c in classes]), "contribution": contribution}
    np.savez(folder / "contributions.npz", **arrays)
    return folder


def write_causes(folder: Path, layer: str, num_filters: int) -> Path:
    folder.mkdir(parents=True)
    words = [STRANGE[0], "dog", STRANGE[3], STRANGE[6], "sky"]
    write_json(
        folder / "causes.json",
        {"fill": "mean", "direct": True, "num_images": 30, "num_random_sets": 99, "num_words": len(words),
         "num_filters": num_filters, "accuracy": {"num_judged": 12, "before": 0.75}, "notes": [f"a note {MARKUP}"]},
    )  # fmt: skip
    rows = []
    for i, word in enumerate(words):
        known = i % 2 == 0
        names = [f"{what}_{side}" for what in ("changed", "own_logit") for side in ("with", "without")]
        names += [f"accuracy_{when}_{side}" for when in ("before", "after") for side in ("with", "without")]
        figures = dict.fromkeys(names, 0.1 * i if known else None)
        changes = json.dumps([[MARKUP, -0.5, 0.0], ["teapot", -0.2, None]])
        rows.append(
            {"layer": layer, "word": word, "category": word if known else None, "filters": [i, i + 1, 11],
             "num_filters": 3, "num_with": 6 if known else None, "num_without": 24 if known else None, **figures,
             "changed": 0.04 * i,
             "own_logit": -0.5 * i, "random_own_logit": -0.05, "random_changed": 0.01, "p_value": 0.01 * (5 - i),
             "q_value": 0.02 * (5 - i), "used": i >= 2, "classes": changes}
        )  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), folder / "causes.parquet")
    singles = [
        {"layer": layer, "filter": unit, "words": [word_of(unit, 0)], "changed": unit / 100, "own_logit": -unit / 10,
         "classes": json.dumps([[MARKUP, -0.3], ["teapot", -0.1]])}
        for unit in range(min(num_filters, 12))
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(singles), folder / "causes_filters.parquet")
    return folder


def write_bias(folder: Path, layer: str, num_filters: int, keys: Sequence[str], images: str = "target") -> Path:
    folder.mkdir(parents=True)
    group, other = f"kitchen {MARKUP}", "=street\u05db\u05dc\u05d1"
    contrast = {"group": group, "other": other, "num_group": 14, "num_other": 16, "num_filters_tested": num_filters,
                "num_filters_found": 3, "num_words_found": 2, "num_vanishing": 1, "least_difference": 0.41}  # fmt: skip
    groups = [{"name": group, "num_images": 14}, {"name": other, "num_images": 16}]
    strata = [{"name": name, "num_images": 15} for name in ("day", RIGHT_TO_LEFT)]
    write_json(
        folder / "bias.json",
        {"images": images, "grouping": f"folder {MARKUP}", "groups": groups,
         "left_out": {"num_images_without_group": 3, "small_groups": {f"tiny {MARKUP}": 2}},
         "strata": {"title": f"column {MARKUP}", "groups": strata},
         "contrasts": [contrast], "false_discovery_rate": 0.05, "power": 0.8, "permutations": 20000},
    )  # fmt: skip
    verdicts = ("differs", "vanishes", "reverses")

    def figures(i: int, found: bool) -> dict[str, Any]:
        first, second = 0.9 - i / 50, 0.2 + i / 90
        return {"share_group": first, "share_other": second, "difference": first - second, "low": first - second - 0.2,
                "high": first - second + 0.2, "effect_size": 1.2 - i / 40, "p_value": 1e-6 * (i + 1),
                "q_value": min(1e-4 * (i + 1) ** 2, 1.0), "found": found, "least_difference": 0.4,
                "stratified_difference": 0.1, "stratified_low": -0.1, "stratified_high": 0.3, "stratified_p_value": 0.2,
                "stratified_q_value": 0.3, "verdict": verdicts[i % 3] if found else "same"}  # fmt: skip

    own = {"layer": layer, "group": group, "other": other}
    rows = [
        {**own, "filter": unit, "words": [word_of(unit, 0)], "num_group": 14, "num_other": 16, "qualified_group": 12,
         "qualified_other": 3, **figures(unit, unit < 3), "pictures_group": list(keys[unit : unit + 2]),
         "pictures_other": list(keys[unit + 4 : unit + 6])}
        for unit in range(num_filters)
    ]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), folder / "bias_filters.parquet")
    words = [
        {**own, "word": word, "filters": [i, i + 1], "num_filters": 2, **figures(i, i < 2)}
        for i, word in enumerate((STRANGE[0], "kettle", STRANGE[3], STRANGE[5]))
    ]
    parquet.write_table(pa.Table.from_pylist(words), folder / "bias_words.parquet")
    return folder


def make_rich_part(
    folder: Path,
    keys: Sequence[str],
    layer: str = RICH_LAYER,
    num_filters: int = 24,
    seed: int = 0,
    extras: bool = True,
) -> LayerPart:
    """A layer with everything, over pictures with these keys; the last filter is dead."""
    explained = folder / "explained"
    explained.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    coarse = rng.gamma(0.5, size=(len(keys), num_filters, 7, 7)) * rng.uniform(
        0.2, 2, size=(len(keys), num_filters, 1, 1)
    )
    maps = (coarse + np.roll(coarse, 1, 2) + np.roll(coarse, 1, 3)).astype(np.float16)
    maps[:, -1] = 0
    store = write_store(folder / "maps", maps, keys=list(keys))
    thresholds = np.quantile(maps.astype(np.float32), 0.97, axis=(0, 2, 3)).astype(np.float32)
    pairs = select_top_images(store, thresholds, 12)
    write_words(explained, layer, keys, pairs, store.read_peaks().astype(np.float32), thresholds)
    write_judgements(folder)
    part = LayerPart(
        layer=layer,
        shape=(num_filters, 7, 7),
        explained=explained,
        evaluated=folder / "evaluated",
        panel=folder / "panel",
        validated=folder / "validated",
        activations=folder / "maps",
        thresholds=thresholds,
        explainer=folder / "explainer",
    )
    if not extras:
        return part
    judged = [{"filter": u, "num_pairs": 5, "recall": u / 40, "f1": u / 80} for u in range(0, num_filters, 2)]
    parquet.write_table(pa.Table.from_pylist(judged), folder / "panel" / FILTER_SCORES_FILE)
    (folder / "thresholds").mkdir()
    counts = sum(count_high_bytes(store.shard_path(s)) for s in range(store.num_shards))
    np.save(folder / "thresholds" / "histogram.npy", np.asarray(counts))
    return LayerPart(
        **{
            **part.__dict__,
            "analyses": {
                "classes": write_classes(folder / "classes", layer, num_filters, keys),
                "causes": write_causes(folder / "causes", layer, num_filters),
                "bias": write_bias(folder / "bias", layer, num_filters, keys),
            },
            "histogram": folder / "thresholds",
        }
    )


def make_rich_diff(layer: str = RICH_LAYER) -> DiffPart:
    row = {
        "layer": layer, "status": "changed", "old_filter": 1, "new_filter": 2, "similarity": 0.5, "similarity_low": 0.4,
        "similarity_high": 0.6, "certain": False, "old_words": [STRANGE[0]], "new_words": [STRANGE[6]],
    }  # fmt: skip
    lost = {**row, "status": "lost", "new_filter": None, "similarity": None, "similarity_low": None,
            "similarity_high": None, "new_words": []}  # fmt: skip
    summary = {
        "num_old": 24, "num_same": 22, "num_changed": 1, "num_lost": 1, "num_new_filters": 0, "num_moved": 1,
        "words_gained": [MARKUP], "words_lost": [STRANGE[5]], "num_images": 30,
    }  # fmt: skip
    return DiffPart(f"run {MARKUP}", f"old {MARKUP}", "abc", [row, lost], {layer: summary}, DiffSettings())


def write_rich_report(
    folder: Path,
    num_images: int = 30,
    num_filters: int = 24,
    photos: Sequence[Path] = (),
    extras: bool = True,
    **changes: Any,
) -> Path:
    """A report of two layers with everything; of given photographs, or of small pictures made for it."""
    folder.mkdir(parents=True, exist_ok=True)
    if photos:
        records = [ImageRecord(p.name, p) for p in photos]
    else:
        names = [f"{i} {STRANGE[i % len(STRANGE)]}.png" for i in range(num_images)]
        records = [ImageRecord(n, write_image(folder / f"{i}.png", 48, 60, i)) for i, n in enumerate(names)]
    keys = [r.key for r in records]
    parts = [
        make_rich_part(folder / "first", keys, num_filters=num_filters, extras=extras),
        make_rich_part(folder / "second", keys, "body.1", num_filters // 2, seed=1, extras=False),
    ]
    facts = {
        "Audit": f"demo {MARKUP}",
        "Target model": "timm/efficientnet_lite0, weights package:imagenet (sha256 0123456789ab)",
        "Reference": f"coco-mini: 190 pictures to train, {MARKUP} 80 categories",
        "Target domain": f"photos: {len(keys)} pictures, no labels read",
        "Explanation": "filter attention, 25 top pictures, learned explainer, softmax objective, seed 0",
    }
    settings = ReportSettings(**{"images_per_filter": 10, "thumbnail_px": 64, **changes})
    diff = make_rich_diff() if extras else None
    pictures = ReportImages.of(GEOMETRY, {"target": Dataset("target", tuple(records))})
    write_report(parts, pictures, facts, settings, folder, diff)
    return folder / "report.html"
