"""Pictures of any number of bands, written by tifffile and read back; broken and hostile ones."""

from __future__ import annotations

import importlib.util
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from lavise.storage.images.band_images import find_shown_bands, is_tiff, read_band_size, read_bands, show_bands
from lavise.storage.images.images import BrokenImageError, num_decoded

U8 = np.random.default_rng(0).integers(0, 256, size=(13, 29, 5), dtype=np.uint8)
U16 = np.random.default_rng(1).integers(0, 65536, size=(13, 29, 5), dtype=np.uint16)
F32 = np.random.default_rng(2).random(size=(13, 29, 5), dtype=np.float32)


def write(path: Path, bands_hwN: npt.NDArray[Any], **how: Any) -> Path:
    """Interleaved, unless `planarconfig` says otherwise."""
    is_planar = how.setdefault("planarconfig", "contig") == "separate"
    tifffile.imwrite(path, np.moveaxis(bands_hwN, 2, 0) if is_planar else bands_hwN, photometric="minisblack", **how)
    return path


def write_pages(path: Path, pages: list[npt.NDArray[Any]], **how: Any) -> Path:
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, photometric="minisblack", contiguous=False, **how)
    return path


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"planarconfig": "separate"},
        {"tile": (16, 16)},
        {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 3},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("bands", "largest"), [(U8, 255), (U16, 65535)], ids=["uint8", "uint16"])
def test_whole_numbers_are_divided_by_the_largest_of_their_kind(
    tmp_path: Path, bands: npt.NDArray[Any], largest: int, how: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.tif", bands, **how)
    for source in (path, path.read_bytes()):
        found = read_bands(source, 5)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, bands.astype(np.float32) / np.float32(largest))
    assert read_band_size(path) == (13, 29)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floating_point_values_are_taken_as_they_are(tmp_path: Path, kind: type) -> None:
    np.testing.assert_array_equal(
        read_bands(write(tmp_path / "a.tif", F32.astype(kind)), 5), F32.astype(kind).astype(np.float32)
    )


@pytest.mark.parametrize("value", [1.5, -0.25, np.nan, np.inf])
def test_floating_point_values_beyond_the_scale_are_told_of(tmp_path: Path, value: float) -> None:
    bands = F32.copy()
    bands[3, 4, 2] = value
    with pytest.raises(BrokenImageError, match=r"^floating-point values from .* to .*; allowed: from 0 to 1$"):
        read_bands(write(tmp_path / "a.tif", bands), 5)


@pytest.mark.parametrize("kind", [np.int16, np.uint32, np.bool_, np.complex64])
def test_other_values_are_told_of(tmp_path: Path, kind: type) -> None:
    path = write_pages(tmp_path / "a.tif", [np.zeros((4, 5), kind)] * 4)
    with pytest.raises(BrokenImageError, match=r"^values of \d+ bit, .*; allowed: uint8, uint16 or floating point$"):
        read_bands(path, 4)


def test_a_page_for_each_band(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "a.tif", list(np.moveaxis(U16, 2, 0)))
    np.testing.assert_array_equal(read_bands(path, 5), U16.astype(np.float32) / np.float32(65535))
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.moveaxis(U16, 2, 0)[None, None], imagej=True, metadata={"axes": "TZCYX"})
    np.testing.assert_array_equal(read_bands(stack, 5), read_bands(path, 5))


def test_previews_and_masks_are_no_bands(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for band in np.moveaxis(U8, 2, 0):
            file.write(band, photometric="minisblack", contiguous=False)
            file.write(band[::2, ::2], photometric="minisblack", contiguous=False, subfiletype=1)
        file.write(U8[..., 0] > 9, photometric="mask", contiguous=False, subfiletype=4)
    np.testing.assert_array_equal(read_bands(tmp_path / "a.tif", 5), U8.astype(np.float32) / np.float32(255))


def test_pages_behind_one_of_several_samples_are_other_pictures(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "a.tif", [U8, U8[::-1]], planarconfig="contig")
    np.testing.assert_array_equal(read_bands(path, 5), U8.astype(np.float32) / np.float32(255))


def test_pages_of_several_sizes_are_told_of(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "a.tif", [U8[..., 0], U8[:5, :, 1]])
    with pytest.raises(BrokenImageError, match=r"^its pages are of several sizes or kinds"):
        read_bands(path, 2)


@pytest.mark.parametrize("number", [2, 4, 6])
def test_another_number_of_bands_names_both(tmp_path: Path, number: int) -> None:
    with pytest.raises(BrokenImageError, match=rf"^found 5 bands; the network takes {number}$"):
        read_bands(write(tmp_path / "a.tif", U8), number)
    with pytest.raises(BrokenImageError, match=rf"^found 1 band; the network takes {number}$"):
        read_bands(write_pages(tmp_path / "b.tif", [U8[..., 0]]), number)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(tmp_path: Path, orientation: int) -> None:
    tag = (274, 3, 1, orientation, True)
    path = write(tmp_path / "bands.tif", U8, extratags=[tag])
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(U8[..., :3])).save(tmp_path / "a.png", exif=exif)
    from lavise.storage.images.images import open_image

    found = read_bands(path, 5)
    np.testing.assert_array_equal(np.rint(found[..., :3] * 255), np.asarray(open_image(tmp_path / "a.png")))
    assert read_band_size(path) == found.shape[:2]


def test_other_files_are_told_of(tmp_path: Path) -> None:
    Image.fromarray(U8[..., :4], "RGBA").save(tmp_path / "a.png")
    with pytest.raises(BrokenImageError, match=r"^found a PNG of 4 bands; pictures of other than 1 or 3 bands are "):
        read_bands(tmp_path / "a.png", 4)
    (tmp_path / "b.tif").write_bytes(b"nothing")
    with pytest.raises(BrokenImageError, match=r"^found no TIFF; "):
        read_bands(tmp_path / "b.tif", 4)
    with pytest.raises(BrokenImageError, match=r"^found not found|^not found"):
        read_bands(tmp_path / "none.tif", 4)
    assert not is_tiff(tmp_path / "none.tif")


def test_a_file_that_ends_early_is_broken(tmp_path: Path) -> None:
    for how in ({}, {"compression": "zlib"}):
        content = write(tmp_path / "a.tif", U16, **how).read_bytes()
        whole = read_bands(content, 5)
        for end in range(4, len(content), 97):
            try:
                found = read_bands(content[:end], 5)
            except BrokenImageError:
                continue
            np.testing.assert_array_equal(found, whole)  # the description comes last here and there


def test_no_byte_that_is_changed_raises_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = [
        write(tmp_path / "a.tif", U8, tile=(16, 16), compression="zlib").read_bytes(),
        write_pages(tmp_path / "b.tif", list(np.moveaxis(U16, 2, 0))).read_bytes(),
    ]
    outcomes = set()
    for _ in range(1500):
        content = bytearray(files[rng.integers(2)])
        for _ in range(rng.integers(1, 6)):
            content[rng.integers(len(content))] = rng.integers(256)
        try:
            read_bands(bytes(content), 5)
            outcomes.add("read")
        except BrokenImageError:
            outcomes.add("broken")
    assert outcomes == {"read", "broken"}


def test_a_part_that_inflates_to_more_than_it_says_is_broken(tmp_path: Path) -> None:
    """A strip of 8 x 8 x 4 bytes whose content is 50 MB of zeros, in 50 kB."""
    path = write(tmp_path / "a.tif", np.zeros((8, 8, 4), np.uint8), compression="zlib")
    with tifffile.TiffFile(path) as file:
        (page,) = file.pages
        assert isinstance(page, tifffile.TiffPage)
        offset_at = page.tags["StripOffsets"].valueoffset
        count_tag = page.tags["StripByteCounts"]
    content, bomb = bytearray(path.read_bytes()), zlib.compress(bytes(50_000_000), 9)
    content[offset_at : offset_at + 4] = len(content).to_bytes(4, "little")
    size = {3: 2, 4: 4}[int(count_tag.dtype)]
    assert len(bomb) < 2 ** (8 * size)
    content[count_tag.valueoffset : count_tag.valueoffset + size] = len(bomb).to_bytes(size, "little")
    with pytest.raises(BrokenImageError, match=r"^not readable: a part of it is longer than it says$"):
        read_bands(bytes(content + bomb), 4)


def test_too_large_a_picture_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", U16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 13 * 29 * 5 * 2 // 6)
    with pytest.raises(BrokenImageError, match=r"^too many pixels: 3,770 bytes; allowed: 3,768$"):
        read_bands(path, 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_bands(path, 5).shape == (13, 29, 5)


def test_pages_in_a_circle_end(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "a.tif", [U8[..., 0]] * 2)
    with tifffile.TiffFile(path) as file:
        first, second = (page.offset for page in file.pages)
    content = bytearray(path.read_bytes())
    after = second + 2 + 12 * int.from_bytes(content[second : second + 2], "little")
    content[after : after + 4] = first.to_bytes(4, "little")
    with pytest.raises(BrokenImageError, match=r"^more than 1,024 pages$"):
        read_bands(bytes(content), 2)


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs is here")
def test_a_compression_that_needs_another_package_says_so() -> None:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(U8[..., :4]), "RGBA").save(file, "TIFF", compression="tiff_lzw")
    with pytest.raises(
        BrokenImageError, match=r"^compressed by LZW, which needs the package imagecodecs; install lavi"
    ):
        read_bands(file.getvalue(), 4)


def test_compressions_that_lose_are_told_of() -> None:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(U8[..., :4]), "CMYK").save(file, "TIFF", compression="jpeg")
    with pytest.raises(BrokenImageError, match=r"^compressed by JPEG; allowed: none, deflate, PackBits, LZW or ZSTD$"):
        read_bands(file.getvalue(), 4)


def test_packbits_need_nothing_else() -> None:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(U8[..., :4]), "RGBA").save(file, "TIFF", compression="packbits")
    np.testing.assert_array_equal(read_bands(file.getvalue(), 4), U8[..., :4].astype(np.float32) / np.float32(255))


def test_decoded_pictures_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", U8)
    before = num_decoded()
    read_bands(path, 5)
    read_band_size(path)
    assert num_decoded() - before == 1


def test_shown_bands_go_from_percentile_to_percentile() -> None:
    ramp = np.linspace(0.2, 0.6, 101 * 4).reshape(101, 4)
    bands = np.stack([ramp, ramp[::-1], ramp * 0 + 0.5, 1 - ramp], axis=2).astype(np.float32)
    found = show_bands(bands, (4, 1, 3))
    assert found.shape == (101, 4, 3)
    assert found.dtype == np.uint8
    low, high = np.percentile(ramp, 2), np.percentile(ramp, 98)
    expected = np.rint(255 * np.clip((ramp - low) / (high - low), 0, 1))
    np.testing.assert_allclose(found[..., 1], expected, atol=1)
    np.testing.assert_allclose(found[..., 0], 255 - expected, atol=1)
    assert (found[..., 2] == 128).all()  # a band that is flat keeps its value
    assert find_shown_bands(4) == (1, 2, 3)
    np.testing.assert_array_equal(show_bands(bands), show_bands(bands, (1, 2, 3)))


def test_two_bands_are_shown_by_the_first_as_grey() -> None:
    found = show_bands(F32[..., :2])
    assert find_shown_bands(2) == (1,)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    np.testing.assert_array_equal(found, show_bands(F32, (1,)))
