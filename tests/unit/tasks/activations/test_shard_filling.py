"""Which pictures are in which shard, and the thread that writes them."""

from __future__ import annotations

import errno
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavise.storage.models.layers import Layer
from lavise.tasks.activations.shard_filling import open_writer, plan_shards, summarise_on_device

LAYER = Layer("tail", "Conv2d", channels=4, height=5, width=5)
IMAGE_BYTES = 200


@given(
    batch_size=st.integers(1, 24),
    num_batches=st.integers(1, 12),
    shard_bytes=st.integers(1, 400_000),
    num_images=st.integers(0, 300),
)
def test_shards_fit_and_meet_batches(batch_size: int, num_batches: int, shard_bytes: int, num_images: int) -> None:
    """As many pictures as fit, so that blocks and batches end where shards do."""
    shard_images = batch_size * num_batches
    size = plan_shards(num_images, LAYER, batch_size, shard_images, shard_bytes).shard_images
    assert size * IMAGE_BYTES <= shard_bytes or size == 1
    assert shard_images % size == 0
    assert size % batch_size == 0 or batch_size % size == 0
    allowed = [n for n in range(size + 1, shard_images + 1) if shard_images % n == 0]
    allowed = [n for n in allowed if n % batch_size == 0 or batch_size % n == 0]
    assert all(n * IMAGE_BYTES > shard_bytes for n in allowed)


@pytest.mark.parametrize(
    ("shard_bytes", "size"), [(10**9, 128), (128 * 200, 128), (128 * 200 - 1, 64), (6399, 16), (399, 1), (1, 1)]
)
def test_pictures_in_a_shard(shard_bytes: int, size: int) -> None:
    assert plan_shards(1000, LAYER, 32, 128, shard_bytes).shard_images == size


def test_an_error_of_the_writer_is_raised_where_shards_are_made() -> None:
    reason = OSError(errno.ENOSPC, "No space left on device")

    def fail() -> None:
        raise reason

    def write_and_check() -> None:
        with open_writer() as writer:
            future = writer.submit(fail)
            future.exception()
            writer.check()
            pytest.fail("the check passed")

    with pytest.raises(OSError, match="No space left") as found:
        write_and_check()
    assert found.value is reason


def test_leaving_waits_for_the_last_shard_and_raises_its_error() -> None:
    written: list[str] = []
    with open_writer() as writer:
        writer.submit(written.append, "last")
    assert written == ["last"]

    def fail() -> None:
        raise OSError("late")

    with pytest.raises(OSError, match="late"), open_writer() as writer:
        writer.submit(fail)


def test_after_an_error_what_waits_is_not_begun() -> None:
    begun: list[int] = []
    entered, go = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        go.wait(30)

    def fail_beside() -> None:
        with open_writer() as writer:
            writer.submit(hold)
            entered.wait(30)
            writer.submit(begun.append, 1)
            threading.Timer(0.2, go.set).start()
            raise KeyError("network")

    with pytest.raises(KeyError, match="network"):
        fail_beside()
    assert begun == []


def test_what_the_device_sums_up_is_what_the_processor_does() -> None:
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, 7, 6)).astype(np.float16))
    peaks, means = summarise_on_device(maps)
    assert (peaks.dtype, means.dtype) == (torch.float16, torch.float32)
    half: Any = maps.numpy()
    np.testing.assert_array_equal(peaks.numpy(), half.max(axis=(2, 3)))
    np.testing.assert_allclose(means.numpy(), half.astype(np.float64).mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
