"""Lines, sheets, drawing, names: the small parts of a run."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from serving.align import Accountant, Mixer
from serving.errors import ParameterInvalid
from serving.frames import AlignedFrame, Frame, Overlay, Picture
from serving.media import OutputSummary
from serving.preprocess.jpeg import JpegCodec
from serving.streams.by_source import named, names_of
from serving.streams.drawing import Drawing
from serving.streams.lines import ResultLines, WebVtt, describe
from serving.streams.main import RunOptions
from serving.streams.mix_role import MixRole
from serving.streams.sheet import ContactSheet
from serving.streams.worker import Region
from serving.types import Detections, PixelArray


def shown(number: int, boxes: Detections | None = None, origin: int = 0) -> AlignedFrame:
    found = boxes or Detections.empty()
    frame = Frame("cam", 2, number, number * 40_000_000, number, Fraction(1, 25), ("person",), 0)
    overlay = Overlay("person", None, found, np.full(len(found), origin, np.uint8))
    return AlignedFrame(frame, number * 40_000_000, (overlay,), 0)


def two_boxes() -> Detections:
    xyxy = np.array([[10, 10, 50, 40], [60, 20, 90, 50]], np.float32)
    return Detections(xyxy, np.array([0.9, 0.1], np.float32), np.zeros(2, np.int64), np.array([3, -1]))


def test_webvtt_has_a_cue_for_each_frame_until_the_next() -> None:
    file = io.StringIO()
    track = WebVtt(file)
    for number in range(3):
        track.write(shown(number, two_boxes(), 1))
    track.close()
    blocks = file.getvalue().strip().split("\n\n")
    assert blocks[0] == "WEBVTT" and len(blocks) == 4
    stamp, text = blocks[2].split("\n")
    assert stamp == "00:00:00.040 --> 00:00:00.080"
    cue = json.loads(text)
    assert cue["key"] == {"source_id": "cam", "epoch": 2, "pts_ns": 40_000_000}
    assert [d.get("track_id") for d in cue["overlays"][0]["detections"]] == [3, None]
    assert cue == describe(shown(1, two_boxes(), 1))
    assert cue["overlays"][0]["detections"][0]["origin"] == "interpolated"


@pytest.mark.parametrize(("of_video", "begins"), [(True, ["000", "120"]), (False, ["000", "040", "080", "120"])])
def test_cues_of_a_video_leave_out_frames_that_are_not_in_it(of_video: bool, begins: list[str]) -> None:
    """Their picture was given up, or does not decode."""

    def broken() -> PixelArray:
        raise ValueError("no picture")

    class Kept:
        def write(self, shown: AlignedFrame, rgb: PixelArray) -> None:
            written.append(shown.frame.frame_seq)

        def close(self) -> OutputSummary:
            return OutputSummary("", len(written), 0)

        def abandon(self) -> None:
            written.clear()

    written: list[int] = []
    file, good = io.StringIO(), Picture(array=np.zeros((4, 4, 3), np.uint8))
    track, lines = WebVtt(file, of_video=of_video), ResultLines("cam", {}, None)
    role = MixRole(
        Mixer("cam"), Accountant(), lines, lambda shown, rgb, note: rgb, lambda stream: [Kept()], sinks=[track]
    )
    for number, picture in enumerate([good, None, Picture(load=broken), good]):
        frame = shown(number)
        role._show([replace(frame, frame=replace(frame.frame, picture=picture))])
    track.close()
    assert written == [0, 3] and re.findall(r"00:00:00\.(\d+) -->", file.getvalue()) == begins


def test_the_draw_threshold_hides_and_removes_nothing() -> None:
    picture = np.zeros((120, 160, 3), np.uint8)
    frame = shown(0, two_boxes())
    low, high = Drawing({}, 0.05)(frame, picture, ""), Drawing({}, 0.2)(frame, picture, "")
    assert low[50, 60:90].any() and not high[50, 60:90].any() and high[10:40, 10].any()
    assert len(frame.overlays[0].boxes) == 2 and not picture.any()


def test_boxes_without_a_track_leave_no_trail() -> None:
    """Their track is -1, and a line from one person to another would be drawn."""
    drawing = Drawing({})
    for number, x in enumerate((40, 500)):
        box = np.array([[x, 300, x + 60, 450]], np.float32)
        found = Detections(box, np.array([0.9], np.float32), np.zeros(1, np.int64), np.array([-1]))
        picture = drawing(shown(number, found), np.zeros((480, 640, 3), np.uint8), "")
    assert picture[450, 500:560].any() and not picture[440:460, 110:490].any()


def test_a_contact_sheet_is_even_and_bounded() -> None:
    sheet = ContactSheet(wanted=4, width=32)
    assert sheet.picture() is None
    for number in range(100):
        sheet.add(np.full((24, 32, 3), number, np.uint8))
    picture = sheet.picture()
    assert picture is not None
    levels = [int(picture[6 + 12 + r * 30, 6 + 16 + c * 38, 0]) for r in range(2) for c in range(2)]
    steps = np.diff(levels)
    assert levels[0] == 0 and levels[-1] > 80 and steps.min() > 15
    assert len(sheet._kept) < 8


def test_names_of_sources() -> None:
    assert named("gate=rtsp://10.0.0.1/x") == ("gate", "rtsp://10.0.0.1/x")
    assert named("rtsp://10.0.0.1:554/live/cam1?token=a")[0] == "cam1"
    assert named("a/b/7 people.mp4")[0] == "source-7-people"
    assert names_of(("a.mp4", "x/a.mp4", "y/a.mkv")) == ["a", "a-2", "a-3"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sources": ()},
        {"models": ()},
        {"track": "sort"},
        {"every": 0},
        {"output": Path("mixed.avi")},
        {"draw_threshold": 2.0},
        {"timeout_s": 0.0},
        {"transport": "png"},
        {"delay_ms": -1},
    ],
)
def test_options_say_what_they_expect(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {"sources": ("a.mp4",), "models": ("m",)}
    with pytest.raises(ParameterInvalid, match="expected"):
        RunOptions(**{**good, **wrong})  # type: ignore[arg-type]


def test_a_mask_blacks_out_and_must_fit() -> None:
    mask = np.zeros((4, 6), bool)
    mask[:, 3:] = True
    seen = Region(mask=mask).masked(np.full((4, 6, 3), 9, np.uint8))
    assert not seen[:, :3].any() and (seen[:, 3:] == 9).all() and seen.dtype == np.uint8
    with pytest.raises(ParameterInvalid, match="expected 8x4, got 6x4"):
        Region(mask=mask).masked(np.zeros((4, 8, 3), np.uint8))


def test_jpeg_there_and_back() -> None:
    ramp = np.tile(np.arange(96, dtype=np.uint8)[None, :, None], (64, 1, 3))
    codec = JpegCodec()
    back = codec.decode(codec.encode(ramp))
    assert back.shape == ramp.shape and np.abs(back.astype(int) - ramp).max() < 8
