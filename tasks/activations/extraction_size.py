"""How large activation stores become, and what else an audit writes: arithmetic, before anything is made.

Shape legend: N pictures, C filters, H x W cells, P = H·W, R masks, M pairs (picture, category in it), K categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lavise.storage.datasets.base import ImageRecord

# Measured with HDF5 2.0 on 1 to 1,200 pictures: index and checksum of a picture's chunk, and what every file has.
_IMAGE_BYTES = 400
_FILE_BYTES = 24_000
_KEY_COPIES = 3  # in the shard, in the index, and what surrounds them


@dataclass(frozen=True)
class StoreSize:
    """The maps of one layer on one data set, without compression.

    Attributes:
        shape: [C, H, W].
        num_key_bytes: of the names of all pictures.
    """

    shape: tuple[int, int, int]
    num_images: int
    shard_images: int
    num_key_bytes: int

    @property
    def num_image_bytes(self) -> int:
        """Of one picture: maps in float16, peaks in float16, means in float32, and what HDF5 adds."""
        channels, height, width = self.shape
        return 2 * channels * height * width + 6 * channels + _IMAGE_BYTES

    @property
    def num_bytes(self) -> int:
        num_shards = -(-self.num_images // self.shard_images)
        own = self.num_images * self.num_image_bytes + _KEY_COPIES * self.num_key_bytes
        return own + (num_shards + 1) * _FILE_BYTES

    def find_kept_share(self, share: float) -> float:
        """Of all bytes, where the maps alone are compressed to this share of theirs."""
        maps = 2 * self.shape[0] * self.shape[1] * self.shape[2]
        return 1 - (1 - share) * maps / self.num_image_bytes

    @property
    def num_shard_bytes(self) -> int:
        """Of the largest shard."""
        images = min(self.num_images, self.shard_images)
        return images * self.num_image_bytes + _FILE_BYTES


def estimate_writing_memory(sizes: Sequence[StoreSize]) -> int:
    """Bytes of memory while a shard is written, beside the network and its batch: of every layer one shard that is
    filled and one that is written, and of the largest one two more copies (as a file, and the bytes of that)."""
    own = [size.num_shard_bytes for size in sizes]
    return 2 * sum(own) + 2 * max(own, default=0)


@dataclass(frozen=True)
class LabelCounts:
    """What the sizes of tables hang on.

    Attributes:
        num_masks: R.
        num_pairs: M.
        num_categories: K.
    """

    num_images: int
    num_masks: int
    num_pairs: int
    num_categories: int


def count_labels(records: Sequence[ImageRecord], num_categories: int) -> LabelCounts:
    """Of the pictures of a data set."""
    masks = sum(len(record.annotations) for record in records)
    pairs = sum(len({a.concept for a in record.annotations}) for record in records)
    return LabelCounts(len(records), masks, pairs, num_categories)


def estimate_region_bytes(shape: tuple[int, int, int], labels: LabelCounts) -> int:
    """Features of all masks, float32 [R, C], with three numbers each, in four files."""
    return labels.num_masks * (4 * shape[0] + 20) + 512


def estimate_agreement_bytes(shape: tuple[int, int, int], labels: LabelCounts, quantile: float) -> int:
    """Sums of each picture and pair, float64 [N, C] three times and [M, C]; coverages, float32 [M, P]; and numbers of
    each triple (picture, filter, mask) whose region and mask meet, of which the sum over agreement and overlaps is at
    most (4 M + 6 R) · 8 bytes for each filter that is active.

    By rule: a filter has cells above its threshold on a share P · (1 - quantile) of the pictures, or on all of them.
    """
    channels, height, width = shape
    active = min(1.0, height * width * (1 - quantile))
    sums = 24 * channels * labels.num_images + labels.num_pairs * (8 * channels + 4 * height * width + 24)
    triples = (32 * labels.num_pairs + 48 * labels.num_masks) * channels * active
    return int(sums + triples + labels.num_images * labels.num_categories + 9 * channels * labels.num_categories)


def estimate_other_bytes(num_channels: int) -> int:
    """Of one layer: thresholds, explainers, words, analyses, its part of the report and the copies in the run's folder
    and in MLflow. By rule, from audits that were measured: 40 kB a filter and 8 MB."""
    return 40_000 * num_channels + 8_000_000
