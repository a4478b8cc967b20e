"""S8, at the function: a mutated picture decodes or is an InputError; no crash, no other exception, no decoder text."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage
from bombs import png_chunk
from PIL import Image

from serving.errors import ImageInvalid, ImageTooLarge, ImageUnsupported
from serving.preprocess.decode import decode
from serving.preprocess.limits import DecodeLimits

_LIMITS = DecodeLimits(max_pixels=1_000_000, max_side=4096)
_LEAK = re.compile(r"0x[0-9a-f]{4,}|/[a-z]+/|\.so|\.py|Error|libjpeg|libpng|Pillow|turbo", re.IGNORECASE)


def _seeds() -> dict[str, bytes]:
    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    with Image.open(path) as image:
        small = image.convert("RGB").resize((72, 56))
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, tuple[str, dict[str, object], str]] = {
        "jpeg": ("JPEG", {"quality": 80, "exif": exif.tobytes()}, "RGB"),
        "progressive": ("JPEG", {"progressive": True}, "RGB"),
        "grey": ("JPEG", {}, "L"),
        "cmyk": ("JPEG", {}, "CMYK"),
        "png": ("PNG", {}, "RGB"),
        "palette": ("PNG", {"transparency": bytes([0, 9, 200])}, "P"),
        "webp": ("WEBP", {"exif": exif.tobytes()}, "RGBA"),
        "lossless": ("WEBP", {"lossless": True}, "RGB"),
    }
    made = {}
    for name, (kind, kwargs, mode) in options.items():
        out = io.BytesIO()
        small.convert(mode).save(out, kind, **kwargs)
        made[name] = out.getvalue()
    return made


def _mutate(data: bytes, rng: random.Random) -> bytes:
    array = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(array)) if rng.random() < 0.5 else rng.randrange(min(len(array), 700))
        match rng.randrange(5):
            case 0:
                array[at] = rng.randrange(256)
            case 1:
                array[at] ^= 1 << rng.randrange(8)
            case 2:
                del array[at : at + rng.randrange(1, 30)]
            case 3:
                array[at:at] = rng.randbytes(rng.randrange(1, 30))
            case 4:
                array[at : at + 2] = rng.choice((b"\xff\xff", b"\0\0", b"\xff\xd9", b"\xff\xda", b"\x7f\xff"))
        if not array:
            break
    return bytes(array[: rng.randrange(len(array) + 1)] if rng.random() < 0.1 else array)


def _mutate_png(data: bytes, rng: random.Random) -> bytes:
    """One chunk mutated and the file put together again, checksums included: damage that reaches the decoder."""
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    pick = rng.randrange(len(chunks) - 1)
    out = data[:8]
    for index, (kind, body) in enumerate(chunks):
        if index == pick and kind == b"IDAT" and rng.random() < 0.7:
            body = zlib.compress(_mutate(zlib.decompress(body), rng))
        elif index == pick:
            body = _mutate(body, rng)
        out += png_chunk(kind, body)
    return out


def _try(data: bytes, counts: dict[str, int]) -> None:
    try:
        pixels = decode(data, _LIMITS)
    except (ImageInvalid, ImageTooLarge, ImageUnsupported) as error:
        assert not _LEAK.search(str(error)), error
        counts[error.code] = counts.get(error.code, 0) + 1
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        counts["decoded"] = counts.get("decoded", 0) + 1


@pytest.mark.parametrize("name", list(_seeds()))
def test_mutated_pictures(name: str) -> None:
    rng, seed, counts = random.Random(20261122), _seeds()[name], {}  # type: ignore[var-annotated]
    for turn in range(500):
        remake = seed.startswith(b"\x89PNG") and turn % 2
        _try(_mutate_png(seed, rng) if remake else _mutate(seed, rng), counts)
    assert sum(counts.values()) == 500
    assert counts["image_invalid"] > 20 and counts["decoded"] > 20, counts


@pytest.mark.long
def test_a_hundred_thousand_mutated_jpegs() -> None:
    """In a process of its own, so that a crash of the decoder is seen as one."""
    script = (
        "import random, sys; sys.path.insert(0, 'tests/security'); import test_s8_malformed as t\n"
        "rng, seeds, counts = random.Random(7), [v for k, v in t._seeds().items() if k in ('jpeg', 'progressive', "
        "'grey', 'cmyk')], {}\n"
        "for i in range(100_000): t._try(t._mutate(seeds[i % 4], rng), counts)\n"
        "print(counts); assert sum(counts.values()) == 100_000"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
