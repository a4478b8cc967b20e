"""Packets that are not one to one with pictures, or whose order is another than theirs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from video_helpers import TB90, ledger_of, pictures, raw_pts, read  # type: ignore[import-not-found]

from serving.adapters.video import clips, reader
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.frames import CaptureQuality, DroppedRun, DropReason, Frame
from serving.media import PacketSeen, PictureSeen

FAST = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
MS = [33 * n for n in range(40)]


def write_vp8(path: Path, change: Callable[[int, bytearray], None]) -> None:
    """A picture a packet, whose bytes `change` may change."""
    with av.open(str(path), "w") as file:
        options = {"width": 96, "height": 64, "pix_fmt": "yuv420p", "options": FAST}
        stream: Any = file.add_stream("libvpx", rate=30, time_base=Fraction(1, 1000), **options)
        stream.codec_context.thread_count = 1
        number = 0
        for rgb, stamp in pictures(MS):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, 1000)
            for packet in stream.encode(picture):
                data = bytearray(bytes(packet))
                change(number, data)
                packet.update(bytes(data))
                file.mux(packet)
                number += 1
        for packet in stream.encode(None):
            file.mux(packet)


def hide(number: int, data: bytearray) -> None:
    """Every tenth packet is decoded, and not to be shown."""
    if number % 10 == 9:
        data[0] &= ~0x10


def test_a_vp8_packet_that_shows_nothing_is_no_loss(tmp_path: Path) -> None:
    write_vp8(tmp_path / "hidden.webm", hide)
    events = read(tmp_path / "hidden.webm")
    assert raw_pts(events) == [stamp for n, stamp in enumerate(MS) if n % 10 != 9]
    assert sum(isinstance(event, PacketSeen) for event in events) == 36
    assert all(isinstance(record, Frame) for record in ledger_of(tmp_path / "hidden.webm"))


def test_a_vp8_packet_that_is_lost_is_told_beside_hidden_ones(tmp_path: Path) -> None:
    def damage(number: int, data: bytearray) -> None:
        hide(number, data)
        if number == 25:
            data[1:3] = b"\xff\xff"  # a first partition larger than the packet

    write_vp8(tmp_path / "lost.webm", damage)
    drops = [record for record in ledger_of(tmp_path / "lost.webm") if isinstance(record, DroppedRun)]
    assert [(drop.first_seq, drop.last_seq, drop.reason) for drop in drops] == [(23, 23, DropReason.DECODE_ERROR)]


def test_a_picture_has_the_capture_time_of_its_own_packet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With B-frames a picture comes out while later packets go in, and the last ones when none goes in any more."""
    monkeypatch.setattr(reader, "_producer_time", lambda packet: 1000 * packet.pts)
    stamps = [3000 * n for n in range(40)]
    write_clip(tmp_path / "b.ts", ClipSpec("mpegts", TB90, clips.X264_PYRAMID), pictures(stamps))
    seen = [event for event in read(tmp_path / "b.ts") if isinstance(event, PictureSeen)]
    assert len(seen) == 40 and [e.capture_ns for e in seen] == [1000 * (e.raw_pts or 0) for e in seen]
    assert {e.capture_quality for e in seen} == {CaptureQuality.PRODUCER}
