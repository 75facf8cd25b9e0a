"""Ground truth of a filter on a picture: the concepts whose masks its region overlaps enough (METHOD)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavise.storage.array_files import release_pages
from lavise.storage.array_types import BoolArray
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.masks.overlaps import Overlaps

_MOST_IMAGES = 1 << 40
_BLOCK = 1 << 20


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
    # Sorted, since pairs are by filter and then by falling peak.
    keys = pairs.filter * _MOST_IMAGES + pairs.image
    order = np.argsort(keys, kind="stable")
    member = np.zeros((len(pairs), num_concepts), dtype=bool)
    for start in range(0, len(overlaps.image) if len(pairs) else 0, _BLOCK):
        part = Overlaps(*(np.array(column[start : start + _BLOCK]) for column in vars(overlaps).values()))
        own = part.filter * _MOST_IMAGES + part.image
        place = order[np.minimum(np.searchsorted(keys[order], own), len(order) - 1)]
        good = (keys[place] == own) & (part.compute_iou() > min_iou)
        member[place[good], part.concept[good]] = True
        release_pages(overlaps.image)
    kept = np.flatnonzero(member.any(axis=1))
    return GroundTruth(pairs.take(kept), member[kept])
