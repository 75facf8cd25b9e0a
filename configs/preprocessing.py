"""Settings of what becomes of a picture before the network sees it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lavise.configs.base import Settings

Scale = Annotated[float, Field(gt=0)]
Pixels = Annotated[int, Field(ge=8, le=4096)]


def _read_pixels(value: object) -> int | None:
    """None of what is no whole number from 8 to 4096."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() and 8 <= number <= 4096 else None


class PreprocessingSettings(Settings):
    """From a picture to the network's input. None means: what the architecture's library says."""

    size_px: Pixels | tuple[Pixels, Pixels] | None = None
    """Of the network's input: its side where that is square, else [height, width]."""
    fit: Literal["squash", "center_crop"] = "squash"
    """squash: the whole picture, whatever its aspect ratio. center_crop: the largest centred box of the input's aspect
    ratio (a square, where the input is one), of share `crop_share`."""
    crop_share: float = Field(default=0.875, gt=0, le=1)
    """Sides of the centred box as a share of the largest one that the picture holds (only with center_crop)."""
    mean: tuple[float, ...] | None = None
    """Per channel, on the scale 0..1: red, green and blue; one number, for a network that takes grey pictures; or 2, or
    4 and more numbers, for one that takes so many bands, in their order. Bands are read from TIFF files (interleaved,
    planar, or a page for each): uint8 is divided by 255, uint16 by 65,535, and floating-point values are taken as they
    are, which have to be from 0 to 1."""
    std: tuple[Scale, ...] | None = None
    """Per channel, on the scale 0..1; as many numbers as `mean`."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How pictures are resized. None: as the architecture's library does."""

    @field_validator("size_px", mode="before")
    @classmethod
    def _one_number_of_a_square(cls, value: object) -> object:
        """[224, 224] is 224; and one fault instead of one for each kind of value."""
        if value is None:
            return None
        listed = list(value) if isinstance(value, list | tuple) else [value]
        sides = [_read_pixels(side) for side in listed]
        if len(sides) not in (1, 2) or None in sides:
            raise ValueError(f"found {value!r}; allowed: a number of pixels from 8 to 4096, or [height, width] of such")
        return sides[0] if len(set(sides)) == 1 else tuple(sides)

    @model_validator(mode="after")
    def _same_channels(self) -> PreprocessingSettings:
        sizes = [len(value) for value in (self.mean, self.std) if value is not None]
        if 0 in sizes or len(set(sizes)) > 1:
            raise ValueError(
                "mean and std must be of as many numbers, one for each channel: 3 (red, green, blue), 1 (grey), or the "
                f"number of bands; found {sizes} numbers"
            )
        if len(sizes) == 1 and sizes != [3]:
            kind = "grey pictures" if sizes == [1] else "pictures of other bands than red, green and blue"
            raise ValueError(f"mean and std must both be given for a network that takes {kind}")
        return self
