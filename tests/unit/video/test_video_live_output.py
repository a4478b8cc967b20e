"""Outputs of sources that never end: a window of HLS, files of a recording, a receiver that comes and goes."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from test_video_output import picture, shown
from video_helpers import TB90  # type: ignore[import-not-found]

from serving.adapters.video import HlsSettings, HlsWriter, PublishWriter, RecordingWriter, last_shown
from serving.errors import SourceRefused
from serving.free_ports import free_port
from serving.media import OutputStream
from serving.streams.lines import describe

STREAM = OutputStream(96, 64, TB90)
TICKS = [9_000 * n for n in range(40)]  # ten a second


def hls(folder: Path, ticks: list[int], epoch: int = 1, out_ns: int = 0, window: int = 3) -> HlsWriter:
    writer = HlsWriter(folder, STREAM, describe, HlsSettings(200_000_000, window, resume=True))
    for number, frame in enumerate(shown(ticks, TB90, epoch, out_ns)):
        writer.write(frame, picture(number))
    return writer


def lines(folder: Path, start: str) -> list[str]:
    return [line for line in (folder / "index.m3u8").read_text().splitlines() if line.startswith(start)]


def test_a_live_playlist_moves_on_and_the_disk_does_not_fill(tmp_path: Path) -> None:
    hls(tmp_path, TICKS).abandon()
    hls(tmp_path, TICKS, epoch=2, out_ns=5_000_000_000).close()
    assert len(lines(tmp_path, "segment-")) == 3
    assert lines(tmp_path, "#EXT-X-MEDIA-SEQUENCE") == ["#EXT-X-MEDIA-SEQUENCE:36"]
    assert lines(tmp_path, "#EXT-X-DISCONTINUITY-SEQUENCE") == ["#EXT-X-DISCONTINUITY-SEQUENCE:1"]
    kept = sorted(path.name for path in tmp_path.glob("segment-*.m4s"))
    assert kept == [f"segment-{n:05d}.m4s" for n in range(33, 39)]
    assert sorted(path.name for path in tmp_path.glob("init-*")) == ["init-002.mp4"]
    assert lines(tmp_path, "#EXT-X-MAP") == ['#EXT-X-MAP:URI="init-002.mp4"']


def test_the_place_to_go_on_is_that_of_the_last_whole_segment(tmp_path: Path) -> None:
    assert last_shown(tmp_path) is None
    hls(tmp_path, TICKS[:11]).abandon()
    last = last_shown(tmp_path)
    assert last is not None and (last.frame_seq, last.out_pts_ns) == (9, 900_000_000) and last.key.pts_ns == 900_000_000
    table = tmp_path / "segment-00004.json"
    for damaged in (b"", b"[]", json.dumps({"frames": []}).encode(), b"\xff"):
        table.write_bytes(damaged)
        assert last_shown(tmp_path) is None
    (tmp_path / "index.m3u8").write_bytes(b"\xff\xfe")
    hls(tmp_path, TICKS[:11]).close()
    assert lines(tmp_path, "segment-")[0] == "segment-00000.m4s" or len(lines(tmp_path, "segment-")) == 3


def test_f12_a_writer_that_was_overtaken_hands_nothing_over(tmp_path: Path) -> None:
    late, alone = hls(tmp_path, TICKS[:11]), hls(tmp_path / "alone", TICKS[:11])
    hls(tmp_path, TICKS[:11]).close()
    playlist, segment = (tmp_path / "index.m3u8").read_bytes(), (tmp_path / "segment-00005.m4s").read_bytes()
    late.abandon()
    late.hand_over()
    assert (tmp_path / "index.m3u8").read_bytes() == playlist
    assert (tmp_path / "segment-00005.m4s").read_bytes() == segment
    alone.abandon()
    alone.hand_over()
    last = last_shown(tmp_path / "alone")
    assert last is not None and last.frame_seq == 10, "what was let go of can be handed over still"


def test_a_recording_is_cut_by_length_and_epoch_into_whole_files(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, "gate", STREAM, longest_ns=2_000_000_000)
    for number, frame in enumerate(shown(TICKS, TB90)):
        writer.write(frame, picture(number))
    for number, frame in enumerate(shown(TICKS[:5], TB90, 2, 5_000_000_000, fresh=True)):
        writer.write(frame, picture(number))
    writer.abandon()
    found = {}
    for path in sorted(tmp_path.glob("*.mp4")):
        with av.open(str(path)) as file:
            found[path.name] = sum(1 for _ in file.decode(video=0))
    names = ["gate-00001-00000000.mp4", "gate-00001-00000020.mp4", "gate-00002-00000000.mp4"]
    assert found == dict(zip(names, (20, 20, 5), strict=True)) and not list(tmp_path.glob(".*.part"))


def test_each_file_of_a_recording_counts_from_zero(tmp_path: Path) -> None:
    stream = OutputStream(96, 64, TB90, 126_000)
    writer = RecordingWriter(tmp_path, "gate", stream, longest_ns=2_000_000_000)
    for number, frame in enumerate(shown([126_000 + tick for tick in TICKS], TB90)):
        writer.write(frame, picture(number))
    for number, frame in enumerate(shown(TICKS[:5], TB90, 2, 3_600_000_000_000, fresh=True)):
        writer.write(frame, picture(number))
    writer.close()
    for path in sorted(tmp_path.glob("*.mp4")):
        with av.open(str(path)) as file:
            pts = [picture.pts * picture.time_base for picture in file.decode(video=0)]
            assert pts == [tick * TB90 for tick in TICKS[: len(pts)]] and file.start_time == 0
            assert file.duration is not None and file.duration <= 2_000_000


LISTENING = {"rtmp": ["-listen", "1"], "rtsp": ["-rtsp_flags", "listen"]}


@pytest.mark.long
@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize("scheme", LISTENING)
def test_pictures_reach_a_receiver_that_comes_late(scheme: str, tmp_path: Path) -> None:
    address = f"{scheme}://127.0.0.1:{free_port()}/live/gate"
    wrong: list[str] = []
    dropped: list[int] = []
    writer = PublishWriter(address, STREAM, lambda text: text, dropped.append, wrong.append)
    frames = iter(enumerate(shown([3600 * n for n in range(20_000)], TB90)))

    def send(until: float) -> None:
        number, frame = next(frames)
        began = time.monotonic()
        writer.write(frame, picture(number))
        assert time.monotonic() - began < 1, "the mixer never waits for a receiver"
        assert time.monotonic() < until, wrong
        time.sleep(0.02)

    deadline = time.monotonic() + 150
    while not wrong:
        send(deadline)
    assert address in wrong[0]
    what = ["ffmpeg", "-v", "error", *LISTENING[scheme], "-i", address, "-frames:v", "15", "-f", "framecrc", "-"]
    with (tmp_path / "times").open("w") as out, subprocess.Popen(what, stdout=out) as receiver:
        try:
            while receiver.poll() is None:
                send(deadline)
        finally:
            receiver.kill()
    began = time.monotonic()
    writer.close()
    assert time.monotonic() - began < 4
    rows = [line for line in (tmp_path / "times").read_text().splitlines() if not line.startswith("#")]
    assert len(rows) == 15, "pictures, decoded"
    assert dropped, "nobody was there for a while"


def test_an_address_that_is_not_allowed_is_told_and_nothing_connects() -> None:
    def refused(address: str) -> str:
        raise SourceRefused("rtmp://10.0.0.1/x: 10.0.0.1 is a private address")

    wrong: list[str] = []
    writer = PublishWriter("rtmp://10.0.0.1/x", STREAM, refused, lambda count: None, wrong.append)
    deadline = time.monotonic() + 20
    while not wrong and time.monotonic() < deadline:
        time.sleep(0.02)
    writer.close()
    assert "private address" in wrong[0]


def test_a_receiver_that_hangs_holds_up_nobody_who_lets_its_writer_go() -> None:
    wrong: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/gate"
        writer = PublishWriter(address, STREAM, lambda text: text, lambda count: None, wrong.append)
        with _accepted(silent, writer):  # and nothing is ever said
            began = time.monotonic()
            writer.abandon()
            assert time.monotonic() - began < 1
            writer._thread.join(10)
    assert writer._child is not None and writer._child.poll() is not None and not writer._thread.is_alive()
    assert wrong == [], "that it was let go is no error of the receiver"


def _accepted(server: socket.socket, writer: PublishWriter) -> socket.socket:
    """The writer's connection, which is made once there is something to send."""
    server.settimeout(0.05)
    noise = np.random.default_rng(7).integers(0, 255, (64, 96, 3), np.uint8)
    for frame in shown([3600 * n for n in range(1000)], TB90):
        writer.write(frame, noise)
        with suppress(TimeoutError):
            return server.accept()[0]
    raise AssertionError("nobody connected")
