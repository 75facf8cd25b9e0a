"""EXIF of PNG files, before and behind the pixels, without decoding those that have none behind."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from lavise.storage.images.images import open_image, read_size
from lavise.storage.images.png_chunks import has_notes_after_pixels


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _write_png(path: Path, before: bytes = b"", behind: bytes = b"") -> Path:
    """40 x 20 pixels, with more chunks on either side of them."""
    made = BytesIO()
    Image.new("RGB", (40, 20), "red").save(made, "png")
    whole = made.getvalue()
    start, end = whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4
    path.write_bytes(whole[:start] + before + whole[start:end] + behind + whole[end:])
    return path


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


_XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
_NOTES = {
    "eXIf": _chunk(b"eXIf", _exif(6)),
    "raw profile": _chunk(
        b"zTXt",
        b"Raw profile type exif\0\0"
        + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(_exif(6)) + 6, (b"Exif\0\0" + _exif(6)).hex().encode())),
    ),
    "XMP": _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP),
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("name", _NOTES)
def test_turned_pictures(tmp_path: Path, name: str, place: str) -> None:
    path = _write_png(tmp_path / "a.png", **{place: _NOTES[name]})
    with path.open("rb") as file:
        file.seek(5)
        assert has_notes_after_pixels(file) == (place == "behind")
        assert file.tell() == 5
    picture = open_image(path)
    assert (picture.height, picture.width) == (40, 20)
    assert read_size(path) == (40, 20)


def test_pixels_are_not_decoded_for_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, early = _write_png(tmp_path / "a.png"), _write_png(tmp_path / "b.png", before=_NOTES["eXIf"])
    late = _write_png(tmp_path / "c.png", behind=_NOTES["eXIf"])
    asked, load = list[str](), PngImagePlugin.PngImageFile.load

    def spy(file: PngImagePlugin.PngImageFile) -> object:
        asked.append(Path(str(file.filename)).name)
        return load(file)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", spy)
    assert [read_size(path) for path in (plain, early, late)] == [(20, 40), (40, 20), (40, 20)]
    assert asked == ["c.png"]


@pytest.mark.parametrize("end", [10, 40, 60, -1, -13])
def test_cut_files(tmp_path: Path, end: int) -> None:
    whole = _write_png(tmp_path / "a.png").read_bytes()
    assert not has_notes_after_pixels(BytesIO(whole[:end]))
