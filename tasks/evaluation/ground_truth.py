"""Ground truth of a filter on a picture: the concepts whose masks its region overlaps enough (METHOD)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavise.storage.array_types import BoolArray
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.masks.overlaps import Overlaps


@dataclass(frozen=True)
class GroundTruth:
    """Pairs with |G_{u,i}| > 0, and their G.

    Attributes:
        pairs: P of them.
        member: bool [P, K], whether concept t is in G_{u,i}.
    """

    pairs: Pairs
    member: BoolArray


def find_ground_truth(pairs: Pairs, overlaps: Overlaps, num_concepts: int, min_iou: float) -> GroundTruth:
    """G_{u,i} = {t : IoU(M, R_u) > min_iou for one of the picture's masks M of t}, where it is not empty."""
    good = overlaps.compute_iou() > min_iou
    number = {(int(u), int(i)): n for n, (u, i) in enumerate(zip(pairs.filter, pairs.image, strict=True))}
    member = np.zeros((len(pairs), num_concepts), dtype=bool)
    for unit, image, concept in zip(overlaps.filter[good], overlaps.image[good], overlaps.concept[good], strict=True):
        row = number.get((int(unit), int(image)))
        if row is not None:
            member[row, concept] = True
    kept = np.flatnonzero(member.any(axis=1))
    return GroundTruth(pairs.take(kept), member[kept])
