from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavise.storage.datasets.geometry import Geometry
from lavise.storage.datasets.images import (
    BrokenImageError,
    list_images,
    num_decoded,
    open_image,
    read_size,
)
from lavise.storage.datasets.input_images import load_input

FORMATS = ("bmp", "gif", "jpg", "png", "ppm", "tif", "webp")


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def exif_block(tag: int, kind: int, value: bytes) -> bytes:
    """EXIF with one entry and the orientation `turn by 90 degrees`."""
    entries = struct.pack(">HHI", tag, kind, 1) + value + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + b"\0\0\0\0"


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_opens_as_rgb(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    noise(13, 29).save(path)
    assert open_image(path).mode == "RGB"
    assert open_image(path).size == (29, 13)
    assert read_size(path) == (13, 29)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.95])
def test_truncated_picture_is_broken_and_never_grey(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"a.{ending}"
    noise(40, 50).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BrokenImageError, match="not readable: "):
        open_image(path)


def test_missing_picture(tmp_path: Path) -> None:
    with pytest.raises(BrokenImageError, match=r"^not found$"):
        open_image(tmp_path / "none.jpg")
    with pytest.raises(BrokenImageError, match=r"not readable: .*none\.jpg"):
        read_size(tmp_path / "none.jpg")


def test_folder_and_text_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture at all")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("text.jpg", "folder.jpg"):
        with pytest.raises(BrokenImageError, match="not readable: "):
            open_image(tmp_path / name)
        with pytest.raises(BrokenImageError, match="not readable: "):
            read_size(tmp_path / name)


def test_picture_with_too_many_pixels_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60_000, 60_000))
    with pytest.raises(BrokenImageError, match=r"too many pixels: .*3600000000"):
        open_image(path)


def test_size_of_a_picture_with_too_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(60_000, 60_000))
    with pytest.raises(BrokenImageError, match=r"too many pixels|not readable"):
        read_size(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_exif(tmp_path: Path, orientation: int) -> None:
    """The upper left quarter of the upright picture is white; oracle: the EXIF standard."""
    upright = np.zeros((20, 40), dtype=np.uint8)
    upright[:10, :20] = 255
    # What the camera stored, so that the value turns it upright again.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(path))[..., 0], upright)
    assert read_size(path) == (20, 40)


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [(0x010E, 11, b"abcd"), (0x0111, 2, b"abcd")],
    ids=["number where text belongs", "text where a number belongs"],
)
def test_senseless_exif_entry_does_not_stop_the_run(tmp_path: Path, tag: int, kind: int, value: bytes) -> None:
    """Cameras and editors write such entries; the picture is either opened, upright, or broken with a reason."""
    path = tmp_path / "a.jpg"
    noise(10, 20).save(path, exif=exif_block(tag, kind, value))
    try:
        picture = open_image(path)
    except BrokenImageError as err:
        assert "not readable" in str(err)  # noqa: PT017 - both outcomes are right
    else:
        assert (picture.height, picture.width) == read_size(path)


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    seen = np.asarray(open_image(tmp_path / "a.png"))
    assert seen[0, 0].tolist() == [255, 0, 0]
    assert seen[1, 1].tolist() == [255, 255, 255]


def test_transparent_palette_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (3, 2), 1)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "a.gif", transparency=0)
    seen = np.asarray(open_image(tmp_path / "a.gif"))
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert seen[1, 2].tolist() == [40, 50, 60]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_keep_their_brightness(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(path)
    seen = open_image(path)
    assert seen.mode == "RGB"
    assert np.asarray(seen).min() >= 250


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 0x0100, 0x7F00, 0xFFFF]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 0x7F, 0xFF]


def test_decoded_pictures_are_counted(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    before = num_decoded()
    open_image(tmp_path / "a.png")
    load_input(tmp_path / "a.png", Geometry(4))
    read_size(tmp_path / "a.png")
    assert num_decoded() - before == 2


def test_load_input_is_open_then_resize(tmp_path: Path) -> None:
    noise(30, 50).save(tmp_path / "a.png")
    geometry = Geometry(16, "center_crop")
    expected = geometry.resize_image(noise(30, 50))
    np.testing.assert_array_equal(load_input(tmp_path / "a.png", geometry), expected)


@pytest.mark.parametrize("ending", FORMATS)
def test_bytes_are_decoded_like_their_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    noise(13, 29).save(path)
    np.testing.assert_array_equal(np.asarray(open_image(path.read_bytes())), np.asarray(open_image(path)))


@pytest.mark.parametrize("data", [b"", b"no picture at all", b"\0" * 100])
def test_bytes_that_are_no_picture(data: bytes) -> None:
    with pytest.raises(BrokenImageError, match=r"^not readable: no picture of a known format$"):
        open_image(data)


def test_truncated_and_huge_bytes(tmp_path: Path) -> None:
    noise(40, 50).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    with pytest.raises(BrokenImageError, match="not readable: "):
        open_image(data[: len(data) // 2])
    with pytest.raises(BrokenImageError, match="too many pixels: "):
        open_image(png_header(60_000, 60_000))


@pytest.mark.parametrize("kind", ["ICO", "TGA", "EPS"])
def test_bytes_of_other_formats_are_not_tried(tmp_path: Path, kind: str) -> None:
    """Pillow knows them (for EPS it starts Ghostscript); from a file they may come, from a stranger they may not."""
    path = tmp_path / "a"
    noise(16, 16).save(path, kind)
    with Image.open(path) as known:
        assert known.format == kind
    with pytest.raises(BrokenImageError, match="no picture of a known format"):
        open_image(path.read_bytes())


def test_list_pictures(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "b" / "deep").mkdir(parents=True)
    outside.mkdir()
    noise(4, 4).save(outside / "secret.png")
    for name in ("z.png", "a.JPG", "b/deep/c.jpeg", "b/x.webp"):
        (root / name).write_bytes(b"")
    for name in ("notes.txt", "labels.csv", "png", "b/a.jpg.part"):
        (root / name).write_bytes(b"")
    (root / "folder.png").mkdir()
    (root / "leak.png").symlink_to(outside / "secret.png")
    (root / "leak").symlink_to(outside)
    (root / "gone.png").symlink_to(root / "nothing.png")
    (root / "inside.png").symlink_to(root / "z.png")
    found = [p.relative_to(root).as_posix() for p in list_images(root)]
    assert found == ["a.JPG", "b/deep/c.jpeg", "b/x.webp", "inside.png", "z.png"]


def test_list_pictures_of_an_empty_folder(tmp_path: Path) -> None:
    assert list_images(tmp_path) == []
