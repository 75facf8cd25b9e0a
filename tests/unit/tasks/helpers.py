"""Small real things that the tests of the tasks are made of: stores, pictures, a network, a vocabulary, artefacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from lavise.configs.schema import ExtractSettings
from lavise.storage.activations import ActivationStore, ShardGrid, finish_store, write_shard
from lavise.storage.datasets.base import Annotation, Dataset
from lavise.storage.images.geometry import Geometry, Size, split_size
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.state.digest import digest_of, digest_tensors
from lavise.storage.words.word_vectors import PhraseMatch, Vocabulary
from lavise.tasks.activations.extract import ExtractionInputs, extract_activations
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.history.filter_matching import DiffRow

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
AnyArray = npt.NDArray[Any]


class TinyNetwork(nn.Module):
    """Three convolutions: S -> S/2 -> S/4 -> S/4; the last one, `tail`, is signed."""

    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.tail = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.tail(self.body(functional.relu(self.stem(images))))
        return maps.mean(dim=(2, 3))


def make_model(network: nn.Module | None = None, size_px: Size = 32, seed: int = 0) -> TargetModel:
    torch.manual_seed(seed)
    net = (TinyNetwork() if network is None else network).eval().requires_grad_(False)
    geometry = Geometry(size_px, "squash", interpolation="bilinear")
    return TargetModel("tests:tiny", net, digest_tensors(net.state_dict()), "code", geometry, MEAN, STD)


def write_store(
    folder: Path,
    maps_NCHW: AnyArray,
    shard_images: int = 4,
    keys: Sequence[str] | None = None,
) -> ActivationStore:
    """A finished activation store of these maps; the keys are 000.png, 001.png, ... unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(keys) if keys is not None else [f"{i:03d}.png" for i in range(len(maps_NCHW))]
    grid = ShardGrid(len(maps_NCHW), shard_images)
    for shard in range(grid.num_shards):
        chosen = list(grid.images_of(shard))
        write_shard(folder, shard, maps_NCHW[chosen].astype(np.float16), [names[i] for i in chosen], {}, {})
    finish_store(folder, grid)
    return ActivationStore(folder)


def write_image(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """A picture of noise in blocks, so that shrinking it leaves something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, size=(4, 4, 3)).astype(np.uint8)
    Image.fromarray(blocks).resize((width, height), Image.Resampling.BILINEAR).save(path)
    return path


def encode_mask(concept: str, mask_hw: AnyArray) -> Annotation:
    """The pair (concept, mask) with the mask as COCO run lengths."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask_hw.astype(np.uint8)))
    return Annotation(concept, rle={"size": [int(n) for n in rle["size"]], "counts": rle["counts"]})


def make_vocabulary(num_words: int, categories: Sequence[str], dimensions: int = 6, seed: int = 0) -> Vocabulary:
    """`num_words` plain words, then the categories; random vectors of length 1."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(num_words + len(categories), dimensions))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    words = (*(f"word{i}" for i in range(num_words)), *categories)
    matches = tuple(PhraseMatch(c, "exact", (c,)) for c in categories)
    return Vocabulary(words, matrix.astype(np.float32), num_words, matches)


def make_diff_row(status: str, old: int | None, new: int | None, similarity: float | None, certain: bool) -> DiffRow:
    """A filter of either audit, without words."""
    return DiffRow(
        layer="tail",
        status=status,
        old_filter=old,
        new_filter=new,
        similarity=similarity,
        similarity_low=similarity,
        similarity_high=similarity,
        certain=certain,
        old_explained=None,
        new_explained=None,
        old_words=(),
        new_words=(),
        words_shared=None,
    )


def publish(root: Path, stage: str, fill: Callable[[Path], Mapping[str, Any] | None]) -> Handle:
    """An artefact whose files `fill` writes."""
    store, digest = ArtefactStore(root), digest_of([stage])
    info = fill(store.partial_folder(stage, digest, keep=False))
    return store.publish(stage, 1, digest, {}, {}, info or {})


def publish_maps(
    root: Path,
    maps_NCHW: AnyArray,
    stage: str = "extract",
    shard_images: int = 4,
    keys: Sequence[str] | None = None,
) -> Handle:
    """The artefact of a layer's maps; the name of the stage is all that its digest depends on."""

    def fill(folder: Path) -> None:
        write_store(folder, maps_NCHW, shard_images, keys)

    return publish(root, stage, fill)


def publish_thresholds(root: Path, thresholds_C: AnyArray, stage: str = "thresholds") -> Handle:
    """The artefact of the thresholds of a layer's filters, none of which is at its clip."""

    def fill(folder: Path) -> None:
        np.save(folder / "thresholds.npy", thresholds_C.astype(np.float32))
        np.save(folder / "saturated.npy", np.zeros(len(thresholds_C), dtype=bool))

    return publish(root, stage, fill)


def extract_maps(model: TargetModel, data: Dataset, folders: Mapping[str, Path], settings: ExtractSettings) -> None:
    """Activation stores of several layers, by layer, of real pictures."""
    inputs = ExtractionInputs(model, tuple(folders), Given(data, data.digest_images()), settings, "cpu")
    extract_activations(inputs, folders)


def publish_regions(root: Path, features_RC: AnyArray, image_R: AnyArray, concept_R: AnyArray) -> Handle:
    """The artefact of pooled regions, as `pool_regions` leaves it."""

    def fill(folder: Path) -> dict[str, Any]:
        np.save(folder / "features.npy", features_RC.astype(np.float32))
        np.save(folder / "coverage.npy", np.ones(len(image_R), np.float32))
        np.save(folder / "image.npy", image_R.astype(np.int64))
        np.save(folder / "concept.npy", concept_R.astype(np.int64))
        return {"num_regions": len(image_R), "num_images_with_regions": len(np.unique(image_R)), "skipped": {}}

    return publish(root, "regions", fill)


def upsample_with_torch(map_hw: AnyArray, size_px: Size) -> AnyArray:
    """The region's upsampling, by torch itself."""
    maps = torch.from_numpy(map_hw.astype(np.float32))[None, None]
    fine = functional.interpolate(maps, size=split_size(size_px), mode="bilinear", align_corners=False)
    found: AnyArray = fine[0, 0].numpy()
    return found
