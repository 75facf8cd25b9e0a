"""Pictures for people who do not open the report: PNG files with the same bytes for the same input."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from storage.geometry import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tasks.calibration import Reliability

_DPI = 100
_MAX_LINE, _MAX_LAYER = 90, 30
_TEXT_WIDTH, _SMALLEST_SIZE = 2.4, 5.0
_STATUS_COLOURS = {"same": "#4c9f70", "changed": "#e0a030", "lost": "#c0504d", "new": "#3b76c4"}


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


def draw_diff(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Mapping[str, Any]]) -> bytes:
    """What changed, per layer: shares of filters by status, and how alike the matched filters are; PNG.

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
    return _to_png(figure)


def draw_reliability(reliability: Reliability) -> bytes:
    """How often statements of each confidence are right, on concepts left out of the fit, and how many there are; PNG.

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
    return _to_png(figure)


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


@contextmanager
def _boxes_for_missing_glyphs() -> Iterator[None]:
    """A script that the font lacks is drawn as boxes, without a warning for each of its characters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
