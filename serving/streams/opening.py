"""Connecting to a source without having to wait for it.

libav cannot be interrupted while it opens an address, and may take its time limit twice (once to connect, once to look
at the stream). So each attempt runs in a thread of its own, and whoever is told to stop leaves it behind.
"""

from __future__ import annotations

import threading

from serving.errors import SourceError
from serving.media import VideoReader, VideoSource


class Opening:
    """One attempt to connect to `source`, begun at once."""

    def __init__(self, source: VideoSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._abandoned = False
        self._reader: VideoReader | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._open, name=f"connect {source.source_id}", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether it is over, after at most so many seconds."""
        return self._done.wait(seconds)

    def result(self) -> VideoReader:
        """The connection, once `wait` gave True. Raises the SourceError of the attempt."""
        if self._reader is None:
            assert self._error is not None, "an attempt ends with a connection or an error"
            raise self._error
        return self._reader

    def abandon(self) -> None:
        """Nobody wants it any more: it is closed when it comes."""
        with self._lock:
            self._abandoned = True
            reader = self._reader
        if reader is not None:
            _read_out(reader)

    def _open(self) -> None:
        try:
            reader = self._source.connect()
        except BaseException as error:  # noqa: BLE001 - raised again by `result`, in the thread that asked
            self._error = error
            self._done.set()
            return
        with self._lock:
            self._reader = reader
            self._done.set()
            unwanted = self._abandoned
        if unwanted:
            _read_out(reader)


def _read_out(reader: VideoReader) -> None:
    """A reader lets go of its connection at the end of its events."""
    reader.close()
    try:
        for _ in reader.events():
            continue
    except SourceError:
        return  # it is gone, and nobody is left to be told
