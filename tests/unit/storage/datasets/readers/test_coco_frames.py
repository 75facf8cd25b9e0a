"""Labels of resized and turned pictures, held against Pillow's own turning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.storage.datasets.readers.coco_frames import Frame, find_frames
from lavise.storage.images.images import open_image, read_size, read_stored_size

H, W = 20, 32
SIDEWAYS = [5, 6, 7, 8]


def save(path: Path, height: int, width: int, orientation: int = 1) -> Path:
    """A picture whose rectangle from (4, 2) to (9, 5), as stored, is white."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[2:5, 4:9] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_labels_are_turned_as_the_picture_is(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "a.png", H, W, orientation)
    shown = np.asarray(open_image(path))[..., 0] > 0
    assert read_stored_size(path) == (H, W, orientation)
    (frame,) = find_frames([path], [(H, W)], tmp_path)
    assert frame is not None
    assert (frame.labelled, frame.shown, frame.turn) == ((H, W), read_size(path), orientation)
    mask = np.zeros((H, W), dtype=bool)
    mask[2:5, 4:9] = True
    assert (frame.move_pixels(mask) == shown).all()
    x, y, width, height = frame.move_box((4, 2, 5, 3))
    rows, columns = np.nonzero(shown)
    assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert sorted(map(tuple, frame.move_points(np.array([[4.0, 2.0], [9.0, 5.0]])).tolist())) == sorted(
        {(x, y), (x + width, y + height)} if orientation in {5, 7} else {(x, y + height), (x + width, y)}
    )


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_labels_of_the_picture_as_it_is_shown_stay(tmp_path: Path, orientation: int) -> None:
    (frame,) = find_frames([save(tmp_path / "a.png", H, W, orientation)], [(W, H)], tmp_path)
    assert frame == Frame((W, H), (W, H))
    assert frame.is_same


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_turned_and_scaled(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "a.png", H, W, orientation)
    shown = np.asarray(open_image(path))[..., 0] > 0
    (frame,) = find_frames([path], [(3 * H, 3 * W)], tmp_path)
    assert frame is not None
    mask = np.zeros((3 * H, 3 * W), dtype=bool)
    mask[6:15, 12:27] = True
    assert (frame.move_pixels(mask) == shown).all()
    rows, columns = np.nonzero(shown)
    x, y, width, height = frame.move_box((12, 6, 15, 9))
    found = (x, y, x + width, y + height)
    assert found == pytest.approx((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))


@pytest.mark.parametrize(
    ("labelled", "stored"), [((427, 640), (222, 333)), ((222, 333), (427, 640)), ((1080, 1920), (640, 1138))]
)
def test_one_ratio(tmp_path: Path, labelled: tuple[int, int], stored: tuple[int, int]) -> None:
    (frame,) = find_frames([save(tmp_path / "a.png", *stored)], [labelled], tmp_path)
    assert frame == Frame(labelled, stored)
    assert frame.move_box((0, 0, labelled[1], labelled[0])) == pytest.approx((0, 0, stored[1], stored[0]))


@pytest.mark.parametrize("labelled", [(W, H), (H, W + 5), (2 * H, W), (100, 100), (60, 64)])
def test_another_shape_is_refused(tmp_path: Path, labelled: tuple[int, int]) -> None:
    paths = [save(tmp_path / "fits.png", H, W), save(tmp_path / "not.png", H, W)]
    with pytest.raises(
        UserError,
        match=rf"labels: 1 of 2 pictures have another shape .*'not.png': the file has {W} x {H}, the labels are for "
        rf"{labelled[1]} x {labelled[0]} ",
    ):
        find_frames(paths, [(H, W), labelled], Path("labels"))


def test_pictures_that_cannot_be_read_are_taken_at_their_word(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    paths = [tmp_path / "broken.png", tmp_path / "absent.png", save(tmp_path / "a.png", H, W), tmp_path / "none.png"]
    found = find_frames(paths, [(3, 4), (5, 6), None, None], tmp_path)
    assert found == [Frame((3, 4), (3, 4)), Frame((5, 6), (5, 6)), Frame((H, W), (H, W)), None]
