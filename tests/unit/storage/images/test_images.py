from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavise.storage.datasets.base import ImageRecord
from lavise.storage.datasets.input_images import load_input
from lavise.storage.images.geometry import Geometry
from lavise.storage.images.images import (
    BrokenImageError,
    is_picture,
    num_decoded,
    open_image,
    read_header,
    read_size,
    uses_little,
)

FORMATS = ("bmp", "gif", "jpg", "png", "ppm", "tif", "webp", "jfif", "jpe", "apng", "avif", "jp2", "mpo", "ico", "qoi")


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


@pytest.mark.parametrize("kind", ["TGA", "EPS", "PCX", "SGI"])
@pytest.mark.parametrize("name", ["a", "a.jpg"])
def test_other_formats_are_not_tried(tmp_path: Path, kind: str, name: str) -> None:
    """Pillow knows them (for EPS it starts Ghostscript), whatever the file is called; a TGA has to be called so."""
    path = tmp_path / name
    noise(16, 16).save(path, kind)
    with Image.open(path) as known:
        assert known.format == kind
    assert not is_picture(path)
    with pytest.raises(BrokenImageError, match="no picture of a known format"):
        open_image(path)
    with pytest.raises(BrokenImageError, match="not readable"):
        read_size(path)
    with pytest.raises(BrokenImageError, match="no picture of a known format"):
        open_image(path.read_bytes())


def test_pixels_of_more_formats(tmp_path: Path) -> None:
    """Those that lose nothing hold what was written."""
    for ending in ("apng", "qoi", "tga", "jp2", "ico"):
        path = tmp_path / f"a.{ending}"
        noise(16, 16).save(path)
        np.testing.assert_array_equal(np.asarray(open_image(path)), np.asarray(noise(16, 16)))
        assert is_picture(path)
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 255\n" + bytes([7, 200]))
    (tmp_path / "a.pbm").write_bytes(b"P4 8 1\n" + bytes([0b01111111]))
    assert np.asarray(open_image(tmp_path / "a.pgm"))[0, :, 0].tolist() == [7, 200]
    assert np.asarray(open_image(tmp_path / "a.pbm"))[0, :, 2].tolist() == [255, *[0] * 7]


@pytest.mark.parametrize("ending", ["gif", "apng", "tif", "webp", "mpo"])
def test_of_several_frames_the_first(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    seen = np.asarray(open_image(path))
    assert seen[8, 8, 0] > 200 > seen[8, 8, 2]
    assert read_header(path).num_frames == 2


# Grey pictures of more than 8 bits


def grey(path: Path, values: object, dtype: type, value_range: tuple[float, float] | None = None) -> list[int]:
    Image.fromarray(np.array([values], dtype=dtype)).save(path)
    seen = np.asarray(open_image(path, value_range))
    assert (seen == seen[..., :1]).all()
    return [int(v) for v in seen[0, :, 0]]


@pytest.mark.parametrize("ending", ["png", "tif", "jp2", "pgm"])
def test_sixteen_bits_are_scaled_as_ever(tmp_path: Path, ending: str) -> None:
    values = np.tile(np.array([0, 0x0100, 0x0FFF, 0x7F00, 0xFFFF], dtype=np.uint16), (8, 1))
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    expected = values >> 8
    for given in (None, (0, 65535)):
        np.testing.assert_array_equal(np.asarray(open_image(tmp_path / f"a.{ending}", given))[..., 1], expected)


def test_range_of_values(tmp_path: Path) -> None:
    """Oracle: 12 bits become their upper 8."""
    values = [0, 16, 2048, 4095, 60_000]
    for ending in ("png", "tif"):
        assert grey(tmp_path / f"a.{ending}", values, np.uint16, (0, 4095)) == [0, 1, 128, 255, 255]
    assert grey(tmp_path / "a.tif", [0, 1000, 1016, 5095], np.uint16, (1000, 5095)) == [0, 0, 1, 255]
    assert grey(tmp_path / "a.tif", [-2000, -1000, 0, 1000], np.int32, (-1000, 1000)) == [0, 0, 127, 255]
    assert grey(tmp_path / "a.tif", [0, 100, 255], np.int32, (0, 255)) == [0, 100, 255]
    assert grey(tmp_path / "a.tif", [-1, 0, 1000, 4000, 9e9], np.float32, (0, 4000)) == [0, 0, 64, 255, 255]
    assert grey(tmp_path / "a.tif", [0, 1, 2], np.int32, (0, 1e300)) == [0, 0, 0]


def test_range_of_values_leaves_eight_bits_alone(tmp_path: Path) -> None:
    assert grey(tmp_path / "a.png", [0, 7, 255], np.uint8, (0, 4095)) == [0, 7, 255]


def twelve_bits(values: list[int]) -> bytes:
    """A TIFF with 12 bits a sample, packed; written by hand after the TIFF 6.0 specification."""
    packed = sum(v << 12 * (len(values) - 1 - i) for i, v in enumerate(values)).to_bytes(len(values) * 12 // 8, "big")
    tags = [(256, len(values)), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags.append((279, len(packed)))
    start = 8 + len(packed) + len(packed) % 2
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    body = packed + b"\0" * (len(packed) % 2)
    return b"II*\0" + struct.pack("<I", start) + body + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def test_twelve_bits_that_the_file_states(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(twelve_bits([0, 16, 2048, 4095]))
    assert np.asarray(open_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floating_point_from_0_to_1(tmp_path: Path) -> None:
    assert grey(tmp_path / "a.tif", [0, 0.1, 0.5, 1], np.float32) == [0, 26, 128, 255]


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (
            [0, 4000],
            np.float32,
            r"floating-point values from 0 to 4000, .*reference\.value_range or target\.value_range",
        ),
        ([-0.5, 1], np.float32, r"floating-point values from -0\.5 to 1, "),
        ([0, 1.001], np.float32, r"floating-point values from 0 to 1\.001, "),
        ([0, np.nan], np.float32, "not numbers"),
        ([0, 200], np.int32, r"whole numbers with a sign or of 32 bits, from 0 to 200, .*value_range"),
    ],
)
def test_values_of_which_nothing_says_what_is_white(
    tmp_path: Path, values: list[float], dtype: type, message: str
) -> None:
    with pytest.raises(BrokenImageError, match=message):
        grey(tmp_path / "a.tif", values, dtype)
    assert read_header(tmp_path / "a.tif").has_range == (dtype is np.float32)


def test_transparent_grey_of_sixteen_bits_lies_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256, 512]], dtype=np.uint16)).save(tmp_path / "a.png", transparency=256)
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 255, 2]


def test_a_record_is_read_in_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 2048, dtype=np.uint16)).save(tmp_path / "a.png")
    seen = [load_input(ImageRecord("a.png", tmp_path / "a.png", (), r), Geometry(4)) for r in (None, (0.0, 4095.0))]
    assert [int(s[0, 0, 0]) for s in seen] == [8, 128]


def test_pictures_that_use_little_of_the_range() -> None:
    picture = np.full((4, 4, 3), 100, dtype=np.uint8)
    assert uses_little(picture)
    picture[0, 0] = 112
    assert uses_little(picture)
    picture[0, 0] = 113
    assert not uses_little(picture)
