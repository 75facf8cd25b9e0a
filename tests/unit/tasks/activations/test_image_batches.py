"""Batches of pictures: all of them, in order, without those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lavise.tasks.activations.image_batches import read_batches
from tests.unit.tasks.classifiers import break_image, load_images, make_classifier, make_records


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_batches_hold_all_pictures_in_order(tmp_path: Path, batch_size: int) -> None:
    model, _, _ = make_classifier()
    records = make_records(tmp_path, 7)
    batches = list(read_batches(records, model, batch_size, "cpu"))
    assert [b.positions for b in batches] == [tuple(range(s, min(s + batch_size, 7))) for s in range(0, 7, batch_size)]
    assert sum(b.num_offered for b in batches) == 7
    images = [b.images for b in batches if b.images is not None]
    torch.testing.assert_close(torch.cat(images), load_images(model, records))


def test_broken_pictures_are_left_out_of_their_batch(tmp_path: Path) -> None:
    model, _, _ = make_classifier()
    records = make_records(tmp_path, 6)
    for i in (1, 2, 3):
        break_image(records[i])
    batches = list(read_batches(records, model, 2, "cpu"))
    assert [(b.positions, b.num_offered) for b in batches] == [((0,), 2), ((), 2), ((4, 5), 2)]
    assert batches[1].images is None
    assert batches[2].images is not None
    torch.testing.assert_close(batches[2].images, load_images(model, records[4:]))


def test_no_records() -> None:
    assert list(read_batches([], make_classifier()[0], 4, "cpu")) == []
