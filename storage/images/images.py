"""Reading pictures. A picture that cannot be read whole is an error with a reason, never a grey square.

Grey pictures of more than 8 bits are brought to 8 by the values that their format calls black and white, or by those
that the settings give; never by what a picture happens to hold, which would make each a picture of its own scale.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from lavise.storage.images.inner_files import PictureFile
from lavise.storage.images.png_chunks import has_notes_after_pixels
from lavise.storage.state.text import one_line, printable

Range = tuple[float, float]

_TGA = frozenset({".tga"})
IMAGE_SUFFIXES = _TGA | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".ico", ".qoi"),
}
# All that is ever tried, by content. Some of Pillow's others start programs (EPS) or are no pictures (HDF5).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "ICO", "QOI")
# Of damaged files: libavif's wrapper raises RuntimeError, counting a TIFF's pages TypeError, and so on.
DECODER_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, struct.error, zlib.error, Image.DecompressionBombError),
)
_MAX_REASON_CHARS = 200
LITTLE_SHARE = 0.05
"""Of the range from black to white; a picture that uses less is nearly of one shade."""
_BITS_PER_SAMPLE = 258
_EXACT = 2**40
_EXIF_ORIENTATION = 0x0112
_EXIF_TURNED = (5, 6, 7, 8)
_EXIF_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImageError(Exception):
    """The file is missing, truncated, not a picture, or too large; the message says which."""


class _DecodeCounter:
    """How many pictures this process has decoded; shown at the end of a run, where 0 proves that all was cached."""

    count = 0


def num_decoded() -> int:
    """Pictures decoded by this process, or for it, so far."""
    return _DecodeCounter.count


def count_decoded(num: int = 1) -> None:
    """So many more pictures are decoded; also those that other processes decoded for this one."""
    _DecodeCounter.count += num


def _describe(error: Exception) -> str:
    return printable(one_line(error))[:_MAX_REASON_CHARS] or type(error).__name__


@contextmanager
def explain_broken(unknown: str = "no picture of a known format") -> Iterator[None]:
    """What Pillow raises while a file is decoded, as a BrokenImageError with the reason.

    Args:
        unknown: what is said of a file that is none of the formats tried.
    """
    try:
        yield
    except FileNotFoundError:
        raise BrokenImageError("not found") from None
    except UnidentifiedImageError:
        raise BrokenImageError(f"not readable: {unknown}") from None
    except Image.DecompressionBombError as err:
        raise BrokenImageError(f"too many pixels: {err}") from None
    except DECODER_ERRORS as err:
        raise BrokenImageError(f"not readable: {_describe(err)}") from None


def open_image(source: PictureFile | bytes, value_range: Range | None = None) -> Image.Image:
    """Decode a file, or the bytes of one, to RGB, in the orientation that EXIF asks for; of several frames the first.

    Args:
        value_range: of grey pictures with more than 8 bits, the values that become black and white; None: by the
            format.

    Raises:
        BrokenImageError: with the reason.
    """
    count_decoded()
    with explain_broken(), _open(source) as file:
        file.load()
        turn = _EXIF_TURNS.get(_read_orientation(file))
        rgb = _scale_grey(file, value_range) if is_deep(file) else _to_rgb(file)
        return rgb.transpose(turn) if turn is not None else rgb


def read_size(path: PictureFile) -> tuple[int, int]:
    """(height, width) as `open_image` would give it, from the file's header alone.

    Raises:
        BrokenImageError: with the reason.
    """
    height, width, orientation = read_stored_size(path)
    return (width, height) if orientation in _EXIF_TURNED else (height, width)


def read_values(source: PictureFile) -> npt.NDArray[np.int64]:
    """Values of a picture's pixels as they are stored, int64 [h, w]: grey values, or numbers of a palette.

    Raises:
        BrokenImageError: with the reason.
    """
    try:
        with _open(source) as file:
            if file.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
                raise BrokenImageError(f"not readable as values: its mode is {file.mode}")
            return np.asarray(file).astype(np.int64)
    except DECODER_ERRORS as err:
        raise BrokenImageError(f"not readable: {_describe(err)}") from None


def read_stored_size(path: PictureFile) -> tuple[int, int, int]:
    """(height, width, EXIF orientation) of the pixels as they are stored, from the file's header alone.

    Raises:
        BrokenImageError: with the reason.
    """
    try:
        with _open(path) as file:
            width, height = file.size
            return height, width, _read_orientation(file)
    except DECODER_ERRORS as err:
        raise BrokenImageError(f"not readable: {_describe(err)}") from None


@dataclass(frozen=True)
class Header:
    """What a picture's header says.

    Attributes:
        has_range: the format says which values are black and white.
        num_frames: frames or pages.
    """

    has_range: bool
    num_frames: int


def read_header(path: PictureFile) -> Header:
    """What can be told without decoding; frames are counted, for which some files are read through.

    Raises:
        BrokenImageError: with the reason.
    """
    try:
        with _open(path) as file:
            has_range = not is_deep(file) or _find_range(file) is not None
            return Header(has_range, int(getattr(file, "n_frames", 1)))
    except DECODER_ERRORS as err:
        raise BrokenImageError(f"not readable: {_describe(err)}") from None


def is_picture(path: PictureFile) -> bool:
    """Whether a file is a picture by its content, whatever its name."""
    try:
        with _open(path):
            return True
    except Image.DecompressionBombError:
        return True
    except DECODER_ERRORS:
        return False


def uses_little(picture_YXN: npt.NDArray[Any]) -> bool:
    """Whether a picture, uint8 or bands on the scale 0..1, uses less than LITTLE_SHARE of its range."""
    whole = 255.0 if picture_YXN.dtype == np.uint8 else 1.0
    return float(picture_YXN.max()) - float(picture_YXN.min()) < LITTLE_SHARE * whole


def is_deep(file: Image.Image) -> bool:
    """Grey, with more than 8 bits or in floating point."""
    return file.mode == "F" or file.mode == "I" or file.mode.startswith("I;16")


@lru_cache(maxsize=1)
def _list_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(source: PictureFile | bytes) -> Image.Image:
    if not isinstance(source, Path):
        content = source if isinstance(source, bytes) else source.read_bytes()
        return Image.open(BytesIO(content), formats=_list_formats())
    # A TGA has no mark by which it could be told from noise: its name has to say it.
    formats = ("TGA",) if source.suffix.lower() in _TGA else _list_formats()
    return Image.open(source, formats=formats)


def _read_orientation(file: Image.Image) -> int:
    """1 to 8; 1 where there is none, or where the EXIF makes no sense.

    Pillow decodes every PNG without EXIF for this, since that may stand behind the pixels; here, only one that has
    something there.
    """
    is_in_head = isinstance(file, PngImagePlugin.PngImageFile) and file.fp and not has_notes_after_pixels(file.fp)
    try:
        exif = Image.Image.getexif(file) if is_in_head else file.getexif()
        return int(exif.get(_EXIF_ORIENTATION, 1))
    except DECODER_ERRORS:
        return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture.copy()
    if "transparency" in picture.info or picture.mode in {"RGBA", "LA", "PA"}:
        rgba = picture.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return picture.convert("RGB")


def _find_range(file: Image.Image) -> Range | None:
    """The values that the format of a deep picture calls black and white; None where it does not say.

    A TIFF's MaxSampleValue is not asked: it is what one picture holds. Whole numbers with a sign or 32 bits have no
    white in any format.
    """
    if file.mode == "F":
        return 0.0, 1.0
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        if file.mode == "I":
            return None
        (bits, *_) = file.tag_v2.get(_BITS_PER_SAMPLE, (16,))
        return 0, 2 ** int(bits) - 1
    return 0, 2**16 - 1  # Pillow brings PNM and JPEG 2000 of other depths to 16 bits


def _scale_grey(picture: Image.Image, value_range: Range | None) -> Image.Image:
    """A deep picture as RGB.

    Whole numbers: v -> floor((v - low) 256 / (high - low + 1)), so that 16 bits become their upper 8. Others:
    v -> round((v - low) 255 / (high - low)).

    Raises:
        ValueError: nothing says which values are black and white, or they are not numbers.
    """
    values_hw = np.asarray(picture)
    low, high = value_range or _find_range(picture) or (None, None)
    is_float = picture.mode == "F"
    if is_float and np.isnan(values_hw).any():
        raise ValueError("it has values that are not numbers (NaN)")
    least, most = values_hw.min(), values_hw.max()
    if low is None or high is None or (is_float and value_range is None and (least < low or most > high)):
        kind = "floating-point values" if is_float else "whole numbers with a sign or of 32 bits,"
        raise ValueError(
            f"{kind} from {least:g} to {most:g}, and nothing says which are black and white; "
            "set reference.value_range or target.value_range to [LOW, HIGH]"
        )
    whole = not is_float and float(low).is_integer() and float(high).is_integer() and max(-low, high) < _EXACT
    if whole:
        scaled_hw = (values_hw.astype(np.int64) - int(low)) * 256 // (int(high) - int(low) + 1)
    else:
        with np.errstate(over="ignore"):
            scaled_hw = np.rint((values_hw.astype(np.float64).clip(low, high) - low) / (high - low) * 255)
    grey_hw = scaled_hw.clip(0, 255).astype(np.uint8)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        grey_hw[values_hw == transparent] = 255  # lies on white, as everywhere
    return Image.fromarray(grey_hw).convert("RGB")
