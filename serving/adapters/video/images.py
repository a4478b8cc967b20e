"""A folder of pictures as a video: in natural order of their names, numbered at a given rate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from serving.adapters.video.colour import RgbConverter, size_of
from serving.clock import Clock
from serving.errors import SourceInvalid
from serving.frames import Picture, PtsSource, SourceKind, StreamInfo
from serving.media import DecoderRefused, MediaEvent, PacketSeen, PictureSeen, StreamEnded, StreamOpened
from serving.types import PixelArray

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
DEFAULT_FPS = Fraction(25)
_NO_PICTURE = (OSError, ValueError, StopIteration, IndexError, av.FFmpegError)


class ImageFolderReader:
    """See `serving.media.VideoReader`. A file that is no picture is a packet without picture: a decode loss."""

    def __init__(self, source_id: str, folder: Path, fps: Fraction | None, clock: Clock) -> None:
        self._files = sorted((p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES), key=_natural)
        if not self._files:
            wanted = ", ".join(sorted(SUFFIXES))
            raise SourceInvalid(f"{folder}: holds no picture", hint=f"expected files named {wanted}")
        self._source_id, self._clock = source_id, clock
        self._time_base = 1 / (fps or DEFAULT_FPS)
        self._closing = False

    @property
    def kind(self) -> SourceKind:
        """A folder has an end."""
        return SourceKind.FILE

    def close(self) -> None:
        """End after the present picture."""
        self._closing = True

    def events(self) -> Iterator[MediaEvent]:
        """A change of size starts the decoder anew, as a codec-parameter change does."""
        size: tuple[int, int] | None = None
        waiting: list[PacketSeen | DecoderRefused] = []
        for number, path in enumerate(self._files):
            if self._closing:
                break
            arrival = self._clock.monotonic_ns()
            seen = PacketSeen(number, number, True, False)
            found, reason = _size_of(path)
            if found is None:
                refused: list[PacketSeen | DecoderRefused] = [seen, DecoderRefused(f"{path.name}: {reason}")]
                if size is None:
                    waiting += refused
                else:
                    yield from refused
                continue
            if found != size:
                size = found
                yield StreamOpened(self._info(size))
                waiting, told = [], waiting
                yield from told
            yield seen
            picture = Picture(load=lambda path=path: _load(path))  # type: ignore[misc]
            yield PictureSeen(number, number, arrival, picture)
        yield StreamEnded(None if size else SourceInvalid(f"none of {len(self._files)} files could be decoded"))

    def _info(self, size: tuple[int, int]) -> StreamInfo:
        return StreamInfo(
            source_id=self._source_id,
            kind=SourceKind.FILE,
            time_base=self._time_base,
            width=size[0],
            height=size[1],
            codec="images",
            average_rate=1 / self._time_base,
            pts_source=PtsSource.ASSUMED,
        )


def _natural(path: Path) -> tuple[object, ...]:
    """img2 before img10."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def _decode(path: Path) -> Any:
    with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
        return next(container.decode(video=0))


def _size_of(path: Path) -> tuple[tuple[int, int] | None, str]:
    try:
        return size_of(_decode(path)), ""
    except _NO_PICTURE as error:
        return None, _reason(error)


def _load(path: Path) -> PixelArray:
    """ValueError where the file went or changed since its size was read: one more picture that does not decode."""
    try:
        return RgbConverter()(_decode(path))
    except _NO_PICTURE as error:
        raise ValueError(f"{path.name}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
