"""Sound of a file, copied packet by packet beside the mixed pictures; nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

MP4_CODECS = frozenset({"aac", "mp3", "mp3float", "ac3", "eac3", "opus", "alac", "flac"})


class SoundCopy:
    """The first audio stream of `path` into `container`, interleaved by decoding time.

    note: why there is no sound, '' where it is copied (or the file has none).
    """

    def __init__(self, path: str, container: Any) -> None:
        self.note = ""
        self.packets = 0
        self._source: Any = None
        self._next: Any = None
        self._stream: Any = None
        try:
            source = av.open(path, options={"protocol_whitelist": "file,crypto,data"})
        except (OSError, av.FFmpegError) as error:
            self.note = f"no sound: {path} cannot be opened a second time: {type(error).__name__}"
            return
        if not source.streams.audio:
            source.close()
            return
        template = source.streams.audio[0]
        codec = template.codec_context.name if template.codec_context else "unknown"
        if codec not in MP4_CODECS:
            self.note = f"no sound: codec {codec} does not fit MP4"
            source.close()
            return
        self._source = source
        self._stream = container.add_stream_from_template(template)
        self._packets = self._read(source, template)
        self._next = next(self._packets, None)

    def up_to(self, seconds: Fraction | None) -> Iterator[Any]:
        """Packets that come before this moment; all that are left for None."""
        while self._next is not None:
            packet = self._next
            if seconds is not None and packet.dts * packet.time_base > seconds:
                return
            self._next = next(self._packets, None)
            packet.stream = self._stream
            self.packets += 1
            yield packet

    def close(self) -> None:
        """Close the second reading of the file."""
        if self._source is not None:
            self._source.close()

    def _read(self, source: Any, template: Any) -> Iterator[Any]:
        try:
            for packet in source.demux(template):
                if packet.size and packet.dts is not None:
                    yield packet
        except (OSError, av.FFmpegError) as error:
            self.note = f"sound ends early: {type(error).__name__}"
