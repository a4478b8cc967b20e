"""The sound of a file, decoded: mono samples with their times, beside the time of the file's first picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from serving.adapters.video.address import path_of, redacted, scheme_of
from serving.adapters.video.containers import pts_modulus
from serving.adapters.video.options import ReaderOptions
from serving.adapters.video.reader import open_reader
from serving.adapters.video.sound import FILES, sound_of
from serving.align.unwrap import unwrap
from serving.clock import Clock
from serving.errors import SourceInvalid, SourceNotFound
from serving.media import PictureSeen, SoundBlock, StreamOpened


class SoundTrack:
    """See `serving.media.SoundTrack`: the sound of a file, where there are several that of its pictures."""

    def __init__(self, address: str, options: ReaderOptions, clock: Clock) -> None:
        """Raises SourceNotFound, SourceInvalid (no file, no sound in it), SourceRefused."""
        options.policy.check(address)
        self._shown, path = redacted(address), path_of(address)
        if scheme_of(address) != "file" or path.is_dir():
            raise SourceInvalid(f"{self._shown}: sound is heard of files", hint="record it to a file first")
        if not path.exists():
            raise SourceNotFound(f"{self._shown}: no such file")
        try:
            self._container = av.open(str(path), options=FILES, metadata_errors="replace")
        except (OSError, ValueError, av.FFmpegError) as error:
            raise SourceInvalid(f"{self._shown}: cannot be opened: {type(error).__name__}") from error
        self._stream = sound_of(self._container)
        if self._stream is None:
            self._container.close()
            raise SourceInvalid(f"{self._shown}: no sound in it", hint="a model that hears needs an audio stream")
        self.rate = int(self._stream.codec_context.sample_rate)
        self.codec = str(self._stream.codec_context.name)
        self._modulus = pts_modulus(self._container.format.name)
        self._tick: int | None = None  # of the last block, unwrapped
        moving = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        self.first_picture_s = _first_picture_s(address, options, clock) if moving else None

    def blocks(self) -> Iterator[SoundBlock]:
        """Channels mixed as their mean; a packet that does not decode is a block without samples."""
        floats = av.AudioResampler(format="fltp")
        for packet in self._packets():
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                yield SoundBlock(None, None)
                continue
            for frame in frames:
                if frame.sample_rate != self.rate:
                    raise SourceInvalid(f"{self._shown}: sound changes from {self.rate} to {frame.sample_rate} Hz")
                begin_s = self._begin_s(frame)
                for part in floats.resample(frame):
                    yield SoundBlock(begin_s, part.to_ndarray().mean(axis=0, dtype=np.float32))
                    begin_s = None

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _begin_s(self, frame: Any) -> Fraction | None:
        """On the clock of the pictures, over a wrap as well."""
        if frame.pts is None:
            return None
        if self._tick is None:
            first_s = self.first_picture_s
            self._tick = frame.pts if first_s is None else round(first_s / frame.time_base)
        self._tick = unwrap(frame.pts, self._tick, self._modulus)
        return self._tick * Fraction(frame.time_base)

    def _packets(self) -> Iterator[Any]:
        try:
            yield from self._container.demux(self._stream)
        except (OSError, av.FFmpegError) as error:
            raise SourceInvalid(f"{self._shown}: its sound ends early: {type(error).__name__}") from error


def _first_picture_s(address: str, options: ReaderOptions, clock: Clock) -> Fraction | None:
    """When the first picture is shown, by the reader of the pictures itself."""
    time_base = None
    with closing(open_reader("sound", address, options, clock).events()) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, StreamOpened):
                time_base = event.info.time_base
            elif isinstance(event, PictureSeen) and event.raw_pts is not None and not event.corrupt and time_base:
                return event.raw_pts * time_base
    return None
