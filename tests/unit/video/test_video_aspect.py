"""Pixels that are no squares: what is written is shown as wide as what was read."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from video_helpers import TB90, pictures, read  # type: ignore[import-not-found]

from serving.adapters.video import AddressSource, HlsWriter, Mp4Writer
from serving.frames import AlignedFrame, Frame
from serving.media import OutputStream, StreamOpened, VideoWriter
from serving.streams.drawing import Drawing
from serving.streams.run import run
from serving.streams.source_run import SourceJob
from serving.streams.worker import Pipeline

WIDE = Fraction(4, 3)
UPRIGHT, TURNED = (1, 0, 0, 1), (0, 1, -1, 0)


def write(path: Path, matrix: tuple[int, int, int, int] = UPRIGHT) -> None:
    """Ten pictures of 96x64 whose pixels are wider than high."""
    a, b, c, d = (number << 16 for number in matrix)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=30, width=96, height=64, pix_fmt="yuv420p")
        stream.codec_context.sample_aspect_ratio = WIDE
        if matrix != UPRIGHT:
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for rgb, _ in pictures(list(range(10))):
            for packet in stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)


def aspect_of(path: Path) -> Fraction:
    with av.open(str(path)) as file:
        return file.streams.video[0].sample_aspect_ratio or Fraction(1)


@pytest.mark.parametrize(("matrix", "aspect"), [(UPRIGHT, WIDE), (TURNED, 1 / WIDE)], ids=["upright", "turned"])
@pytest.mark.parametrize("output", ["o.mp4", "hls"])
def test_a_run_keeps_the_shape_of_a_pixel(
    tmp_path: Path, matrix: tuple[int, int, int, int], aspect: Fraction, output: str
) -> None:
    write(tmp_path / "c.mp4", matrix)
    out = tmp_path / output

    def writers(stream: OutputStream) -> list[VideoWriter]:
        return [HlsWriter(out, stream, lambda frame: {}) if output == "hls" else Mp4Writer(out, stream)]

    away = Pipeline("none", 1, "detection", lambda requests: [], lambda result: {})
    assert run([SourceJob(AddressSource("s", str(tmp_path / "c.mp4")), Drawing({}), writers)], [away]).ok
    assert aspect_of(out / "index.m3u8" if output == "hls" else out) == aspect


def test_an_epoch_of_another_size_has_square_pixels_in_hls(tmp_path: Path) -> None:
    stream = OutputStream(96, 64, TB90, sample_aspect=WIDE)
    assert stream.sized(96, 64) == stream and stream.sized(128, 96).sample_aspect == 1
    assert stream.sized(128, 96) == replace(stream, width=128, height=96, sample_aspect=Fraction(1))
    writer = HlsWriter(tmp_path, stream, lambda frame: {})
    for epoch, (width, height) in enumerate([(96, 64), (96, 64), (128, 96)], start=1):
        frame = Frame("s", epoch, 0, 0, 0, TB90, ("p",), 0)
        rgb = np.full((height, width, 3), 90, np.uint8)
        writer.write(AlignedFrame(frame, epoch * 10**9, (), 0, discontinuity=epoch > 1), rgb)
    writer.close()
    whole = [tmp_path / f"whole-{n}.mp4" for n in range(3)]
    for init, segment, path in zip(sorted(tmp_path.glob("init-*")), sorted(tmp_path.glob("*.m4s")), whole, strict=True):
        path.write_bytes(init.read_bytes() + segment.read_bytes())
    assert [aspect_of(path) for path in whole] == [WIDE, WIDE, 1]


def test_square_pixels_are_the_rule(tmp_path: Path) -> None:
    from serving.adapters.video.clips import ClipSpec, write_clip

    write_clip(tmp_path / "c.mp4", ClipSpec("mp4", TB90), pictures([3000 * n for n in range(5)]))
    info = next(e.info for e in read(tmp_path / "c.mp4") if isinstance(e, StreamOpened))
    assert info.sample_aspect == 1
