"""How many things a filter means: its top regions, clustered in semantic space; one meaning is the usual answer.

A cluster is cut in two only if the cut is better than what one scattered group would give. SigClust (Liu et al., 2008)
asks this with draws from a Gaussian of the data's covariance, which 25 vectors of 50 numbers cannot estimate. Here the
draws are random rotations of the observed scores instead (Langsrud, 2005): given their mean and sample covariance, the
rows of one Gaussian sample are a uniformly random rotation of each other, whatever the true covariance, so the test has
its level at any number of vectors and dimensions and nothing is estimated.

Two regions are alike if their similarities to all the other regions are alike: what is clustered are the rows of the
centred matrix of cosines, which weigh the directions of the large differences more and the noise of the many small
ones less than the vectors themselves do.

Shape legend: n vectors, E embedding, L leading components, D draws, I initial cuts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from storage.geometry import BoolArray, FloatArray
from tasks.region_features import IntArray

OTHER = -1
MAX_COSINE = 0.7
_NUM_COMPONENTS = 8
_NUM_INITIAL_CUTS = 3
_NUM_ROUNDS = 12
_NUM_DRAWS = 499
_DRAWS_PER_BLOCK = 50
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Meaning:
    """One meaning of a filter.

    Attributes:
        share: of all the regions, those of no meaning included, 0..1.
        members: int64 [m], rising positions of its regions; as regions come by falling peak, the strongest first.
    """

    share: float
    members: IntArray


def find_meanings(
    vectors_nE: FloatArray,
    max_meanings: int = 3,
    min_share: float = 0.15,
    min_images: int = 3,
    max_cosine: float = MAX_COSINE,
    alpha: float = 0.01,
    seed: int = 0,
) -> IntArray:
    """The meaning of each region: int64 [n], 0 for the largest meaning, `OTHER` for regions of none.

    Starting from one group of all regions, the best cut in two of a group is kept if it passes the test at `alpha` and
    the mean vectors of its parts are less alike than `max_cosine`; of several such cuts the one that explains most goes
    first. A part with fewer than max(min_images, min_share · n) regions is no meaning of its own: if it stands out by
    the same rule its regions are `OTHER`, and if not it stays in its group. The same vectors and seed give the same
    labels, and the order of the vectors does not matter to who is with whom.

    Args:
        vectors_nE: v̂ of the regions; only directions count.
        max_meanings: at least 1.
        max_cosine: between the mean vectors of two meanings; above it they would be named by neighbouring words.
        alpha: share of single groups that may be cut; not below 0.002, as there are 499 draws.

    Raises:
        ValueError: vectors that are not a finite matrix, or a setting out of its range.
    """
    if vectors_nE.ndim != 2 or not np.isfinite(vectors_nE).all():
        raise ValueError("vectors have to be a matrix of finite numbers")
    if max_meanings < 1 or min_images < 1 or not 0 <= min_share <= 1:
        raise ValueError("max_meanings and min_images have to be at least 1, min_share in 0..1")
    if not 1 / (_NUM_DRAWS + 1) <= alpha < 1:
        raise ValueError(f"alpha has to be in {1 / (_NUM_DRAWS + 1)}..1")
    num = len(vectors_nE)
    min_size = max(min_images, math.ceil(min_share * num - 1e-9))
    lengths = np.linalg.norm(vectors_nE.astype(np.float64), axis=1, keepdims=True)
    units_nE = vectors_nE / np.maximum(lengths, np.finfo(np.float32).tiny)

    def settle(members: IntArray) -> _Group:
        return _settle_group(units_nE, members, min_size, max_cosine, alpha, seed)

    groups = [settle(np.arange(num))] if max_meanings > 1 else [_Group(np.arange(num), None, 0.0)]
    while len(groups) < max_meanings:
        best = max(range(len(groups)), key=lambda g: groups[g].gain)
        group = groups[best]
        if group.cut is None:
            break
        groups[best : best + 1] = [settle(group.members[group.cut]), settle(group.members[~group.cut])]
    labels = np.full(num, OTHER, dtype=np.int64)
    for label, group in enumerate(sorted(groups, key=lambda g: (-len(g.members), *g.members[:1]))):
        labels[group.members] = label
    return labels


def summarise_meanings(labels_n: IntArray) -> list[Meaning]:
    """The meanings of one filter in the order of their labels; regions that are `OTHER` are in none."""
    return [
        Meaning(float((labels_n == label).mean()), np.flatnonzero(labels_n == label))
        for label in range(int(labels_n.max(initial=OTHER)) + 1)
    ]


@dataclass(frozen=True)
class _Group:
    """Regions that are together so far, those that stand out removed.

    Attributes:
        cut: bool [m] where the group may be cut in two meanings, None where it is one.
        gain: variation that the cut explains, in squared distances.
    """

    members: IntArray
    cut: BoolArray | None
    gain: float


def _settle_group(
    units_nE: npt.NDArray[np.floating], members: IntArray, min_size: int, max_cosine: float, alpha: float, seed: int
) -> _Group:
    """Take small parts that stand out from the group, until its best cut gives two meanings or none."""
    while len(members) >= 2 * min_size:
        vectors = units_nE[members]
        scores, scales = _find_components(vectors)
        if not len(scales):
            break
        cut = _cut_in_two((scores * scales)[None])[1][0]
        first, second = vectors[cut].mean(axis=0), vectors[~cut].mean(axis=0)
        lengths = np.linalg.norm(first) * np.linalg.norm(second)
        if first @ second >= max_cosine * lengths or not _is_better_than_one_group(scores, scales, alpha, seed):
            break
        sizes = int(cut.sum()), int((~cut).sum())
        if min(sizes) >= min_size:
            return _Group(members, cut, float(((first - second) ** 2).sum() * sizes[0] * sizes[1] / len(members)))
        members = members[cut if sizes[0] > sizes[1] else ~cut]
    return _Group(members, None, 0.0)


def _find_components(vectors_nE: npt.NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
    """Leading principal components: scores float32 [n, L] of length 1 per column, and their scales [L].

    The scales are the squared singular values: scores times scales have the geometry of the rows of the centred matrix
    of cosines. L is 0 where all vectors are the same.
    """
    centred = vectors_nE - vectors_nE.mean(axis=0)
    scores, singular, _ = np.linalg.svd(centred, full_matrices=False)
    rank = min(int((singular > _ROUNDING * math.sqrt(len(vectors_nE))).sum()), len(vectors_nE) - 1, _NUM_COMPONENTS)
    scales = (singular[:rank] / singular[0]) ** 2 if rank else singular[:0]
    return scores[:, :rank].astype(np.float32), scales.astype(np.float32)


def _is_better_than_one_group(scores_nL: FloatArray, scales_L: FloatArray, alpha: float, seed: int) -> bool:
    """Whether at most `alpha` of the rotations of the scores, the observed one among them, can be cut in two as well.

    Stops when too many could, or when none of the first 2 / alpha could; the latter adds less than alpha / 15 to the
    level.
    """
    observed = _cut_in_two((scores_nL * scales_L)[None])[0][0]
    allowed = math.floor(alpha * (_NUM_DRAWS + 1) + 1e-9) - 1
    as_good, looked_at = 0, 0
    for block in _draw_rotations(len(scores_nL), seed):
        explained = _cut_in_two(block[:, :, : len(scales_L)] * scales_L)[0]
        as_good += int((explained >= observed * (1 - _ROUNDING)).sum())
        looked_at += len(block)
        if as_good > allowed:
            return False
        if as_good == 0 and looked_at >= 2 / alpha:
            break
    return True


def _cut_in_two(points_DnL: FloatArray) -> tuple[FloatArray, BoolArray]:
    """2-means of many centred sets at once, from the signs of the first components on: (explained [D], cuts [D, n]).

    Explained is the sum of squares between the two parts. The columns have to be uncorrelated, the first the longest.
    """
    num_draws, num = points_DnL.shape[:2]
    turned_DLn = points_DnL.transpose(0, 2, 1)
    cuts_DIn = turned_DLn[:, :_NUM_INITIAL_CUTS] > 0
    for _ in range(_NUM_ROUNDS):
        sizes_DI1 = cuts_DIn.sum(axis=2, keepdims=True, dtype=np.float32).clip(1, num - 1)
        sums_DIL = cuts_DIn.astype(np.float32) @ points_DnL
        # The sets are centred, so the other part's sum is the negative of this one's.
        heights_DIn = sums_DIL @ turned_DLn
        middles_DI1 = (sums_DIL**2).sum(axis=2, keepdims=True) * (1 / sizes_DI1 - 1 / (num - sizes_DI1)) / 2
        better_DIn = heights_DIn > middles_DI1
        if (better_DIn == cuts_DIn).all():
            break
        cuts_DIn = better_DIn
    sizes_DI = cuts_DIn.sum(axis=2, dtype=np.float32)
    sums_DIL = cuts_DIn.astype(np.float32) @ points_DnL
    explained_DI = (sums_DIL**2).sum(axis=2) * num / (sizes_DI * (num - sizes_DI)).clip(1)
    best_D = explained_DI.argmax(axis=1)
    rows_D = np.arange(num_draws)
    return explained_DI[rows_D, best_D], cuts_DIn[rows_D, best_D]


def _draw_rotations(num: int, seed: int) -> Iterator[FloatArray]:
    """The draws, some at a time: float32 [D, n, L], columns centred, of length 1 and at right angles to each other."""
    for start in range(0, _NUM_DRAWS, _DRAWS_PER_BLOCK):
        yield _draw_block(num, seed, start, min(_DRAWS_PER_BLOCK, _NUM_DRAWS - start))


@lru_cache(maxsize=512)
def _draw_block(num: int, seed: int, start: int, num_draws: int) -> FloatArray:
    """Kept, as most filters have the same number of regions; 40 kB for 25 regions."""
    generator = np.random.default_rng([seed, num, start])
    columns = generator.standard_normal((num_draws, num, min(num - 1, _NUM_COMPONENTS)))
    rotations, triangles = np.linalg.qr(columns - columns.mean(axis=1, keepdims=True))
    # QR gives a uniform draw only once the signs are fixed (Mezzadri, 2007).
    rotations = rotations * np.sign(np.einsum("dii->di", triangles))[:, None]
    return rotations.astype(np.float32)
