"""Settings of pictures that are drawn on the machine: no folder, no download."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lavise.configs.base import Settings


class OpenMojiReference(Settings):
    """Scenes of one to three OpenMoji pictures, made here in the COCO layout, with exact masks."""

    kind: Literal["openmoji"]
    train_scenes: int = Field(default=1200, ge=2)
    """Scenes that are drawn to train on."""
    evaluation_scenes: int = Field(default=60, ge=1)
    """Further scenes, kept for evaluation."""
    size_px: int = Field(default=256, ge=32, le=2048)
    """Height and width of a scene."""


class OpenMojiTarget(Settings):
    """OpenMoji scenes of which no label is read."""

    kind: Literal["openmoji"]
    scenes: int = Field(default=400, ge=1)
    """Scenes that are drawn to explain filters on; others than those of the reference."""
    size_px: int = Field(default=256, ge=32, le=2048)
    """Height and width of a scene."""


class PatternsReference(Settings):
    """Mosaics of two to four patterns, made here in the COCO layout, with exact masks: words for early layers.

    Each region has the word of its texture (striped, dotted, checkered, grid, zigzag, woven, gradient, grainy, smooth,
    cracked, bubbly, brick, grass, gravel) and, where one of the eleven basic colours covers most of it, that one's."""

    kind: Literal["patterns"]
    train_images: int = Field(default=1200, ge=2)
    """Pictures that are drawn to train on."""
    evaluation_images: int = Field(default=200, ge=1)
    """Further pictures, kept for evaluation."""
    image_px: int = Field(default=224, ge=64, le=2048)
    """Height and width of a picture. Patterns grow with it: 4 to 24 px where the network takes 224 px."""


class PatternsTarget(Settings):
    """Such mosaics, of which no label is read."""

    kind: Literal["patterns"]
    images: int = Field(default=400, ge=1)
    """Pictures that are drawn to explain filters on; others than those of the reference."""
    image_px: int = Field(default=224, ge=64, le=2048)
    """Height and width of a picture, as in the reference."""


Drawn = OpenMojiReference | OpenMojiTarget | PatternsReference | PatternsTarget
"""All kinds that have no root."""
