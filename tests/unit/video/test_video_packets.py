"""Packets that are not one to one with pictures, or whose order is another than theirs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from video_helpers import TB90, ledger_of, pictures, raw_pts, read  # type: ignore[import-not-found]

from serving.adapters.video import clips, containers, reader
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


@pytest.mark.needs("ffmpeg")
def test_alternate_references_of_a_real_encoder_are_no_loss(tmp_path: Path) -> None:
    """libvpx makes them where a first pass has looked at the film."""
    film = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=30:duration=4"]
    codec = [
        "-c:v",
        "libvpx",
        "-b:v",
        "100k",
        "-auto-alt-ref",
        "1",
        "-lag-in-frames",
        "16",
        "-passlogfile",
        tmp_path / "p",
    ]
    subprocess.run([*film, *codec, "-pass", "1", "-f", "null", "-"], check=True)
    subprocess.run([*film, *codec, "-pass", "2", tmp_path / "f.webm"], check=True)
    with av.open(str(tmp_path / "f.webm")) as file:
        packets = sum(packet.size > 0 for packet in file.demux(video=0))
    assert packets > 120 == sum(isinstance(record, Frame) for record in ledger_of(tmp_path / "f.webm"))
    assert not any(isinstance(record, DroppedRun) for record in ledger_of(tmp_path / "f.webm"))


def test_a_picture_has_the_capture_time_of_its_own_packet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With B-frames a picture comes out while later packets go in, and the last ones when none goes in any more."""
    monkeypatch.setattr(reader, "_producer_time", lambda packet: 1000 * packet.pts)
    stamps = [3000 * n for n in range(40)]
    write_clip(tmp_path / "b.ts", ClipSpec("mpegts", TB90, clips.X264_PYRAMID), pictures(stamps))
    seen = [event for event in read(tmp_path / "b.ts") if isinstance(event, PictureSeen)]
    assert len(seen) == 40 and [e.capture_ns for e in seen] == [1000 * (e.raw_pts or 0) for e in seen]
    assert {e.capture_quality for e in seen} == {CaptureQuality.PRODUCER}


@pytest.mark.parametrize("name", ["mpegts", "mpeg", "hls"])
def test_mpeg_counts_33_bits(name: str) -> None:
    assert containers.pts_modulus(name) == 1 << 33
