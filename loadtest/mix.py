"""What is sent: real photos in the sizes, formats and body kinds that clients use, and a share of bad input."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loadtest.workload import fitted

BOUNDARY = "lockstep-load"


@dataclass(frozen=True, slots=True)
class Payload:
    """One body. good: the server must answer 200; else 4xx. weight: its share of its kind (good or bad)."""

    name: str
    path: str
    content_type: str
    good: bool
    weight: float


def make(photos: list[Path], folder: Path) -> list[Payload]:
    """Write the bodies of the mix into a folder, cut from real photos."""
    folder.mkdir(parents=True, exist_ok=True)
    small, middle, large, huge = (
        fitted(photos[i % len(photos)], size, np.random.default_rng(i))
        for i, size in enumerate([(320, 240), (640, 480), (1280, 720), (4000, 3000)])
    )
    jpeg = _encoded(middle, "JPEG", quality=85)
    form = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    as_json = json.dumps({"image": base64.b64encode(jpeg).decode()}).encode()
    bodies = [
        ("jpeg-320x240", _encoded(small, "JPEG", quality=85), "image/jpeg", True, 0.20),
        ("jpeg-640x480", jpeg, "image/jpeg", True, 0.35),
        ("jpeg-1280x720", _encoded(large, "JPEG", quality=85), "image/jpeg", True, 0.15),
        ("jpeg-progressive", _encoded(middle, "JPEG", quality=85, progressive=True), "image/jpeg", True, 0.08),
        ("jpeg-grey", _encoded(middle.convert("L"), "JPEG", quality=85), "image/jpeg", True, 0.04),
        ("jpeg-12mp", _encoded(huge, "JPEG", quality=80), "image/jpeg", True, 0.02),
        ("png-320x240", _encoded(small, "PNG"), "image/png", True, 0.05),
        ("webp-640x480", _encoded(middle, "WEBP", quality=80), "image/webp", True, 0.05),
        ("form-640x480", form + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode(),
         f"multipart/form-data; boundary={BOUNDARY}", True, 0.04),
        ("json-640x480", as_json, "application/json", True, 0.02),
        ("bad-cut", jpeg[: len(jpeg) // 2], "image/jpeg", False, 0.4),
        ("bad-text", b"this is no picture\n", "image/jpeg", False, 0.3),
        ("bad-empty", b"", "image/jpeg", False, 0.1),
        ("bad-type", b"<picture/>", "application/xml", False, 0.1),
        ("bad-json", b'{"image": ', "application/json", False, 0.1),
    ]  # fmt: skip
    payloads = []
    for name, body, content_type, good, weight in bodies:
        (folder / name).write_bytes(body)
        payloads.append(Payload(name, str(folder / name), content_type, good, weight))
    return payloads


def draw(payloads: list[Payload], count: int, bad_share: float, seed: int = 7) -> list[int]:
    """Numbers of payloads for `count` requests; `bad_share` (0 to 1) of them bad."""
    share = {True: 1 - bad_share, False: bad_share}
    total = {kind: sum(p.weight for p in payloads if p.good is kind) for kind in share}
    chances = [p.weight / total[p.good] * share[p.good] for p in payloads]
    return [int(n) for n in np.random.default_rng(seed).choice(len(payloads), count, p=chances)]


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
