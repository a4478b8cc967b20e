"""Mixed pictures as MP4 that keeps the source's PTS, variable rate included, and the source's sound."""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from serving.adapters.video.encode import OutputTicks, add_video, picture_for
from serving.adapters.video.sound import SoundCopy
from serving.adapters.video.storage import PartFile, storage_error
from serving.errors import StorageFailed
from serving.frames import AlignedFrame
from serving.media import OutputStream, OutputSummary
from serving.types import PixelArray

ENCODER = {"preset": "veryfast", "crf": "23"}


class Mp4Writer:
    """See `serving.media.VideoWriter`. The file appears when it is whole."""

    def __init__(self, path: Path, stream: OutputStream, sound_from: str | None = None) -> None:
        self._stream = stream
        self._file = PartFile(path)
        self._ticks = OutputTicks(stream)
        self._frames = 0
        self._summary: OutputSummary | None = None
        # Edit lists count in the movie's time scale: with the default of 1/1000 s the first PTS would be rounded.
        scale = stream.time_base.denominator
        options = {"movflags": "+faststart", "movie_timescale": str(scale), "video_track_timescale": str(scale)}
        try:
            self._container = av.open(str(self._file.part), "w", format="mp4", container_options=options)
            self._video = add_video(self._container, stream, ENCODER)
            self._sound = SoundCopy(sound_from, self._container) if sound_from else None
            self._epoch: int | None = None
            self._container.start_encoding()
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from error

    def write(self, shown: AlignedFrame, rgb: PixelArray) -> None:
        """Encode one picture at its output time. rgb: uint8 [h, w, 3]. Raises StorageFailed."""
        tick = self._ticks.of(shown.out_pts_ns)
        if self._sound is not None and shown.frame.epoch != self._epoch:
            self._sound.epoch(shown.frame.pts * shown.frame.time_base, tick * self._stream.time_base)
        self._epoch = shown.frame.epoch
        try:
            for packet in self._video.encode(picture_for(rgb, self._stream, tick)):
                self._mux(packet)
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from error
        self._frames += 1

    def close(self) -> OutputSummary:
        """Write what the encoder still holds and the index; the file gets its name."""
        if self._summary is not None:
            return self._summary
        try:
            for packet in self._video.encode(None):
                self._mux(packet)
            self._mux_sound(None)
            self._container.close()
        except (OSError, av.FFmpegError) as error:
            raise self._failed(error) from error
        finally:
            if self._sound is not None:
                self._sound.close()
        self._summary = OutputSummary(str(self._file.path), self._frames, self._file.commit(), self._notes())
        return self._summary

    def abandon(self) -> None:
        """Leave nothing behind: the run failed."""
        if self._summary is None:
            self._summary = OutputSummary(str(self._file.path), self._frames, 0, ("abandoned",))
            self._file.discard()

    def _mux(self, packet: Any) -> None:
        if packet.dts is not None:
            self._mux_sound(Fraction(packet.dts) * packet.time_base)
        self._container.mux(packet)

    def _mux_sound(self, seconds: Fraction | None) -> None:
        """What comes before this moment. A packet that does not fit ends the sound, and nothing else."""
        if self._sound is None:
            return
        try:
            for packet in self._sound.up_to(seconds):
                self._container.mux(packet)
        except (av.error.ArgumentError, av.error.InvalidDataError) as error:
            self._sound.end(error)

    def _notes(self) -> tuple[str, ...]:
        notes = [self._sound.note] if self._sound and self._sound.note else []
        if self._sound and self._sound.left_out:
            notes.append(f"{self._sound.left_out} packets of sound left out: their times step back")
        if self._ticks.moved:
            notes.append(f"{self._ticks.moved} frames moved on by one tick")
        return tuple(notes)

    def _failed(self, error: OSError | av.FFmpegError) -> StorageFailed:
        path = self._file.path
        self.abandon()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            return storage_error(path, error)
        return StorageFailed(f"{path}: the encoder stopped: {error.strerror or type(error).__name__}")
