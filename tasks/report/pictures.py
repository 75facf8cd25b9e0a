"""Pictures of the report: each one once, as small as the page's size asks for; regions as outlines, maps as few cells.

Shape legend: H x W cells of a map, Y x X pixels of a picture as the network sees it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import FloatArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.input_images import COLOUR_CHANNELS, ImageSource, load_shown
from lavise.storage.images.band_images import find_shown_bands
from lavise.storage.images.geometry import Geometry, area_weights, upsample_maps
from lavise.storage.images.images import BrokenImageError
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.charts.figures import OverviewRow, draw_overview
from lavise.tasks.report.outlines import BLOCK_MAPS, outline_regions

LARGE_PER_FILTER = 4
HEAT_CELLS = 8
CHUNK_IMAGES = 32
_OVERVIEW_FILTERS, _OVERVIEW_IMAGES, _OVERVIEW_PX = 10, 5, 112
_SAMPLE = 160
_SMALLEST_PX = 24
_WEBP_EFFORT = 4
_ENCODE_THREADS, _NUMBERS_AHEAD = 2, 256
_IMAGES_READ = 16
# Share of the size asked for, of the first pictures of a filter and of the others, and WebP's quality.
_LADDER = (
    (1.0, 1.0, 80),
    (1.0, 0.8, 72),
    (1.0, 0.65, 66),
    (1.0, 0.5, 60),
    (0.85, 0.45, 55),
    (0.75, 0.4, 50),
    (0.65, 0.36, 42),
    (0.55, 0.32, 36),
    (0.45, 0.28, 30),
    (0.35, 0.25, 25),
)

Address = tuple[str, str]
"""A picture: the data set's role and the picture's key in it."""


@dataclass
class ImageBook:
    """Distinct pictures, numbered as they are first asked for; the first `num_large` are the larger ones."""

    addresses: list[Address] = field(default_factory=list)
    num_large: int = 0
    _numbers: dict[Address, int] = field(default_factory=dict)

    def add(self, role: str, key: str) -> int:
        """Its number."""
        address = (role, key)
        if address not in self._numbers:
            self._numbers[address] = len(self.addresses)
            self.addresses.append(address)
        return self._numbers[address]

    def find(self, role: str, key: str) -> int | None:
        """Its number; None where it is not in the book."""
        return self._numbers.get((role, key))

    def end_large(self) -> None:
        """What is new from here on is small."""
        self.num_large = len(self.addresses)


@dataclass(frozen=True)
class ReportImages:
    """Where the report's pictures are, and how the network sees them.

    Attributes:
        images: by role and key.
        channels: of the network's input.
        bands: that are shown, where pictures have bands (`report.bands`).
    """

    geometry: Geometry
    images: Mapping[str, Mapping[str, ImageSource]]
    channels: int = 3
    bands: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        data: Mapping[str, Dataset],
        channels: int = 3,
        bands: tuple[int, ...] | None = None,
    ) -> ReportImages:
        """Of data sets by their role."""
        images = {role: own.by_key for role, own in data.items()}
        return cls(geometry, images, channels, bands)

    def load(self, role: str, key: str, longest_px: int) -> npt.NDArray[np.uint8]:
        """uint8 [Y, X, 3], in the network's framing; black where the picture can no longer be read."""
        geometry = self.geometry.scale_to(longest_px)
        try:
            return load_shown(self.images[role][key], geometry, self.channels, self.bands)
        except BrokenImageError:
            return np.zeros((*geometry.shape, 3), np.uint8)


@dataclass(frozen=True)
class EncodedImages:
    """WebP as base64, in the order of the book.

    Attributes:
        large_px, small_px: of both kinds, the longer side.
        as_asked: nothing had to be made smaller.
        fits: within the size allowed; even the smallest pictures may not.
    """

    contents: Sequence[str]
    large_px: int
    small_px: int
    as_asked: bool
    fits: bool


def encode_images(
    book: ImageBook,
    pictures: ReportImages,
    size_px: int,
    max_bytes: float,
    progress: Progress = no_progress,
) -> EncodedImages:
    """Encode all pictures, in the network's own framing, so that outlines fit.

    The size is walked down until an estimate from a sample at even distances fits, and further if it was too low.

    Args:
        size_px: asked for, of the longer side.
        max_bytes: of all contents together.
    """
    num, num_large = len(book.addresses), book.num_large
    large, small = np.arange(num_large), np.arange(num_large, num)
    # As they lie in what they are in: a part of a table is then read once.
    places = {(role, key): place for role, own in pictures.images.items() for place, key in enumerate(own)}
    in_order = sorted(range(num), key=lambda number: (book.addresses[number][0], places[book.addresses[number]]))
    for rung, (share_large, share_small, quality) in enumerate(_LADDER):
        sizes = tuple(max(round(share * size_px), min(size_px, _SMALLEST_PX)) for share in (share_large, share_small))
        is_last = rung == len(_LADDER) - 1

        def encode(number: int, sizes: tuple[int, ...] = sizes, quality: int = quality) -> str:
            role, key = book.addresses[number]
            own_px = sizes[0] if number < num_large else sizes[1]
            return _encode(pictures.load(role, key, own_px), quality)

        if not is_last and num > 2 * _SAMPLE:
            expected = 0.0
            for group in (large, small):
                sample = group[np.unique(np.linspace(0, len(group) - 1, min(len(group), _SAMPLE)).astype(np.int64))]
                total = sum(map(len, _map_in_threads(encode, sample.tolist())))
                expected += total / max(len(sample), 1) * len(group)
            if 1.03 * expected > max_bytes:
                continue
        contents = [""] * num
        with progress("pictures", num) as bar:
            for number, content in zip(in_order, _map_in_threads(encode, in_order), strict=True):
                contents[number] = content
                bar.advance()
        fits = sum(map(len, contents)) <= max_bytes
        if fits or is_last:
            return EncodedImages(contents, sizes[0], sizes[1], rung == 0, fits)
    raise AssertionError("the last rung returns")


def _map_in_threads(encode: Callable[[int], str], numbers: Sequence[int]) -> Iterator[str]:
    """encode(number) of each, in order; pictures are decoded and shrunk by libraries that let other threads run."""
    with ThreadPoolExecutor(_ENCODE_THREADS) as pool:
        for start in range(0, len(numbers), _NUMBERS_AHEAD):
            yield from pool.map(encode, numbers[start : start + _NUMBERS_AHEAD])


def _encode(picture: npt.NDArray[np.uint8], quality: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=quality, method=_WEBP_EFFORT)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def describe_bands(channels: int, bands: tuple[int, ...] | None) -> str:
    """What is shown of pictures of bands; empty for colours."""
    if channels in COLOUR_CHANNELS:
        return ""
    shown = bands or find_shown_bands(channels)
    which = (
        f"bands {', '.join(map(str, shown))} as red, green and blue" if len(shown) == 3 else f"band {shown[0]} as grey"
    )
    return (
        f"Pictures have {channels} bands. Shown: {which}, each from its 2nd to its 98th percentile in the picture "
        "(report.bands)."
    )


# ---------------------------------------------------------------- regions and maps


def cut_maps(maps_AHW: FloatArray, cells: int = HEAT_CELLS) -> FloatArray:
    """Maps [A, H, W] at no more than cells x cells: means over equal areas; as they are where they are that small."""
    _, height, width = maps_AHW.shape
    rows = area_weights(height, 0, height, min(height, cells))
    columns = area_weights(width, 0, width, min(width, cells))
    return np.asarray(rows @ maps_AHW @ columns.T, np.float32)


def quantise_maps(maps_nhw: FloatArray) -> tuple[list[str], float, float]:
    """Maps of one filter as bytes, base64 of each, by rows: 0 is `low`, 255 is `high`.

    Returns:
        the maps, low (0, or the lowest value if that is below), high (the highest value).
    """
    low = min(0.0, float(maps_nhw.min())) if maps_nhw.size else 0.0
    high = max(low, float(maps_nhw.max())) if maps_nhw.size else low
    scaled = (maps_nhw.astype(np.float64) - low) / (high - low if high > low else 1.0)
    levels = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return [base64.b64encode(m.tobytes()).decode("ascii") for m in levels], low, high


@dataclass(frozen=True)
class DrawnPair:
    """A filter's map on a picture: SVG path of its region, and the map in few cells."""

    outline: str
    cells: FloatArray


def draw_pairs(
    store: ActivationStore,
    thresholds_C: FloatArray,
    filters: IntArray,
    images: IntArray,
    positions: IntArray,
    progress: Progress = no_progress,
) -> dict[int, DrawnPair]:
    """Some pairs (filters[p], images[p]), by position, reading each picture's maps once and drawing many together."""
    order = positions[np.argsort(images[positions], kind="stable")]
    if not len(order):
        return {}
    ends = (np.flatnonzero(np.diff(images[order], append=-1)) + 1).tolist()
    starts = [0, *ends[:-1]]
    drawn: dict[int, DrawnPair] = {}
    waiting: list[int] = []
    maps: list[FloatArray] = []
    with progress("outlines", len(ends)) as bar:
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if number % _IMAGES_READ == 0:
                block = images[order[starts[number : number + _IMAGES_READ]]]
                maps_BCHW = store.read_images(block.tolist())
            own = order[start:end]
            waiting += own.tolist()
            maps += list(maps_BCHW[number % _IMAGES_READ, filters[own]].astype(np.float32))
            while len(waiting) >= BLOCK_MAPS or (waiting and end == len(order)):
                block = np.array(waiting[:BLOCK_MAPS])
                drawn |= _draw_block(block, np.stack(maps[:BLOCK_MAPS]), thresholds_C[filters[block]])
                del waiting[:BLOCK_MAPS], maps[:BLOCK_MAPS]
            bar.advance()
    return drawn


def _draw_block(positions: IntArray, maps_AHW: FloatArray, thresholds_A: FloatArray) -> dict[int, DrawnPair]:
    drawn = zip(outline_regions(maps_AHW, thresholds_A), cut_maps(maps_AHW), strict=True)
    return {number: DrawnPair(*own) for number, own in zip(positions.tolist(), drawn, strict=True)}


# ---------------------------------------------------------------- overview.png


@dataclass(frozen=True)
class OverviewSource:
    """A layer's explained filters: rows of filters.parquet."""

    rows: Sequence[Mapping[str, Any]]
    store: ActivationStore
    thresholds: FloatArray


def draw_confident_filters(sources: Sequence[OverviewSource], pictures: ReportImages, role: str, name: str) -> bytes:
    """The most confident filters of all layers with their first pictures, of the role that the maps are of; PNG."""
    shape = pictures.geometry.scale_to(_OVERVIEW_PX).shape
    chosen = [(number, row) for number, source in enumerate(sources) for row in source.rows if row["explained"]]
    chosen.sort(
        key=lambda entry: (
            -round(entry[1]["confidence"], 2),
            -(entry[1].get("auroc") or 0.0),
            entry[0],
            entry[1]["filter"],
        )
    )
    shown = []
    positions = [{key: i for i, key in enumerate(source.store.keys)} for source in sources]
    for number, row in chosen[:_OVERVIEW_FILTERS]:
        source, unit = sources[number], row["filter"]
        keys = row["top_images"][:_OVERVIEW_IMAGES]
        maps = source.store.read_images([positions[number][k] for k in keys])[:, unit].astype(np.float32)
        title = f"{row['layer']}, filter {unit}, confidence {row['confidence']:.2f}"
        own = [pictures.load(role, key, _OVERVIEW_PX) for key in keys]
        heights = list(upsample_maps(maps - source.thresholds[unit], shape))
        shown.append(OverviewRow(title, row["words"], own, heights))
    return draw_overview(shown, f"{name}: the most confident filters")


def draw_filter(
    store: ActivationStore,
    row: Mapping[str, Any],
    images: Mapping[str, ImageSource],
    num: int,
    size_px: int,
    name: str,
    bands: tuple[int, ...] | None = None,
) -> bytes:
    """A filter's first pictures, dimmed outside its region; PNG.

    Args:
        row: of filters.parquet.
        images: of the pictures; those that are not among them are left out.
        num: of pictures; size_px: their longer side.
        name: of the audit.
        bands: that are shown, where pictures have bands.

    Raises:
        BrokenImageError: a picture that cannot be read.
    """
    position = {key: i for i, key in enumerate(store.keys)}
    keys = [key for key in list(row["top_images"])[:num] if key in images]
    framing = json.loads(store.read_provenance()["preprocessing"])
    size, channels = framing["size_px"], len(framing["mean"])
    seen = Geometry(
        size if isinstance(size, int) else (size[0], size[1]),
        framing["fit"],
        framing.get("crop_share", 1.0),
        framing["interpolation"],
    )
    geometry = seen.scale_to(size_px)
    maps = store.read_images([position[k] for k in keys])[:, int(row["filter"])].astype(np.float32)
    heights = list(upsample_maps(maps - np.float32(row["threshold"]), geometry.shape))
    pictures = [load_shown(images[k], geometry, channels, bands) for k in keys]
    title = f"{row['layer']}, filter {row['filter']}"
    return draw_overview([OverviewRow(title, list(row["words"]), pictures, heights)], name)
