"""Reading pictures. A picture that cannot be read whole is an error with a reason, never a grey square."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from lavise.storage.datasets.geometry import Geometry
from lavise.storage.datasets.inner_files import PictureFile

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"})

# What is tried on bytes, which anyone may send: those of IMAGE_SUFFIXES. Some of Pillow's others start programs.
_SAFE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
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
    """Pictures decoded by this process so far."""
    return _DecodeCounter.count


def open_image(source: PictureFile | bytes) -> Image.Image:
    """Decode a file, or the bytes of one, to RGB, in the orientation that EXIF asks for.

    Raises:
        BrokenImageError: with the reason.
    """
    _DecodeCounter.count += 1
    try:
        with _open(source) as file:
            file.load()
            turn = _EXIF_TURNS.get(_read_orientation(file))
            picture = file.transpose(turn) if turn is not None else file
            return picture.copy() if picture.mode == "RGB" else _to_rgb(picture)
    except FileNotFoundError:
        raise BrokenImageError("not found") from None
    except UnidentifiedImageError:
        raise BrokenImageError("not readable: no picture of a known format") from None
    except Image.DecompressionBombError as err:
        raise BrokenImageError(f"too many pixels: {err}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as err:
        raise BrokenImageError(f"not readable: {err}") from None


def read_size(path: PictureFile) -> tuple[int, int]:
    """(height, width) as `open_image` would give it, from the file's header alone.

    Raises:
        BrokenImageError: with the reason.
    """
    try:
        with _open(path) as file:
            width, height = file.size
            turned = _read_orientation(file) in _EXIF_TURNED
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as err:
        raise BrokenImageError(f"not readable: {err}") from None
    return (width, height) if turned else (height, width)


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
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as err:
        raise BrokenImageError(f"not readable: {err}") from None


def load_square(path: PictureFile, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Decode and resize: uint8 [S, S, 3].

    Raises:
        BrokenImageError: with the reason.
    """
    return geometry.resize_image(open_image(path))


def list_images(root: Path) -> list[Path]:
    """All picture files below `root`, by path; links that lead out of `root` are left out."""
    inside = root.resolve()
    found = (p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted((p for p in found if p.resolve().is_relative_to(inside)), key=lambda p: p.as_posix())


def _open(source: PictureFile | bytes) -> Image.Image:
    if isinstance(source, Path):
        return Image.open(source)
    content = source if isinstance(source, bytes) else source.read_bytes()
    return Image.open(BytesIO(content), formats=_SAFE_FORMATS)


def _read_orientation(file: Image.Image) -> int:
    """1 to 8; 1 where there is none, or where the EXIF makes no sense."""
    try:
        return int(file.getexif().get(_EXIF_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError, KeyError, struct.error):
        return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    if "transparency" in picture.info or picture.mode in {"RGBA", "LA", "PA"}:
        rgba = picture.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # 16 bit grey: PIL's own conversion clips to 255 instead of scaling.
        return Image.fromarray((np.asarray(picture, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")
