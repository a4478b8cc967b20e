"""Clips whose every picture has the PTS that was asked for: what sync-test and the tests are made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from serving.types import PixelArray

# Fixed B patterns in one GOP (docs/sync-test.md); the encoder's defaults choose their own and prove less.
X264_IBBP = "bframes=2:b-adapt=0:b-pyramid=none:scenecut=0:keyint=9999"
X264_PYRAMID = "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0:keyint=9999"
X264_OPEN_GOP = "bframes=2:b-adapt=0:b-pyramid=none:scenecut=0:keyint=30:min-keyint=30:open-gop=1"
X264_NO_B = "bframes=0:scenecut=0:keyint=9999"


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """container: libav's format name. x264: encoder parameters. time_base: of the PTS given with the pictures."""

    container: str
    time_base: Fraction
    x264: str = X264_IBBP
    rate: Fraction = Fraction(30)
    codec: str = "libx264"
    container_options: tuple[tuple[str, str], ...] = ()


def write_clip(path: Path, spec: ClipSpec, pictures: Iterable[tuple[PixelArray, int]]) -> int:
    """Encode (rgb uint8 [h, w, 3], pts) pairs; how many. PTS must rise; the muxer may wrap them."""
    count = 0
    with av.open(str(path), "w", format=spec.container, container_options=dict(spec.container_options)) as container:
        stream: Any = None
        for rgb, pts in pictures:
            if stream is None:
                options = {"x264-params": spec.x264, "preset": "veryfast"} if spec.codec == "libx264" else {}
                size = {"width": rgb.shape[1], "height": rgb.shape[0]}
                stream = container.add_stream(
                    spec.codec,
                    rate=spec.rate,
                    pix_fmt=_format(spec.codec),
                    time_base=spec.time_base,
                    options=options,
                    **size,
                )
                stream.codec_context.thread_count = 1
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = pts, spec.time_base
            for packet in stream.encode(picture):
                container.mux(packet)
            count += 1
        for packet in stream.encode(None) if stream else ():
            container.mux(packet)
    return count


def _format(codec: str) -> str:
    return "yuvj420p" if codec == "mjpeg" else "yuv420p"


def access_units(path: Path) -> list[tuple[int, bytes]]:
    """(pts, H.264 with start codes) of each packet in decode order; parameter sets stand in front of keyframes."""
    from av.bitstream import BitStreamFilterContext

    out: list[tuple[int, bytes]] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata or b""
        length_prefixed = extradata[:1] == b"\x01"
        filtering = BitStreamFilterContext("h264_mp4toannexb", stream) if length_prefixed else None
        for packet in container.demux(stream):
            if packet.size:
                if packet.pts is None:
                    raise ValueError(f"{path}: a packet without PTS")
                pts = packet.pts
                parts = filtering.filter(packet) if filtering else [packet]
                out += [(pts, bytes(part)) for part in parts]
    return out
