"""Files that appear when they are whole: written beside their name, locked against a second run, renamed at the end."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from serving.errors import StorageFailed


def storage_error(path: Path, error: OSError) -> StorageFailed:
    """Disk full, not writable: said with the path."""
    reason = error.strerror or type(error).__name__
    return StorageFailed(f"{path}: cannot be written: {reason}", hint="free some space, or choose another place")


def make_folder(folder: Path) -> None:
    """With those above it; one that is there stays. Raises StorageFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


class PartFile:
    """`.NAME.part` beside NAME, locked. `commit` renames it; `discard` removes it. Raises StorageFailed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f".{path.name}.part")
        try:
            self._lock = os.open(self.part, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StorageFailed(f"{path}: another run is writing it", hint="choose another output") from error

    def commit(self) -> int:
        """Make it visible under its name; its size in bytes."""
        try:
            size = self.part.stat().st_size
            self.part.replace(self.path)
        except OSError as error:
            raise storage_error(self.path, error) from error
        finally:
            os.close(self._lock)
        return size

    def discard(self) -> None:
        """Nothing half-written stays."""
        self.part.unlink(missing_ok=True)
        os.close(self._lock)


def write_whole(path: Path, data: bytes) -> None:
    """A small file, replaced in one step. Raises StorageFailed."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
