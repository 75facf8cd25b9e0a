"""The report: data is text and never markup, the policy fits the page, outlines lie where the region is."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from jinja2 import UndefinedError
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from lavise.configs.schema import DiffSettings, ExplainSettings, ReportSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.storage.state.files import write_json
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.layer_maps import LayerMaps
from lavise.tasks.engine.computing import Computing
from lavise.tasks.evaluation.layer_panel import save_panel
from lavise.tasks.evaluation.recall import save_evaluation
from lavise.tasks.explainer.naming import Namer
from lavise.tasks.explainer.network import Explainer, ExplainerFacts, save_explainer
from lavise.tasks.explainer.validation import VALIDATION_FILE
from lavise.tasks.report import chart_files
from lavise.tasks.report.page import (
    DiffPart,
    LayerPart,
    escape_json,
    name_review,
    render_diff_page,
    render_page,
    write_report,
)
from lavise.tasks.report.pictures import ReportImages
from lavise.tasks.report.sections import diff, quality
from lavise.tasks.words.explain import explain_filters
from lavise.tasks.words.ranking import WordTruth
from lavise.tasks.words.tables import EXPLANATIONS_SCHEMA, FILTERS_SCHEMA
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, upsample_with_torch, write_image, write_store
from tests.unit.tasks.report_fixtures import HOSTILE, evaluation_of, fill_outline, panel_of, validation_of

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


def images_of(reader: PageReader) -> dict[str, bytes]:
    """WebP by name, in the page's order."""
    found: dict[str, bytes] = {}
    for _, attributes, text in reader.sources:
        if str(attributes.get("id", "")).startswith("pictures-"):
            names, contents = json.loads(text)
            assert not set(names) & set(found)
            found |= {n: base64.b64decode(c, validate=True) for n, c in zip(names, contents, strict=True)}
    return found


def rest_of(reader: PageReader) -> list[dict[str, Any]]:
    """What is unpacked when filters are opened."""
    packed = [text for _, own, text in reader.sources if str(own.get("id", "")).startswith("rest-")]
    return [entry for text in packed for entry in json.loads(gzip.decompress(base64.b64decode(text, validate=True)))]


def scripts_of(reader: PageReader) -> list[str]:
    """What a browser runs."""
    return [t for tag, own, t in reader.sources if tag == "script" and own.get("type") is None]


def make_part(folder: Path, layer: str = LAYER, recall: bool = True) -> LayerPart:
    """One layer of four filters, really explained; filter 1 is dead."""
    for name in ("explained", "evaluated", "explainer", "panel", "validated"):
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
    settings = ExplainSettings(ranking="evidence", top_images=5, words_per_image=2, min_images=2)
    namer = Namer(explainer, facts, None, vocabulary, "cpu")
    explain(store, namer, settings, layer, folder / "explained")
    save_evaluation(evaluation_of(recall), folder / "evaluated")
    save_panel(panel_of(), [], folder / "panel")
    write_json(folder / "validated" / VALIDATION_FILE, validation_of())
    return LayerPart(
        layer=layer,
        shape=(4, 4, 5),
        explained=folder / "explained",
        evaluated=folder / "evaluated",
        panel=folder / "panel",
        validated=folder / "validated",
        activations=folder / "maps",
        thresholds=THRESHOLDS,
        explainer=folder / "explainer",
    )


def explain(store: ActivationStore, namer: Namer, settings: ExplainSettings, layer: str, folder: Path) -> None:
    """The first word is a category of the reference, which every filter detects."""
    judgement = WordTruth(HOSTILE[:1], np.ones((4, 1), bool), np.array([True]))
    maps = LayerMaps(store, THRESHOLDS)
    explain_filters(maps, namer, judgement, settings, layer, folder, Computing())


def write_page(
    root: Path,
    parts: Sequence[LayerPart] | None = None,
    gone: bool = False,
    diff: DiffPart | None = None,
    **changes: Any,
) -> str:
    records = []
    for i, name in enumerate(NAMES):
        path = root / "pictures" / f"{i}.png"
        if not (gone and i == 0):
            write_image(path, 40 + i, 60, seed=i)
        records.append(ImageRecord(name, path))
    settings = ReportSettings(**{"images_per_filter": 5, "thumbnail_px": 48, **changes})
    target = Dataset("target", tuple(records))
    facts = {"Audit": "test", "Target domain": HOSTILE[0], HOSTILE[1]: HOSTILE[2]}
    chosen = [make_part(root / "part")] if parts is None else parts
    info = write_report(chosen, ReportImages.of(GEOMETRY, {"target": target}), facts, settings, root, diff)
    page = (root / "report.html").read_text("utf-8")
    assert info["size_bytes"] == (root / "report.html").stat().st_size
    return page


_CHARTS = ("draw_panel", "draw_recall", "draw_reliability", "draw_diff")


@pytest.fixture(scope="module", autouse=True)
def _charts_are_drawn_once() -> Iterator[None]:
    """Most pages of these tests have the same charts: each is really drawn, but not again for every page."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in itertools.product((quality, diff, chart_files), _CHARTS):
            if hasattr(module, name):
                patch.setattr(module, name, remember(getattr(module, name)))
        yield


def remember(draw: Callable[..., bytes]) -> Callable[..., bytes]:
    drawn: dict[str, bytes] = {}

    def draw_once(*arguments: Any) -> bytes:
        key = repr(arguments)
        if key not in drawn:
            drawn[key] = draw(*arguments)
        return drawn[key]

    return draw_once


@pytest.fixture
def page(tmp_path: Path) -> str:
    return write_page(tmp_path)


# ---------------------------------------------------------------- safety


def test_hostile_names_are_text_only(page: str) -> None:
    reader = parse(page)
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("img") == len([t for t in tags if t == "picture"]) == 3
    assert len(scripts_of(reader)) == 1
    attributes = {name for _, own in reader.elements for name in own}
    assert not {a for a in attributes if a.startswith("on")}
    # They are there, as text: in the heading, and in the data.
    for text in HOSTILE:
        assert text in reader.text
    data = data_of(reader)
    assert {w[0] for f in data["filters"] for w in f["w"]} <= set(HOSTILE)
    assert set(images_of(reader)) <= set(NAMES)


def test_data_block_has_nothing_that_could_end_it(page: str) -> None:
    block = page.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(block)
    assert json.loads(block)["layers"] == [LAYER]


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
    (script,) = scripts_of(reader)
    (style,) = [text for tag, _, text in reader.sources if tag == "style"]
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"


def test_page_loads_nothing_from_elsewhere(page: str) -> None:
    reader = parse(page)
    require_self_contained(reader)
    for tag, own, text in reader.sources:
        if tag == "style":
            assert "url(" not in text
            assert "@import" not in text
        elif own.get("type") is None:
            assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|outerHTML|document\.write|eval\(", text)


def require_self_contained(reader: PageReader) -> None:
    for tag, own in reader.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not {"style", "background", "data", "action"} & own.keys(), (tag, own)
        assert tag == "img" or "src" not in own
        assert tag == "source" or "srcset" not in own
        for name in ("src", "srcset"):
            assert str(own.get(name, "data:image/svg+xml;base64,")).startswith("data:image/svg+xml;base64,")
        assert own.get("href", "#").startswith("#")  # type: ignore[union-attr]


# ---------------------------------------------------------------- content


def test_every_filter_is_in_the_page(tmp_path: Path, page: str) -> None:
    reader = parse(page)
    data, rest = data_of(reader), rest_of(reader)
    assert [f["f"] for f in data["filters"]] == [0, 1, 2, 3]
    dead = data["filters"][1]
    assert (dead["r"], dead["w"], dead["i"], dead["n"]) == ("never above its threshold", [], [], 0)
    assert len(rest) == 4
    for entry, more in zip(data["filters"], rest, strict=True):
        assert data["layers"][entry["l"]] == LAYER
        assert entry["t"] == pytest.approx(THRESHOLDS[entry["f"]], abs=1e-4)
        assert len(entry["i"] + more["i"]) == len(more["h"]) == min(5, entry["n"])
        assert len(more["w"]) == len(entry["w"])
    assert data["large"] == len({i[0] for f in data["filters"] for i in f["i"]})


def test_similar_filters_are_those_of_the_layer(page: str) -> None:
    peaks = np.random.default_rng(0).normal(size=(6, 4, 4, 5)).astype(np.float16).max(axis=(2, 3)).astype(np.float64)
    for unit, own in enumerate(rest_of(parse(page))):
        others = [u for u in (0, 2, 3) if u != unit and unit != 1]
        expected = {u: np.corrcoef(peaks[:, unit], peaks[:, u])[0, 1] for u in others}
        assert dict(own["near"]) == pytest.approx({u: r for u, r in expected.items() if r > 0}, abs=1e-3)


def test_notes_are_kept_for_the_same_words_and_for_no_others() -> None:
    facts = {"Audit": "a", "Target model": "m", "Explanation": "seed 0"}
    entry = {"l": 0, "f": 3, "c": 0.5, "g": "", "w": [["dog", 0.3], ["cat", 0.2]], "t": 1}
    name = name_review(facts, ["tail"], [entry])
    same = [
        name_review({**facts, "Explanation": "x"}, ["tail"], [entry]),
        name_review(facts, ["tail"], [{**entry, "t": 2}]),
    ]
    assert same == [name, name]
    others = [
        name_review({**facts, "Audit": "b"}, ["tail"], [entry]),
        name_review({**facts, "Target model": "n"}, ["tail"], [entry]),
        name_review(facts, ["body"], [entry]),
        *(
            name_review(facts, ["tail"], [{**entry, **own}])
            for own in ({"c": 0.4}, {"g": "cow"}, {"w": [["cat", 0.3]]})
        ),
    ]
    assert len({name, *others}) == 1 + len(others)


def test_pictures_and_outlines_are_those_of_the_filter(page: str) -> None:
    reader = parse(page)
    data, rest, names = data_of(reader), rest_of(reader), list(images_of(reader))
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 5)).astype(np.float16).astype(np.float32)
    num_checked = 0
    for entry, more in zip(data["filters"], rest, strict=True):
        if not entry["n"]:
            continue
        own = maps[:, entry["f"]]
        shown = entry["i"] + more["i"]
        top = np.argsort(-own.max(axis=(1, 2)))[: len(shown)]
        assert [names[i[0]] for i in shown] == [NAMES[i] for i in top]
        rows, columns, low, high = more["z"]
        assert (rows, columns) == (4, 5)
        for (_, peak, outline), heat, image in zip(shown, more["h"], top, strict=True):
            assert peak == pytest.approx(own[image].max(), abs=0.01)
            region = upsample_with_torch(own[image], 64) > THRESHOLDS[entry["f"]]
            assert np.mean(fill_outline(outline) == region) > 0.97
            levels = np.frombuffer(base64.b64decode(heat), np.uint8).reshape(4, 5)
            np.testing.assert_allclose(low + levels / 255 * (high - low), own[image], atol=(high - low) / 400)
            num_checked += 1
    assert num_checked > 8


def test_thumbnails_are_framed_like_the_networks_input(tmp_path: Path, page: str) -> None:
    pictures = images_of(parse(page))
    assert pictures
    for name, content in pictures.items():
        with Image.open(io.BytesIO(content)) as thumbnail:
            assert thumbnail.format == "WEBP"
            found = np.asarray(thumbnail.convert("RGB"), np.float64)
        with Image.open(tmp_path / "pictures" / f"{NAMES.index(name)}.png") as picture:
            side = 0.8 * min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            box = (left, top, left + side, top + side)
            expected = np.asarray(picture.resize((48, 48), Image.Resampling.BILINEAR, box=box), np.float64)
        assert found.shape == (48, 48, 3)
        assert np.abs(found - expected).mean() < 10


def test_picture_that_went_away_is_black(tmp_path: Path) -> None:
    pictures = images_of(parse(write_page(tmp_path, gone=True, images_per_filter=50)))
    with Image.open(io.BytesIO(pictures[NAMES[0]])) as thumbnail:
        assert np.asarray(thumbnail.convert("RGB")).max() < 4


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


def test_words_come_with_their_evidence(tmp_path: Path) -> None:
    """As it stands in the tables; what has none is there too, marked, and meanings only where there are several."""
    part = make_part(tmp_path / "part")
    filters = parquet.read_table(part.explained / "filters.parquet").to_pylist()
    words = parquet.read_table(part.explained / "explanations.parquet").to_pylist()
    first = next(w for w in words if w["filter"] == 2)
    first |= {"votes": 4, "share": 0.8, "share_low": 0.375, "share_high": 1.0, "background": 0.0625}
    first |= {"kind": "class", "auroc": 0.8125, "auroc_low": 0.75, "auroc_high": 0.875}
    first |= {"p_value": 3e-5, "q_value": 0.004, "significant": True, "confidence": 0.876, "novel": True}
    meanings = [{"share": 0.625, "words": [HOSTILE[1], "b", "c", "d"], "top_images": []}] * 2
    filters[2] |= {"explained": True, "reason": "", "words": [first["word"]], "meanings": meanings}
    parquet.write_table(pa.Table.from_pylist(filters, FILTERS_SCHEMA), part.explained / "filters.parquet")
    parquet.write_table(pa.Table.from_pylist(words, EXPLANATIONS_SCHEMA), part.explained / "explanations.parquet")
    reader = parse(write_page(tmp_path, [part]))
    data, rest = data_of(reader), rest_of(reader)
    shown = data["filters"][2]
    assert (shown["r"], shown["m"]) == ("", 2)
    assert rest[2]["m"] == [[0.625, [HOSTILE[1], "b", "c", "d"], []]] * 2
    assert shown["w"][0] == [first["word"], 0.8, 0.876, 1, 1]
    assert rest[2]["w"][0] == [4, 0.375, 1, 0.0625, 3e-05, 0.004, 0.812, 0.75, 0.875, "class", ""]
    assert [w[0] for w in shown["w"]] == [w["word"] for w in words if w["filter"] == 2]
    assert {w[4] for f in data["filters"] for w in f["w"] if w is not shown["w"][0]} == {0}
    assert [m for n, m in enumerate(r["m"] for r in rest) if n != 2] == [[]] * 3


def test_trust_is_in_the_page(page: str) -> None:
    text = " ".join(parse(page).text.split())
    assert "23 regions of the evaluation pictures have a known category" in text
    assert "hold it in 0.375 of them (mean over pictures; 0.125 if" in text
    assert "p = 5.0e-04). The explainer knows more than chance." in text
    assert "all categories: 23 regions; recall@5 0.500 [0.250, 0.750]; recall@10 0.500 [0.250, 0.750]" in text
    assert "held out categories: 4 regions; recall@5 0.500 [0.250, 0.750]" in text
    assert "on 17 evaluation pictures" in text
    body = page.partition('<table class="recall panel">')[2].partition("</table>")[0]
    heads = re.findall(r"<th scope=\"col\">(.*?)</th>", body)
    assert heads[4:] == [
        *("IoU", "Pearson, pictures", "Pearson, positions", "AUPRC, pictures", "AUPRC, positions", "F1@1", "F1@5")
    ]
    rows = re.findall(r"<tr( class=\"baseline\")?><th scope=\"row\">(.*?)</th>(.*?)</tr>", body)
    cells = [[" ".join(parse(cell).text.split()) for cell in re.findall(r"<td>.*?</td>", row[2])] for row in rows]
    # In this order, though files have their rows by name.
    assert [row[:2] for row in rows] == [("", "explained"), ("", "all filters"), (' class="baseline"', "dealt words")]
    assert cells[0][:3] == ["2", "81.2 %", "87.5 %"]
    values = [n / 8 for n in (0, 2, 1, 4, 3, 6, 7)]
    assert cells[0][3:] == [f"{v:.3f} [{v / 2:.3f}, {2 * v:.3f}]" for v in values]
    assert cells[1] == ["2", "", "50.0 %", "0.625 [0.312, 1.250]", *[""] * 6]
    assert cells[2] == ["0", *[""] * 9]


def test_explainer_that_knows_nothing_is_named(tmp_path: Path) -> None:
    part = make_part(tmp_path / "part")
    write_json(part.validated / VALIDATION_FILE, validation_of(is_valid=False))
    assert "knows no more than chance, so no filter is explained." in parse(write_page(tmp_path, [part])).text
    write_json(part.validated / VALIDATION_FILE, {"num_regions": 0, "p_value": 1.0, "is_valid": False, "recall": {}})
    assert "No region of the evaluation pictures can be judged" in parse(write_page(tmp_path, [part])).text


def test_confidence_is_shown_with_what_it_rests_on(tmp_path: Path) -> None:
    part = make_part(tmp_path / "part")
    content = json.loads((part.explained / "calibration.json").read_text("utf-8"))
    statements = content["statements"]
    page = write_page(tmp_path, [part])
    text = " ".join(parse(page).text.split())
    judged = f"{statements['num_judged']} words of filters can be judged, {statements['num_right']} are right."
    assert f"{judged} {content['calibration']['note']}." in text
    assert statements["num_judged"] > 0


def test_charts_are_there_for_light_and_dark(page: str) -> None:
    reader = parse(page)
    light = [own for tag, own in reader.elements if tag == "img"]
    dark = [own for tag, own in reader.elements if tag == "source"]
    assert [str(own["alt"]).split()[0] for own in light] == ["Figures", "Recall", "Reliability"]
    for own, other in zip(light, dark, strict=True):
        assert other["media"] == "screen and (prefers-color-scheme: dark)"
        uris = str(own["src"]), str(other["srcset"])
        assert uris[0] != uris[1]
        for uri in uris:
            drawing = base64.b64decode(uri.partition(",")[2], validate=True).decode("utf-8")
            assert drawing.startswith("<?xml")
            assert "<dc:date>" not in drawing


def test_two_layers_can_be_chosen_from(tmp_path: Path) -> None:
    page = write_page(tmp_path, [make_part(tmp_path / "one"), make_part(tmp_path / "two", layer="body.1")])
    reader = parse(page)
    assert {own.get("value") for tag, own in reader.elements if tag == "option"} >= {"", "0", "1"}
    assert f"all{LAYER}body.1" in reader.text
    data = data_of(reader)
    assert data["layers"] == [LAYER, "body.1"]
    assert [f["l"] for f in data["filters"]] == [0] * 4 + [1] * 4
    assert images_of(reader)


def test_layer_of_dead_filters_makes_a_page(tmp_path: Path) -> None:
    part = make_part(tmp_path / "part")
    (part.explained / "filters.parquet").unlink()
    store = write_store(tmp_path / "zero", np.zeros((6, 4, 4, 5)), keys=NAMES)
    explainer, facts = Explainer(4, 6, 0.1).eval(), ExplainerFacts(4, 6, 0.1, "l2", "cosine", (), (), {})
    vocabulary = make_vocabulary(3, ())
    namer = Namer(explainer, facts, None, vocabulary, "cpu")
    explain(store, namer, ExplainSettings(ranking="evidence"), LAYER, part.explained)
    reader = parse(write_page(tmp_path, [part]))
    assert [f["i"] for f in data_of(reader)["filters"]] == [[]] * 4
    assert images_of(reader) == {}


def test_page_repeats_to_the_byte(tmp_path: Path) -> None:
    assert write_page(tmp_path / "a") == write_page(tmp_path / "b")


def test_missing_value_in_the_template_is_an_error() -> None:
    sections = {"layers": [{"name": "x"}], "concepts": None, "qualities": [], "analyses": [], "diff": None}
    with pytest.raises(UndefinedError, match="Audit"):
        render_page({}, sections, {}, [], {"encoded": None})


def test_facts_of_the_layer_card(tmp_path: Path) -> None:
    part = make_part(tmp_path / "part")
    explainer = json.loads((part.explainer / "explainer.json").read_text())
    write_json(part.explainer / "explainer.json", {**explainer, "held_out": ["a", "b", "c"]})
    text = " ".join(parse(write_page(tmp_path, [part])).text.split())
    assert f"of 4 filters of {LAYER} (4 x 4 x 5) explained" in text
    assert "1 never above their threshold" in text
    assert "2 categories trained on, 3 held out" in text


# ---------------------------------------------------------------- overview.png


def read_overview(root: Path) -> AnyArray:
    with Image.open(root / "overview.png") as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def explain_all(part: LayerPart, confidence: Sequence[float]) -> LayerPart:
    """Filters with a confidence above 0 count as explained."""
    rows = parquet.read_table(part.explained / "filters.parquet").to_pylist()
    changed = [{**r, "explained": c > 0, "confidence": c} for r, c in zip(rows, confidence, strict=True)]
    parquet.write_table(pa.Table.from_pylist(changed, FILTERS_SCHEMA), part.explained / "filters.parquet")
    return part


def test_overview_shows_the_explained_filters(tmp_path: Path) -> None:
    """Of two layers, each filter with its first five pictures, the regions outlined."""
    parts = [explain_all(make_part(tmp_path / name, layer=name), (0.5, 0, 0.9, 0.5)) for name in ("one", "two")]
    write_page(tmp_path, parts)
    pixels = read_overview(tmp_path)
    assert pixels.shape == (60 + 120 * 6, 260 + 115 * 5, 3)
    yellow = (pixels[..., 0] > 180) & (pixels[..., 1] > 160) & (pixels[..., 2] < 80)
    assert not yellow[:, :245].any()
    assert all(yellow[50 + 120 * row : 170 + 120 * row, 250:].sum() > 50 for row in range(6))


def test_overview_shows_the_ten_most_confident_filters(tmp_path: Path) -> None:
    parts = [explain_all(make_part(tmp_path / str(i), layer=f"layer{i}"), (0.5, 0, 0.9, 0.5)) for i in range(4)]
    write_page(tmp_path, parts)
    assert read_overview(tmp_path).shape[0] == 60 + 120 * 10


def test_pictures_of_the_overview_are_those_of_the_filter(tmp_path: Path) -> None:
    """Framed like the network's input, the most confident filter first; what is equal, in the order of the layer."""
    write_page(tmp_path, [explain_all(make_part(tmp_path / "part"), (0.5, 0, 0.9, 0.5))])
    pixels = read_overview(tmp_path)
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 5)).astype(np.float16)
    for row, unit in enumerate((2, 0, 3)):
        qualified = np.flatnonzero(maps[:, unit].max(axis=(1, 2)) > THRESHOLDS[unit])
        top = sorted(qualified, key=lambda i: -float(maps[i, unit].max()))[:5]
        for column, image in enumerate(top):
            with Image.open(tmp_path / "pictures" / f"{image}.png") as picture:
                side = 0.8 * min(picture.size)
                left, above = (picture.width - side) / 2, (picture.height - side) / 2
                box = (left, above, left + side, above + side)
                expected = np.asarray(picture.resize((110, 114), Image.Resampling.BILINEAR, box=box), int)
            y, x = 56 + 120 * row, 250 + 115 * column
            found = pixels[y : y + 114, x : x + 110]
            # Most of it: the outline is of another colour.
            assert np.median(np.abs(found - expected)) < 10, (unit, column)


def test_regions_of_the_overview_are_those_of_the_filter(tmp_path: Path) -> None:
    """The outlines lie along the border of where the upsampled map is above the filter's threshold."""
    Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "grey.png")
    target = Dataset("target", tuple(ImageRecord(name, tmp_path / "grey.png") for name in NAMES))
    part = explain_all(make_part(tmp_path / "part"), (0, 0, 0.9, 0))
    pictures = ReportImages.of(GEOMETRY, {"target": target})
    write_report([part], pictures, {"Audit": "test"}, ReportSettings(), tmp_path)
    pixels = read_overview(tmp_path)
    yellow = (pixels[..., 0] > 180) & (pixels[..., 1] > 160) & (pixels[..., 2] < 80)
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 5)).astype(np.float16)
    top = sorted(range(6), key=lambda i: -float(maps[i, 2].max()))[:5]
    for column, image in enumerate(top):
        region = upsample_with_torch(maps[image, 2], 112) > THRESHOLDS[2]
        border = binary_dilation(region, iterations=3) & ~binary_erosion(region, iterations=3, border_value=1)
        y, x = np.nonzero(yellow[56:170, 250 + 115 * column : 360 + 115 * column])
        on_border = border[np.minimum(y * 112 // 114, 111), np.minimum(x * 112 // 110, 111)]
        assert on_border.sum() > 40, column
        assert on_border.mean() > 0.9, column


def test_overview_is_the_same_to_the_byte(tmp_path: Path) -> None:
    for name in "ab":
        write_page(tmp_path / name, [explain_all(make_part(tmp_path / name / "part"), (0.5, 0, 0.9, 0.5))])
    first, second = ((tmp_path / name / "overview.png").read_bytes() for name in "ab")
    assert first == second


def test_overview_where_nothing_is_explained_or_a_picture_went_away(tmp_path: Path) -> None:
    part = explain_all(make_part(tmp_path / "part"), (0, 0, 0.1, 0))
    write_page(tmp_path / "gone", [part], gone=True)
    assert read_overview(tmp_path / "gone").shape == (180, 835, 3)
    write_page(tmp_path / "none", [explain_all(part, (0, 0, 0, 0))])
    assert read_overview(tmp_path / "none").shape == (180, 375, 3)


# ---------------------------------------------------------------- comparison with an earlier audit


def row_of(
    status: str, old: int | None, new: int | None, similarity: float | None = None, layer: str = LAYER, **more: Any
) -> dict[str, Any]:
    """A row of diff.parquet."""
    return {
        "layer": layer,
        "status": status,
        "old_filter": old,
        "new_filter": new,
        "similarity": similarity,
        "similarity_low": None if similarity is None else similarity - 0.125,
        "similarity_high": None if similarity is None else min(similarity + 0.125, 1.0),
        "certain": True,
        "old_explained": None if old is None else True,
        "new_explained": None if new is None else True,
        "old_words": [] if old is None else ["dog", "cat"],
        "new_words": [] if new is None else ["sky", "sea"],
        "words_shared": None,
        **more,
    }


def summary_of(**changes: Any) -> dict[str, Any]:
    """What diff.json says of a layer."""
    return {
        "num_old": 4, "num_new": 4, "num_same": 1, "num_changed": 2, "num_lost": 1, "num_new_filters": 1,
        "num_moved": 0, "num_uncertain": 0, "share_kept": 0.25, "share_changed": 0.5, "share_lost": 0.25,
        "share_new": 0.25, "mean_similarity": 0.5, "words_gained": [], "words_lost": [], "num_images": 6,
        "old_layer": LAYER, **changes,
    }  # fmt: skip


def make_diff(
    rows: Sequence[Mapping[str, Any]] | None = None, summary: Mapping[str, Any] | None = None, **changes: Any
) -> DiffPart:
    """Every text in it is hostile."""
    plain = [
        row_of("same", 0, 0, 1.0),
        row_of("changed", 1, 1, 0.25, old_words=[HOSTILE[0]], new_words=[HOSTILE[1], HOSTILE[2]]),
        row_of("changed", 2, 3, 0.75, certain=False),
        row_of("lost", 3, None),
        row_of("new", None, 2, new_explained=False, new_words=[]),
    ]
    found = summary_of(words_gained=list(HOSTILE[1:]), words_lost=[HOSTILE[0]], num_moved=1)
    part = {
        "old_run": f"run{HOSTILE[1]}",
        "old_name": f"demo, {HOSTILE[0]}",
        "old_checkpoint": "abcdef012345",
        "rows": plain if rows is None else rows,
        "summary": {LAYER: found if summary is None else summary},
        "settings": DiffSettings(same_at=0.875, related_at=0.4375),
    }
    return DiffPart(**{**part, **changes})


def table_of(page: str) -> list[list[str]]:
    """Cells of the comparison's table, as text."""
    body = page.partition('<table class="diff">')[2].partition("</table>")[0].partition("<tbody>")[2]
    return [
        [" ".join(parse(cell).text.split()) for cell in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr>.*?</tr>", body, re.S)
    ]


def pages_of(tmp_path: Path, diff: DiffPart) -> list[str]:
    """The comparison in a report, and on a page of its own."""
    heading = {"Audit": f"audit {HOSTILE[0]}", "Compared with": HOSTILE[1]}
    return [write_page(tmp_path, diff=diff), render_diff_page(heading, diff)]


def test_hostile_words_and_names_of_a_comparison_are_text_only(tmp_path: Path) -> None:
    for page in pages_of(tmp_path, make_diff()):
        reader = parse(page)
        tags = [tag for tag, _ in reader.elements]
        # The comparison's chart, and in a report those of how good the words are.
        assert tags.count("img") == (4 if 'id="data"' in page else 1)
        assert not any("alert" in script for script in scripts_of(reader))
        assert not {name for _, own in reader.elements for name in own if name.startswith("on")}
        text = " ".join(reader.text.split())
        for hostile in HOSTILE:
            assert " ".join(hostile.split()) in text
        assert f"compared with run run{HOSTILE[1]} (weights sha256 abcdef012345)" in text
        assert f"What changed since demo, {HOSTILE[0]}" in text


def test_page_of_a_comparison_has_a_policy_and_no_script(tmp_path: Path) -> None:
    report, page = pages_of(tmp_path, make_diff())
    reader = parse(page)
    assert [tag for tag, _ in reader.elements if tag == "script"] == []
    assert f"<title>lavise: audit {HOSTILE[0]}" not in page
    policies = [
        [own["content"] for _, own in parse(p).elements if own.get("http-equiv") == "Content-Security-Policy"]
        for p in (page, report)
    ]
    assert policies[0] == policies[1]
    assert len(policies[0]) == 1
    (style,) = [text for tag, _, text in reader.sources if tag == "style"]
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    assert f"style-src 'sha256-{digest}'" in str(policies[0][0])
    assert "default-src 'none'" in str(policies[0][0])


def test_chart_of_a_comparison_is_in_the_page(tmp_path: Path) -> None:
    for page in pages_of(tmp_path, make_diff()):
        reader = parse(page)
        charts = [own for tag, own in reader.elements if tag == "img" and str(own["alt"]).startswith("Numbers of")]
        assert len(charts) == 1
        drawing = base64.b64decode(str(charts[0]["src"]).partition(",")[2], validate=True)
        assert b"<svg" in drawing
        require_self_contained(reader)


def test_filters_that_are_not_the_same_the_least_alike_first(tmp_path: Path) -> None:
    for page in pages_of(tmp_path, make_diff()):
        cells = table_of(page)
        assert [row[0] for row in cells] == ["lost", "new", "changed", "changed (uncertain)"]
        numbers = [row[1:4] for row in cells]
        assert numbers == [
            ["3", "", ""],
            ["", f"2 {LAYER}", ""],
            ["1", f"1 {LAYER}", "0.250 [0.125, 0.375]"],
            ["2", f"3 {LAYER}", "0.750 [0.625, 0.875]"],
        ]
        words = [row[4:] for row in cells]
        hostile = [" ".join(text.split()) for text in (HOSTILE[0], f"{HOSTILE[1]}, {HOSTILE[2]}")]
        assert words == [["dog, cat", ""], ["", "unexplained"], hostile, ["dog, cat", "sky, sea"]]
        text = " ".join(parse(page).text.split())
        assert "All filters that are not the same." in text
        assert "on the same 6 pictures" in text
        assert "correlation of at least 0.875" in text
        assert "at least 0.4375" in text


def test_card_of_each_layer(tmp_path: Path) -> None:
    summary = {
        LAYER: summary_of(num_moved=3, words_gained=["sky", "sea"], words_lost=["dog"], num_images=5),
        "body.1": summary_of(num_same=4, num_changed=0, num_lost=0, num_new_filters=0, num_images=9),
    }
    for page in pages_of(tmp_path, replace(make_diff(), summary=summary)):
        text = " ".join(parse(page).text.split())
        assert (
            f"1 of 4 filters of {LAYER} are the same (3 at another index); 2 changed, 1 lost, 1 new."
            "Words gained: sky, sea.Words lost: dog."
        ) in text
        assert "4 of 4 filters of body.1 are the same; 0 changed, 0 lost, 0 new." in text
        assert "on the same 9 pictures" in text


def test_links_lead_to_the_filters_of_the_report(tmp_path: Path) -> None:
    """By the id that the page's script gives a filter's row: its layer, encoded for an address, and its index."""
    names = [LAYER, "layer.1_b-c", "a b/ü%41&#?"]
    rows = [row_of("changed", 0, i, i / 8, layer=name) for i, name in enumerate(names)] + [row_of("lost", 7, None)]
    report, page = pages_of(tmp_path, make_diff(rows, summary_of()))
    links = [h for tag, own in parse(report).elements if tag == "a" and (h := str(own["href"])).startswith("#filter-")]
    assert links == [
        "#filter-features%22%3E%3Cb%3E.0-0",
        "#filter-layer.1_b-c-1",
        "#filter-a%20b%2F%C3%BC%2541%26%23%3F-2",
    ]
    assert [tag for tag, _ in parse(page).elements if tag == "a"] == []


def test_long_comparison_is_cut_and_says_so(tmp_path: Path) -> None:
    rows = [row_of("changed", i, i, 0.5 - i / 10_000) for i in range(350)]
    page = render_diff_page({"Audit": "x"}, make_diff(rows))
    cells = table_of(page)
    assert len(cells) == 300
    assert [row[1] for row in cells] == [str(i) for i in range(349, 49, -1)]
    assert "The 300 least alike of 350 filters that are not the same; all are in diff.parquet." in parse(page).text
    exact = render_diff_page({"Audit": "x"}, make_diff(rows[:300]))
    assert "All filters that are not the same." in parse(exact).text


def test_nothing_changed(tmp_path: Path) -> None:
    summary = summary_of(num_same=4, num_changed=0, num_lost=0, num_new_filters=0)
    diff = make_diff([row_of("same", u, u, 1.0) for u in range(4)], summary, old_checkpoint="")
    for page in pages_of(tmp_path, diff):
        text = " ".join(parse(page).text.split())
        assert "Every filter is the same." in text
        assert "weights sha256 ;" not in text
        assert "(weights sha256 )" not in text
        assert '<table class="diff">' not in page


def test_report_without_an_earlier_audit_has_no_such_section(page: str) -> None:
    assert "What changed since" not in page
    assert 'id="diff-title"' not in page


def test_comparison_leaves_the_rest_of_the_report_as_it_is(tmp_path: Path) -> None:
    plain, compared = write_page(tmp_path / "plain"), write_page(tmp_path / "compared", diff=make_diff())
    first, second = parse(plain), parse(compared)
    assert data_of(first) == data_of(second)
    assert rest_of(first) == rest_of(second)
    start, end = compared.index('<section id="diff"'), compared.index("</main>")
    link = '<li><a href="#diff">What changed</a></li>'
    assert (compared[:start] + compared[end:]).replace(link, "").split() == plain.split()
    assert write_page(tmp_path / "again", diff=make_diff()) == compared
