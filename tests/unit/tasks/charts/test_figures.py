"""Charts: the same bytes, whatever the text; regions are outlined where they are."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lavise.tasks.charts.figures import (
    SVG,
    OverviewRow,
    ShareRow,
    darken,
    draw_causes,
    draw_classes,
    draw_diff,
    draw_overview,
    draw_panel,
    draw_recall,
    draw_reliability,
    draw_shares,
)
from lavise.tasks.numerics.reliability import measure_reliability
from tests.unit.tasks.helpers import AnyArray

HOSTILE = [
    "costs $5 or $x^2$",
    "$\\frac{$",
    "{a} {0} %s %(x)s \\alpha",
    "two\nlines\r\tand a tab",
    "\x00\x07\x1b[31mred",
    "w" * 5000,
    "日本語 🐈",
    "not UTF-8: \udc80",
    "\u202eright to left",
    "",
]
SUMMARY = {"num_same": 3, "num_changed": 2, "num_lost": 1, "num_new_filters": 0}


def read_png(content: bytes) -> AnyArray:
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        picture.load()
        return np.asarray(picture.convert("RGB")).astype(int)


def is_yellow(pixels: AnyArray) -> AnyArray:
    """Pixels of the outline, which is blended with what lies below."""
    found: AnyArray = (pixels[..., 0] > 180) & (pixels[..., 1] > 160) & (pixels[..., 2] < 80)
    return found


def make_row(height: AnyArray | None = None, title: str = "conv, filter 3", num_pictures: int = 1) -> OverviewRow:
    """A filter with grey pictures; `height` is the map less the threshold."""
    above = np.full((40, 40), -1.0) if height is None else height
    picture = np.full((40, 40, 3), 90, np.uint8)
    return OverviewRow(title, ["dog", "cat"], [picture] * num_pictures, [above.astype(np.float32)] * num_pictures)


def make_rows(similarities: Sequence[float | None], layer: str = "conv") -> list[dict[str, Any]]:
    """Rows of diff.parquet: at least 0.9 is the same, none is lost."""
    return [
        {"layer": layer, "status": "lost" if s is None else "same" if s >= 0.9 else "changed", "similarity": s}
        for s in similarities
    ]


# ---------------------------------------------------------------- overview


@pytest.mark.parametrize(
    ("num_rows", "num_pictures", "size"), [(1, 1, (375, 180)), (2, 5, (835, 300)), (10, 3, (605, 1260))]
)
def test_size_of_the_overview(num_rows: int, num_pictures: int, size: tuple[int, int]) -> None:
    pixels = read_png(draw_overview([make_row(num_pictures=num_pictures)] * num_rows, "audit"))
    assert (pixels.shape[1], pixels.shape[0]) == size


def test_rows_may_have_another_number_of_pictures() -> None:
    pixels = read_png(draw_overview([make_row(num_pictures=n) for n in (2, 0, 1)], "audit"))
    assert pixels.shape == (420, 490, 3)
    grey = (pixels == 90).all(axis=2)
    assert [int(grey[60 + 120 * i : 180 + 120 * i].sum() // 10000) for i in range(3)] == [2, 0, 1]


def test_region_is_outlined_where_it_is() -> None:
    """A square in the lower left quarter of the picture; y runs downwards, as in the picture."""
    height = np.full((40, 40), -1.0)
    height[24:36, 4:16] = 1
    pixels = read_png(draw_overview([make_row(height)], "audit"))
    grey_y, grey_x = np.nonzero((pixels == 90).all(axis=2) & (np.arange(pixels.shape[1]) > 245))
    y, x = np.nonzero(is_yellow(pixels))
    assert len(y) > 40
    top, left, side = grey_y.min(), grey_x.min(), np.ptp(grey_y) + 1
    assert np.ptp(grey_x) + 1 == pytest.approx(side, abs=1)
    found = [
        (edge - start) / side for edge, start in ((y.min(), top), (y.max(), top), (x.min(), left), (x.max(), left))
    ]
    assert found == pytest.approx([24 / 40, 36 / 40, 4 / 40, 16 / 40], abs=0.03)


def test_outline_lies_where_the_map_is_at_the_threshold() -> None:
    """A slope from -1 to 3, from left to right, is 0 after a quarter of the way."""
    slope = np.tile(np.linspace(-1, 3, 40), (40, 1))
    x = np.nonzero(is_yellow(read_png(draw_overview([make_row(slope)], "audit"))))[1]
    assert x.mean() == pytest.approx(250 + 110 * (39 / 4 + 0.5) / 40, abs=1.5)


def test_each_picture_has_its_own_region() -> None:
    left, right = np.full((40, 40), -1.0), np.full((40, 40), -1.0)
    left[:, :20] = 1
    right[:, 35:] = 1
    picture = np.full((40, 40, 3), 90, np.uint8)
    maps = [left.astype(np.float32), right.astype(np.float32)]
    pixels = read_png(draw_overview([OverviewRow("conv", ["dog"], [picture] * 2, maps)], "audit"))
    x = np.nonzero(is_yellow(pixels).sum(axis=0) > 50)[0]
    assert x[x < 365].mean() == pytest.approx(250 + 110 * 0.5, abs=2)
    assert x[x >= 365].mean() == pytest.approx(365 + 110 * 35 / 40, abs=2)


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0, "touching"])
def test_constant_map_has_no_outline(level: float | str) -> None:
    """Nor has one that only touches the threshold, or lies above it everywhere."""
    height = np.full((40, 40), 0.0 if level == "touching" else level)
    if level == "touching":
        height[5, 5] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_png(draw_overview([make_row(height)], "audit"))
    assert not is_yellow(pixels).any()
    assert (pixels == 90).all(axis=2).sum() > 10_000


def test_overview_without_filters_says_so() -> None:
    pixels = read_png(draw_overview([], "audit"))
    assert pixels.shape == (180, 375, 3)
    assert pixels[100:].min() < 100
    assert draw_overview([], "audit") != draw_overview([], "another")


def test_words_are_drawn() -> None:
    row = make_row()
    first = draw_overview([row], "audit")
    for words in (["cat", "dog"], ["dog", "cow"], ["dog"], []):
        assert draw_overview([OverviewRow(row.title, words, row.pictures, row.heights)], "audit") != first
    # Only the first four are.
    many = [draw_overview([OverviewRow("t", [*"abcd", last], row.pictures, row.heights)], "audit") for last in "ef"]
    assert many[0] == many[1]


@cache
def overview_without_text() -> AnyArray:
    row = make_row()
    return read_png(draw_overview([OverviewRow("", [], row.pictures, row.heights)] * 2, ""))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_overview_with_any_text(text: str) -> None:
    """Nothing is raised, nothing is warned of, nothing is written over the pictures."""
    plain = overview_without_text()
    row = OverviewRow(text, [text] * 5, make_row().pictures, make_row().heights)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_png(draw_overview([row, row], text))
    assert pixels.shape == (300, 375, 3)
    np.testing.assert_array_equal(pixels[60:, 245:], plain[60:, 245:])
    assert text == "" or (pixels != plain).any()


def test_text_between_dollar_signs_is_no_formula() -> None:
    """As a formula, `$x$` would be drawn without its dollar signs, and a broken one not at all."""
    assert draw_overview([make_row(title="$x$")], "a") != draw_overview([make_row(title="x")], "a")
    widths = [np.nonzero((read_png(draw_overview([make_row(title=t)], "")) < 128)[60:, :245].any(axis=(0, 2)))[0].max()
              for t in ("$" * 20, "x")]  # fmt: skip
    assert widths[0] > widths[1] + 50


def test_long_title_is_drawn_smaller() -> None:
    """The end of a title, which says which filter it is, is not cut off before it has to be."""
    base = "features.denseblock4.denselayer16.conv2, filter 11"
    first, second = (draw_overview([make_row(title=base + digit)], "audit") for digit in "23")
    assert first != second


# ---------------------------------------------------------------- chart


@pytest.mark.parametrize(("num_layers", "height"), [(1, 300), (2, 520)])
def test_size_of_the_chart(num_layers: int, height: int) -> None:
    layers = [f"layer{i}" for i in range(num_layers)]
    rows = [row for layer in layers for row in make_rows([0.95, 0.3, None], layer)]
    assert read_png(draw_diff(rows, dict.fromkeys(layers, SUMMARY))).shape == (height, 800, 3)


@pytest.mark.parametrize("similarities", [[1.0] * 3, [None], [-1.0], [0.2, None], [0.0], []], ids=str)
def test_chart_of_layers_at_their_limits(similarities: list[float | None]) -> None:
    """Nothing matched, nothing changed, or as unlike as can be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_png(draw_diff(make_rows(similarities), {"conv": SUMMARY}))
    assert pixels.shape == (300, 800, 3)


def test_bars_are_as_long_as_the_numbers() -> None:
    pixels = read_png(
        draw_diff(make_rows([None]), {"conv": {**SUMMARY, "num_same": 8, "num_changed": 4, "num_lost": 2}})
    )
    colours = {"same": (0x4C, 0x9F, 0x70), "changed": (0xE0, 0xA0, 0x30), "lost": (0xC0, 0x50, 0x4D)}
    lengths = {n: int((pixels == c).all(axis=2)[:, :400].sum(axis=1).max()) for n, c in colours.items()}
    assert lengths["same"] > 150
    assert lengths["same"] == pytest.approx(2 * lengths["changed"], abs=4)
    assert lengths["same"] == pytest.approx(4 * lengths["lost"], abs=8)
    assert not (pixels == (0x3B, 0x76, 0xC4)).all(axis=2).any()


def test_distribution_shows_matched_filters_of_its_own_layer() -> None:
    def right_half(similarities: Sequence[float | None], others: Sequence[float | None] = ()) -> AnyArray:
        rows = make_rows(similarities) + make_rows(others, "other")
        return read_png(draw_diff(rows, {"conv": SUMMARY}))[:, 420:]

    plain = right_half([0.95, 0.3, 0.3])
    np.testing.assert_array_equal(plain, right_half([0.95, None, 0.3, None, 0.3], others=[0.1, 0.99]))
    assert (plain != right_half([0.95, 0.3, 0.4])).any()
    changed = (plain == (0xE0, 0xA0, 0x30)).all(axis=2)
    same = (plain == (0x4C, 0x9F, 0x70)).all(axis=2)
    assert np.nonzero(changed)[1].max() < np.nonzero(same)[1].min()
    assert (right_half([-0.9]) == (0xE0, 0xA0, 0x30)).all(axis=2).any()


@cache
def plain_chart() -> AnyArray:
    return read_png(draw_diff(make_rows([0.95, 0.3], "x"), {"x": SUMMARY}))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_chart_of_a_layer_of_any_name(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_png(draw_diff(make_rows([0.95, 0.3], text), {text: SUMMARY}))
    assert pixels.shape == (300, 800, 3)
    np.testing.assert_array_equal(pixels[60:], plain_chart()[60:])
    np.testing.assert_array_equal(pixels[:, 400:], plain_chart()[:, 400:])


# ---------------------------------------------------------------- reliability

BLUE, LIGHT_BLUE = (0x3B, 0x76, 0xC4), (0xB8, 0xC9, 0xE0)


def draw_confidence(confidence: Sequence[float], right: Sequence[bool]) -> AnyArray:
    return read_png(draw_reliability(measure_reliability(np.array(confidence), np.array(right, dtype=bool))))


@pytest.mark.parametrize("count", [0, 1, 10_000])
def test_reliability_at_its_limits(count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = draw_confidence([0.02] * count, [False] * count)
    assert pixels.shape == (620, 520, 3)
    assert (pixels == BLUE).all(axis=2).any() == (count > 0)


def test_dots_lie_where_confidence_and_share_are() -> None:
    """The middle of the axes is the middle of four corners, whose dots are the same distance away from it."""
    corners = {}
    for confidence in (0.0, 1.0):
        for right in (False, True):
            # So many that the interval is no longer than the dot.
            y, x = np.nonzero((draw_confidence([confidence] * 10_000, [right] * 10_000) == BLUE).all(axis=2))
            corners[confidence, right] = (x.mean(), y.mean())
    left, bottom = corners[0, False]
    right_end, top = corners[1, True]
    assert right_end > left + 300
    assert bottom > top + 250
    assert corners[0, True] == pytest.approx((left, top), abs=2)
    pixels = draw_confidence([0.25] * 4000, [True] * 3000 + [False] * 1000)
    y, x = np.nonzero((pixels == BLUE).all(axis=2))
    assert x.mean() == pytest.approx(left + 0.25 * (right_end - left), abs=2)
    assert y.mean() == pytest.approx(bottom + 0.75 * (top - bottom), abs=2)


def test_few_statements_have_a_small_dot_and_a_long_interval() -> None:
    """At confidence 0.2 there are 1,000 statements, half of them right; at 0.8 four, half of them right."""
    pixels = draw_confidence([0.2] * 1000 + [0.8] * 4, [True, False] * 502)
    blue = (pixels == BLUE).all(axis=2)
    many, few = blue[:, :270], blue[:, 270:]
    assert np.ptp(np.nonzero(many)[1]) > 2 * np.ptp(np.nonzero(few)[1])
    assert np.ptp(np.nonzero(few)[0]) > 3 * np.ptp(np.nonzero(many)[0])


def test_bars_are_as_high_as_the_counts() -> None:
    pixels = draw_confidence([0.15] * 400 + [0.55] * 200 + [0.85] * 100, [True] * 700)
    heights = (pixels == LIGHT_BLUE).all(axis=2).sum(axis=0)
    found = [int(heights[a:b].max()) for a, b in ((60, 220), (220, 350), (350, 500))]
    assert found[0] > 60
    assert found[0] == pytest.approx(2 * found[1], abs=4)
    assert found[0] == pytest.approx(4 * found[2], abs=8)


def test_reliability_says_whether_confidence_is_any_good() -> None:
    """The same dots, with and without statements enough to tell: another line of text, nothing else."""
    wide = measure_reliability(np.tile([0.1, 0.9], 200), np.tile([False, True], 200))
    same = replace(wide, gain_low=-0.01)
    first, second = read_png(draw_reliability(wide)), read_png(draw_reliability(same))
    rows = np.nonzero((first != second).any(axis=(1, 2)))[0]
    assert len(rows)
    assert rows.max() < 100


# ---------------------------------------------------------------- the same bytes

_DRAW = """
import sys
import numpy as np
from lavise.tasks.words.vote_calibration import measure_reliability
from lavise.tasks.charts.figures import OverviewRow, draw_diff, draw_overview, draw_reliability

rng = np.random.default_rng(0)
pictures = list(rng.integers(0, 256, size=(2, 32, 32, 3)).astype(np.uint8))
heights = list(rng.normal(size=(2, 32, 32)).astype(np.float32))
row = OverviewRow("conv, filter 3", ["dog", "cat"], pictures, heights)
rows = [{"layer": "conv", "status": "changed", "similarity": 0.3}]
summary = {"conv": {"num_same": 3, "num_changed": 1, "num_lost": 2, "num_new_filters": 4}}
reliability = measure_reliability(rng.random(200), rng.random(200) < 0.3)
content = draw_overview([row, row], "audit") + draw_diff(rows, summary) + draw_reliability(reliability)
sys.stdout.buffer.write(content)
"""


def test_same_bytes_in_another_process() -> None:
    root = Path(__file__).resolve().parents[4]
    first, second = (
        subprocess.run([sys.executable, "-c", _DRAW], cwd=root, capture_output=True, check=True).stdout
        for _ in range(2)
    )
    assert first.count(b"\x89PNG") == 3
    assert first == second


def test_drawing_leaves_nothing_behind() -> None:
    """The second picture of a process is the first one's equal, and no figure is kept open."""
    from matplotlib import _pylab_helpers

    pictures = [
        (draw_overview([make_row()], "audit"), draw_diff(make_rows([0.5]), {"conv": SUMMARY})) for _ in range(2)
    ]
    assert pictures[0] == pictures[1]
    assert _pylab_helpers.Gcf.figs == {}


# ---------------------------------------------------------------- charts of the report

CELL = {"value": 0.5, "low": 0.25, "high": 0.75}


def make_panel(**rows: float) -> dict[str, Any]:
    figures = {n: {"iou": {"value": v, "low": v - 0.1, "high": v + 0.1}, "f1@5": CELL} for n, v in rows.items()}
    return {"rows": {name: {"figures": found} for name, found in figures.items()}}


def make_leans(text: str) -> list[dict[str, Any]]:
    """Two classes; the second leans on what the first one leans on, and on a filter of its own."""
    rows = [
        ("a" + text, 7, 9, 1, 4, 0.5),
        ("a" + text, 7, 9, 2, 5, 0.25),
        (text, 3, 2, 1, 5, 0.75),
        (text, 3, 2, 2, 6, 0.1),
    ]
    names = ("class_name", "class", "num_images", "rank", "filter", "contribution")
    return [{**dict(zip(names, row, strict=True)), "words": [text]} for row in rows]


def make_causes(text: str) -> list[dict[str, Any]]:
    base = {"word": text, "num_filters": 3, "random_own_logit": -0.25, "own_logit": -0.5, "p_value": 0.5}
    return [{**base, "used": False, "own_logit_with": None}, {**base, "used": True, "own_logit_with": -1.0}]


def draw_all(kind: str, text: str = "dog") -> list[bytes]:
    recall = {"recall": {"closed": {"original": {"5": CELL, "10": CELL}, "random_words": {"5": CELL, "10": CELL}}}}
    shares = [ShareRow(text, 0.9, 0.1, True), ShareRow(text, 0.3, 0.4, False)]
    return [
        draw_panel(make_panel(explained=0.5, dealt_words=0.2), kind),
        draw_recall(recall, kind),
        draw_shares(text, text, text, shares, kind),
        draw_classes(make_leans(text), kind),
        draw_causes(make_causes(text), kind),
        draw_reliability(measure_reliability(np.linspace(0, 1, 50), np.arange(50) % 3 == 0), kind),
        draw_diff(make_rows([0.95, 0.3], text), {text: SUMMARY}, kind),
    ]


def test_drawings_repeat_and_have_no_date() -> None:
    for first, second in zip(draw_all(SVG), draw_all(SVG), strict=True):
        assert first == second
        text = first.decode("utf-8")
        ElementTree.fromstring(text)
        assert "dc:date" not in text
        assert "<script" not in text
        dark = darken(first).decode("utf-8")
        ElementTree.fromstring(dark)
        assert not re.search(r"#(000000|3b76c4|5a6472)", dark)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "$x^2$", "w" * 300, "日本語", "\x00\x1b"], ids=ascii)
def test_drawings_of_any_text_are_sound(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawing in draw_all(SVG, text):
            tags = {e.tag for e in ElementTree.fromstring(drawing.decode("utf-8")).iter()}
            assert not [t for t in tags if "script" in t]


def test_a_mean_lies_where_it_is() -> None:
    """Twice the value is twice as far from 0; baselines are grey."""
    values = {"explained": 0.8, "all_filters": 0.4, "dealt": 0.4}
    rows = {name: {"figures": {"iou": {"value": v, "low": v, "high": v}}} for name, v in values.items()}
    pixels = read_png(draw_panel({"rows": rows}))
    blue = (pixels == BLUE).all(axis=2)
    y, x = np.nonzero(blue)
    upper, lower = x[y < np.median(y)], x[y >= np.median(y)]
    grey_x = np.nonzero((pixels == (0x9A, 0xA3, 0xAD)).all(axis=2)[: pixels.shape[0] - 40])[1]
    assert upper.mean() - 175 == pytest.approx(2 * (lower.mean() - 175), rel=0.06)
    assert np.median(grey_x) == pytest.approx(lower.mean(), abs=2)


def test_shares_lie_where_they_are() -> None:
    orange = (0xD9, 0x82, 0x2B)
    pixels = read_png(draw_shares("t", "a", "b", [ShareRow("dog", 0.75, 0.25, True), ShareRow("x", 0.0, 1.0, True)]))
    ends = [np.nonzero((pixels == c).all(axis=2)) for c in (BLUE, orange)]
    top = [np.mean(x[y < np.mean(y)]) for y, x in ends]
    bottom = [np.mean(x[y > np.mean(y)]) for y, x in ends]
    width = bottom[1] - bottom[0]
    assert top[0] == pytest.approx(bottom[0] + 0.75 * width, abs=2)
    assert top[1] == pytest.approx(bottom[0] + 0.25 * width, abs=2)


@pytest.mark.parametrize("panel", [{"rows": {}}, {"rows": {"explained": {"figures": {}}}}], ids=["none", "empty"])
def test_panel_of_nothing(panel: dict[str, Any]) -> None:
    assert read_png(draw_panel(panel)).shape[2] == 3
    assert read_png(draw_recall({"recall": {}})).shape[2] == 3
    assert read_png(draw_shares("t", "a", "b", [])).shape[2] == 3


def test_contributions_are_shaded_by_their_size() -> None:
    """Columns 4, 5, 6; the class with more pictures is on top, where 6 is empty."""
    pixels = read_png(draw_classes(make_leans("dog"))).astype(int)
    shaded = (pixels[..., 2] - pixels[..., 0]) * ((pixels[..., 2] - pixels[..., 0]) > 8)
    y, x = np.nonzero(shaded)
    rows = np.linspace(y.min(), y.max() + 1, 5)[[1, 3]].astype(int)
    columns = np.linspace(x.min(), x.max() + 1, 7)[[1, 3, 5]].astype(int)
    found = pixels[np.ix_(rows, columns)].sum(axis=2)
    assert found[0, 0] < found[0, 1] < found[0, 2] == 3 * 255
    assert found[1, 1] < found[1, 2] < found[1, 0] == 3 * 255


def test_words_that_are_used_are_filled_and_stand_left_of_their_random_sets() -> None:
    pixels = read_png(draw_causes(make_causes("dog")))
    blue, grey = (np.nonzero((pixels == c).all(axis=2)) for c in (BLUE, np.array([0x9A, 0xA3, 0xAD])))
    middle = (blue[0].min() + blue[0].max()) / 2
    used, unused = blue[0] < middle, blue[0] > middle
    assert used.sum() > 1.3 * unused.sum()
    assert blue[1][used].max() < blue[1][unused].min() < grey[1].max()


def test_nothing_to_lean_on_and_no_word_is_a_drawing_too() -> None:
    assert read_png(draw_classes([])).shape[2] == read_png(draw_causes([])).shape[2] == 3
