"""What the page says of classes, causes and groups, from files in the formats of the stages that make them."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from lavise.configs.registry import RANKINGS
from lavise.configs.schema import ReportSettings
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.models.classifier_head import NO_LOGITS
from lavise.storage.words.word_kinds import WORD_KINDS
from lavise.tasks.activations.thresholds import bin_edges, count_high_bytes
from lavise.tasks.analyses.analysis import list_analyses
from lavise.tasks.report.chart_files import write_figures
from lavise.tasks.report.filter_entries import (
    TARGET,
    LayerPart,
    describe_filters,
    number_images,
    read_layer,
    spread_histogram,
)
from lavise.tasks.report.page import render_page, write_report
from lavise.tasks.report.pictures import LARGE_PER_FILTER, EncodedImages, ImageBook, ReportImages
from lavise.tasks.report.sections.bias import describe_bias, list_bias_images
from lavise.tasks.report.sections.causes import describe_causes
from lavise.tasks.report.sections.classes import describe_classes, number_class_images
from lavise.tasks.report.sections.common import make_anchor, make_chart
from lavise.tasks.report.sections.concepts import DescribedConcepts, describe_concepts, make_view
from lavise.tasks.report.sections.quality import describe_quality
from lavise.tasks.report.sections.section import describe_sections
from lavise.tasks.report.short_numbers import shorten
from lavise.tasks.report.word_reasons import describe_lack, describe_why
from lavise.tasks.words.preferred_words import find_preferred_words
from lavise.tasks.words.ranking import Ranking
from tests.unit.tasks.analyses.explained_layer import SmallLayer, make_layer
from tests.unit.tasks.classifiers import NUM_FILTERS, names
from tests.unit.tasks.helpers import make_model, write_store
from tests.unit.tasks.report_fixtures import GEOMETRY, KINDS, MARKUP, make_rich_part, write_bias

NO_CONCEPTS = DescribedConcepts([], [], [])
KEYS = [f"{i:02d}.png" for i in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layer")


@pytest.fixture(scope="module")
def part(folder: Path) -> LayerPart:
    return make_rich_part(folder / "part", KEYS)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(None, 3, None), (float("nan"), 3, None), (float("inf"), 3, None), (0.123456, 3, 0.123), (12345.678, 4, 12350),
     (7, 1, 7), (0.0, 3, 0), (-0.00012345, 2, -0.00012), (1e300, 3, 1e300)],
)  # fmt: skip
def test_numbers_are_short_and_json_can_hold_them(value: float | None, digits: int, expected: float | None) -> None:
    assert shorten(value, digits) == expected
    json.dumps(shorten(value, digits), allow_nan=False)


def test_anchor_is_encoded_for_an_address() -> None:
    assert make_anchor('a"b<c>/é 1', 7) == "#filter-a%22b%3Cc%3E%2F%C3%A9%201-7"


# ---------------------------------------------------------------- histogram


@pytest.mark.parametrize("signed", [False, True], ids=["rectified", "signed"])
def test_histogram_is_near_that_of_the_activations(tmp_path: Path, signed: bool) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(40, 1, 16, 16)) if signed else np.maximum(rng.normal(1, 2, size=(40, 1, 16, 16)), 0)
    store = write_store(tmp_path, maps)
    counts = sum(count_high_bytes(store.shard_path(s)) for s in range(store.num_shards))
    values = maps.astype(np.float16).astype(np.float64).ravel()
    found = spread_histogram(np.asarray(counts)[0], float(values.max()), 12)
    assert found is not None
    low, high, spread = found
    assert high == pytest.approx(values.max(), rel=1e-3)
    assert low <= values.min()
    assert sum(spread) == pytest.approx(len(values), abs=12)
    exact = np.histogram(values, 12, (low, high))[0]
    # A bin of the upper byte is up to a quarter of its value wide: counts move to neighbours, not further.
    assert np.abs(np.cumsum(spread) - np.cumsum(exact)).max() < 0.06 * len(values)
    assert np.abs(np.array(spread) - exact).sum() < 0.25 * len(values)


def test_histogram_of_zeros_has_them_in_the_first_bin() -> None:
    counts = np.zeros(256, np.int64)
    edges = bin_edges()
    counts[128] = 900  # zeros
    two = int(np.flatnonzero(edges == 2.0)[0])
    counts[two] = 100
    assert spread_histogram(counts, 2.25, 9) == [0, 2.25, [900, *[0] * 7, 100]]


def test_constant_filter_has_no_histogram() -> None:
    counts = np.zeros(256, np.int64)
    assert spread_histogram(counts, 0.0) is None
    counts[128] = 50
    assert spread_histogram(counts, 0.0) is None


# ---------------------------------------------------------------- entries of filters


def test_entries_of_filters(part: LayerPart) -> None:
    tables, book = read_layer(part, 6), ImageBook()
    number_images([tables], [("train", KEYS[0])], book)
    found = describe_filters(2, tables, book)
    assert len(found.entries) == len(found.rest) == 24
    assert book.addresses[book.num_large - 1] == ("train", KEYS[0])
    for entry, rest in zip(found.entries, found.rest, strict=True):
        assert entry["l"] == 2
        assert all(i[0] < book.num_large for i in entry["i"])
        assert len(entry["i"]) <= LARGE_PER_FILTER
        assert (entry["j"], rest["j"]) == ((None, None) if entry["f"] % 2 else (entry["f"] / 40, [5, *_scores(entry)]))
    first, dead = found.rest[0], found.rest[23]
    assert (dead["i"], dead["h"], dead["g"]) == ([], [], None)
    # Contributions of all classes, not only the ten filters that a class lists.
    with np.load(part.analyses["classes"] / "contributions.npz") as arrays:
        contribution = arrays["contribution"]
    own = contribution[:, 0]
    assert [c[1] for c in first["c"]] == [pytest.approx(v, rel=0.01) for v in sorted(own[own > 0], reverse=True)]
    best = int(own.argmax())
    assert first["c"][0][4] == int((contribution[best] > own[best]).sum()) + 1
    assert first["a"] == [0, 0, [[MARKUP, -0.3], ["teapot", -0.1]]]
    assert first["u"] == [[MARKUP, 0]]
    assert [row[8] for row in first["b"]] == ["differs"]
    assert found.rest[3]["b"] == []
    assert [[m[0], m[2]] for m in found.rest[3]["m"]] == [[0.6, [0, 2, 4]], [0.4, [1, 3, 5]]]


def _scores(entry: Mapping[str, Any]) -> list[float]:
    return [entry["f"] / 40, shorten(entry["f"] / 80, 3)]


def test_layer_without_the_other_stages(part: LayerPart) -> None:
    bare = replace(part, analyses={}, histogram=None)
    assert describe_sections([(bare.layer, bare.analyses)]) == []
    tables, book = read_layer(bare, 6), ImageBook()
    number_images([tables], [], book)
    for rest in describe_filters(0, tables, book).rest:
        assert (rest["g"], rest["c"], rest["a"], rest["u"], rest["b"]) == (None, [], None, [], [])


# ---------------------------------------------------------------- sections


def test_classes_lean_on_their_first_filters(part: LayerPart) -> None:
    found = describe_classes(part.layer, part.analyses["classes"])
    assert [c["name"] for c in found["shown"]][:2] == [MARKUP, "teapot"]
    rows = parquet.read_table(part.analyses["classes"] / "classes.parquet").to_pylist()
    own = [r["filter"] for r in rows if r["class"] == 11]
    assert [lean.filter for lean in found["shown"][1]["leans"]] == own[:5]
    # Of six examples four are shown, without those that the page's data set has not.
    number_class_images(found, {(TARGET, key): n for n, key in enumerate(KEYS) if n != 2}.get)
    assert [c["pictures"] for c in found["shown"][:2]] == [[0, 1, 3], [1, 3, 4]]
    assert found["shown"][1]["anchor"] == make_anchor(part.layer, 11).replace("#filter-", "class-")
    assert [r["rank"] for r in found["shown"][1]["rows"]] == list(range(1, 11))
    assert found["highest"] == max(abs(r["contribution"]) for r in rows)


def test_concepts_are_counted_by_kind_and_layer(part: LayerPart) -> None:
    """Two layers, against loops over their tables; the second has no filter but the first eight."""
    tables = read_layer(part, 6)
    second = replace(tables, part=replace(part, layer="other"), filters=tables.filters[:8])
    found = describe_concepts([tables, second])
    rows = [[f for f in layer.filters if f["words"]] for layer in (tables, second)]
    assert found.layers == [part.layer, "other"]
    assert [kind.name for kind in found.kinds] == [k for k in WORD_KINDS if k in KINDS]
    for kind in found.kinds:
        own = [[f["words"][0] for f in layer if f["concept_kind"] == kind.name] for layer in rows]
        assert [bar.number for bar in kind.bars] == [len(words) for words in own]
        assert [bar.share for bar in kind.bars] == [len(own[0]) / 24, len(own[1]) / 8]
        listed = [(c.word, [bar.number for bar in c.bars]) for c in (*kind.first, *kind.others)]
        assert dict(listed) == {w: [words.count(w) for words in own] for w in own[0]}
        assert len(listed) == kind.num_words
        assert [-sum(n) for _, n in listed] == sorted(-sum(n) for _, n in listed)
    assert [bar.number for bar in found.unexplained] == [4, 1]
    bars = [bar.length for kind in (*found.kinds, found) for bar in getattr(kind, "bars", found.unexplained)]
    assert max(bars) == 1


def test_a_concept_leads_to_its_view() -> None:
    assert make_view("hot dog") == "#view?query=%22hot+dog%22&show=explained"
    assert make_view('a"b&#') == "#view?query=a%22b%26%23&show=explained"


def test_no_layer_has_a_concept(part: LayerPart) -> None:
    tables = read_layer(part, 6)
    found = describe_concepts([replace(tables, filters=[])])
    assert (found.kinds, [bar.length for bar in found.unexplained]) == ([], [0])


@pytest.mark.parametrize(
    ("changes", "reason", "lack"),
    [
        ({"significant": True}, "", ""),
        ({"confidence": 0.39}, "", "confidence below 0.4"),
        ({"q_value": 0.02}, "", "q above 0.01"),
        ({}, "", "too few of the top pictures have it"),
        ({}, "no word", "the filter is unexplained"),
        ({"rank": 1}, "no word", "see the reason above"),
    ],
)
def test_what_words_lack(changes: dict[str, Any], reason: str, lack: str) -> None:
    word = {"significant": False, "confidence": 0.4, "q_value": 0.01, "rank": 2, **changes}
    assert describe_lack(word, reason, {"confidence": 0.4, "q_value": 0.01}) == lack
    assert describe_lack(word, reason, {}) == ""


def test_pictures_for_and_against_a_word() -> None:
    row = {
        "words": ["dog", "cat"],
        "guess": "",
        "top_has_word": [True, False, True],
        "num_with_word": 9,
        "num_with_word_above": 4,
        "silent_images": ["gone", *"abcde"],
        "silent_peaks": [0.0, 0.12345, 1, 2, 3, 4],
    }
    numbers = {key: n for n, key in enumerate("abcde")}
    silent = [[0, 0.123], [1, 1], [2, 2], [3, 3]]
    assert describe_why(row, 2, numbers.get) == ["dog", [1, 0], 2, 3, 9, 4, silent]
    guessed = {**row, "words": [], "guess": "fox"}
    assert describe_why(guessed, 2, numbers.get) == ["fox", [1, 0], 2, 3, 9, 4, silent]
    assert describe_why({**row, "words": []}, 2, numbers.get) is None
    assert describe_why({**row, "top_has_word": []}, 2, numbers.get) is None


def test_words_that_are_used_come_first(part: LayerPart) -> None:
    found = describe_causes(part.layer, part.analyses["causes"])
    assert [r["used"] for r in found["rows"]] == [True] * 3 + [False] * 2
    assert [r["own_logit"] for r in found["rows"][:3]] == [-2.0, -1.5, -1.0]
    assert (found["num_used"], found["has_masks"], found["has_accuracy"]) == (3, True, True)
    assert found["rows"][0]["changes"] == [[MARKUP, -0.5, 0], ["teapot", -0.2, None]]


def test_groups_that_differ_come_first_and_have_pictures(part: LayerPart, tmp_path: Path) -> None:
    table = parquet.read_table(part.analyses["bias"] / "bias_filters.parquet")
    rows = table.to_pylist()[::-1]
    (tmp_path / "bias").mkdir()
    for path in part.analyses["bias"].iterdir():
        (tmp_path / "bias" / path.name).write_bytes(path.read_bytes())
    parquet.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "bias" / "bias_filters.parquet")
    found = describe_bias(part.layer, tmp_path / "bias")
    assert [r["filter"] for r in found["filters"]][:4] == [0, 1, 2, 3]
    assert [r["filter"] for r in found["with_pictures"]] == [0, 1, 2]
    assert list_bias_images(found)[:4] == [("target", KEYS[i]) for i in (0, 1, 4, 5)]
    assert len(found["charts"]) == 1
    assert MARKUP in found["charts"][0]["alt"]


def test_chart_for_a_dark_page_has_other_colours() -> None:
    chart = make_chart(b'<?xml version="1.0"?><svg width="1"><path style="fill: #3b76c4"/></svg>', "x")
    light, dark = (base64.b64decode(chart[k].partition(",")[2]).decode() for k in ("light", "dark"))
    assert "#3b76c4" in light
    assert "#3b76c4" not in dark
    assert '<svg fill="#e6e9ed" width' in dark


# ---------------------------------------------------------------- the page


def test_groups_of_another_data_set_bring_their_own_pictures(part: LayerPart, tmp_path: Path) -> None:
    """Also where the two data sets have pictures of the same name, and where one has gone from its list."""
    bias = write_bias(tmp_path / "bias", part.layer, 24, KEYS, images="train")
    colours = {"target": (250, 10, 10), "train": (10, 10, 250)}
    data = {}
    for name, colour in colours.items():
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
        keys = KEYS if name == "target" else KEYS[1:]
        data[name] = Dataset(name, tuple(ImageRecord(key, tmp_path / f"{name}.png") for key in keys))
    own = replace(part, analyses={"bias": bias})
    settings = ReportSettings(thumbnail_px=32)
    write_report([own], ReportImages.of(GEOMETRY, data), {"Audit": "x"}, settings, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    contents = [c for text in re.findall(r'id="pictures-\d+">(.*?)</script>', page) for c in json.loads(text)[1]]
    numbers = [int(n) for n in re.findall(r'data-picture="(\d+)"', page)]
    # Three filters with two pictures of each group; the first picture of the first filter is not in the list.
    assert len(numbers) == 11
    for number in numbers:
        with Image.open(io.BytesIO(base64.b64decode(contents[number]))) as picture:
            red, _, blue = np.asarray(picture.convert("RGB"), int).mean(axis=(0, 1))
        assert blue > 200 > 60 > red
    assert 'href="#classes"' not in page
    assert 'href="#bias"' in page


@pytest.mark.parametrize(("fits", "words"), [(True, "stays below"), (False, "comes as near as it can to")])
def test_smaller_pictures_are_admitted(fits: bool, words: str) -> None:
    sections: dict[str, Any] = {"layers": [], "concepts": NO_CONCEPTS, "qualities": [], "analyses": [], "diff": None}
    size = {"thumbnail_px": 144, "max_size_mb": 50.0, "bands": ""}
    page = render_page({"Audit": "x"}, sections, {}, [], {**size, "encoded": EncodedImages([], 108, 58, False, fits)})
    text = " ".join(page.split())
    assert "Pictures are 108 px (the first four of each filter) and 58 px wide or high instead of 144 px" in text
    assert f"{words} 50 MB" in text
    full = render_page({"Audit": "x"}, sections, {}, [], {**size, "encoded": EncodedImages([], 144, 144, True, True)})
    assert "instead of" not in full


def test_charts_are_files_too(part: LayerPart, tmp_path: Path) -> None:
    write_figures([part], tmp_path)
    found = sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert found == sorted(f"{part.layer}-{n}.png" for n in ("bias", "causes", "classes", "panel", "recall"))
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 100


def test_the_ranking_says_how_words_are_explained(part: LayerPart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RANKINGS, "_entries", dict(RANKINGS._entries))
    RANKINGS.register("toy")(Ranking(find_preferred_words, by_preference=True))
    found = describe_quality(part)
    size = {"thumbnail_px": 144, "max_size_mb": 50.0, "bands": "", "encoded": EncodedImages([], 144, 144, True, True)}

    def render(rule: str) -> str:
        quality = {**found, "calibration": {**found["calibration"], "rule": rule}}
        sections = {"layers": [], "concepts": NO_CONCEPTS, "qualities": [quality], "analyses": [], "diff": None}
        return render_page({"Audit": "x"}, sections, {}, [], size)

    assert ["are what a filter prefers" in render(rule) for rule in ("auroc", "toy", "evidence")] == [True, True, False]
    assert "say what the regions of the filter's top pictures have in common" in render("evidence")


# ---------------------------------------------------------------- classifiers that are no softmax


def render_analyses(layer: SmallLayer, folder: Path) -> str:
    """The page's sections of classes and causes, of what their stages make of a layer."""
    folders = {}
    for analysis in (a for a in list_analyses() if a.name in ("classes", "causes")):
        folders[analysis.name] = folder / analysis.name
        folders[analysis.name].mkdir(parents=True)
        analysis.compute(analysis.inputs(layer), folders[analysis.name])
    size = {"thumbnail_px": 144, "max_size_mb": 50.0, "encoded": EncodedImages([], 144, 144, True, True), "bands": ""}
    analyses = describe_sections([("act", folders)])
    sections = {
        "layers": [],
        "concepts": NO_CONCEPTS,
        "qualities": [],
        "analyses": analyses,
        "diff": None,
    }
    return render_page({"Audit": "x"}, sections, {}, [], size)


def test_answers_of_a_multi_label_classifier_are_kept_lost_and_gained(tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "state", model={"arch": "small", "head": "sigmoid"})
    hostile = replace(layer, class_names=names(MARKUP, "cat, kitten", "dog", "ray", "cock"))
    page = render_analyses(hostile, tmp_path / "found")
    facts = json.loads((tmp_path / "found" / "causes" / "causes.json").read_text("utf-8"))
    rows = parquet.read_table(tmp_path / "found" / "causes" / "causes.parquet").to_pylist()
    assert page.count("Each class is asked about by itself: ") == 2
    assert f"{facts['num_answers']} answers above a probability of 0.5" in page
    assert "Answers kept" in page
    assert "Answers changed" not in page
    assert MARKUP not in page
    for row in rows:
        assert f'data-label="Lost, gained">{row["num_lost"]}, {row["num_gained"]}</td>' in page
    assert any(row["num_lost"] or row["num_gained"] for row in rows)


def test_a_network_without_a_table_of_logits_is_skipped_with_the_reason(tmp_path: Path) -> None:
    """A map per picture, as a network gives that segments."""
    layer = make_layer(tmp_path / "state")
    dense = make_model(torch.nn.Sequential(OrderedDict(act=torch.nn.Conv2d(3, NUM_FILTERS, 3))), size_px=16)
    page = render_analyses(replace(layer, model=dense, head=(None, NO_LOGITS)), tmp_path / "found")
    assert page.count("Skipped: the network&#39;s output is no table of class logits.") == 2
    assert "0 of 0 words" not in page


def test_expected_words_stand_with_their_outcome_and_as_text(tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "state", expect={"must": ["cat", MARKUP], "must_not": ["sky"]})
    expect = next(a for a in list_analyses() if a.name == "expect")
    (tmp_path / "expect").mkdir()
    assert expect.compute(expect.inputs(layer), tmp_path / "expect") == {
        "num_words": 3,
        "num_met": 1,
        "num_broken": 1,
        "num_unclear": 1,
    }
    sections = describe_sections([("act", {"expect": tmp_path / "expect"})])
    size = {"thumbnail_px": 144, "max_size_mb": 50.0, "encoded": EncodedImages([], 144, 144, True, True), "bands": ""}
    values = {"layers": [], "concepts": NO_CONCEPTS, "qualities": [], "analyses": sections, "diff": None}
    page = render_page({"Audit": "x"}, values, {}, [], size)
    assert "Of 3 expected words: 1 met, 1 broken, 1 that cannot be told." in page
    assert '<b>must not: <bdi>sky</bdi></b> &middot; <span class="verdict-broken">broken</span>' in page
    assert '<a href="#filter-act-0">0</a>, <a href="#filter-act-2">2</a>' in page
    assert MARKUP not in page
