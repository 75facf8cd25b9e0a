"""Whether an explainer's words fit the labels of their own pictures better than those of other pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lavise.storage.array_files import ColumnFile
from lavise.storage.array_types import IntArray
from lavise.tasks.numerics.random_streams import Stream, make_rng
from lavise.tasks.numerics.ranked_lists import find_repeated

_BLOCK_ENTRIES = 1 << 23
_ROUNDING = 1e-9
_DRAWS = 64


@dataclass(frozen=True)
class ExplainerTest:
    """Whether an explainer knows more about a picture than the labels of other pictures would tell.

    Attributes:
        hit_rate: share of a picture's regions whose true word is among the predicted ones, mean over pictures.
        chance_rate: the same with each picture's predictions held against the labels of a picture at random.
        p_value: of the permutation test.
        permutations: how many.
    """

    hit_rate: float
    chance_rate: float
    p_value: float
    permutations: int


def compare_with_chance(
    words_Rk: IntArray,
    true_R: IntArray,
    image_R: IntArray,
    permutations: int = 2000,
    seed: int = 0,
    kind_R: IntArray | None = None,
) -> ExplainerTest:
    """Whether predicted words fit the labels of their own pictures better than those of other pictures.

    The regions of a picture share light, scene and labels, so what is permuted are pictures, with all labels of each:
    labels permuted region by region would look more certain than they are. The statistic is the mean over pictures of
    the share of (region of picture i, label of picture j) that hit, j = i as it is and permuted otherwise; every
    picture has the same weight, so an explainer that says the same words everywhere has p = 1, however frequent these
    are. Which region of a picture a word belongs to is not tested. With each region a picture of its own this is the
    plain permutation of labels.

    Args:
        words_Rk: predicted words of held-out regions.
        true_R: the right ones, in the same numbering.
        image_R: picture of each region.
        kind_R: pictures are permuted among those of the same kind; None: all are. So an explainer that tells only of
            which data set a picture is, knows nothing.

    Returns:
        p = (1 + permutations with at least the statistic) / (1 + permutations).

    Raises:
        ValueError: no regions, or shapes that do not fit.
    """
    words_Rk, true_R, image_R = (np.asarray(a, np.int64) for a in (words_Rk, true_R, image_R))
    if not len(true_R) or words_Rk.ndim != 2 or not len(words_Rk) == len(true_R) == len(image_R):
        raise ValueError(f"expected regions, found {words_Rk.shape=}, {true_R.shape=}, {image_R.shape=}")
    images, first_N, image_R = np.unique(image_R, return_index=True, return_inverse=True)
    kind_N = np.zeros(len(images), np.int64) if kind_R is None else kind_R[first_N]
    num, weight_R = len(images), 1 / np.bincount(image_R)[image_R]
    labels, label_R = np.unique(true_R, return_inverse=True)
    place_Rk = np.minimum(np.searchsorted(labels, words_Rk), len(labels) - 1)
    counted = (labels[place_Rk] == words_Rk) & ~find_repeated(words_Rk)
    region = np.nonzero(counted)[0]
    shape = (num, len(labels))
    predicted = sparse.csr_matrix((weight_R[region], (image_R[region], place_Rk[counted])), shape=shape)
    labelled = sparse.csr_matrix((weight_R, (image_R, label_R)), shape=shape).T.tocsc()
    rng = make_rng(seed, Stream.EXPLAINER_TEST)
    sums, observed = np.zeros(permutations), 0.0
    step = max(_BLOCK_ENTRIES // num, 1)
    with ColumnFile(None, np.int32, (permutations, num)) as orders:
        _draw_orders(orders, kind_N, rng)
        for start in range(0, num, step):
            stop = min(start + step, num)
            rates = (predicted[start:stop] @ labelled).toarray()
            rows = np.arange(len(rates))
            observed += float(rates[rows, start + rows].sum())
            drawn = np.stack([orders.read_columns(row, start, stop) for row in range(permutations)])
            sums += rates[rows, drawn].sum(axis=1)
    hits = (words_Rk == true_R[:, None]).any(axis=1)
    reached = int((sums >= observed - _ROUNDING * num).sum())
    return ExplainerTest(
        float((hits * weight_R).sum() / num),
        float(sums.mean() / num),
        (1 + reached) / (1 + permutations),
        permutations,
    )


def _draw_orders(orders: ColumnFile, kind_N: IntArray, rng: np.random.Generator) -> None:
    """Permutations of the pictures among those of their kind, int32 [P, N]: 400 MB of 50,000 pictures, so on the disk.

    Drawn some at a time with one generator, they are those of a single call.
    """
    permutations, num = orders.shape
    for kind in np.unique(kind_N):
        own = np.flatnonzero(kind_N == kind).astype(np.int32)
        for start in range(0, permutations, _DRAWS):
            stop = min(start + _DRAWS, permutations)
            drawn = rng.permuted(np.tile(own, (stop - start, 1)), axis=1)
            if len(own) < num:
                rows = orders.read_rows(start, stop)
                rows[:, own] = drawn
                drawn = rows
            orders.write_rows(start, drawn)
