"""SHA-256 of a checkpoint, and the refusal of one that is missing, empty or another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from serving.errors import CheckpointRefused


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
