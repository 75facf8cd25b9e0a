"""The report: data is text and never markup, the policy fits the page, outlines lie where the region is."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError
from PIL import Image
from skimage.draw import polygon2mask

from configs.schema import ExplainSettings, ReportSettings
from storage.artefacts import write_json
from storage.datasets.base import Dataset, ImageRecord
from storage.geometry import Geometry
from storage.word_vectors import Vocabulary
from tasks.evaluate import MOST_FREQUENT, RANDOM, save_evaluation
from tasks.explain import explain_filters
from tasks.explainer import Explainer, ExplainerFacts, save_explainer
from tasks.report import LayerPart, escape_json, outline_region, render_page, write_report
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, upsample_with_torch, write_picture, write_store

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "a&b\"'\u2028<!--")
NAMES = [f"{i}<img src=x onerror=alert(3)>.png" for i in range(6)]
LAYER = 'features"><b>.0'
GEOMETRY = Geometry(32, "center_crop", 0.8, "bilinear")
THRESHOLDS = np.array([0.4, 0, 1.2, 0.5], np.float32)


class PageReader(HTMLParser):
    """Every element with its attributes, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sources: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self._open: tuple[str, dict[str, str | None]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = (tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.sources.append((*self._open, data))
        else:
            self.text += data


def parse(page: str) -> PageReader:
    reader = PageReader()
    reader.feed(page)
    reader.close()
    return reader


def data_of(reader: PageReader) -> dict[str, Any]:
    (block,) = [text for tag, attributes, text in reader.sources if attributes.get("type") == "application/json"]
    content: dict[str, Any] = json.loads(block)
    return content


def evaluation_of(recall: bool = True) -> dict[str, Any]:
    cell = {"value": 0.5, "low": 0.25, "high": 0.75}
    row = {"5": cell, "10": {**cell, "value": 0.625}}
    methods = {"original": row, "filter_attention": row, MOST_FREQUENT: row, RANDOM: row}
    difference = {"first": "original", "second": "filter_attention", "value": -0.1, "low": -0.2, "high": -0.05}
    return {
        "num_pairs": 12,
        "num_filters": 3,
        "num_images": 5,
        "vocabularies": {"closed": 3, "open": 65000},
        "recall": {"closed": methods, "open": methods} if recall else {},
        "differences": [{**difference, "vocabulary": "open", "at": 5, "supported": True}] if recall else [],
    }


def make_part(folder: Path, layer: str = LAYER, recall: bool = True) -> LayerPart:
    """One layer of four filters, really explained; filter 1 is dead."""
    for name in ("explained", "evaluated", "explainer"):
        (folder / name).mkdir(parents=True)
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 5))
    maps[:, 1] = 0
    store = write_store(folder / "maps", maps, keys=NAMES)
    torch.manual_seed(0)
    explainer = Explainer(4, 6, 0.1).eval()
    facts = ExplainerFacts(4, 6, 0.1, "l2", "cosine", HOSTILE[:2], HOSTILE[2:], {})
    save_explainer(explainer, facts, folder / "explainer")
    full = make_vocabulary(0, HOSTILE)
    vocabulary = Vocabulary(full.words, full.matrix, 0, full.matches)
    settings = ExplainSettings(top_images=5, words_per_image=2, min_images=2)
    explain_filters(store, THRESHOLDS, explainer, facts, vocabulary, settings, layer, "cpu", folder / "explained")
    save_evaluation(evaluation_of(recall), folder / "evaluated")
    return LayerPart(
        layer, (4, 4, 5), folder / "explained", folder / "evaluated", folder / "maps", THRESHOLDS, folder / "explainer"
    )


def write_page(root: Path, parts: Sequence[LayerPart] | None = None, gone: bool = False, **changes: Any) -> str:
    records = []
    for i, name in enumerate(NAMES):
        path = root / "pictures" / f"{i}.png"
        if not (gone and i == 0):
            write_picture(path, 40 + i, 60, seed=i)
        records.append(ImageRecord(name, path))
    settings = ReportSettings(**{"images_per_filter": 3, "thumbnail_px": 48, **changes})
    target = Dataset("target", tuple(records))
    facts = {"Audit": "test", "Target domain": HOSTILE[0], HOSTILE[1]: HOSTILE[2]}
    chosen = [make_part(root / "part")] if parts is None else parts
    info = write_report(chosen, target, GEOMETRY, facts, settings, root)
    page = (root / "report.html").read_text("utf-8")
    assert info["size_bytes"] == (root / "report.html").stat().st_size
    return page


@pytest.fixture
def page(tmp_path: Path) -> str:
    return write_page(tmp_path)


# ---------------------------------------------------------------- safety


def test_hostile_names_are_text_only(page: str) -> None:
    reader = parse(page)
    tags = [tag for tag, _ in reader.elements]
    assert "img" not in tags
    assert tags.count("script") == 2
    assert "b" not in tags
    attributes = {name for _, own in reader.elements for name in own}
    assert not {a for a in attributes if a.startswith("on")}
    # They are there, as text: in the heading, and in the data.
    for text in HOSTILE:
        assert text in reader.text
    data = data_of(reader)
    assert {w[0] for f in data["filters"] for w in f["w"]} <= set(HOSTILE)
    assert set(data["names"]) <= set(NAMES)


def test_data_block_has_nothing_that_could_end_it(page: str) -> None:
    block = page.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(block)
    assert json.loads(block)["thumbnail"] == 48


@pytest.mark.parametrize("value", [*HOSTILE, "]]>", "\u2028\u2029", "naïve 🐈", {"<k>": ["&", None, 1.5]}])
def test_escaped_json_parses_back(value: Any) -> None:
    text = escape_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"nan|JSON"):
        escape_json(float("nan"))


def test_policy_allows_just_the_pages_own_script_and_style(page: str) -> None:
    reader = parse(page)
    (policy,) = [own["content"] for tag, own in reader.elements if own.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    script, style = (
        text for tag, own, text in sorted(reader.sources, key=lambda s: s[0]) if own.get("type") != "application/json"
    )
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"


def test_page_loads_nothing_from_elsewhere(page: str) -> None:
    reader = parse(page)
    for tag, own in reader.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "source")
        assert not {"src", "srcset", "style", "background", "data", "action"} & own.keys(), (tag, own)
        assert own.get("href", "#").startswith("#")  # type: ignore[union-attr]
    for tag, own, text in reader.sources:
        if tag == "style":
            assert "url(" not in text
            assert "@import" not in text
        elif own.get("type") != "application/json":
            assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|outerHTML|document\.write|eval\(", text)
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in data_of(reader)["pictures"])


# ---------------------------------------------------------------- content


def test_every_filter_is_in_the_page(tmp_path: Path, page: str) -> None:
    data = data_of(parse(page))
    assert [f["f"] for f in data["filters"]] == [0, 1, 2, 3]
    dead = data["filters"][1]
    assert (dead["r"], dead["w"], dead["i"], dead["n"]) == ("never above its threshold", [], [], 0)
    for entry in data["filters"]:
        assert entry["l"] == LAYER
        assert entry["t"] == pytest.approx(THRESHOLDS[entry["f"]], abs=1e-4)
        assert len(entry["i"]) == min(3, entry["n"])
    assert len(data["pictures"]) == len(data["names"]) == len(set(data["names"]))


def test_pictures_and_outlines_are_those_of_the_filter(page: str) -> None:
    data = data_of(parse(page))
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 5)).astype(np.float16).astype(np.float32)
    for entry in data["filters"]:
        if not entry["n"]:
            continue
        own = maps[:, entry["f"]]
        top = np.argsort(-own.max(axis=(1, 2)))[: len(entry["i"])]
        assert [data["names"][i[0]] for i in entry["i"]] == [NAMES[i] for i in top]
        for (_, peak, outline), image in zip(entry["i"], top, strict=True):
            assert peak == pytest.approx(own[image].max(), abs=0.01)
            region = upsample_with_torch(own[image], 64) > THRESHOLDS[entry["f"]]
            assert np.mean(fill(outline) == region) > 0.97


def test_thumbnails_are_framed_like_the_networks_input(tmp_path: Path, page: str) -> None:
    data = data_of(parse(page))
    for name, uri in zip(data["names"], data["pictures"], strict=True):
        content = base64.b64decode(uri.partition(",")[2])
        with Image.open(io.BytesIO(content)) as thumbnail:
            found = np.asarray(thumbnail, np.float64)
        with Image.open(tmp_path / "pictures" / f"{NAMES.index(name)}.png") as picture:
            side = 0.8 * min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            box = (left, top, left + side, top + side)
            expected = np.asarray(picture.resize((48, 48), Image.Resampling.BILINEAR, box=box), np.float64)
        assert found.shape == (48, 48, 3)
        assert np.abs(found - expected).mean() < 8


def test_picture_that_went_away_is_black(tmp_path: Path) -> None:
    data = data_of(parse(write_page(tmp_path, gone=True, images_per_filter=50)))
    uri = data["pictures"][data["names"].index(NAMES[0])]
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as thumbnail:
        assert np.asarray(thumbnail).max() == 0


def test_recall_tables_and_supported_order(page: str) -> None:
    text = " ".join(parse(page).text.split())
    assert "65,000 words" in text
    assert "0.625" in text
    assert "[0.250, 0.750]" in text
    assert "filter attention above original by 0.100 [0.050, 0.200]" in text
    assert "12 pairs of filter and picture, 3 filters, 5 pictures." in text


def test_page_without_ground_truth_says_so(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_part(tmp_path / "part", recall=False)])
    assert "there is nothing to judge by" in parse(page).text


def test_two_layers_can_be_chosen_from(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_part(tmp_path / "one"), make_part(tmp_path / "two", layer="body.1")])
    reader = parse(page)
    assert {own.get("value") for tag, own in reader.elements if tag == "option"} >= {LAYER, "body.1"}
    data = data_of(reader)
    assert [f["l"] for f in data["filters"]] == [LAYER] * 4 + ["body.1"] * 4
    assert len(set(data["names"])) == len(data["names"])


def test_layer_of_dead_filters_makes_a_page(tmp_path: Path) -> None:
    part = make_part(tmp_path / "part")
    (part.explained / "filters.parquet").unlink()
    store = write_store(tmp_path / "zero", np.zeros((6, 4, 4, 5)), keys=NAMES)
    explainer, facts = Explainer(4, 6, 0.1).eval(), ExplainerFacts(4, 6, 0.1, "l2", "cosine", (), (), {})
    explain_filters(
        store, THRESHOLDS, explainer, facts, make_vocabulary(3, ()), ExplainSettings(), LAYER, "cpu", part.explained
    )
    data = data_of(parse(write_page(tmp_path, [part])))
    assert [f["i"] for f in data["filters"]] == [[]] * 4
    assert (data["names"], data["pictures"]) == ([], [])


def test_page_repeats_to_the_byte(tmp_path: Path) -> None:
    assert write_page(tmp_path / "a") == write_page(tmp_path / "b")


def test_missing_value_in_the_template_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="Audit"):
        render_page({}, [], [{"name": "x"}], {})


def test_facts_of_the_layer_card(tmp_path: Path) -> None:
    part = make_part(tmp_path / "part")
    explainer = json.loads((part.explainer / "explainer.json").read_text())
    write_json(part.explainer / "explainer.json", {**explainer, "held_out": ["a", "b", "c"]})
    text = " ".join(parse(write_page(tmp_path, [part])).text.split())
    assert f"of 4 filters of {LAYER} (4 x 4 x 5) explained; 1 never above" in text
    assert "2 categories trained on, 3 held out" in text


# ---------------------------------------------------------------- outlines


def points_of(path: str) -> list[list[tuple[float, float]]]:
    """Closed strokes of an SVG path, as (x, y)."""
    assert re.fullmatch(r"(M\d+ \d+(L\d+ \d+)+Z)*", path)
    strokes = [s.removesuffix("Z").split("L") for s in path.split("M")[1:]]
    return [[(float(p.split()[0]), float(p.split()[1])) for p in s] for s in strokes]


def fill(path: str, grid: int = 64) -> AnyArray:
    """Pixels inside an odd number of strokes."""
    inside = np.zeros((grid, grid), bool)
    for stroke in points_of(path):
        inside ^= polygon2mask((grid, grid), [(y - 0.5, x - 0.5) for x, y in stroke])
    return inside


def test_outline_of_a_known_square() -> None:
    """Cells 2..3 x 1..2 of an 8 x 8 map; half way between the centres of cells lies on the cells' borders."""
    map_hw = np.zeros((8, 8), np.float32)
    map_hw[2:4, 1:3] = 1
    (stroke,) = points_of(outline_region(map_hw, 0.5))
    x, y = np.array(stroke).T
    assert (x.min(), x.max()) == pytest.approx((8, 24), abs=1)
    assert (y.min(), y.max()) == pytest.approx((16, 32), abs=1)


def test_outline_of_a_square_at_the_border_is_closed_there() -> None:
    map_hw = np.zeros((8, 8), np.float32)
    map_hw[:2, 6:] = 1
    (stroke,) = points_of(outline_region(map_hw, 0.5))
    x, y = np.array(stroke).T
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((48, 64, 0, 16), abs=1)


def test_outline_of_the_whole_map_is_its_frame() -> None:
    (stroke,) = points_of(outline_region(np.full((4, 4), 5, np.float32), 1.0))
    x, y = np.array(stroke).T
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 64, 0, 64)
    assert fill(outline_region(np.full((4, 4), 5, np.float32), 1.0)).mean() > 0.97


@pytest.mark.parametrize("threshold", [1.0, 2.0, 0.0])
def test_outline_of_no_region_is_empty(threshold: float) -> None:
    assert outline_region(np.zeros((4, 4), np.float32), threshold) == ""
    assert outline_region(np.full((4, 4), threshold, np.float32), threshold) == ""


@pytest.mark.parametrize("seed", range(4))
def test_outline_encloses_the_upsampled_region(seed: int) -> None:
    """Signed maps, holes and several parts."""
    map_hw = np.random.default_rng(seed).normal(size=(6, 7)).astype(np.float32)
    for threshold in (-0.7, 0.0, 0.8):
        region = upsample_with_torch(map_hw, 64) > threshold
        assert np.mean(fill(outline_region(map_hw, threshold)) == region) > 0.96
