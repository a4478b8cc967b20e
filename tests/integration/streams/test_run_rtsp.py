"""RTSP as cameras speak it: pictures only, times of RTP only, wrong wall clocks, wraps, reconnects, silence."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import pytest
from stream_helpers import Ran, pipeline, run_one  # type: ignore[import-not-found]

from serving.adapters.video import AddressSource, ReaderOptions
from serving.adapters.video.clips import X264_IBBP, ClipSpec, access_units, write_clip
from serving.errors import SourceStalled, SourceUnreachable
from serving.media import PictureSeen, StreamEnded, StreamOpened, VideoReader
from serving.streams.ingest import ReconnectRules
from serving.streams.run import RunSettings
from serving.testing.rtsp_server import Camera
from serving.testing.sync_code import linear, picture, read_own
from serving.testing.sync_play import OneTrack, read_picture

Units = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Units:
    """Three seconds with B-frames."""
    path: Path = tmp_path_factory.mktemp("rtsp") / "c.ts"
    pictures = ((picture(n, 1, linear(n / 30)), 3000 * n) for n in range(90))
    write_clip(path, ClipSpec("mpegts", Fraction(1, 90_000), X264_IBBP.replace("9999", "30")), pictures)
    return access_units(path)


def test_pictures_come_with_the_times_of_rtp(units: Units) -> None:
    with Camera(units) as camera:
        events = list(AddressSource("cam", camera.address, ReaderOptions(read_timeout_s=2)).connect().events())
        assert camera.set_up == ["track0"], "sound is not asked for"
    seen = [e for e in events if isinstance(e, PictureSeen)]
    info = next(e.info for e in events if isinstance(e, StreamOpened))
    assert (info.time_base, info.pts_modulus) == (Fraction(1, 90_000), 1 << 32)
    pts = [e.raw_pts for e in seen]
    assert pts[0] is None, "libav's parser has no place for the first stamp of a stream without byte positions"
    assert pts[1:] == [3000 * n for n in range(1, 90)]
    assert [read_own(e.picture.rgb()) for e in seen] == [(1, n) for n in range(90)]


class CallsOf:
    """The camera for a number of connections; then nobody answers."""

    def __init__(self, camera: Camera, connections: int) -> None:
        self._source = AddressSource("cam", camera.address, ReaderOptions(open_timeout_s=5, read_timeout_s=1.0))
        self._left = connections
        self.source_id, self.kind = self._source.source_id, self._source.kind

    def connect(self) -> VideoReader:
        if self._left == 0:
            raise SourceUnreachable("cam: enough")
        self._left -= 1
        return self._source.connect()


def live(camera: Camera, connections: int) -> Ran:
    tracked = pipeline("code", read_picture, new_tracker=lambda: OneTrack(1))
    settings = RunSettings(rules=ReconnectRules(first_s=0.05, most_s=0.1, lease_s=1.5))
    return run_one(CallsOf(camera, connections), [tracked], settings)


def assert_aligned(ran: Ran) -> int:
    measured = 0
    for shown in ran.shown:
        own = read_own(shown.frame.picture.rgb())
        boxes = shown.overlays[0].boxes
        for class_id, origin in zip(boxes.class_id.tolist(), shown.overlays[0].origin.tolist(), strict=True):
            measured += origin == 0
            assert origin != 0 or (own is not None and class_id == own[1])
    assert ran.source.balanced
    return measured


@pytest.mark.parametrize("start", [0, (1 << 32) - 45 * 3000], ids=["zero", "near_wrap"])
def test_a_camera_through_run(units: Units, start: int) -> None:
    with Camera(units, start, pace_s=1 / 30, after="silent") as camera:
        ran = live(camera, 1)
    assert ran.source.epochs == 1 and assert_aligned(ran) >= 60
    assert dict(ran.source.balances["code"].reasons).get("no_pts") == 1, "the first picture of a connection"
    first = [s.frame.pts_ns for s in ran.shown if s.frame.epoch == 1]
    steps = [b - a for a, b in itertools.pairwise(first)]
    assert len(first) >= 85 and all(abs(step - 33_333_333) <= 1 for step in steps), "no step at the wrap"


def test_a_camera_that_hangs_up_is_called_again(units: Units) -> None:
    with Camera(units[:45], pace_s=1 / 30) as camera:
        ran = live(camera, 3)
    # What piles up while a connection is opened is old when it comes, and is shed.
    assert ran.source.epochs == 3 and assert_aligned(ran) >= 30
    outs = [s.out_pts_ns for s in ran.shown]
    assert outs == sorted(set(outs))


def test_silence_after_some_pictures_is_a_stall(units: Units) -> None:
    with Camera(units[:30], after="silent") as camera:
        source = AddressSource("cam", camera.address, ReaderOptions(open_timeout_s=3, read_timeout_s=0.7))
        events = list(source.connect().events())
    last = events[-1]
    assert isinstance(last, StreamEnded) and isinstance(last.error, SourceStalled)
    assert sum(isinstance(e, PictureSeen) for e in events) == 30, "the decoder is drained first"
