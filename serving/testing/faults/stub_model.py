"""The stub model: reads number and square from a coded picture, takes as long as it is told, and obeys a control file.

The control file is one JSON document that a test rewrites while workers run; `Control` looks at it before every call.
A worker writes what it is at into its mark file, so that a test can kill it in the middle of a call.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from serving.errors import EngineFailed, ServingError, Unavailable
from serving.streams.models import OpenedModel
from serving.streams.worker import Infer
from serving.testing.stub_bundles import make_bundle
from serving.testing.sync_code import HEIGHT, WIDTH, find_square, read_own
from serving.types import Detections, ImageSize, InferRequest, InferResponse, PixelArray

NAME = "code"
MARK_BYTES = 64
CHUNK = 64 << 20


@dataclass(slots=True)
class Control:
    """What the model shall do, by the file `path` as it is now; an absent file: nothing special.

    latency_ms, jitter_ms; slow: factor, by member; extra_ms, error_share: a sick server; down: no server;
    poison: "CLIP:INDEX" -> exit, hang or memory.
    """

    path: Path
    member: str = ""
    _stamp: int = -1
    _values: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any) -> Any:
        """A value of the file; read again when the file changed."""
        try:
            stamp = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return default
        if stamp != self._stamp:
            self._values, self._stamp = json.loads(self.path.read_text()), stamp
        return self._values.get(name, default)


def write_control(path: Path, **values: Any) -> None:
    """Replace the control file as a whole."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(values))
    fresh.replace(path)


class Mark:
    """A few bytes in a file that outlive the process: what it was at when it ended."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(MARK_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), MARK_BYTES)

    def set(self, text: str) -> None:
        """Empty: nothing is in hand."""
        self._map[:] = text.encode()[:MARK_BYTES].ljust(MARK_BYTES, b"\0")


def read_mark(path: Path) -> str:
    """What a process is at; empty where it is at nothing."""
    return path.read_bytes().rstrip(b"\0").decode() if path.exists() else ""


def read_code(rgb: PixelArray) -> tuple[int, int, Detections]:
    """(clip, number, the square's box with the number as its class); clip and number -1 where there is no code.

    A larger picture is one of 320x240 made larger; its box is in its own pixels.
    """
    height, width = rgb.shape[:2]
    if (height, width) != (HEIGHT, WIDTH):
        rgb = np.asarray(cv2.resize(rgb, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)
    own, box = read_own(rgb), find_square(rgb)
    if own is None or box is None:
        return -1, -1, Detections.empty()
    box = (box * np.array([width / WIDTH, height / HEIGHT] * 2)).astype(np.float32)
    return *own, Detections(box[None], np.array([0.99], np.float32), np.array([own[1]], np.int64))


def stub_infer(control: Control, mark: Mark | None = None, seed: int = 0) -> Infer:
    """The model's `infer`; one answer a request."""
    rng = random.Random(seed)

    def infer(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        return [_answer(request, control, mark, rng) for request in requests]

    return infer


def open_stub(folder: Path, infer: Infer) -> Callable[[str], OpenedModel]:
    """`serving.streams.models.OpenModel` for any name; folder: for the bundle's empty version."""
    return lambda name: OpenedModel(make_bundle(folder, name, "detection", preprocess=_SIZE), infer, lambda: None)


_SIZE = {"width": 320, "height": 240}


def _answer(
    request: InferRequest, control: Control, mark: Mark | None, rng: random.Random
) -> InferResponse | ServingError:
    began = time.monotonic()
    rgb = request.frame if request.frame is not None else simplejpeg.decode_jpeg(request.encoded)
    clip, number, found = read_code(rgb)
    if mark is not None:
        mark.set(f"{clip}:{number}")
    try:
        _obey(control.get("poison", {}).get(f"{clip}:{number}", ""))
        if control.get("down", False):
            return Unavailable("stub: the server is gone")
        wanted = control.get("latency_ms", 20) + rng.uniform(-1, 1) * control.get("jitter_ms", 10)
        wanted = wanted * control.get("slow", {}).get(control.member, 1) + control.get("extra_ms", 0)
        time.sleep(max(0.0, wanted / 1000 - (time.monotonic() - began)))
        if rng.random() < control.get("error_share", 0.0):
            return EngineFailed("stub: an error, as asked for")
    finally:
        if mark is not None:
            mark.set("")
    spent = (time.monotonic() - began) * 1e3
    return InferResponse(found, ImageSize(rgb.shape[1], rgb.shape[0]), {"infer": spent})


def _obey(what: str) -> None:
    """Poison: the process ends, hangs, or wants eight gigabytes."""
    if what == "exit":
        os._exit(66)
    if what == "hang":
        time.sleep(60)
    if what == "memory":
        hoard = [np.ones(CHUNK, np.uint8) for _ in range((8 << 30) // CHUNK)]
        raise MemoryError(f"{len(hoard)} pieces were to be had")
