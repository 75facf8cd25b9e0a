"""What an audit left that speaks for or against an expected word: read from the artefacts of one layer.

Shape legend: C filters, K categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from lavise.storage.array_types import DoubleArray
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.category_names import ENGLISH
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.masks.detection import MAX_P_VALUE, Detection, load_detection
from lavise.tasks.numerics.false_discovery import adjust_false_discovery

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Detected:
    """What labels and masks of the evaluation pictures say of some categories.

    Attributes:
        num_images: pictures with the most frequent one.
        filters: those that detect one of them (AUROC at least 0.75, q at most 0.05 over all filters), best first.
        auroc: of the best; None where there is none.
    """

    num_images: int
    filters: tuple[int, ...] = ()
    auroc: float | None = None


@dataclass(frozen=True)
class Evidence:
    """One layer of an audit; None where the audit did not measure it, or it is not at hand any more.

    Attributes:
        filters, words: rows of filters.parquet and of explanations.parquet.
        classes, causes: rows of classes.parquet and of causes.parquet.
        vocabulary: its categories are those that the masks are of.
        detection: of these categories, on the evaluation pictures.
        num_target: pictures of the target.
        is_valid: whether the explainer is better than chance.
    """

    layer: str
    filters: Rows
    words: Rows
    classes: Rows | None = None
    causes: Rows | None = None
    vocabulary: Vocabulary | None = None
    detection: Detection | None = None
    num_target: int | None = None
    is_valid: bool = True
    language: str = ENGLISH

    @property
    def categories(self) -> tuple[str, ...] | None:
        """Of the reference, in the order of the masks."""
        return None if self.vocabulary is None else tuple(match.name for match in self.vocabulary.matches)

    def detect(self, positions: Sequence[int]) -> Detected | None:
        """What masks say of the categories at these positions; None where there are no masks at hand."""
        found, known = self.detection, self.categories
        if found is None or known is None or len(found.num_images) != len(known):
            return None
        if not positions:
            return Detected(0)
        best: dict[int, float] = {}
        for position in positions:
            q_C = _adjust(found.p_value[:, position].astype(np.float64))
            for unit in np.flatnonzero(found.right[:, position] & (q_C <= MAX_P_VALUE)).tolist():
                best[unit] = max(best.get(unit, 0.0), float(found.auroc[unit, position]))
        order = sorted(best, key=lambda unit: (-best[unit], unit))
        num_images = int(found.num_images[list(positions)].max())
        return Detected(num_images, tuple(order), best[order[0]] if order else None)


def _adjust(p_C: DoubleArray) -> DoubleArray:
    """Over all filters; what could not be tested is no find."""
    return adjust_false_discovery(np.nan_to_num(p_C, nan=1.0), len(p_C))


def read_rows(path: Path | None, layer: str) -> Rows | None:
    """A layer's rows of a table; None where there is no such file."""
    if path is None or not path.is_file():
        return None
    return [row for row in parquet.read_table(path).to_pylist() if row["layer"] == layer]


def read_detection(handle: Handle | None) -> Detection | None:
    """None where there is no such artefact."""
    return load_detection(handle.folder) if handle else None
