"""Fifteen and more small files that promise, or hold, far more than they should."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes, before: bytes = b"", bits: int = 8, colour: int = 0) -> bytes:
    """A PNG whose IDAT inflates to `pixels`; `before`: chunks in front of it."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = header + before + png_chunk(b"IDAT", zlib.compress(pixels, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def webp(kind: bytes, body: bytes) -> bytes:
    """A WebP of one chunk."""
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def jpeg(**options: object) -> bytes:
    """A small honest JPEG."""
    out = io.BytesIO()
    Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 50).save(out, "JPEG", **options)
    return out.getvalue()


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose frame header says `width` x `height`."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _gif() -> bytes:
    screen = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6)
    return screen + b"\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x08\x01\0\0\x3b"


def _bmp() -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHI", 200, 0, 0, 54, 40, 60000, 60000, 1, 24, 0) + bytes(100)


def _tiff() -> bytes:
    def entry(tag: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, 4, 1, value)

    return b"II*\0" + struct.pack("<IH", 8, 3) + entry(256, 10**9) + entry(257, 10**9) + entry(259, 5) + bytes(40)


def _jpeg_of_many_scans() -> bytes:
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    many = bytearray(data[:-2] + scan * ((90_000 - len(data)) // len(scan)) + b"\xff\xd9")
    at = many.index(b"\xff\xc2")
    many[at + 5 : at + 9] = struct.pack(">HH", 6000, 6000)
    return bytes(many)


def _jpeg_of_many_sequential_scans() -> bytes:
    """Scans of one component each, without data: the decoder walks over the whole picture for each, then complains."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 6000, 6000)
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    return bytes(data[: data.index(b"\xff\xda")]) + scan * 9000 + b"\xff\xd9"


ZEROS = bytes(30_000_000)

# name -> (bytes, the code of the refusal)
BOMBS: dict[str, tuple[bytes, str]] = {
    "png of 100 megapixels": (png(10_000, 10_000, ZEROS), "image_too_large"),
    "png of 40001 x 2": (png(40_001, 2, ZEROS[:80_004]), "image_too_large"),
    "png of 2 x 40001": (png(2, 40_001, ZEROS[:120_003]), "image_too_large"),
    "png of the largest sides": (png(2**31 - 1, 2**31 - 1, b"\0"), "image_too_large"),
    "png with sixteen bits and 100 megapixels": (png(10_000, 10_000, b"\0", bits=16, colour=6), "image_too_large"),
    "animated png": (png(8, 8, b"\0", png_chunk(b"acTL", struct.pack(">II", 10**6, 0))), "image_unsupported"),
    "png with a text of 30 MB": (
        png(8, 8, bytes(72), png_chunk(b"zTXt", b"k\0\0" + zlib.compress(ZEROS, 9))),
        "image_invalid",
    ),
    "png of many chunks": (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
        + png_chunk(b"tEXt", b"") * 8000,
        "image_invalid",
    ),
    "jpeg of 65535 x 65535": (jpeg_of_size(65535, 65535), "image_too_large"),
    "jpeg of 40001 x 2": (jpeg_of_size(40_001, 2), "image_too_large"),
    "jpeg of 7000 x 7000": (jpeg_of_size(7000, 7000), "image_too_large"),
    "jpeg of many scans": (_jpeg_of_many_scans(), "image_too_large"),
    "jpeg of many sequential scans": (_jpeg_of_many_sequential_scans(), "image_too_large"),
    "jpeg of fill bytes": (b"\xff\xd8" + b"\xff" * 99_000, "image_invalid"),
    "jpeg of fill bytes and zeros": (b"\xff\xd8\xff" + b"\xff\0" * 49_000, "image_invalid"),
    "jpeg of empty segments": (b"\xff\xd8" + b"\xff\xe2\0\x02" * 24_000, "image_invalid"),
    "webp with a canvas of 16 M x 16 M": (webp(b"VP8X", bytes(4) + b"\xff" * 6), "image_invalid"),
    "webp of 16384 x 16384": (webp(b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(20)), "image_too_large"),
    "webp animation": (webp(b"VP8X", b"\x02" + bytes(9)), "image_unsupported"),
    "webp of many chunks": (
        b"RIFF" + struct.pack("<I", 4 + 96_000) + b"WEBP" + (b"XXXX" + bytes(4)) * 12_000,
        "image_invalid",
    ),
    "gif of 65535 x 65535": (_gif(), "image_unsupported"),
    "bmp of 60000 x 60000": (_bmp(), "image_unsupported"),
    "tiff of 10^9 x 10^9": (_tiff(), "image_unsupported"),
    "fits": (b"SIMPLE  =                    T" + bytes(2880), "image_unsupported"),
}
