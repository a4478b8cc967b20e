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


def write_with_sound(path: Path, begin_s: Fraction, seconds: int = 2, hertz: int = 440) -> Path:
    """25 pictures a second and a tone in AAC, both from `begin_s` on; the container is the name's."""
    with av.open(str(path), "w") as file:
        more: dict[str, Any] = {"pix_fmt": "yuv420p", "time_base": TB90, "options": {"preset": "veryfast"}}
        video: Any = file.add_stream("libx264", rate=Fraction(25), width=96, height=64, **more)
        sound: Any = file.add_stream("aac", rate=48_000, layout="mono")
        stamps = [round(begin_s * 90_000) + 3600 * n for n in range(25 * seconds)]
        for rgb, stamp in pictures(stamps):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = stamp, TB90
            file.mux(video.encode(picture))
        file.mux(video.encode(None))
        tone = 0.4 * np.sin(2 * np.pi * hertz * np.arange(48_000 * seconds) / 48_000).astype(np.float32)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
            frame.pts = round(begin_s * 48_000) + start
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    return path
