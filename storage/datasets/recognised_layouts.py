"""Which kinds of labelled data sets a folder may be, by the files that lie in it; nothing is decoded.

These are guesses: whoever asks reads the data set with each of them and keeps what can be read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.storage.datasets.readers.coco_file import name_image
from lavise.storage.images.picture_files import walk

Settings = dict[str, Any]
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
# Folders that other layouts have, and no classes.
_LAYOUT_WORDS = frozenset(
    "images annotations labels masks jpegimages imagesets segmentationclass segmentationobject".split()
)
_TRAIN, _EVALUATION = ("train",), ("val", "test")
_MAX_ENTRIES = 5000
_MAX_JSON_BYTES = 3 * 10**9


def guess_layouts(root: Path) -> list[Settings]:
    """Settings of a reference, each with its `kind` and `root`, the surest guess first.

    Raises:
        UserError: root is no folder.
    """
    if not root.is_dir():
        raise UserError(f"labels: found {str(root)!r}, which is no folder; give the folder of the labelled data set")
    found = [(kind, settings) for kind, guess in _GUESSES.items() for settings in guess(root)]
    # Folders of pictures are classes only where nothing else says what is in them.
    found = found or [("image_folder", settings) for settings in _guess_image_folder(root)]
    return [{"kind": kind, "root": str(root), **settings} for kind, settings in found]


def list_json_pairs(root: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """(file, content) of the JSON files of COCO's form, at the top of root and one folder below."""
    for path in _list(root, "*.json"):
        if path.stat().st_size > _MAX_JSON_BYTES:
            continue
        try:
            content = json.loads(path.read_text("utf-8-sig"))
        except (ValueError, OSError, RecursionError):
            continue
        if isinstance(content, dict) and isinstance(content.get("images"), list) and content["images"]:
            yield path, content


def _list(root: Path, *patterns: str) -> list[Path]:
    """Files of such names at the top of root and one folder below, in the order of their paths."""
    found = [p for pattern in patterns for prefix in ("", "*/") for p in root.glob(f"{prefix}{pattern}") if p.is_file()]
    return sorted(set(found))[:_MAX_ENTRIES]


def _guess_coco(root: Path, is_panoptic: bool = False) -> Iterator[Settings]:
    files = {}
    for path, content in list_json_pairs(root):
        annotations = content.get("annotations")
        first = annotations[0] if isinstance(annotations, list) and annotations else None
        if isinstance(first, dict) and ("segments_info" in first) == is_panoptic:
            folder = _find_images(root, path, content["images"])
            if folder is not None and (is_panoptic or "category_id" in first):
                files[path] = folder
    if not files:
        return
    train = _choose(files, _TRAIN) or next(iter(files))
    evaluation = _choose({p: f for p, f in files.items() if p != train}, _EVALUATION)
    own: Settings = {
        "train_annotations": train.relative_to(root).as_posix(),
        "train_images": files[train],
        "evaluation_annotations": evaluation.relative_to(root).as_posix() if evaluation else None,
        "evaluation_images": files[evaluation] if evaluation else None,
    }
    yield own


def _choose(files: Mapping[Path, str], words: tuple[str, ...]) -> Path | None:
    """The first file that has one of the words in its name, or its folder's."""
    for word in words:
        for path in files:
            if word in path.name.lower() or word in path.parent.name.lower():
                return path
    return None


def _find_images(root: Path, path: Path, images: list[Any]) -> str | None:
    """Folder, below root, in which the first picture of a JSON file lies."""
    try:
        name = name_image(images[0])
    except (KeyError, TypeError, AttributeError):
        return None
    near = [path.parent, root, *(p for p in sorted(root.iterdir()) if p.is_dir())]
    near += [q for p in near[2:] for q in sorted(p.iterdir()) if q.is_dir()]
    for folder in near[:_MAX_ENTRIES]:
        if ".." not in Path(name).parts and (folder / name).is_file():
            return folder.relative_to(root).as_posix() if folder != root else "."
    return None


def _guess_coco_stuff_maps(root: Path) -> Iterator[Settings]:
    names = ("labels.txt", "annotations/labels.txt", "annotations/stuff_train2017.json", "stuff_train2017.json")
    categories = [name for name in names if (root / name).is_file()]
    for masks in ("stuffthingmaps/{}", "annotations/stuff_{}_pixelmaps", "stuff_{}_pixelmaps", "annotations/{}"):
        own: Settings = {}
        for part, split in (("train", "train2017"), ("evaluation", "val2017")):
            images = [f for f in (split, f"images/{split}") if (root / f).is_dir()]
            if images and next((root / masks.format(split)).glob("*.png"), None) is not None:
                own |= {f"{part}_images": images[0], f"{part}_masks": masks.format(split)}
        if categories and "train_images" in own:
            yield {"evaluation_images": None, **own, "categories": categories[0]}
            return


def _guess_visual_genome(root: Path) -> Iterator[Settings]:
    if (root / "objects.json").is_file():
        yield {name: f"{name}.json" for name in ("image_data",) if (root / f"{name}.json").is_file()}


def _guess_broden(root: Path) -> Iterator[Settings]:
    if (root / "index.csv").is_file() and (root / "label.csv").is_file():
        yield {}


def _guess_ade20k(root: Path) -> Iterator[Settings]:
    named = ("objectInfo150.txt", "sceneCategories.txt", "index_ade20k.mat", "index_ade20k.pkl")
    if any((root / name).is_file() for name in named) or any(root.glob("**/*_seg.png")):
        yield {}


def _guess_open_images(root: Path) -> Iterator[Settings]:
    classes = _list(root, "*class-descriptions*.csv")
    if not classes or not _list(root, "*train-annotations-bbox.csv"):
        return
    own: Settings = {"classes": classes[0].relative_to(root).as_posix()}
    for setting, words in (("train", ("train",)), ("evaluation", ("validation", "val"))):
        for file, ending in (("boxes", "annotations-bbox"), ("masks", "annotations-object-segmentation")):
            found = [p for word in words for p in _list(root, f"*{word}-{ending}.csv")]
            own[f"{setting}_{file}"] = found[0].relative_to(root).as_posix() if found else None
        folders = [f for word in words for f in (word, f"images/{word}") if (root / f).is_dir()]
        own[f"{setting}_images"] = folders[0] if folders and own[f"{setting}_boxes"] else None
    if own["train_images"]:
        yield own


def _guess_pascal_voc(root: Path) -> Iterator[Settings]:
    devkits = [p for pattern in ("", "VOC*/", "*/VOC*/") for p in sorted(root.glob(f"{pattern}JPEGImages"))]
    if devkits:
        yield {"root": str(devkits[0].parent)}
    elif _list(root, "*.xml") or any(root.glob("*/*/*.xml")):
        yield {}


def _guess_yolo(root: Path) -> Iterator[Settings]:
    described = _list(root, "data.yaml", "dataset.yaml", "*.yaml", "*.yml", "*.data")
    if (described or (root / "classes.txt").is_file()) and any(root.glob("**/*.txt")):
        yield {}


def _guess_huggingface(root: Path) -> Iterator[Settings]:
    if _list(root, "dataset_dict.json", "state.json", "dataset_info.json") or _list(root, "*.parquet"):
        yield from ({}, {"label": "labels"}, {"objects": "objects"}, {"mask": "annotation"}, {"mask": "mask"})


def _guess_webdataset(root: Path) -> Iterator[Settings]:
    if any(root.glob("*.tar")):
        yield from ({"labels": ending} for ending in ("cls", "txt", "json"))


def _guess_csv(root: Path) -> Iterator[Settings]:
    for path in sorted(root.glob("*.csv"))[:1]:
        yield {"file": str(path)}


def _guess_image_folder(root: Path) -> Iterator[Settings]:
    classes = set()
    for number, (path, reason) in enumerate(walk(root, follow_links=False)):
        below = path.relative_to(root).parts
        if len(below) > 1 and not reason:
            classes.add(below[1] if _is_split(below[0]) and len(below) > 2 else below[0])
        if len(classes) > 1 or number > _MAX_ENTRIES:
            break
    if len({name for name in classes if name.lower() not in _LAYOUT_WORDS and not _is_split(name)}) > 1:
        yield {}


def _is_split(name: str) -> bool:
    """train, val2017, ..."""
    return name.lower().rstrip("0123456789_-") in _SPLITS


_GUESSES: dict[str, Callable[[Path], Iterator[Settings]]] = {
    "coco": _guess_coco,
    "coco_panoptic": lambda root: _guess_coco(root, is_panoptic=True),
    "coco_stuff_maps": _guess_coco_stuff_maps,
    "visual_genome": _guess_visual_genome,
    "broden": _guess_broden,
    "ade20k": _guess_ade20k,
    "open_images": _guess_open_images,
    "pascal_voc": _guess_pascal_voc,
    "yolo": _guess_yolo,
    "huggingface": _guess_huggingface,
    "webdataset": _guess_webdataset,
    "csv_labels": _guess_csv,
}
