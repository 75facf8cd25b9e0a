"""Whether a filter detects a concept: peaks on pictures with it against peaks on pictures without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_files import ColumnFile
from lavise.storage.array_types import BoolArray, FloatArray, IntArray
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import StageInputs
from lavise.tasks.masks.agreement import ConceptMasks, load_agreement
from lavise.tasks.numerics.float16_bits import order_bits
from lavise.tasks.numerics.mann_whitney import RankedRows

DETECTION = Stage("detect", version=1, libraries=("scipy",))
MIN_AUROC, MAX_P_VALUE = 0.75, 0.05
_RANK_ENTRIES, _MOST_ROWS = 1 << 22, 1 << 16


@dataclass(frozen=True)
class Detection:
    """How well each filter detects each concept.

    Attributes:
        auroc: float32 [C, K], probability that the filter responds more to a picture with the concept, where it is,
            than to one without; NaN where the concept is in no picture or in all of those on which it was looked for.
        p_value: float32 [C, K], one-sided Mann-Whitney test; NaN likewise.
        right: bool [C, K], both are good enough; False where they are NaN.
        num_images: int64 [K], pictures with each concept.
    """

    auroc: FloatArray
    p_value: FloatArray
    right: BoolArray
    num_images: IntArray


@dataclass(frozen=True)
class DetectionInputs(StageInputs):
    """What the detection is made from: activations, and the masks of the same pictures."""

    activations: Handle
    agreement: Handle


def make_detection(inputs: DetectionInputs, folder: Path) -> Info:
    """Write what `save_detection` writes.

    Returns:
        facts: num_right, pairs of a filter and a concept that it detects; num_concepts that are in some picture.
    """
    masks = load_agreement(inputs.agreement.folder).masks
    found = detect_concepts(ActivationStore(inputs.activations.folder), masks)
    save_detection(found, folder)
    return {"num_right": int(found.right.sum()), "num_concepts": int((found.num_images > 0).sum())}


def detect_concepts(
    store: ActivationStore, masks: ConceptMasks, min_auroc: float = MIN_AUROC, max_p_value: float = MAX_P_VALUE
) -> Detection:
    """Whether filter u responds to concept t, for all of them, on pictures with masks.

    Only pictures on which t was looked for count (`ConceptMasks.looked_for`).
    A picture with t counts with the max activation of u over the cells that t's mask touches, one without with its
    peak. So a filter of noise is right for at most about the share `max_p_value` of the concepts, and a filter that
    responds to what is beside the concept gets no credit.

    Args:
        masks: of the concepts on the store's pictures.

    Raises:
        ValueError: the masks are of other activations.
    """
    num, channels, height, width = store.shape
    if masks.presence.shape[0] != num or masks.coverage.shape[1] != height * width:
        raise ValueError(f"the masks are of other activations than {store.folder}")
    num_concepts = masks.presence.shape[1]
    auroc, p_value = np.full((2, channels, num_concepts), np.nan, np.float32)
    right = np.zeros((channels, num_concepts), dtype=bool)
    num_images = masks.presence.sum(axis=0).astype(np.int64)
    step = min(max(_RANK_ENTRIES // max(num, len(masks.image), 1), 1), _MOST_ROWS)
    groups = []
    for images, concepts in masks.group_concepts():
        of_all = num if images is None else len(images)
        told = concepts[(num_images[concepts] > 0) & (num_images[concepts] < of_all)]
        groups.append((images, {t: np.flatnonzero(masks.concept == t) for t in told}))
    with store.turn_peaks() as peaks, _turn_covered_peaks(store, masks) as inside:
        for start in range(0, channels, step):
            block = slice(start, min(start + step, channels))
            peaks_bN = order_bits(peaks.read_rows(block.start, block.stop))
            inside_bM = inside.read_rows(block.start, block.stop)
            for images, rows_of in groups:
                if not rows_of:
                    continue
                ranked = RankedRows(peaks_bN if images is None else peaks_bN[:, images])
                for concept, rows in rows_of.items():
                    area, p = ranked.compare(peaks_bN[:, masks.image[rows]], inside_bM[:, rows])
                    auroc[block, concept], p_value[block, concept] = area, p
                    right[block, concept] = (area >= min_auroc) & (p <= max_p_value)
    return Detection(auroc, p_value, right, num_images)


@contextmanager
def _turn_covered_peaks(store: ActivationStore, masks: ConceptMasks) -> Iterator[ColumnFile]:
    """Max activation of each filter over the cells that each mask touches, by `order_bits`: uint16 [C, M]."""
    ends = np.searchsorted(masks.image, np.arange(store.shape[0] + 1))
    channels = store.shape[1]
    with ColumnFile(store.folder, np.uint16, (channels, len(masks.image))) as turned:
        for shard in range(store.num_shards):
            start, stop = store.starts[shard], store.starts[shard + 1]
            if ends[start] == ends[stop]:
                continue
            maps = read_shard_maps(store.shard_path(shard))
            out = np.empty((ends[stop] - ends[start], channels), dtype=np.uint16)
            for image in range(start, stop):
                if ends[image] < ends[image + 1]:
                    bits_CP = order_bits(maps[image - start]).reshape(channels, -1)
                for row in range(ends[image], ends[image + 1]):
                    out[row - ends[start]] = bits_CP[:, masks.coverage[row] > 0].max(axis=1)
            turned.write_columns(int(ends[start]), out.T)
        yield turned


def save_detection(found: Detection, folder: Path) -> None:
    """All arrays in one file."""
    np.savez(folder / file_names.DETECTION, **vars(found))


def load_detection(folder: Path) -> Detection:
    """Read back."""
    with np.load(folder / file_names.DETECTION, allow_pickle=False) as arrays:
        return Detection(**{field.name: arrays[field.name] for field in fields(Detection)})
