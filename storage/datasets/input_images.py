"""Pictures as a network takes them: red, green and blue, or as many bands as it asks for.

Shape legend: h x w source pixels, Y x X input pixels, N channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lavise.storage.array_types import FloatArray
from lavise.storage.datasets.base import ImageRecord
from lavise.storage.images.band_images import is_tiff, read_band_size, read_bands, show_bands
from lavise.storage.images.geometry import Geometry
from lavise.storage.images.images import BrokenImageError, Range, open_image, read_size
from lavise.storage.images.inner_files import InnerFile, PictureFile

ImageSource = PictureFile | ImageRecord
"""A picture; a record says in which range its values are."""

COLOUR_CHANNELS = (1, 3)
"""Numbers of channels for which pictures are read as colours; grey is made of them. For others bands are read."""

InputImage = npt.NDArray[Any]
"""uint8 [Y, X, 3]: colours. float32 [Y, X, N]: bands, on the scale 0..1."""


@dataclass(frozen=True)
class OpenedImage:
    """A picture, decoded and upright, of its own size.

    Attributes:
        content: an RGB picture, or bands float32 [h, w, N] on the scale 0..1.
    """

    content: Image.Image | FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w)."""
        if isinstance(self.content, Image.Image):
            return self.content.height, self.content.width
        return self.content.shape[0], self.content.shape[1]

    def resize(self, geometry: Geometry) -> InputImage:
        """What the network sees of it."""
        if isinstance(self.content, Image.Image):
            return geometry.resize_image(self.content)
        return geometry.resize_bands(self.content)


def open_input(source: PictureFile | bytes, channels: int, value_range: Range | None = None) -> OpenedImage:
    """Decode a file, or the bytes of one.

    Args:
        channels: of the network's input.
        value_range: of grey pictures, see `open_image`.

    Raises:
        BrokenImageError: with the reason.
    """
    if channels in COLOUR_CHANNELS:
        return OpenedImage(open_image(source, value_range))
    if isinstance(source, InnerFile):
        return OpenedImage(read_bands(_read_inner(source), channels))
    return OpenedImage(read_bands(source, channels))


def _read_inner(file: InnerFile) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise BrokenImageError("not found") from None
    except OSError as err:
        raise BrokenImageError(f"not readable: {err}") from None


def load_input(source: ImageSource, geometry: Geometry, channels: int = 3) -> InputImage:
    """Decode and resize.

    Raises:
        BrokenImageError: with the reason.
    """
    if isinstance(source, ImageRecord):
        return open_input(source.path, channels, source.value_range).resize(geometry)
    return open_input(source, channels).resize(geometry)


def make_blank(geometry: Geometry, channels: int) -> InputImage:
    """A black picture."""
    if channels in COLOUR_CHANNELS:
        return np.zeros((*geometry.shape, 3), np.uint8)
    return np.zeros((*geometry.shape, channels), np.float32)


def load_shown(
    source: ImageSource, geometry: Geometry, channels: int = 3, shown: tuple[int, ...] | None = None
) -> npt.NDArray[np.uint8]:
    """What the network sees, to be looked at: uint8 [Y, X, 3].

    Args:
        shown: of other pictures than coloured ones, see `show_bands`.

    Raises:
        BrokenImageError: with the reason.
    """
    picture = load_input(source, geometry, channels)
    return show_bands(picture, shown) if channels not in COLOUR_CHANNELS else picture.astype(np.uint8, copy=False)


def read_input_size(path: PictureFile) -> tuple[int, int]:
    """(height, width) of a picture, upright, from the file's header alone.

    Raises:
        BrokenImageError: with the reason.
    """
    try:
        return read_size(path)
    except BrokenImageError:
        source = _read_inner(path) if isinstance(path, InnerFile) else path
        if not is_tiff(source):
            raise
        return read_band_size(source)
