"""A recording that goes on for days: one MP4 after another, each whole, none longer than a set time.

A new file begins with every epoch too. Each counts from 0: its name says where it began. What a killed process was
writing is lost, so files are short.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serving.adapters.video.mp4 import Mp4Writer
from serving.frames import AlignedFrame
from serving.media import OutputStream, OutputSummary
from serving.types import PixelArray

NS_PER_S = 1_000_000_000


class RecordingWriter:
    """See `serving.media.VideoWriter`. Files are `<name>-<epoch>-<frame_seq>.mp4` in `folder`, by their first frame."""

    def __init__(self, folder: Path, name: str, stream: OutputStream, longest_ns: int = 600 * NS_PER_S) -> None:
        self._folder, self._name, self._stream, self._longest_ns = folder, name, stream, longest_ns
        self._file: Mp4Writer | None = None
        self._began_ns = self._frames = self._bytes = 0

    def write(self, shown: AlignedFrame, rgb: PixelArray) -> None:
        """Encode one picture. Raises StorageFailed."""
        if self._file is not None and (shown.discontinuity or shown.out_pts_ns - self._began_ns >= self._longest_ns):
            self._end()
        if self._file is None:
            name = f"{self._name}-{shown.frame.epoch:05d}-{shown.frame.frame_seq:08d}.mp4"
            size = (rgb.shape[1], rgb.shape[0])
            stream = OutputStream(*size, self._stream.time_base, 0, self._stream.average_rate)
            self._file, self._began_ns = Mp4Writer(self._folder / name, stream), shown.out_pts_ns
        self._file.write(replace(shown, out_pts_ns=shown.out_pts_ns - self._began_ns), rgb)
        self._frames += 1

    def close(self) -> OutputSummary:
        """End the file that is being written."""
        self._end()
        return OutputSummary(str(self._folder), self._frames, self._bytes)

    def abandon(self) -> None:
        """What was recorded is worth keeping, whatever became of the rest."""
        self._end()

    def _end(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._bytes += file.close().bytes
