"""The journal of a gallery: what changed since the last snapshot, one checked record a change.

A record is `length u32, crc32 u32, JSON, float32 vectors`, little-endian; `length` counts what follows the eight bytes
and the CRC covers it. A record is on the disk before its change is acknowledged. A writer that was killed leaves a torn
record at the end: it was never acknowledged, readers stop before it and the next writer cuts it off.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from serving.errors_gallery import GalleryDamaged
from serving.types import FloatArray

_HEAD = struct.Struct("<II")
_JSON = struct.Struct("<I")
MAX_RECORD = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Change:
    """One acknowledged change, all of it or nothing: `ops` in order, with the vectors of its `add` ops.

    ops: {op: add, sample, subject, quality} | {op: label, subject, label} | {op: drop, subject} |
    {op: drop_sample, sample}. vectors: float32 [number of adds, d].
    """

    ops: tuple[dict[str, Any], ...]
    vectors: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def encode(change: Change) -> bytes:
    """The record's bytes."""
    text = json.dumps({"ops": change.ops, "shape": list(change.vectors.shape)}, separators=(",", ":")).encode()
    body = _JSON.pack(len(text)) + text + np.ascontiguousarray(change.vectors, "<f4").tobytes()
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def append(file: BinaryIO, changes: Sequence[Change]) -> None:
    """Write and sync; when it returns, the changes outlive a loss of power."""
    file.write(b"".join(encode(change) for change in changes))
    file.flush()
    os.fsync(file.fileno())


def read(path: Path, start: int = 0) -> Iterator[tuple[Change, int]]:
    """Whole records from byte `start` on, each with the position behind it. A torn one at the end ends it in silence;
    a wrong CRC before the end is GalleryDamaged."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(start)
        at = start
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, crc = _HEAD.unpack(head)
            end = at + _HEAD.size + length
            if length > MAX_RECORD or end > size:
                return
            body = file.read(length)
            if len(body) < length or zlib.crc32(body) != crc:
                if end >= size:
                    return
                raise GalleryDamaged(f"gallery {path.parent.name}: {path.name}: damaged at byte {at}",
                                     hint="restore the folder from a copy")  # fmt: skip
            yield _decoded(body), end
            at = end


def _decoded(body: bytes) -> Change:
    (length,) = _JSON.unpack_from(body)
    told = json.loads(body[_JSON.size : _JSON.size + length])
    vectors = np.frombuffer(body, "<f4", offset=_JSON.size + length).reshape(told["shape"])
    return Change(tuple(told["ops"]), vectors.astype(np.float32))
