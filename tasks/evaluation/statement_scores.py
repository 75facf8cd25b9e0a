"""Figures of statements "filter u means concept t" (tasks.evaluation.panel), with little of them in memory.

Shape legend: N pictures, C filters, K concepts, P cells, S statements, B weightings of the pictures, M pairs (picture,
concept in it), F filters of statements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_files import ColumnFile, release_pages
from lavise.storage.array_types import DoubleArray, IntArray
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.masks.agreement import MaskAgreement
from lavise.tasks.numerics.average_precision import (
    PrecisionSteps,
    correct_for_chance,
    expect_precision,
    sum_tied_shares,
)
from lavise.tasks.numerics.bootstrap import ImageWeights
from lavise.tasks.numerics.correlation import correlate
from lavise.tasks.numerics.float16_bits import order_bits

Values = dict[str, DoubleArray]
_STATEMENTS, _IMAGES, _OVERLAPS = 16, 1024, 1 << 20
"""In memory at a time."""


class _Scorer:
    """Figures of statements under B weightings of the pictures; sums of all filters and concepts are made once.

    Of what is as large as pictures x filters, pictures x cells or pictures x weightings, a part is in memory at a time.
    """

    def __init__(
        self,
        store: ActivationStore,
        agreement: MaskAgreement,
        weights: ImageWeights,
        num_position: int,
        statements: tuple[IntArray, IntArray],
        images: IntArray | None = None,
    ):
        """
        Args:
            num_position: AUPRC by position is computed for the first so many weightings.
            statements: filter (rising) and concept of each, int64 [S].
            images: the only ones that count; None: all.
        """
        self.store, self.agreement, self.weights, self.num_position = store, agreement, weights, num_position
        self.filter_S, self.concept_S = statements
        self.filters = np.unique(self.filter_S)
        self.masks, self.mask_rows = agreement.masks, np.arange(len(agreement.masks.image))
        # Whether all pictures count or some, `own` are their positions in the store.
        self.own = np.arange(agreement.num_images) if images is None else images
        self.chosen: IntArray | slice = slice(None) if images is None else images
        if images is not None:
            self.masks = agreement.masks.take_images(images)
            self.mask_rows = np.flatnonzero(np.isin(agreement.masks.image, images))
        self.cells_MP = self.masks.mark_cells()
        order = np.argsort(self.masks.concept, kind="stable")
        ends = np.searchsorted(self.masks.concept[order], np.arange(agreement.num_concepts + 1))
        self.rows_of = [order[ends[t] : ends[t + 1]] for t in range(agreement.num_concepts)]
        self._sum_weighted()
        self._find_shared()

    def _sum_weighted(self) -> None:
        """Sums over the pictures under each weighting, of all filters [B, C] and of all concepts [B, K]."""
        agreement, masks = self.agreement, self.masks
        self.total: DoubleArray = np.zeros(self.weights.num)
        sums = {
            name: np.zeros((self.weights.num, size))
            for size, names in (
                (agreement.num_filters, ("activation", "activation_squares", "peak", "peak_squares", "region_px")),
                (agreement.num_concepts, ("mask", "mask_squares", "mask_px", "cells", "present")),
            )
            for name in names
        }
        for start in range(0, len(self.own), _IMAGES):
            span = slice(start, min(start + _IMAGES, len(self.own)))
            rows = slice(*np.searchsorted(masks.image, [span.start, span.stop]))
            where = (masks.image[rows] - span.start, masks.concept[rows])
            coverage = masks.coverage[rows].astype(np.float64)
            peaks = self.store.read_peaks_of(self.own[span]).astype(np.float64)
            values = {
                "activation": agreement.activation_sum[self.own[span]],
                "activation_squares": agreement.activation_squares[self.own[span]],
                "peak": peaks,
                "peak_squares": peaks**2,
                "region_px": agreement.region_px[self.own[span]].astype(np.float64),
                "present": masks.presence[span].astype(np.float64),
            }
            for name, of_masks in (
                ("mask", coverage.sum(axis=1)),
                ("mask_squares", (coverage * coverage).sum(axis=1)),
                ("mask_px", masks.pixels[rows]),
                ("cells", self.cells_MP[rows].sum(axis=1)),
            ):
                values[name] = np.zeros((span.stop - span.start, agreement.num_concepts))
                values[name][where] = of_masks
            for block in self.weights.list_blocks():
                weights_Bn = self.weights.read(block, self.own[span]).T
                self.total[block] += weights_Bn.sum(axis=1)
                for name, value in values.items():
                    sums[name][block] += weights_Bn @ value
            release_pages(agreement.activation_sum)
        # A resample may have none of the pictures; all of its sums are 0 then.
        self.total = np.maximum(self.total, 1)
        self.sums = sums

    def _find_shared(self) -> None:
        """Where the region of a statement's filter meets the concept: picture and pixels, by statement."""
        agreement = self.agreement
        keys_S = self.filter_S * agreement.num_concepts + self.concept_S
        asked, of_asked = np.unique(keys_S, return_inverse=True)
        found: list[tuple[IntArray, IntArray, IntArray]] = [(np.zeros(0, np.int64),) * 3]
        for start in range(0, len(agreement.overlap_image) if len(asked) else 0, _OVERLAPS):
            span = slice(start, start + _OVERLAPS)
            keys = agreement.overlap_filter[span] * agreement.num_concepts + agreement.overlap_concept[span]
            place = np.minimum(np.searchsorted(asked, keys), len(asked) - 1)
            image = np.minimum(np.searchsorted(self.own, agreement.overlap_image[span]), len(self.own) - 1)
            hits = np.flatnonzero((asked[place] == keys) & (self.own[image] == agreement.overlap_image[span]))
            found.append((place[hits], image[hits], agreement.overlap_px[span][hits]))
        release_pages(agreement.overlap_image)
        place, image, px = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(place, kind="stable")
        self.shared_image, self.shared_px = image[order].astype(np.int32), px[order].astype(np.float64)
        ends = np.searchsorted(place[order], np.arange(len(asked) + 1))
        self.shared_of = [slice(ends[n], ends[n + 1]) for n in of_asked]

    def score_all(self, progress: Progress = no_progress) -> Iterator[tuple[slice, Values]]:
        """Figures of the statements, a few at a time; the maps of one filter are in memory at once."""
        num = len(self.filter_S)
        with self._turn_maps() as maps, self.store.turn_peaks() as peaks, progress("panel", num) as bar:
            for start in range(0, num, _STATEMENTS):
                block = slice(start, min(start + _STATEMENTS, num))
                yield block, self._score(block, maps, peaks)
                release_pages(self.agreement.activation_mask)
                bar.advance(block.stop - block.start)

    @contextmanager
    def _turn_maps(self) -> Iterator[ColumnFile]:
        """Maps of the statements' filters on all pictures, by `order_bits`: uint16 [F, N, P], on the disk."""
        store = self.store
        num, _, height, width = store.shape
        with ColumnFile(store.folder, np.uint16, (len(self.filters), num, height * width)) as turned:
            for shard in range(store.num_shards):
                maps = read_shard_maps(store.shard_path(shard))[:, self.filters]
                bits = order_bits(maps).reshape(*maps.shape[:2], height * width)
                turned.write_columns(store.starts[shard], bits.transpose(1, 0, 2))
            yield turned

    def _score(self, block: slice, maps: ColumnFile, peaks: ColumnFile) -> Values:
        """Figures of some statements: float64 [S, B] each."""
        filter_S, concept_S = self.filter_S[block], self.concept_S[block]
        num, samples, size = len(self.own), self.weights.num, len(filter_S)
        product_SN = np.zeros((size, num))
        peak_of, by_image = [], []
        position, image = np.zeros((size, self.num_position)), np.zeros((size, samples))
        tied_position, tied_image = np.zeros((2, size, 1))
        bits_NP = peak_bits_N = np.zeros(0, np.uint16)
        num_cells = self.agreement.num_cells
        for s, (u, t) in enumerate(zip(filter_S.tolist(), concept_S.tolist(), strict=True)):
            rows = self.rows_of[t]
            images = self.masks.image[rows]
            if s and u == filter_S[s - 1]:
                tied_position[s], tied_image[s] = tied_position[s - 1], tied_image[s - 1]
            else:
                place = int(np.searchsorted(self.filters, u))
                bits_NP = maps.read_rows(place, place + 1)[0][self.chosen]
                peaks_N = peaks.read_rows(u, u + 1)[0][self.chosen]
                peak_bits_N = order_bits(peaks_N)
                tied_position[s], tied_image[s] = sum_tied_shares(bits_NP), sum_tied_shares(peak_bits_N)
            product_SN[s, images] = self.agreement.activation_mask[self.mask_rows[rows], u]
            peak_of.append((images, peaks_N[images].astype(np.float64)))
            steps = PrecisionSteps(bits_NP, images, self.cells_MP[rows])
            for part in self.weights.list_blocks(self.num_position):
                position[s, part] = steps.weigh(self.weights.read(part, self.own))
            by_image.append(PrecisionSteps(peak_bits_N[:, None], images, np.ones((len(rows), 1), dtype=bool)))
        product, shared_px, peak = (np.zeros((size, samples)) for _ in range(3))
        for part in self.weights.list_blocks():
            weights_Nb = self.weights.read(part, self.own)
            product[:, part] = product_SN @ weights_Nb
            for s in range(size):
                image[s, part] = by_image[s].weigh(weights_Nb)
                images, values = peak_of[s]
                peak[s, part] = values @ weights_Nb[images]
                own = self.shared_of[block.start + s]
                shared_px[s, part] = self.shared_px[own] @ weights_Nb[self.shared_image[own]]
        sums = self.sums
        either_px = sums["region_px"][:, filter_S].T + sums["mask_px"][:, concept_S].T - shared_px
        present = sums["present"][:, concept_S].T
        cells = sums["cells"][: self.num_position, concept_S].T
        # Of as many pictures as there are: a resample has more or fewer of some of them.
        share = num / self.total
        chance_position = expect_precision(
            np.maximum(cells * share[: cells.shape[1]], 1), num * num_cells, tied_position
        )
        chance_image = expect_precision(np.maximum(present * share, 1), num, tied_image)
        values_of = {
            "iou": shared_px / np.maximum(either_px, 1),
            "pearson_position": correlate(
                self.total * num_cells,
                sums["activation"][:, filter_S].T,
                sums["activation_squares"][:, filter_S].T,
                sums["mask"][:, concept_S].T,
                sums["mask_squares"][:, concept_S].T,
                product,
            ),
            "pearson_image": correlate(
                self.total,
                sums["peak"][:, filter_S].T,
                sums["peak_squares"][:, filter_S].T,
                present,
                present,
                peak,
            ),
            "auprc_position": position,
            "auprc_image": image,
            "lift": image * self.total / np.where(present > 0, present, np.nan),
            "skill_position": correct_for_chance(position, chance_position),
            "skill_image": correct_for_chance(image, chance_image),
        }
        for name in ("iou", "pearson_position", "pearson_image"):
            values_of[name] = np.where(present > 0, values_of[name], np.nan)
        return values_of


def score_by_pictures(
    store: ActivationStore,
    agreement: MaskAgreement,
    weights: ImageWeights,
    num_position: int,
    filter_S: IntArray,
    concept_S: IntArray,
    progress: Progress = no_progress,
) -> Iterator[tuple[slice | IntArray, Values]]:
    """Positions of statements and their figures, each on the pictures on which its concept was looked for.

    Args:
        filter_S: rising.
    """
    num, channels, height, width = store.shape
    if (agreement.num_images, agreement.num_filters, agreement.num_cells) != (num, channels, height * width):
        raise ValueError(f"the agreement is of other activations than {store.folder}")
    for images, concepts in agreement.masks.group_concepts():
        chosen = np.flatnonzero(np.isin(concept_S, concepts))
        if not len(chosen) or (images is not None and not len(images)):
            continue
        statements = filter_S[chosen], concept_S[chosen]
        for block, values in _Scorer(store, agreement, weights, num_position, statements, images).score_all(progress):
            yield block if len(chosen) == len(concept_S) else chosen[block], values
