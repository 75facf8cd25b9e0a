"""Decoding ahead: order, what is found out on the way, bounds."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavise.storage.datasets.base import ImageRecord
from lavise.storage.datasets.input_images import load_input
from lavise.storage.images.images import num_decoded
from lavise.tasks.activations import decoding
from lavise.tasks.activations.decoding import decode_batches
from tests.unit.tasks.helpers import make_model, write_image


def make_records(folder: Path, num: int) -> list[ImageRecord]:
    paths = [write_image(folder / f"{i:03d}.png", 30 + i, 50 - i, seed=i) for i in range(num)]
    return [ImageRecord(path.name, path) for path in paths]


@pytest.mark.parametrize("num_threads", [1, 2, 4, 9])
def test_batches_are_what_each_picture_gives_by_itself(tmp_path: Path, num_threads: int) -> None:
    model, records = make_model(), make_records(tmp_path, 11)
    records[4].file.write_text("no picture", "utf-8")
    Image.new("RGB", (40, 40), (7, 8, 9)).save(records[7].file)
    batches = [records[:3], records[3:6], records[6:7], records[7:]]
    found = list(decode_batches(batches, model, num_threads))
    assert [list(b.records) for b in found] == batches
    assert [b.positions for b in found] == [(0, 1, 2), (0, 2), (0,), (0, 1, 2, 3)]
    assert [set(b.broken) for b in found] == [set(), {"004.png"}, set(), set()]
    assert [set(b.flat) for b in found] == [set(), set(), set(), {"007.png"}]
    for own, batch in zip(batches, found, strict=True):
        expected = np.stack([load_input(own[i], model.geometry, model.channels) for i in batch.positions])
        np.testing.assert_array_equal(batch.pictures.numpy(), expected)


@pytest.mark.parametrize(("ahead_bytes", "decoded"), [(0, 6), (6 * 2 * 32 * 32 * 3, 14), (10**9, 20)])
def test_decoding_is_ahead_by_so_many_bytes_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_bytes: int, decoded: int
) -> None:
    """The batch that is handed out, and two at least that wait."""
    monkeypatch.setattr(decoding, "_AHEAD_BYTES", ahead_bytes)
    records = make_records(tmp_path, 20)
    before = num_decoded()
    with closing(decode_batches([records[i : i + 2] for i in range(0, 20, 2)], make_model(), 3)) as batches:
        next(batches)
        deadline = time.monotonic() + 30
        while num_decoded() - before < decoded and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # for one too many
        assert num_decoded() - before == decoded


def test_whoever_stops_early_leaves_no_thread(tmp_path: Path) -> None:
    records = make_records(tmp_path, 20)
    with closing(decode_batches([[r] for r in records], make_model(), 2)) as batches:
        next(batches)
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]
