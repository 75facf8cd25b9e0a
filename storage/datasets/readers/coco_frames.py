"""From the pixels that labels are for to the pixels of the picture: of resized pictures, and of those EXIF turns.

Shape legend: H, W pixels that the labels are for, K corners of a polygon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lavise.configs.errors import UserError
from lavise.storage.array_types import DoubleArray
from lavise.storage.images.images import BrokenImageError, read_stored_size
from lavise.storage.state.progress import log_progress
from lavise.storage.state.text import printable

_THREADS = 8
_WAITING = 1024
_UPRIGHT = 1
_SIDEWAYS = frozenset({5, 6, 7, 8})
Pixel = TypeVar("Pixel", bound=np.generic)
Size = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """A picture's pixels beside those of its labels.

    Attributes:
        labelled: (height, width) that the labels are for.
        shown: (height, width) of the picture as it is opened.
        turn: EXIF orientation (5 to 8) that the labels have not been turned by yet; 1 where there is none.
    """

    labelled: Size
    shown: Size
    turn: int = _UPRIGHT

    @property
    def is_same(self) -> bool:
        """Nothing to do."""
        return self.labelled == self.shown and self.turn == _UPRIGHT

    def move_points(self, points_K2: DoubleArray) -> DoubleArray:
        """Corners (x, y), float64 [K, 2]."""
        height, width = self.labelled
        x, y = points_K2[:, 0], points_K2[:, 1]
        turned = {
            _UPRIGHT: (x, y),
            5: (y, x),
            6: (height - y, x),
            7: (height - y, width - x),
            8: (y, width - x),
        }[self.turn]
        high, wide = (height, width) if self.turn == _UPRIGHT else (width, height)
        return np.stack([turned[0] * (self.shown[1] / wide), turned[1] * (self.shown[0] / high)], axis=1)

    def move_box(self, box: Box) -> Box:
        """x, y, width, height."""
        x, y, width, height = box
        corners = self.move_points(np.array([[x, y], [x + width, y + height]], dtype=np.float64))
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return left, top, right - left, bottom - top

    def move_pixels(self, pixels_HW: npt.NDArray[Pixel]) -> npt.NDArray[Pixel]:
        """[shown height, shown width]: of each pixel, what the labels say at its middle."""
        turned = {
            _UPRIGHT: pixels_HW,
            5: pixels_HW.T,
            6: np.rot90(pixels_HW, -1),
            7: np.rot90(pixels_HW, 2).T,
            8: np.rot90(pixels_HW, 1),
        }[self.turn]
        rows, columns = (
            np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
            for new, old in zip(self.shown, turned.shape, strict=True)
        )
        return np.ascontiguousarray(turned[rows[:, None], columns])


def find_frames(paths: Sequence[Path], labelled: Sequence[Size | None], where: Path) -> list[Frame | None]:
    """How the labels of each picture lie on it, by the pictures' headers.

    Args:
        labelled: (height, width) that the labels are for; None takes the picture's own.
        where: the file of the labels, for messages.

    Returns:
        None where neither labels nor a readable picture say a size. A picture that cannot be read is taken at its word.

    Raises:
        UserError: pictures have another shape than their labels.
    """
    frames, wrong = [], []
    with log_progress("sizes of pictures", len(paths)) as bar, ThreadPoolExecutor(_THREADS) as pool:
        for path, size, stored in zip(paths, labelled, _read_sizes(pool, paths), strict=True):
            bar.advance()
            if stored is None:
                frames.append(None if size is None else Frame(size, size))
                continue
            frame = _find_frame(size, *stored)
            frames.append(frame)
            if frame is None:
                wrong.append((path.name, size, stored[0]))
    if wrong:
        name, size, stored_size = wrong[0]
        raise UserError(
            f"{where}: {len(wrong)} of {len(paths)} pictures have another shape than their labels, for example "
            f"{printable(name)!r}: the file has {_show(stored_size)}, the labels are for {_show(size)} (width x "
            "height); allowed: the same size, the same shape at another scale, or the size before EXIF turns it; label "
            "the pictures as they are, or take those that were labelled"
        )
    return frames


def _read_sizes(pool: Executor, paths: Sequence[Path]) -> Iterator[tuple[Size, int] | None]:
    """Some at a time: what waits in a pool takes more memory than what comes out."""
    for start in range(0, len(paths), _WAITING):
        yield from pool.map(_read_size, paths[start : start + _WAITING])


def _read_size(path: Path) -> tuple[Size, int] | None:
    try:
        height, width, orientation = read_stored_size(path)
    except BrokenImageError:
        return None
    return (height, width), orientation


def _find_frame(labelled: Size | None, stored: Size, orientation: int) -> Frame | None:
    sideways = orientation in _SIDEWAYS
    shown = (stored[1], stored[0]) if sideways else stored
    if labelled is None or labelled == shown:
        return Frame(shown, shown)
    if sideways and labelled == stored:
        return Frame(labelled, shown, orientation)
    if _is_scaled(labelled, shown):
        return Frame(labelled, shown)
    if sideways and _is_scaled(labelled, stored):
        return Frame(labelled, shown, orientation)
    return None


def _is_scaled(one: Size, other: Size) -> bool:
    """The same shape; each side may be rounded by a pixel of the smaller one."""
    small, large = sorted((one, other))
    scale = max(large[0] / small[0], large[1] / small[1])
    return all(abs(large[i] / scale - small[i]) <= 1 for i in (0, 1))


def _show(size: Size | None) -> str:
    return f"{size[1]} x {size[0]}" if size else "no size"
