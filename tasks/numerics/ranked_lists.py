"""Lists of words, best first."""

from __future__ import annotations

import numpy as np

from lavise.storage.array_types import BoolArray, IntArray


def find_repeated(words_Ps: IntArray) -> BoolArray:
    """bool [P, s]: words that stand further left in their row as well."""
    order = np.argsort(words_Ps, axis=1, kind="stable")
    ordered = np.take_along_axis(words_Ps, order, axis=1)
    again = np.zeros(words_Ps.shape, dtype=bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    out = np.empty_like(again)
    np.put_along_axis(out, order, again, axis=1)
    return out
