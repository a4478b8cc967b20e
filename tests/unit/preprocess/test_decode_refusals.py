"""What is not served is refused by class, before pixels exist, and without a word of the decoder's own."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from serving.errors import ImageInvalid, ImageTooLarge, ImageUnsupported, InputError
from serving.preprocess.decode import DecodeLimits, check_limits, decode, read_header

Encode = Callable[..., bytes]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, bits: int = 8, colour: int = 0, body: bytes = b"\0") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(body)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _marked(data: bytes, marker: int, change: Callable[[bytearray, int], None]) -> bytes:
    """The JPEG with the body of its first `marker` segment changed; `change` gets the array and the body's offset."""
    array = bytearray(data)
    change(array, array.index(bytes([0xFF, marker])) + 4)
    return bytes(array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"hello, this is text and not a picture",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0" + b"text with the first bytes of a JPEG" * 9,
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + b"text" * 30,
        b"RIFF\x04\0\0\0WEBP",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xff" * 5000,
        b"\xff\xd8" + b"\xff" * 5000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(ImageInvalid) as caught:
        decode(data)
    assert caught.value.code == "image_invalid"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PDF", "PSD", "FITS"])
def test_other_formats_are_named(astronaut: Image.Image, encode: Encode, kind: str) -> None:
    made = {"PSD": b"8BPS\0\1", "FITS": b"SIMPLE  =  T", "PDF": b"%PDF-1.7"}
    data = made.get(kind) or encode(astronaut, kind)
    with pytest.raises(ImageUnsupported, match="JPEG, PNG or WebP"):
        read_header(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "progressive"])
def test_every_truncation_is_an_input_error(astronaut: Image.Image, encode: Encode, kind: str) -> None:
    small = astronaut.crop((100, 20, 164, 68))
    data = encode(small, "JPEG", progressive=True) if kind == "progressive" else encode(small, kind)
    assert decode(data).shape == (48, 64, 3)
    for length in range(len(data)):
        with pytest.raises(ImageInvalid):
            decode(data[:length])


@pytest.mark.parametrize(("sof", "word"), [(0xC3, "lossless"), (0xC5, "hierarchical"), (0xC9, "arithmetic")])
def test_jpeg_codings_that_are_not_served(astronaut: Image.Image, encode: Encode, sof: int, word: str) -> None:
    data = encode(astronaut, "JPEG").replace(b"\xff\xc0", bytes([0xFF, sof]), 1)
    with pytest.raises(ImageUnsupported, match=word):
        decode(data)


def test_jpeg_frames_that_are_not_served(astronaut: Image.Image, encode: Encode) -> None:
    data = encode(astronaut, "JPEG")

    def twelve_bits(array: bytearray, at: int) -> None:
        array[at] = 12

    def two_components(array: bytearray, at: int) -> None:
        array[at + 5] = 2

    def no_height(array: bytearray, at: int) -> None:
        array[at + 1 : at + 3] = b"\0\0"

    for change, kind in (
        (twelve_bits, ImageUnsupported),
        (two_components, ImageUnsupported),
        (no_height, ImageInvalid),
    ):
        with pytest.raises(kind):
            decode(_marked(data, 0xC0, change))


def test_a_second_frame_header_is_refused(astronaut: Image.Image, encode: Encode) -> None:
    data = encode(astronaut, "JPEG")
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    with pytest.raises(ImageInvalid, match="two frame headers"):
        decode(data[:at] + frame + data[at:])


@pytest.mark.parametrize(("bits", "colour"), [(3, 0), (16, 3), (8, 1), (4, 2)])
def test_png_kinds_that_do_not_exist(bits: int, colour: int) -> None:
    with pytest.raises(ImageInvalid, match="does not exist"):
        read_header(_png(4, 4, bits, colour))


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_png_without_area(size: tuple[int, int]) -> None:
    with pytest.raises(ImageInvalid, match="declares"):
        read_header(_png(*size))


def test_png_whose_pixels_end_early_or_are_not_zlib() -> None:
    for body in (b"\0" * 3, b""):
        with pytest.raises(ImageInvalid):
            decode(_png(64, 64, body=body))
    with pytest.raises(ImageInvalid):
        decode(_png(64, 64).replace(zlib.compress(b"\0"), b"not zlib"))


def test_png_without_pixels() -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IEND", b"")
    with pytest.raises(ImageInvalid, match="no IDAT"):
        read_header(data)


def test_png_of_sixteen_bit_rgb_with_a_transparent_colour_is_refused_rather_than_guessed() -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"tRNS", bytes(6)) + _chunk(b"IDAT", zlib.compress(bytes(7)))
    with pytest.raises(ImageUnsupported, match="16-bit RGB"):
        decode(b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b""))


def test_webp_canvas_of_another_size_than_its_picture(astronaut: Image.Image, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = bytearray(encode(astronaut, "WEBP", exif=exif.tobytes()))
    assert data[12:16] == b"VP8X"
    data[24:27] = (16_000_000).to_bytes(3, "little")
    with pytest.raises(ImageInvalid, match="canvas"):
        read_header(bytes(data))


@pytest.mark.parametrize("size", [(40_001, 2), (2, 40_001), (10_000, 10_000), (16_385, 1), (2**31 - 1, 2**31 - 1)])
def test_sides_and_area_over_the_limits(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match=f"{size[0]} x {size[1]}"):
        decode(_png(*size))


def test_the_limits_apply_after_orientation_as_well() -> None:
    header = read_header(_png(300, 200))
    check_limits(header, DecodeLimits(max_pixels=60_000, max_side=300))
    with pytest.raises(ImageTooLarge):
        check_limits(header, DecodeLimits(max_side=299))
    with pytest.raises(ImageTooLarge):
        check_limits(header, DecodeLimits(max_pixels=59_999))


def test_a_bound_of_pillows_own_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours may be set higher, so Pillow's is off; a library that sets it again makes an answer, no traceback."""
    assert Image.MAX_IMAGE_PIXELS is None
    data = _png(30, 20, body=bytes(31 * 20))
    assert decode(data).shape == (20, 30, 3)
    for bound in (400, 100):  # Pillow warns over the bound, and refuses over twice the bound
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
        with pytest.raises(ImageTooLarge):
            decode(data)


def test_the_smallest_and_the_narrowest_pictures_decode(encode: Encode) -> None:
    for size in ((1, 1), (16_384, 1), (1, 16_384), (3, 5)):
        for kind in ("JPEG", "PNG"):
            assert decode(encode(Image.new("RGB", size, (7, 7, 7)), kind)).shape == (size[1], size[0], 3)


def test_a_progressive_jpeg_of_many_scans_is_refused(astronaut: Image.Image, encode: Encode) -> None:
    data = encode(astronaut, "JPEG", progressive=True)
    header = read_header(data)
    assert 5 <= header.scans <= 20
    last = data.rindex(b"\xff\xda")
    many = data[:-2] + data[last:-2] * 200 + b"\xff\xd9"
    with pytest.raises(ImageTooLarge, match="scans"):
        decode(many)


def _scans_of_one_component(components: int, repeated: int = 1) -> bytes:
    """8 x 8 pixels, sequential, a scan a component: DC difference 0 and end of block in the standard tables."""
    out = io.BytesIO()
    Image.new("CMYK" if components == 4 else "RGB", (8, 8)).save(out, "JPEG", subsampling=0)
    data = out.getvalue()
    at = data.index(b"\xff\xda")
    each, tables = data[at + 5 : at + 5 + 2 * components], {0x00: b"\x2b", 0x11: b"\x0f"}
    scans = b"".join(
        b"\xff\xda\0\x08\x01" + each[i : i + 2] + b"\0\x3f\0" + tables[each[i + 1]] for i in range(0, len(each), 2)
    )
    return data[:at] + scans * repeated + b"\xff\xd9"


@pytest.mark.parametrize("components", [3, 4])
def test_a_sequential_jpeg_may_have_a_scan_a_component(components: int) -> None:
    data = _scans_of_one_component(components)
    header = read_header(data)
    assert (header.progressive, header.scans) == (False, components)
    pixels = decode(data)
    assert pixels.shape == (8, 8, 3) and len(np.unique(pixels)) == 1


@pytest.mark.parametrize("components", [3, 4])
def test_a_sequential_jpeg_of_many_scans_is_refused(components: int) -> None:
    with pytest.raises(ImageTooLarge, match="sequential JPEG of 8 x 8 with .* scans"):
        decode(_scans_of_one_component(components, repeated=2))


def test_pictures_behind_the_picture_are_no_scans_of_it(rocket: bytes) -> None:
    """Phones put previews and videos behind the end marker."""
    assert read_header(rocket + rocket * 9 + b"\xff\xda" * 50).scans == 1
    assert np.array_equal(decode(rocket + rocket * 9), decode(rocket))


def test_a_decoder_message_never_comes_through(monkeypatch: pytest.MonkeyPatch, rocket: bytes) -> None:
    def leak(*_: object, **__: object) -> np.ndarray:
        raise ValueError("decoder state at 0x7f31c0ffee00 in /usr/lib/libjpeg.so")

    monkeypatch.setattr("serving.preprocess.decode.simplejpeg.decode_jpeg", leak)
    with pytest.raises(ImageInvalid) as caught:
        decode(rocket)
    assert "0x" not in str(caught.value) and "/usr" not in str(caught.value)


def test_limits_check_themselves() -> None:
    with pytest.raises(ValueError, match="max_side"):
        DecodeLimits(max_side=0)


def test_every_shipped_test_picture_has_an_answer() -> None:
    """All files of scikit-image's folder, pictures or not: pixels or an InputError, nothing else."""
    answers = {"decoded": 0, "refused": 0}
    for path in sorted((Path(skimage.__file__).parent / "data").iterdir()):
        if not path.is_file():
            continue
        try:
            decode(path.read_bytes())
            answers["decoded"] += 1
        except InputError:
            answers["refused"] += 1
    assert answers["decoded"] >= 20 and answers["refused"] >= 5
