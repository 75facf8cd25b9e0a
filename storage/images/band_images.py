"""Pictures of any number of bands (multispectral and the like), from TIFF files.

The bands are the samples of the first page, interleaved or planar; or, where a page has one sample, the pages of full
size. Values of 8 and 16 bit are divided by the largest that they can have, floating-point ones are taken as they are.
Bands with an alpha channel among them have no ground to be laid on: it is a band like the others.

Shape legend: h x w source pixels, N bands.
"""

from __future__ import annotations

import importlib.util
import logging
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lavise.storage.array_types import FloatArray
from lavise.storage.images.images import BrokenImageError, count_decoded
from lavise.storage.state.text import one_line, printable

if TYPE_CHECKING:
    import tifffile

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a file that is not whole is told of by its reason

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NONE, _LZW, _PACKBITS, _ZSTD, _ADOBE_DEFLATE, _DEFLATE = 1, 5, 32773, 50000, 8, 32946
_DEFLATED = frozenset({_ADOBE_DEFLATE, _DEFLATE})
_OWN_CODECS = frozenset({_NONE, _PACKBITS}) | _DEFLATED
_OTHER_CODECS = frozenset({_LZW, _ZSTD})
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType: previews, and masks of transparency
_ORIENTATION = 274
_MOST_PAGES = 1024
_MOST_CHARS = 160
_OTHER_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")
_LARGEST = {"uint8": 255, "uint16": 65535}
# As large as Pillow lets a picture be: twice its MAX_IMAGE_PIXELS, in red, green and blue.
_BYTES_PER_PIXEL = 2 * 3


def is_tiff(source: Path | bytes) -> bool:
    """Whether a file, or the bytes of one, begins as a TIFF does."""
    if isinstance(source, bytes):
        return source[:4] in _MAGIC
    try:
        with source.open("rb") as file:
            return file.read(4) in _MAGIC
    except OSError:
        return False


def read_bands(source: Path | bytes, channels: int) -> FloatArray:
    """All bands of a file, or of the bytes of one: float32 [h, w, N] on the scale 0..1, upright.

    Args:
        channels: N, of which the network takes that many.

    Raises:
        BrokenImageError: with the reason; of another number of bands, both numbers.
    """
    count_decoded()
    with _Opened(source) as found:
        if found.num_bands != channels:
            raise BrokenImageError(f"found {_count(found.num_bands)}; the network takes {channels}")
        found.check()
        return _scale(_turn(np.concatenate([_decode(page) for page in found.pages], axis=2), found.orientation))


def read_band_size(path: Path | bytes) -> tuple[int, int]:
    """(height, width) as `read_bands` would give it, from the file's header alone.

    Raises:
        BrokenImageError: with the reason.
    """
    with _Opened(path) as found:
        height, width = found.pages[0].imagelength, found.pages[0].imagewidth
        return (width, height) if found.orientation >= 5 else (height, width)


def find_shown_bands(channels: int) -> tuple[int, ...]:
    """Which are shown where nothing else is asked for: the first three, or the first where there are fewer."""
    return (1, 2, 3) if channels >= 3 else (1,)


def show_bands(bands_hwN: FloatArray, shown: tuple[int, ...] | None = None) -> npt.NDArray[np.uint8]:
    """Bands to look at: uint8 [h, w, 3], each from its own 2nd to its own 98th percentile.

    Args:
        shown: three bands as red, green and blue, or one as grey, counted from 1 on. None: as `find_shown_bands` says.
    """
    chosen = shown or find_shown_bands(bands_hwN.shape[2])
    values = bands_hwN[..., [band - 1 for band in chosen]].astype(np.float64)
    low, high = np.percentile(values, (2, 98), axis=(0, 1))
    # A band that is the same nearly everywhere is shown by its value alone.
    flat = high <= low
    low, high = np.where(flat, 0, low), np.where(flat, 1, high)
    levels = np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))


@dataclass
class _Opened:
    """A TIFF file and those of its pages that are the picture; whatever goes wrong is the file's.

    Attributes:
        pages: one with all bands, or one for each band.
        orientation: 1 to 8, as TIFF numbers them.
    """

    source: Path | bytes
    pages: list[tifffile.TiffPage] = field(default_factory=list)
    orientation: int = 1
    _file: tifffile.TiffFile | None = None

    def __enter__(self) -> _Opened:
        import tifffile

        if not is_tiff(self.source):
            raise BrokenImageError(self._explain_other())
        opened = BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        try:
            # Pages alone: series may lie in other files, which an OME header names.
            self._file = tifffile.TiffFile(opened)
            self.pages = self._find_pages(self._file)
            self.orientation = self._read_orientation()
        except Exception as err:  # noqa: BLE001 - of a malformed file, tifffile raises whatever comes of it
            if self._file is not None:
                self._file.close()
            raise _explain(err) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        assert self._file is not None
        self._file.close()
        if isinstance(error, Exception):
            raise _explain(error) from None

    @property
    def num_bands(self) -> int:
        return sum(page.samplesperpixel for page in self.pages)

    def check(self) -> None:
        """Raises: BrokenImageError: too large, or not to be decoded here."""
        limit = Image.MAX_IMAGE_PIXELS
        for page in self.pages:
            _check_page(page)
        size = sum(prod(page.shaped) * np.dtype(page.dtype).itemsize for page in self.pages)
        if limit and size > _BYTES_PER_PIXEL * limit:
            raise BrokenImageError(f"too many pixels: {size:,} bytes; allowed: {_BYTES_PER_PIXEL * limit:,}")
        for page in self.pages:
            if page.compression in _DEFLATED:
                _check_deflated(page)

    def _find_pages(self, file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
        import tifffile

        pages: list[tifffile.TiffPage] = []
        for number, page in enumerate(file.pages):
            if number == _MOST_PAGES:
                raise BrokenImageError(f"more than {_MOST_PAGES:,} pages")
            if not isinstance(page, tifffile.TiffPage):
                raise BrokenImageError("not readable: pages without a description of their own")
            if page.subfiletype & (_REDUCED | _MASK):
                continue
            pages.append(page)
            if pages[0].samplesperpixel > 1:
                return pages
        if not pages:
            raise BrokenImageError("not readable: no page of full size")
        sizes = {(page.imagelength, page.imagewidth, page.samplesperpixel, page.dtype) for page in pages}
        if len(sizes) > 1:
            raise BrokenImageError("its pages are of several sizes or kinds; allowed: a page for each band, all alike")
        return pages

    def _read_orientation(self) -> int:
        tag = self.pages[0].tags.get(_ORIENTATION)
        return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1

    def _explain_other(self) -> str:
        if isinstance(self.source, Path) and not self.source.is_file():
            return "not found"
        try:
            opened = BytesIO(self.source) if isinstance(self.source, bytes) else self.source
            with Image.open(opened, formats=_OTHER_FORMATS) as picture:
                found = f"a {picture.format} of {_count(len(picture.getbands()))}"
        except Exception:  # noqa: BLE001 - what it is instead does not matter
            found = "no TIFF"
        return f"found {found}; pictures of other than 1 or 3 bands are read from TIFF alone"


def _explain(error: Exception) -> BrokenImageError:
    if isinstance(error, BrokenImageError):
        return error
    return BrokenImageError(f"not readable: {printable(one_line(error))[:_MOST_CHARS]}")


def _count(number: int) -> str:
    return f"{number} band{'' if number == 1 else 's'}"


def _check_page(page: tifffile.TiffPage) -> None:
    """Raises: BrokenImageError: values, a compression or a volume that are not read here."""
    kind = str(page.dtype)
    if kind not in (*_LARGEST, "float16", "float32", "float64") or page.bitspersample != np.dtype(kind).itemsize * 8:
        raise BrokenImageError(f"values of {page.bitspersample} bit, {kind}; allowed: uint8, uint16 or floating point")
    if page.imagedepth != 1:
        raise BrokenImageError(f"a volume of {page.imagedepth} layers; allowed: pictures")
    name = getattr(page.compression, "name", str(page.compression))
    if page.compression in _OTHER_CODECS and importlib.util.find_spec("imagecodecs") is None:
        raise BrokenImageError(f"compressed by {name}, which needs the package imagecodecs; install lavise[tiff]")
    if page.compression not in _OWN_CODECS | _OTHER_CODECS:
        raise BrokenImageError(f"compressed by {name}; allowed: none, deflate, PackBits, LZW or ZSTD")


def _check_deflated(page: tifffile.TiffPage) -> None:
    """A few bytes can be made to inflate to more than there is memory: no strip or tile may be longer than it says.

    Raises:
        BrokenImageError: one is.
    """
    size = prod(page.chunks) * np.dtype(page.dtype).itemsize
    handle = page.parent.filehandle
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        handle.seek(offset)
        inflating = zlib.decompressobj()
        inflating.decompress(handle.read(length), size + 1)
        if inflating.unconsumed_tail:
            raise BrokenImageError("not readable: a part of it is longer than it says")


def _decode(page: tifffile.TiffPage) -> npt.NDArray[Any]:
    """[h, w, bands of the page]"""
    planes, _, height, width, samples = page.shaped
    values = page.asarray(maxworkers=1).reshape(planes, height, width, samples)
    return np.moveaxis(values, 0, 2).reshape(height, width, planes * samples)


def _turn(bands_hwN: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """What the tag of the orientation asks for: 5 to 8 have rows and columns exchanged."""
    turned = bands_hwN.swapaxes(0, 1) if orientation >= 5 else bands_hwN
    flips_rows, flips_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return turned[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]


def _scale(bands_hwN: npt.NDArray[Any]) -> FloatArray:
    largest = _LARGEST.get(bands_hwN.dtype.name)
    if largest is not None:
        return bands_hwN.astype(np.float32) / np.float32(largest)
    with np.errstate(over="ignore"):
        values = bands_hwN.astype(np.float32)
    low, high = (float(found) for found in (values.min(), values.max()))
    if not (low >= 0 and high <= 1):
        raise BrokenImageError(f"floating-point values from {low:g} to {high:g}; allowed: from 0 to 1")
    return values
