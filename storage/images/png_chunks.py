"""Which chunks a PNG file has, without decoding its pixels (PNG specification, third edition, 5.2 and 5.6)."""

from __future__ import annotations

import struct
from typing import IO

_SIGNATURE_BYTES = 8
_HEADER = struct.Struct(">I4s")
_CHECKSUM_BYTES = 4
_PIXELS, _END = b"IDAT", b"IEND"
# Where Pillow looks for EXIF and XMP.
_NOTES = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})


def has_notes_after_pixels(file: IO[bytes]) -> bool:
    """Whether EXIF or text comes behind the first pixels, where only who has read all of these meets it.

    Args:
        file: of a PNG; read from its start, and left where it was.
    """
    before = file.tell()
    try:
        place, is_behind = _SIGNATURE_BYTES, False
        while True:
            file.seek(place)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return False
            length, kind = _HEADER.unpack(header)
            if is_behind and kind in _NOTES:
                return True
            if kind == _END:
                return False
            is_behind |= kind == _PIXELS
            place += _HEADER.size + length + _CHECKSUM_BYTES
    finally:
        file.seek(before)
