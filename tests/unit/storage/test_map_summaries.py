"""Peaks and means of maps, to the bit what numpy's own reductions of float16 give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lavise.storage.array_types import HalfArray
from lavise.storage.map_summaries import summarise_maps

SHAPES = [(1, 1, 1, 1), (3, 5, 3, 4), (2, 7, 1, 1), (2, 3, 181, 182), (1, 2, 300, 300), (5, 1, 7, 7), (40, 64, 7, 7)]


def assert_same_bits(maps_NCHW: HalfArray) -> None:
    found = summarise_maps(maps_NCHW)
    assert (found.peaks_NC.dtype, found.means_NC.dtype) == (np.float16, np.float32)
    peaks_NC, means_NC = maps_NCHW.max(axis=(2, 3)), maps_NCHW.astype(np.float32).mean(axis=(2, 3))
    np.testing.assert_array_equal(found.peaks_NC.view(np.uint16), peaks_NC.view(np.uint16))
    np.testing.assert_array_equal(found.means_NC.view(np.uint32), means_NC.view(np.uint32))


@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(
        np.float16,
        hnp.array_shapes(min_dims=4, max_dims=4, max_side=6),
        elements=st.one_of(
            st.floats(width=16, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 65504.0, -65504.0])
        ),
    )
)
def test_any_finite_maps(maps_NCHW: HalfArray) -> None:
    assert_same_bits(maps_NCHW)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["signed", "rectified", "negative", "zeros of both signs"])
def test_maps_of_all_sizes(shape: tuple[int, ...], kind: str) -> None:
    """Also larger ones than are converted at once."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape)
    made = {
        "signed": values,
        "rectified": np.maximum(values, 0),
        "negative": -np.abs(values),
        "zeros of both signs": rng.choice([0.0, -0.0, -1.0], size=shape),
    }
    assert_same_bits(made[kind].astype(np.float16))


def test_maps_that_lie_otherwise_in_memory() -> None:
    maps_NHWC = np.random.default_rng(0).normal(size=(3, 5, 4, 6)).astype(np.float16)
    assert_same_bits(np.moveaxis(maps_NHWC, 3, 1))
    read_only = maps_NHWC.copy()
    read_only.flags.writeable = False
    assert_same_bits(read_only)


def test_no_pictures() -> None:
    found = summarise_maps(np.zeros((0, 4, 3, 3), np.float16))
    assert found.peaks_NC.shape == found.means_NC.shape == (0, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_the_mean(value: float) -> None:
    maps_NCHW = np.random.default_rng(0).normal(size=(3, 5, 200, 200)).astype(np.float16)
    maps_NCHW[1, 4, 199, 3] = value
    maps_NCHW[2, 0, 0, 0], maps_NCHW[2, 0, 0, 1] = value, -value
    expected = np.ones((3, 5), dtype=bool)
    expected[1, 4] = expected[2, 0] = False
    np.testing.assert_array_equal(np.isfinite(summarise_maps(maps_NCHW).means_NC), expected)
