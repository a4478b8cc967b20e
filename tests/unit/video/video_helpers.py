"""Small clips with exact PTS, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from serving.adapters.video.clips import ClipSpec, write_clip
from serving.adapters.video.options import ReaderOptions
from serving.adapters.video.source import AddressSource
from serving.align import LocalClaims, PacketIn, PictureIn, SourceTimeline
from serving.frames import FrameRecord
from serving.media import DecoderRefused, MediaEvent, PacketSeen, PictureSeen, StreamOpened

TB90 = Fraction(1, 90_000)


def pictures(pts: list[int], width: int = 96, height: int = 64):  # type: ignore[no-untyped-def]
    """Grey pictures, each a little brighter, so that a picture tells its number."""
    for number, stamp in enumerate(pts):
        yield np.full((height, width, 3), 20 + 4 * number % 200, np.uint8), stamp


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """clip(name, pts, ClipSpec(...)) -> path."""

    def make(name: str, pts: list[int], spec: ClipSpec, width: int = 96, height: int = 64) -> Path:
        path = tmp_path / name
        write_clip(path, spec, pictures(pts, width, height))
        return path

    return make


def read(path: Path | str, **options: object) -> list[MediaEvent]:
    """All events of one connection."""
    source = AddressSource("s", str(path), ReaderOptions(**options))  # type: ignore[arg-type]
    return list(source.connect().events())


def raw_pts(events: list[MediaEvent]) -> list[int | None]:
    """The PTS of the pictures, in the order they came out."""
    return [event.raw_pts for event in events if isinstance(event, PictureSeen)]


def write_two_sizes(path: Path, encoder: str, time_base: Fraction, step: int, **options: str) -> None:
    """Forty pictures and forty larger ones in one stream, by two encoders; the container is the name's."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(encoder, width=96, height=64, pix_fmt="yuv420p", options=options)
        larger: Any = av.CodecContext.create(encoder, "w")
        larger.width, larger.height, larger.pix_fmt, larger.options = 128, 96, "yuv420p", options
        for part, coder in enumerate((stream.codec_context, larger)):
            coder.time_base, coder.framerate, coder.thread_count = time_base, Fraction(30), 1
            stamps = [step * (40 * part + n) for n in range(40)]
            for rgb, stamp in pictures(stamps, coder.width, coder.height):
                picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                picture.pts, picture.time_base = stamp, time_base
                _mux(file, stream, coder.encode(picture))
            _mux(file, stream, coder.encode(None))


def _mux(file: Any, stream: Any, packets: list[Any]) -> None:
    for packet in packets:
        packet.stream = stream
        file.mux(packet)


def ledger_of(path: Path) -> list[FrameRecord]:
    """The path through ingest's timeline, as the stage does it."""
    timeline = SourceTimeline("s", "i", ("p",), LocalClaims())
    out: list[FrameRecord] = []
    for event in read(path):
        if isinstance(event, StreamOpened):
            out += timeline.open(event.info, 0, event.first_tag)
        elif isinstance(event, PacketSeen):
            out += timeline.packet(PacketIn(event.tag, event.raw_pts, event.keyframe, event.discard), 0)
        elif isinstance(event, PictureSeen):
            out += timeline.picture(PictureIn(event.raw_pts, 0, event.picture, event.tag, event.corrupt), 0)
        elif isinstance(event, DecoderRefused):
            out += timeline.decoder_error(0)
        else:
            out += timeline.close(0)
    return out
