"""Outputs of a run: text written as it goes (results, cues, events), and what becomes of one that fails."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from serving.adapters.video.storage import storage_error
from serving.errors import StorageFailed


class TextSink(Protocol):
    """Where text goes: a file, or a buffer in a test."""

    def write(self, text: str, /) -> object: ...


class TextOutput:
    """A file of this run alone: what it held is gone once the lock is had. Raises StorageFailed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            number = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        except OSError as error:
            raise storage_error(path, error) from error
        # Buffered by the line: readers may follow, and a full disk is met where the line is, not at the end.
        self._file = os.fdopen(number, "w", encoding="utf-8", buffering=1)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise StorageFailed(f"{path}: is being written already", hint="choose another output") from error
        try:
            os.ftruncate(number, 0)
        except OSError:
            return  # a pipe or a device, which keeps nothing

    def write(self, text: str, /) -> None:
        """Append."""
        try:
            self._file.write(text)
        except OSError as error:
            raise storage_error(self._path, error) from error

    def close(self) -> None:
        """Let the next run have it."""
        with suppress(OSError):  # every line went out by itself: what failed was said there
            self._file.close()


class OutputGuard:
    """Keeps a failing output from ending the account of its source. error: the first failure."""

    def __init__(self) -> None:
        self.error: StorageFailed | None = None

    def __call__(self, write: Callable[..., object], *arguments: object) -> bool:
        """Whether the output took it."""
        try:
            write(*arguments)
        except StorageFailed as error:
            self.error = self.error or error
            return False
        return True
