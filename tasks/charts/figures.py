"""Charts and pictures, for the report (SVG) and for people who do not open it (PNG): same input, same bytes."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lavise.storage.array_types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lavise.tasks.numerics.reliability import Reliability

_DPI = 100
_MAX_LINE, _MAX_LAYER = 90, 30
_TEXT_WIDTH, _SMALLEST_SIZE = 2.4, 5.0
_MAX_LABEL, _MAX_NAME, _MAX_FILTER = 44, 24, 18
_CLASS_ROWS, _FILTERS_OF_CLASS, _CAUSE_ROWS = 12, 3, 25
_SVG_LOCK = threading.Lock()
_ACCENT, _SECOND, _GREY = "#3b76c4", "#d9822b", "#9aa3ad"
# What a light chart is drawn with, and what takes its place on a dark page.
_DARK = {
    "#000000": "#e6e9ed",
    "#5a6472": "#a3adb9",
    "#9aa3ad": "#7d8794",
    "#dfe3e8": "#39414b",
    "#b8c9e0": "#3d5675",
    "#3b76c4": "#6ba4ea",
    "#d9822b": "#eda050",
    "#ffffff": "#14171b",
}
_STATUS_COLOURS = {"same": "#4c9f70", "changed": "#e0a030", "lost": "#c0504d", "new": "#3b76c4"}


PNG, SVG = "png", "svg"
"""How a chart is written: on white, or on nothing (see `darken`)."""


@dataclass(frozen=True)
class ShareRow:
    """One line of `draw_shares`; shares are in 0..1."""

    label: str
    share_group: float
    share_other: float
    found: bool


@dataclass(frozen=True)
class OverviewRow:
    """One filter of the overview.

    Attributes:
        title: layer and index.
        words: first words, best first.
        pictures: uint8 [S, S, 3] each.
        heights: float32 [S, S] each: the upsampled map less the threshold, positive inside the region.
    """

    title: str
    words: Sequence[str]
    pictures: Sequence[npt.NDArray[np.uint8]]
    heights: Sequence[FloatArray]


def draw_overview(rows: Sequence[OverviewRow], heading: str) -> bytes:
    """Filters with their words and top pictures, the region outlined; PNG."""
    columns = max((len(r.pictures) for r in rows), default=1)
    figure = _make_figure(2.6 + 1.15 * columns, 0.6 + 1.2 * max(len(rows), 1))
    _write(figure, 0.01, 1 - 0.25 / figure.get_figheight(), heading, weight="bold", size=11)
    if not rows:
        _write(figure, 0.01, 0.3, "no filter is explained", size=10)
    height = 1.2 / figure.get_figheight()
    for number, row in enumerate(rows):
        bottom = 1 - 0.5 / figure.get_figheight() - (number + 1) * height
        _write_beside(figure, bottom + 0.62 * height, row.title, 9)
        _write_beside(figure, bottom + 0.38 * height, ", ".join(row.words[:1]), 10, weight="bold")
        _write_beside(figure, bottom + 0.18 * height, ", ".join(row.words[1:4]), 8, color="#5a6472")
        for column, (picture, above) in enumerate(zip(row.pictures, row.heights, strict=True)):
            left = (2.5 + 1.15 * column) / figure.get_figwidth()
            box = (left, bottom, 1.1 / figure.get_figwidth(), 0.95 * height)
            axes: Axes = figure.add_axes(box)
            axes.imshow(picture)
            if above.max() > 0 > above.min():
                axes.contour(above, levels=[0], colors="#ffe600", linewidths=1.2)
            axes.set_axis_off()
    return _to_png(figure)


def draw_diff(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Mapping[str, Any]], kind: str = PNG) -> bytes:
    """What changed, per layer: shares of filters by status, and how alike the matched filters are.

    Args:
        rows: of diff.parquet.
        summary: by layer, of diff.json.
    """
    figure = _make_figure(8, 0.8 + 2.2 * max(len(summary), 1))
    grid = figure.add_gridspec(
        max(len(summary), 1), 2, width_ratios=(1, 1.3), left=0.08, right=0.98, hspace=0.7, wspace=0.25,
        top=1 - 0.5 / figure.get_figheight(), bottom=0.5 / figure.get_figheight(),
    )  # fmt: skip
    for number, (layer, found) in enumerate(summary.items()):
        own = [r for r in rows if r["layer"] == layer]
        left: Axes = figure.add_subplot(grid[number, 0])
        name = _to_plain(layer)[-_MAX_LAYER:]
        names = list(_STATUS_COLOURS)
        counts = [found["num_same"], found["num_changed"], found["num_lost"], found["num_new_filters"]]
        bars = left.barh(names[::-1], counts[::-1], color=[_STATUS_COLOURS[n] for n in names[::-1]])
        left.bar_label(bars, padding=3, fontsize=8)
        left.set_xlim(0, 1.18 * max(*counts, 1))
        left.set_title(f"{name}: filters", fontsize=9, parse_math=False)
        right: Axes = figure.add_subplot(grid[number, 1])
        bins = np.linspace(min([-0.2, *(r["similarity"] or 0.0 for r in own)]), 1, 41)
        parts = [[r["similarity"] for r in own if r["status"] == s and r["similarity"] is not None] for s in names[:2]]
        right.hist(parts, bins=list(bins), stacked=True, color=[_STATUS_COLOURS[n] for n in names[:2]])
        right.set_yscale("symlog")
        right.set_title("correlation of matched filters", fontsize=9)
        for axes in (left, right):
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    return _to_bytes(figure, kind)


def draw_reliability(reliability: Reliability, kind: str = PNG) -> bytes:
    """How often statements of each confidence are right, on concepts left out of the fit, and how many there are.

    On the diagonal confidence can be taken at its word. Bars are 95 % intervals; a dot's area grows with its count.
    """
    figure = _make_figure(5.2, 6.2)
    grid = figure.add_gridspec(2, 1, height_ratios=(3.4, 1), left=0.13, right=0.96, top=0.85, bottom=0.08, hspace=0.1)
    upper: Axes = figure.add_subplot(grid[0])
    lower: Axes = figure.add_subplot(grid[1])
    _write(figure, 0.03, 0.965, "Are confident words right?", weight="bold", size=12)
    if not reliability.count:
        facts = "no statement can be judged"
    else:
        facts = (
            f"{reliability.count:,} statements, {reliability.base_rate:.1%} right; calibration error "
            f"{reliability.expected_calibration_error:.3f}"
        )
        verdict = "" if reliability.informative else ": no better"
        scores = f"Brier score {reliability.brier:.3f}, base rate alone {reliability.base_brier:.3f}{verdict}"
        _write(figure, 0.03, 0.897, scores, size=9, color="#5a6472")
    _write(figure, 0.03, 0.928, facts, size=9, color="#5a6472")
    upper.plot([0, 1], [0, 1], color="#9aa3ad", linewidth=1, linestyle="--", zorder=1)
    highest = max([1, *(b.count for b in reliability.bins)])
    for own in reliability.bins:
        if own.confidence is None or own.share is None or own.share_low is None or own.share_high is None:
            continue
        upper.vlines(own.confidence, own.share_low, own.share_high, color="#3b76c4", linewidth=1.5, zorder=2)
        area = 20 + 180 * own.count / highest
        upper.scatter([own.confidence], [own.share], s=area, color="#3b76c4", edgecolors="white", zorder=3)
    middles, counts = [(b.low + b.high) / 2 for b in reliability.bins], [b.count for b in reliability.bins]
    bars = lower.bar(middles, counts, width=0.9 / max(len(middles), 1), color="#b8c9e0")
    lower.bar_label(bars, labels=[f"{n:,}" if n else "" for n in counts], padding=2, fontsize=7)
    lower.set_ylim(0, 1.25 * highest)
    lower.set_yticks([])
    lower.set_xlabel("confidence", fontsize=9)
    lower.set_ylabel("statements", fontsize=9)
    upper.set_ylabel("share right", fontsize=9)
    upper.set_ylim(-0.03, 1.03)
    upper.tick_params(labelbottom=False)
    for axes in (upper, lower):
        axes.set_xlim(-0.03, 1.03)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return _to_bytes(figure, kind)


def draw_panel(panel: Mapping[str, Any], kind: str = PNG) -> bytes:
    """Figures of the panel: of the explained filters' words beside their baselines, mean and 95 % interval.

    Args:
        panel: of panel.json (see tasks.evaluation.panel).
    """
    named = [f for f in _PANEL_TITLES if any(f in row["figures"] for row in panel["rows"].values())]
    at = sorted(
        {f for row in panel["rows"].values() for f in row["figures"] if f.startswith("f1@")},
        key=lambda f: int(f.removeprefix("f1@")),
    )
    shown = [(f, _PANEL_TITLES[f]) for f in named] + [(f, f.replace("f1", "F1")) for f in at[:1]]
    first = [n for n in ("explained", "all_filters") if n in panel["rows"]]
    names = first + sorted(n for n in panel["rows"] if n not in first)
    lines = {
        title: [(name.replace("_", " "), panel["rows"][name]["figures"].get(figure)) for name in names]
        for figure, title in shown
    }
    return _draw_intervals("Words of filters against masks", lines, len(first), kind)


def draw_recall(evaluation: Mapping[str, Any], kind: str = PNG) -> bytes:
    """Recall@s of each method and baseline for each vocabulary and s: mean and 95 % interval.

    Args:
        evaluation: of evaluation.json (see tasks.evaluation.recall).
    """
    lines: dict[str, list[tuple[str, Mapping[str, float] | None]]] = {}
    num, columns = 0, 1
    for vocabulary, methods in evaluation["recall"].items():
        baselines = [m for m in methods if m in ("most_frequent_words", "random_words")]
        names = [m for m in methods if m not in baselines] + baselines
        num = len(methods) - len(baselines)
        at = sorted(next(iter(methods.values())), key=int)
        columns = len(at)
        for s in at:
            title = f"{vocabulary} vocabulary, recall@{s}"
            lines[title] = [(name.replace("_", " "), methods[name][s]) for name in names]
    return _draw_intervals("Recall of words against masks", lines, num, kind, min(columns, 3))


def draw_shares(title: str, group: str, other: str, rows: Sequence[ShareRow], kind: str = PNG) -> bytes:
    """Shares of qualified pictures in two groups, a line for each filter or word; what differs is filled."""
    figure = _make_figure(6.6, 1.15 + 0.27 * max(len(rows), 1))
    height = figure.get_figheight()
    axes: Axes = figure.add_axes((0.36, 0.45 / height, 0.6, 1 - 1.1 / height))
    _write(figure, 0.02, 1 - 0.2 / height, title, weight="bold", size=11)
    _write(
        figure, 0.02, 1 - 0.45 / height, f"blue: {_cut(group, 36)}; orange: {_cut(other, 36)}", size=9, color="#5a6472"
    )
    for place, row in enumerate(rows):
        axes.plot([row.share_group, row.share_other], [place, place], color=_GREY, linewidth=1.2, zorder=1)
        for share, colour in ((row.share_group, _ACCENT), (row.share_other, _SECOND)):
            fill = colour if row.found else "#ffffff"
            axes.scatter([share], [place], s=34, color=fill, edgecolors=colour, linewidths=1.3, zorder=2)
    axes.set_yticks(range(len(rows)), [_cut(row.label, _MAX_NAME) for row in rows], parse_math=False)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of the group's pictures above the threshold", fontsize=8)
    _calm(axes)
    return _to_bytes(figure, kind)


def draw_classes(rows: Sequence[Mapping[str, Any]], kind: str = PNG) -> bytes:
    """What the classes that are named most lean on: contribution of the first filters of each to each.

    Args:
        rows: of classes.parquet, of one layer.
    """
    named: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: (-r["num_images"], r["class"], r["rank"])):
        named.setdefault(f"{row['class_name']} ({row['num_images']})", {})[row["filter"]] = row
    chosen = list(named.items())[:_CLASS_ROWS]
    first = [r for _, own in chosen for r in own.values() if r["rank"] <= _FILTERS_OF_CLASS]
    columns = {row["filter"]: ", ".join([str(row["filter"]), *row["words"][:1]]) for row in first}
    values = [[own[u]["contribution"] if u in own else np.nan for u in columns] for _, own in chosen]
    figure = _make_figure(2.6 + 0.3 * max(len(columns), 6), 1.9 + 0.27 * max(len(chosen), 1))
    height, width = figure.get_figheight(), figure.get_figwidth()
    _write(figure, 0.02, 1 - 0.2 / height, "What classes lean on", weight="bold", size=11)
    _write(figure, 0.02, 1 - 0.45 / height, "mean contribution of a filter to the class's logit", size=9)
    if not columns:
        _write(figure, 0.02, 0.3, "nothing to show", size=10)
        return _to_bytes(figure, kind)
    box = (2.2 / width, 1.25 / height, 1 - 2.4 / width, 1 - 1.9 / height)
    axes: Axes = figure.add_axes(box)
    axes.imshow(np.array(values), cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(chosen)), [_cut(name, _MAX_NAME) for name, _ in chosen], parse_math=False)
    labels = [_cut(label, _MAX_FILTER) for label in columns.values()]
    axes.set_xticks(range(len(columns)), labels, rotation=90, parse_math=False)
    _calm(axes)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(visible=False)
    return _to_bytes(figure, kind)


def draw_causes(rows: Sequence[Mapping[str, Any]], kind: str = PNG) -> bytes:
    """How much the logit that was predicted changes without the filters of a word, beside random sets of filters.

    Args:
        rows: of causes.parquet, of one layer.
    """
    order = sorted(rows, key=lambda r: (not r["used"], r["p_value"], _own_logit(r)))[:_CAUSE_ROWS]
    figure = _make_figure(6.6, 1.15 + 0.27 * max(len(order), 1))
    height = figure.get_figheight()
    _write(figure, 0.02, 1 - 0.2 / height, "Without the filters of a word", weight="bold", size=11)
    says = "blue: used, white: not used; grey: random sets of as many filters"
    _write(figure, 0.02, 1 - 0.45 / height, says, size=9, color="#5a6472")
    axes: Axes = figure.add_axes((0.3, 0.45 / height, 0.66, 1 - 1.1 / height))
    for place, row in enumerate(order):
        if row["random_own_logit"] is not None:
            axes.scatter([row["random_own_logit"]], [place], s=22, color=_GREY, zorder=1)
        fill = _ACCENT if row["used"] else "#ffffff"
        axes.scatter([_own_logit(row)], [place], s=34, color=fill, edgecolors=_ACCENT, linewidths=1.3, zorder=2)
    axes.axvline(0, color=_GREY, linewidth=0.8)
    names = [_cut(f"{r['word']} ({r['num_filters']})", _MAX_NAME) for r in order]
    axes.set_yticks(range(len(order)), names, parse_math=False)
    axes.set_ylim(max(len(order), 1) - 0.4, -0.6)
    axes.set_xlabel("change of the predicted class's logit", fontsize=8)
    _calm(axes)
    return _to_bytes(figure, kind)


def _own_logit(row: Mapping[str, Any]) -> float:
    """On pictures with the concept, where there are any: what the word was tested on."""
    return float(row["own_logit"] if row["own_logit_with"] is None else row["own_logit_with"])


_PANEL_TITLES = {
    "iou": "IoU",
    "pearson_image": "Pearson, pictures",
    "pearson_position": "Pearson, positions",
    "auprc_image": "AUPRC, pictures",
    "auprc_position": "AUPRC, positions",
}
_Lines = Mapping[str, Sequence[tuple[str, Mapping[str, float] | None]]]


def _draw_intervals(title: str, lines: _Lines, num_judged: int, kind: str, columns: int = 3) -> bytes:
    """Small charts side by side, in each a line per row with its mean and interval.

    Args:
        lines: by title of the chart, rows of (name, {value, low, high} or None), the same names in each.
        num_judged: so many rows are what is judged, those after them are baselines.
    """
    names = [name for name, _ in next(iter(lines.values()), [])]
    columns = max(min(len(lines), columns), 1)
    deep = -(-max(len(lines), 1) // columns)
    own_height = 0.62 + 0.24 * max(len(names), 1)
    figure = _make_figure(1.75 + 2.05 * columns, 0.42 + own_height * deep)
    height, width = figure.get_figheight(), figure.get_figwidth()
    _write(figure, 0.02, 1 - 0.2 / height, title, weight="bold", size=11)
    if not lines or not names:
        _write(figure, 0.02, 0.3, "nothing can be judged", size=10)
    for number, (name, rows) in enumerate(lines.items()):
        row, column = divmod(number, columns)
        bottom = height - 0.4 - own_height * (row + 1) + 0.3
        box = ((1.75 + 2.05 * column) / width, bottom / height, 1.75 / width, (own_height - 0.58) / height)
        axes: Axes = figure.add_axes(box)
        for place, (_, cell) in enumerate(rows):
            if cell is None:
                continue
            colour = _ACCENT if place < num_judged else _GREY
            axes.hlines(place, cell["low"], cell["high"], color=colour, linewidth=1.6)
            axes.scatter([cell["value"]], [place], s=22, color=colour, zorder=3)
        axes.set_title(_cut(name), fontsize=9, loc="left", parse_math=False)
        axes.set_yticks(range(len(rows)), [_cut(n, _MAX_NAME) for n, _ in rows] if column == 0 else [""] * len(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(left=min([0.0, *(c["low"] for _, c in rows if c)]))
        _calm(axes)
    return _to_bytes(figure, kind)


def _calm(axes: Axes) -> None:
    """Small ticks, a light grid, and a frame at the bottom only."""
    axes.tick_params(labelsize=8, length=0)
    axes.grid(axis="x", color="#dfe3e8", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa3ad")


def _cut(text: str, most: int = _MAX_LABEL) -> str:
    plain = _to_plain(text)
    return plain if len(plain) <= most else plain[: most - 1] + "\u2026"


def _make_figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches: no window, no state shared with whoever else draws in this process."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text from data: no mathematics between dollar signs, nothing that is not printable, not longer than a line."""
    figure.text(x, y, _to_plain(text)[:_MAX_LINE], parse_math=False, va="center", **style)


def _write_beside(figure: Figure, y: float, text: str, size: float, **style: Any) -> None:
    """The same in the column beside the pictures: smaller where it is long, and cut off before them."""
    from matplotlib.transforms import Bbox, TransformedBbox

    column = TransformedBbox(Bbox.from_extents(0, 0, _TEXT_WIDTH / figure.get_figwidth(), 1), figure.transFigure)
    x = 0.05 / figure.get_figwidth()
    label = figure.text(
        x, y, _to_plain(text)[:_MAX_LINE], parse_math=False, va="center", size=size, clip_on=True, **style
    )
    label.set_clip_box(column)
    with _boxes_for_missing_glyphs():
        while label.get_window_extent().x1 > column.x1 and size > _SMALLEST_SIZE:
            size -= 0.5
            label.set_fontsize(size)


def _to_plain(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with _boxes_for_missing_glyphs():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _to_bytes(figure: Figure, kind: str) -> bytes:
    if kind == "png":
        return _to_png(figure)
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # The settings are the process's own, so one chart at a time. Text becomes paths: no font is asked for.
    with _SVG_LOCK, _boxes_for_missing_glyphs(), rc_context({"svg.hashsalt": "lavise", "svg.fonttype": "path"}):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return buffer.getvalue()


def darken(drawing: bytes) -> bytes:
    """An SVG chart for a dark page: every colour that a light chart is drawn with becomes its counterpart."""
    text = drawing.decode("utf-8")
    for light, dark in _DARK.items():
        text = text.replace(light, dark)
    # What has no colour of its own is text, in the root's.
    return text.replace("<svg ", f'<svg fill="{_DARK["#000000"]}" ', 1).encode("utf-8")


@contextmanager
def _boxes_for_missing_glyphs() -> Iterator[None]:
    """A script that the font lacks is drawn as boxes, without a warning for each of its characters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
