"""decode gives the pixels that Pillow gives, for every kind of file that is served."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from serving.errors import ImageInvalid, ImageUnsupported
from serving.preprocess.decode import decode, read_header

Encode = Callable[..., bytes]
Pillow = Callable[[bytes], np.ndarray]


def test_photos_decode_as_pillow_decodes_them(photo: bytes, pillow: Pillow) -> None:
    pixels, header = decode(photo), read_header(photo)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert pixels.shape == (header.height, header.width, 3)
    assert np.array_equal(pixels, pillow(photo))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_samplings(
    astronaut: Image.Image, encode: Encode, pillow: Pillow, subsampling: str, progressive: bool
) -> None:
    data = encode(astronaut, "JPEG", quality=80, subsampling=subsampling, progressive=progressive)
    assert read_header(data).progressive is progressive
    assert np.array_equal(decode(data), pillow(data))


def test_jpeg_coded_as_rgb(astronaut: Image.Image, encode: Encode, pillow: Pillow) -> None:
    data = encode(astronaut, "JPEG", keep_rgb=True)
    assert np.array_equal(decode(data), pillow(data))


def test_grey_jpeg_is_repeated(astronaut: Image.Image, encode: Encode, pillow: Pillow) -> None:
    data = encode(astronaut.convert("L"), "JPEG")
    pixels = decode(data)
    assert read_header(data).components == 1
    assert np.array_equal(pixels, pillow(data)) and np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg(astronaut: Image.Image, encode: Encode, pillow: Pillow, adobe: bool) -> None:
    data = encode(astronaut.convert("CMYK"), "JPEG", quality=90)
    if not adobe:
        at = data.index(b"Adobe") - 4
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    assert read_header(data).components == 4 and (b"Adobe" in data) is adobe
    assert np.array_equal(decode(data), pillow(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_png_modes(astronaut: Image.Image, encode: Encode, pillow: Pillow, mode: str) -> None:
    data = encode(astronaut.convert(mode), "PNG")
    assert np.array_equal(decode(data), pillow(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composed_onto_black(astronaut: Image.Image, encode: Encode, kind: str, mode: str) -> None:
    ramp = np.tile(np.linspace(0, 255, astronaut.width).astype(np.uint8), (astronaut.height, 1))
    image = astronaut.convert(mode[:-1])
    image.putalpha(Image.fromarray(ramp))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encode(image, kind, **options)
    colour = np.asarray(image.convert("RGBA"))[:, :, :3].astype(float)
    expected = np.rint(colour * ramp[:, :, None] / 255).astype(np.uint8)
    assert read_header(data).alpha
    assert np.array_equal(decode(data), expected)


def test_palette_with_transparent_entries(encode: Encode) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30, 200, 100, 50, 255, 255, 255])
    image.putdata([0, 1, 2, 1])
    data = encode(image, "PNG", transparency=bytes([255, 128, 0]))
    half = [round(v * 128 / 255) for v in (200, 100, 50)]
    assert decode(data).tolist() == [[[10, 20, 30], half], [[0, 0, 0], half]]


def test_transparent_colour_of_rgb_and_grey_png(encode: Encode) -> None:
    rgb = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8))
    assert decode(encode(rgb, "PNG", transparency=(9, 8, 7))).tolist() == [[[0, 0, 0], [1, 2, 3]]]
    grey = Image.fromarray(np.array([[9, 5]], np.uint8))
    assert decode(encode(grey, "PNG", transparency=9)).tolist() == [[[0, 0, 0], [5, 5, 5]]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight_by_the_high_byte(channels: int) -> None:
    rng = np.random.default_rng(5)
    wide = rng.integers(0, 65536, (17, 23, channels), dtype=np.uint16)
    if channels == 4:
        wide[:, :, 3] = 65535
    ok, data = cv2.imencode(".png", wide)
    assert ok
    high = (wide >> 8).astype(np.uint8)
    expected = np.repeat(high, 3, axis=2) if channels == 1 else high[:, :, 2::-1]
    assert read_header(data.tobytes()).bits == 16
    assert np.array_equal(decode(data.tobytes()), expected)


def test_sixteen_bit_grey_with_a_transparent_value(encode: Encode) -> None:
    image = Image.fromarray(np.array([[0x1234, 0x5678]], np.uint16))
    data = encode(image, "PNG", transparency=0x1234)
    assert decode(data).tolist() == [[[0, 0, 0], [0x56, 0x56, 0x56]]]


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
def test_webp(astronaut: Image.Image, encode: Encode, pillow: Pillow, options: dict[str, int]) -> None:
    data = encode(astronaut, "WEBP", **options)
    assert read_header(data).format == "webp"
    assert np.array_equal(decode(data), pillow(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(astronaut: Image.Image, encode: Encode, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(astronaut, kind, exif=exif.tobytes())
    header, pixels = read_header(data), decode(data)
    plain = Image.fromarray(decode(encode(astronaut, kind)))
    plain.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain))
    assert header.orientation == orientation
    assert (header.height, header.width, 3) == pixels.shape == expected.shape
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_senseless_orientation_is_as_stored(astronaut: Image.Image, encode: Encode, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert read_header(encode(astronaut, "JPEG", exif=exif.tobytes())).orientation == 1


@pytest.mark.parametrize("cut", range(0, 30, 3))
def test_a_damaged_exif_block_is_ignored(astronaut: Image.Image, encode: Encode, cut: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    data = encode(astronaut, "JPEG", exif=raw[: 6 + cut] if cut < len(raw) - 6 else raw)
    assert read_header(data).orientation in (1, 6)
    assert decode(data).size


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_reduced_decode_is_the_mean_of_blocks(astronaut: Image.Image, encode: Encode, reduce: int) -> None:
    data = encode(astronaut, "JPEG", quality=95, subsampling="4:4:4")
    small, full = decode(data, reduce=reduce), decode(data)
    assert small.shape == (-(-full.shape[0] // reduce), -(-full.shape[1] // reduce), 3)
    rows, columns = full.shape[0] // reduce, full.shape[1] // reduce
    blocks = full[: rows * reduce, : columns * reduce].reshape(rows, reduce, columns, reduce, 3).mean(axis=(1, 3))
    difference = np.abs(small[:rows, :columns] - blocks)
    # The DCT's low frequencies are a sharper filter than the mean of the block; at 1/8 they are the mean itself.
    assert difference.mean() < (1.0 if reduce == 8 else 4.0)


def test_reduced_decode_is_upright(astronaut: Image.Image, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = encode(astronaut, "JPEG", exif=exif.tobytes()), encode(astronaut, "JPEG")
    assert np.array_equal(decode(turned, reduce=4), np.rot90(decode(plain, reduce=4), -1))


def test_reduce_is_checked(astronaut: Image.Image, encode: Encode) -> None:
    with pytest.raises(ValueError, match="reduce: expected"):
        decode(encode(astronaut, "JPEG"), reduce=3)
    with pytest.raises(ValueError, match="1 for png"):
        decode(encode(astronaut, "PNG"), reduce=2)


def test_stray_bytes_between_markers_are_tolerated(astronaut: Image.Image, encode: Encode, pillow: Pillow) -> None:
    data = encode(astronaut, "JPEG")
    stray = data[:-2] + b"\x00\x11\x22" + data[-2:]
    assert np.array_equal(decode(stray), pillow(data))


def _flat_jpeg(width: int, height: int, factors: tuple[int, ...]) -> bytes:
    """A baseline JPEG of one colour with any sampling factors (0xHV a component), written by hand.

    Huffman tables: DC `0` -> category 0, `10` -> category 7; AC `0` -> end of block. So a block is `00`, but for the
    first one of each component, which sets the level.
    """

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    blocks = [(f >> 4) * (f & 15) for f in factors]
    across, down = 8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors)
    units = -(-width // across) * -(-height // down)
    first = "".join(
        "10" + bits + "0" + "00" * (n - 1) for n, bits in zip(blocks, ("1000011", "0101010", "1111000"), strict=True)
    )
    bits = first + "00" * sum(blocks) * (units - 1)
    bits += "1" * (-len(bits) % 8)
    frame = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03"
    frame += b"".join(bytes([i + 1, f, 0]) for i, f in enumerate(factors))
    tables = b"\x00" + bytes([1, 1, *[0] * 14]) + b"\x00\x07" + b"\x10" + bytes([1, *[0] * 15]) + b"\x00"
    scan = b"\x03\x01\x00\x02\x00\x03\x00\x00\x3f\x00"
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    quantisation = segment(0xDB, b"\x00" + b"\x04" * 64)
    return (
        b"\xff\xd8"
        + quantisation
        + segment(0xC0, frame)
        + segment(0xC4, tables)
        + segment(0xDA, scan)
        + coded
        + b"\xff\xd9"
    )


def test_sampling_factors_without_a_name_decode_too(pillow: Pillow) -> None:
    plain, odd = _flat_jpeg(50, 40, (0x22, 0x11, 0x11)), _flat_jpeg(50, 40, (0x22, 0x21, 0x11))
    assert np.array_equal(decode(plain), pillow(plain))
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(odd)
    assert decode(odd).std(axis=(0, 1)).max() == 0 and len(set(decode(odd)[0, 0])) == 3
    assert np.array_equal(decode(odd), pillow(odd))
    with pytest.raises(ImageInvalid):
        decode(odd[:-2])


def test_animations_are_refused(astronaut: Image.Image, encode: Encode) -> None:
    frames = [astronaut, ImageOps.mirror(astronaut)]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
        with pytest.raises(ImageUnsupported, match="send"):
            decode(data)
