"""Bad pictures, each beside three good ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.bad_inputs.answers import COUNTED, READ, REFUSED, Case, Found, read_target
from benchmarks.bad_inputs.good_sets import H, W, encode_picture, write_picture

GROUP = "pictures"
_FORMATS = {
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "JPEG": "jpg",
    "PNG": "png",
    "BMP": "bmp",
    "GIF": "gif",
    "TIFF": "tif",
    "WEBP": "webp",
    "PPM": "ppm",
}
_TENTHS = range(10)


def list_cases() -> Iterator[Case]:
    """All of them."""
    for form, ending in _FORMATS.items():
        for tenth in _TENTHS:
            # An animated or interlaced tail may be cut without a loss; a whole picture never is.
            yield _case(
                f"{form}, cut after {tenth} tenths", f"bad.{ending}", partial(_cut, form, tenth), (COUNTED, READ)
            )
    for what, name, make, expected in _TABLE:
        yield _case(what, name, make, expected)
    yield Case(GROUP, "a folder of bad pictures alone", _read_bad_alone, (COUNTED,))
    yield Case(GROUP, "an empty folder", lambda folder: read_target(_settings(folder)))
    yield Case(GROUP, "a folder that is not there", lambda folder: read_target(_settings(folder / "nowhere")))
    yield Case(GROUP, "a list that names pictures which are not there", _read_list, (COUNTED, REFUSED))


def _case(what: str, name: str, make: Callable[[], bytes], expected: tuple[str, ...]) -> Case:
    def read(folder: Path) -> Found:
        for number in range(3):
            write_picture(folder / f"good{number}.png", number)
        (folder / name).write_bytes(make())
        return read_target(_settings(folder))

    return Case(GROUP, what, read, expected)


def _settings(folder: Path) -> dict[str, object]:
    return {"kind": "image_folder", "root": str(folder)}


def _read_bad_alone(folder: Path) -> Found:
    (folder / "a.png").write_bytes(b"")
    write_picture(folder / "b.png")
    return read_target(_settings(folder))


def _read_list(folder: Path) -> Found:
    write_picture(folder / "there.png")
    (folder / "list.txt").write_text("there.png\nnot_there.png\n")
    return read_target({"kind": "path_list", "root": str(folder), "file": str(folder / "list.txt")})


def _cut(form: str, tenth: int) -> bytes:
    content = encode_picture(1, form)
    return content[: len(content) * tenth // 10]


def _save(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _noise(*shape: int, seed: int = 0, high: int = 256, kind: type[np.generic] = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(kind)


def _rgb() -> Image.Image:
    return Image.fromarray(_noise(H, W, 3))


def _palette() -> Image.Image:
    return _rgb().quantize(16)


def _with_orientation(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return _save(_rgb(), "JPEG", exif=exif)


def _animated(form: str) -> bytes:
    frames = [Image.fromarray(_noise(H, W, 3, seed=seed)) for seed in range(3)]
    return _save(frames[0], form, save_all=True, append_images=frames[1:])


def _cut_animation() -> bytes:
    return _animated("GIF")[:-400]


def _png_of_size(width: int, height: int) -> bytes:
    """A header that promises so many pixels, and a body of a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def _bmp_of_size(width: int, height: int) -> bytes:
    return (
        b"BM" + struct.pack("<IHHI", 64, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *([0] * 6))
    )


def _float_tiff(value: float) -> bytes:
    values = np.linspace(0, 1, H * W, dtype=np.float32).reshape(H, W)
    values[0, 0] = value
    return _save(Image.fromarray(values), "TIFF")


def _swap_bytes(content: bytes) -> bytes:
    """The same with every eighth byte from the 100th on turned over."""
    changed = bytearray(content)
    for place in range(100, len(changed), 8):
        changed[place] ^= 0xFF
    return bytes(changed)


_ANY = (COUNTED, READ)
_TABLE: tuple[tuple[str, str, Callable[[], bytes], tuple[str, ...]], ...] = (
    ("no byte", "bad.jpg", lambda: b"", (COUNTED,)),
    ("one byte", "bad.png", lambda: b"\x89", (COUNTED,)),
    ("zeros alone", "bad.png", lambda: bytes(1000), (COUNTED,)),
    ("noise called .jpg", "bad.jpg", lambda: _noise(2000).tobytes(), (COUNTED,)),
    ("noise called .tga", "bad.tga", lambda: _noise(2000).tobytes(), _ANY),
    ("text called .png", "bad.png", lambda: b"not a picture\n", (COUNTED,)),
    ("a page of HTML called .jpg", "bad.jpg", lambda: b"<html><body>404 not found</body></html>", (COUNTED,)),
    ("SVG called .png", "bad.png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", (COUNTED,)),
    ("PostScript called .jpg (no program may start)", "bad.jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", (COUNTED,)),
    ("a zip archive called .png", "bad.png", lambda: b"PK\x03\x04" + bytes(100), (COUNTED,)),
    ("a PNG called .jpg", "bad.jpg", lambda: _save(_rgb()), (READ,)),
    ("a JPEG called .tif", "bad.tif", lambda: _save(_rgb(), "JPEG"), (READ,)),
    ("a picture with an ending that is not read", "bad.heic", lambda: _save(_rgb()), (COUNTED,)),
    ("a picture without an ending", "bad", lambda: _save(_rgb()), (READ,)),
    ("a file without an ending that is none", "bad", lambda: b"text", (COUNTED,)),
    ("1 x 1", "bad.png", lambda: _save(Image.new("RGB", (1, 1))), (READ,)),
    ("60,000 x 1", "bad.png", lambda: _save(Image.new("RGB", (60_000, 1))), (READ,)),
    ("1 x 60,000", "bad.png", lambda: _save(Image.new("RGB", (1, 60_000))), (READ,)),
    ("65,500 x 1, JPEG", "bad.jpg", lambda: _save(Image.new("RGB", (65_500, 1)), "JPEG"), (READ,)),
    ("16 bits, grey", "bad.png", lambda: _save(Image.fromarray(_noise(H, W, high=65536, kind=np.uint16))), (READ,)),
    ("16 bits, grey, TIFF", "bad.tif", lambda: _save(Image.fromarray(_noise(H, W, kind=np.uint16)), "TIFF"), (READ,)),
    ("32 bits with a sign", "bad.tif", lambda: _save(Image.fromarray(_noise(H, W, kind=np.int32)), "TIFF"), (COUNTED,)),
    ("floating point, 0 to 1", "bad.tif", lambda: _float_tiff(0.5), (READ,)),
    ("floating point with NaN", "bad.tif", lambda: _float_tiff(float("nan")), (COUNTED,)),
    ("floating point with infinity", "bad.tif", lambda: _float_tiff(float("inf")), (COUNTED,)),
    ("floating point up to 1e30", "bad.tif", lambda: _float_tiff(1e30), (COUNTED,)),
    ("one bit", "bad.png", lambda: _save(_rgb().convert("1")), (READ,)),
    ("grey with alpha", "bad.png", lambda: _save(_rgb().convert("LA")), (READ,)),
    ("CMYK, JPEG", "bad.jpg", lambda: _save(_rgb().convert("CMYK"), "JPEG"), (READ,)),
    ("CMYK, TIFF", "bad.tif", lambda: _save(_rgb().convert("CMYK"), "TIFF"), (READ,)),
    ("YCbCr, TIFF", "bad.tif", lambda: _save(_rgb().convert("YCbCr"), "TIFF"), (READ,)),
    ("Lab, TIFF", "bad.tif", lambda: _save(_rgb().convert("LAB"), "TIFF"), _ANY),
    ("a palette", "bad.png", lambda: _save(_palette()), (READ,)),
    ("a palette with one transparent colour", "bad.png", lambda: _save(_palette(), transparency=3), (READ,)),
    ("a palette with an alpha for each colour", "bad.png", lambda: _save(_palette(), transparency=bytes(16)), (READ,)),
    ("a palette with a transparent colour, GIF", "bad.gif", lambda: _save(_palette(), "GIF", transparency=0), (READ,)),
    ("RGB with a transparent colour", "bad.png", lambda: _save(_rgb(), transparency=(1, 2, 3)), (READ,)),
    ("RGBA, all transparent", "bad.png", lambda: _save(Image.new("RGBA", (W, H), (9, 9, 9, 0))), (READ,)),
    ("animated GIF", "bad.gif", lambda: _animated("GIF"), (READ,)),
    ("animated GIF, cut in a later frame", "bad.gif", _cut_animation, (READ, COUNTED)),
    ("animated PNG", "bad.png", lambda: _animated("PNG"), (READ,)),
    ("animated WebP", "bad.webp", lambda: _animated("WEBP"), (READ,)),
    ("TIFF of three pages", "bad.tif", lambda: _animated("TIFF"), (READ,)),
    *(
        (f"EXIF orientation {n}", "bad.jpg", partial(_with_orientation, n), (READ,))
        for n in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    ),
    ("EXIF that is none", "bad.jpg", lambda: _save(_rgb(), "JPEG", exif=b"Exif\0\0 not TIFF"), (READ,)),
    ("EXIF that is cut", "bad.jpg", lambda: _save(_rgb(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09"), (READ,)),
    ("an ICC profile that is none", "bad.png", lambda: _save(_rgb(), icc_profile=b"no profile"), (READ,)),
    ("an ICC profile of 1 MB", "bad.jpg", lambda: _save(_rgb(), "JPEG", icc_profile=bytes(1_000_000)), (READ,)),
    ("a comment with control characters", "bad.gif", lambda: _save(_rgb(), "GIF", comment=b"\x1b[31m"), (READ,)),
    ("a name with control characters", "bad\x1b[31m.png", lambda: b"", (COUNTED,)),
    ("a name that is no UTF-8", "bad\udcff.png", lambda: _save(_rgb()), (READ, COUNTED)),
    ("a name of HTML", "<img src=x onerror=alert(1)>.png", lambda: b"", (COUNTED,)),
    (
        "a header of 200,000 x 200,000 with a body of 64 bytes",
        "bad.png",
        lambda: _png_of_size(200_000, 200_000),
        (COUNTED,),
    ),
    (
        "a header of 15,000 x 15,000 with a body of 64 bytes",
        "bad.png",
        lambda: _png_of_size(15_000, 15_000),
        (COUNTED,),
    ),
    ("a header of 0 x 0", "bad.png", lambda: _png_of_size(0, 0), (COUNTED,)),
    ("a header of 0 x 10", "bad.png", lambda: _png_of_size(0, 10), (COUNTED,)),
    ("a BMP header of 100,000 x 100,000 without a body", "bad.bmp", lambda: _bmp_of_size(100_000, 100_000), (COUNTED,)),
    ("a BMP header of 10 x -10 without a body", "bad.bmp", lambda: _bmp_of_size(10, -10), (COUNTED,)),
    *(
        (
            f"{form} with bytes turned over",
            f"bad.{ending}",
            partial(lambda f: _swap_bytes(_save(_rgb(), f)), form),
            _ANY,
        )
        for form, ending in _FORMATS.items()
    ),
)
