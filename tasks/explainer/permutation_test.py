"""Whether an explainer's words fit the labels of their own pictures better than those of other pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lavise.storage.array_types import DoubleArray, IntArray
from lavise.tasks.numerics.random_streams import Stream, make_rng
from lavise.tasks.numerics.ranked_lists import find_repeated

# Pictures of all permutations that are summed at once.
_BLOCK_ENTRIES = 1 << 17
_ROUNDING = 1e-9


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
    labelled = sparse.csr_matrix((weight_R, (image_R, label_R)), shape=shape)
    observed = float(predicted.multiply(labelled).sum())
    rng = make_rng(seed, Stream.EXPLAINER_TEST)
    sums = np.concatenate([_sum_shares(predicted, labelled, o) for o in _draw_orders(kind_N, permutations, rng)])
    hits = (words_Rk == true_R[:, None]).any(axis=1)
    reached = int((sums >= observed - _ROUNDING * num).sum())
    return ExplainerTest(
        float((hits * weight_R).sum() / num),
        float(sums.mean() / num),
        (1 + reached) / (1 + permutations),
        permutations,
    )


def _sum_shares(predicted: sparse.csr_matrix, labelled: sparse.csr_matrix, orders_DN: IntArray) -> DoubleArray:
    """Of each order of the pictures, the sum over i of the share of (region of i, label of order[i]) that hit: [D].

    Args:
        predicted: [N, L], of each picture the share of its regions that are given a label.
        labelled: [N, L], of each picture the share of its regions that have it.
    """
    orders = len(orders_DN)
    both = sparse.vstack([predicted] * orders, format="csr").multiply(labelled[orders_DN.reshape(-1)])
    found: DoubleArray = np.asarray(both.sum(axis=1)).reshape(orders, -1).sum(axis=1)
    return found


def _draw_orders(kind_N: IntArray, permutations: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Permutations of the pictures among those of their kind, int64 [D, N], some at a time."""
    own = [np.flatnonzero(kind_N == kind) for kind in np.unique(kind_N)]
    step = max(_BLOCK_ENTRIES // len(kind_N), 1)
    for start in range(0, permutations, step):
        orders_DN = np.empty((min(step, permutations - start), len(kind_N)), np.int64)
        for places in own:
            orders_DN[:, places] = rng.permuted(np.tile(places, (len(orders_DN), 1)), axis=1)
        yield orders_DN
