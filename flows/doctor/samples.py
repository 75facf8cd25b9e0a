"""A sheet of sample pictures with their masks and labels, as the audit reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lavise.storage.datasets.base import ImageRecord
from lavise.storage.images.images import BrokenImageError, open_image, uses_little
from lavise.storage.state.text import printable

_SIDE = 240
_CAPTION = 44
_GAP = 8
_TITLE = 30
_COLUMNS = 5
_FONT_PX = 13
_MAX_MASKS = 6
_SHADE = 0.45
_COLOURS = ((230, 25, 75), (0, 130, 200), (60, 180, 75), (245, 130, 48), (145, 30, 180), (128, 128, 0))


def draw_sheet(samples: Mapping[str, Sequence[ImageRecord]], path: Path) -> dict[str, list[str]]:
    """Write the sheet: by data set a title, and its pictures in rows of five.

    A mask is shaded; a label of the whole picture is a frame. Pictures that cannot be read are grey, with the reason.

    Args:
        path: PNG; written whole or not at all.

    Returns:
        by data set, keys of those that use nearly nothing of the range from black to white.
    """
    rows = {role: -(-len(records) // _COLUMNS) for role, records in samples.items()}
    width = _GAP + _COLUMNS * (_SIDE + _GAP)
    height = sum(_TITLE + number * (_SIDE + _CAPTION + _GAP) for number in rows.values())
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    flat: dict[str, list[str]] = {}
    top = 0
    for role, records in samples.items():
        draw.text((_GAP, top + _GAP), role, fill=(0, 0, 0), font=ImageFont.load_default(_FONT_PX + 4))
        top += _TITLE
        for number, record in enumerate(records):
            x = _GAP + number % _COLUMNS * (_SIDE + _GAP)
            y = top + number // _COLUMNS * (_SIDE + _CAPTION + _GAP)
            labels = ", ".join(dict.fromkeys(a.concept for a in record.annotations))
            try:
                picture, is_flat = _draw_picture(record)
                if is_flat:
                    flat.setdefault(role, []).append(record.key)
                sheet.paste(picture, (x + (_SIDE - picture.width) // 2, y + (_SIDE - picture.height) // 2))
            except BrokenImageError as err:
                draw.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), fill=(200, 200, 200))
                labels = f"not read: {err}"
            for line, text in enumerate((record.key, labels)):
                shown = _fit(printable(text), font, _SIDE, keep_end=line == 0)
                draw.text((x, y + _SIDE + 4 + line * 18), shown, fill=(0, 0, 0), font=font)
        top += rows[role] * (_SIDE + _CAPTION + _GAP)
    temporary = path.with_name(path.name + ".tmp")
    sheet.save(temporary, "PNG")
    os.replace(temporary, path)
    return flat


def _draw_picture(record: ImageRecord) -> tuple[Image.Image, bool]:
    """At most _SIDE wide and high; and whether it uses nearly nothing of the range."""
    picture = open_image(record.path, record.value_range)
    seen_hw3 = np.array(picture)
    is_flat = uses_little(seen_hw3)
    framed = []
    for number, annotation in enumerate(record.annotations[:_MAX_MASKS]):
        colour = np.array(_COLOURS[number % len(_COLOURS)])
        if annotation.rle is None and not annotation.boxes:
            framed.append(tuple(colour.tolist()))
            continue
        try:
            mask_hw = annotation.make_mask(picture.height, picture.width)
        except ValueError as err:
            raise BrokenImageError(str(err)) from None
        seen_hw3[mask_hw] = ((1 - _SHADE) * seen_hw3[mask_hw] + _SHADE * colour).astype(np.uint8)
    small = Image.fromarray(seen_hw3)
    small.thumbnail((_SIDE, _SIDE))
    draw = ImageDraw.Draw(small)
    for number, rgb in enumerate(framed):
        inset = 3 * number
        if 2 * inset + 6 < min(small.size):
            draw.rectangle((inset, inset, small.width - 1 - inset, small.height - 1 - inset), outline=rgb, width=3)
    return small, is_flat


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int, keep_end: bool) -> str:
    """Shortened until it is no wider than `room` pixels."""
    text = text[-200:] if keep_end else text[:200]
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"...{text}") > room:
        text = text[1:] if keep_end else text[:-1]
    return f"...{text}" if keep_end else f"{text}..."
