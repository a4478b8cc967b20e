"""SHA-256 of a checkpoint, the refusal of one that is missing, empty or another, and the files that belong to it."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from itertools import islice
from pathlib import Path

from serving.errors import CheckpointRefused

_NEAR = 300  # bytes: an entry is the word `location` and a name of at most 255, in any order
_TENSORS = 200_000  # as many as onnx_safety takes


def sha256_of(path: Path, expected: str | None = None) -> str:
    """SHA-256 of the file. Raises CheckpointRefused where it is missing, empty, or not the expected one."""
    if not path.is_file():
        raise CheckpointRefused(f"checkpoint {path} does not exist", hint="paths are relative to the model's YAML")
    if path.stat().st_size == 0:
        raise CheckpointRefused(f"checkpoint {path} is empty")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and digest != expected:
        raise CheckpointRefused(f"checkpoint {path.name}: expected SHA-256 {expected}, got {digest}")
    return digest


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that it names as external data, sorted.

    The bytes are searched, nothing is parsed: the file is foreign, and this runs outside the limited child. A name that
    only looks so is one file too many; whether a file may be read at all is for `onnx_safety.load_checked` to say.
    """
    if path.stat().st_size == 0:  # which cannot be mapped
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        near = b"".join(  # no name for the iterator: while it lives the mapping cannot be closed
            data[max(0, place.start() - _NEAR) : place.end() + _NEAR]
            for place in islice(re.finditer(b"location", data), _TENSORS)
        )
    beside = sorted(p for p in path.resolve().parent.iterdir() if p.is_file()) if near else ()
    return tuple(p for p in beside if _value(p.name) in near)


def _value(name: str) -> bytes:
    """A file's name as protobuf writes the value of an entry: field 2, its length, its bytes."""
    raw = os.fsencode(name)
    length = bytes([len(raw)]) if len(raw) < 128 else bytes([len(raw) & 127 | 128, len(raw) >> 7])
    return b"\x12" + length + raw
