"""Regions to train on, and their batches: pictures, not regions, are split and batched.

Shape legend: R regions, C filters, I pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from lavise.storage.array_types import FloatArray, IntArray
from lavise.tasks.explainer.network import scale_features

# Of a copy of features from the disk to the device.
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class TrainingSet:
    """Regions on the device, sorted by picture.

    Attributes:
        features_RC: float32, scaled as the settings say.
        word_R: row of the vocabulary, of each region's concept.
        weight_R: 1 / k*, k* the number of regions of the picture.
        first_I: first region of each picture, and R at the end (on the CPU).
    """

    features_RC: torch.Tensor
    word_R: torch.Tensor
    weight_R: torch.Tensor
    first_I: torch.Tensor

    @property
    def num_images(self) -> int:
        return len(self.first_I) - 1

    def regions_of(self, images: Sequence[int]) -> torch.Tensor:
        """Positions of all regions of some pictures, on the device."""
        return self._list_regions(torch.as_tensor(images, dtype=torch.int64))[0].to(self.features_RC.device)

    def batch(self, batch_images: int, shuffle: torch.Generator | None) -> Batches:
        """All regions, so many pictures at a time; one region, which cannot be normalised, waits for the next.

        Args:
            shuffle: draws the order of the pictures; None leaves it as it is.
        """
        num = self.num_images
        order = torch.randperm(num, generator=shuffle) if shuffle is not None else torch.arange(num)
        regions_R, ends_I = self._list_regions(order)
        ends, total = ends_I[batch_images - 1 :: batch_images].tolist(), len(regions_R)
        if num % batch_images:
            ends.append(total)
        bounds = [0]
        for end in ends:
            if end - bounds[-1] >= 2 and total - end != 1:
                bounds.append(end)
        if bounds[-1] < total:
            bounds.append(total)
        return Batches(regions_R.to(self.features_RC.device), tuple(bounds))

    def _list_regions(self, images_I: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of all regions of some pictures, and where each picture ends among them (on the CPU)."""
        first_I, count_I = self.first_I[images_I], self._counts[images_I]
        ends_I = count_I.cumsum(0)
        total = int(ends_I[-1]) if len(ends_I) else 0
        shift_R = torch.repeat_interleave(first_I - (ends_I - count_I), count_I, output_size=total)
        return torch.arange(total) + shift_R, ends_I

    @cached_property
    def _counts(self) -> torch.Tensor:
        return self.first_I.diff()


@dataclass(frozen=True)
class Batches:
    """The regions of an epoch in their order, and where the batches begin and end."""

    regions_R: torch.Tensor
    bounds: tuple[int, ...]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.regions_R[a:b] for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True))

    def __len__(self) -> int:
        return len(self.bounds) - 1


def copy_features(features_RC: FloatArray, chosen: IntArray, how: str, device: str) -> torch.Tensor:
    """Some rows on the device, scaled by `scale_features`; no second copy of all of them is made on the way.

    Args:
        features_RC: as mapped from the disk.
    """
    found = torch.empty(len(chosen), features_RC.shape[1], device=device)
    for start in range(0, len(chosen), _BLOCK_ROWS):
        rows = torch.from_numpy(features_RC[chosen[start : start + _BLOCK_ROWS]])
        found[start : start + len(rows)] = scale_features(rows.to(device), how)
    return found
