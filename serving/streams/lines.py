"""Results as JSON Lines and shown frames as WebVTT metadata.

A line is written when its key closes, in (epoch, frame_seq, pipeline) order: exactly one for each ledger frame and
pipeline, dropped ones included. Measured boxes only; filled ones live in the side channel of the mixed output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.align import OutcomeRecord, ticks_to_ns
from serving.frames import AlignedFrame, Frame, FrameRecord, Origin, Overlay
from serving.media import origin_of
from serving.streams.outputs import TextSink
from serving.streams.worker import Pipeline
from serving.types import Detections

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class _Place:
    pts: int
    pts_ns: int
    time_base: str
    pts_source: str
    capture_ns: int | None
    capture_quality: str


class ResultLines:
    """Remembers each frame's times until its keys close. `file` may be None: then only the count is kept."""

    def __init__(self, source_id: str, pipelines: Mapping[str, Pipeline], file: TextSink | None) -> None:
        self.written = 0
        self._failed = False
        self._source_id, self._pipelines, self._file = source_id, pipelines, file
        self._places: dict[tuple[int, int], _Place] = {}
        self._sizes: dict[int, tuple[int, int]] = {}  # by epoch

    def sized(self, epoch: int, width: int, height: int) -> None:
        """How large the pictures of an epoch are; told before its first frame. Sound has no size."""
        if self._file is not None:
            self._sizes[epoch] = width, height

    def frame(self, record: FrameRecord) -> None:
        """A record of `frames` was accepted."""
        if self._file is None or not isinstance(record, Frame):
            return
        base = f"{record.time_base.numerator}/{record.time_base.denominator}"
        self._places[record.epoch, record.frame_seq] = _Place(
            record.pts, record.pts_ns, base, record.pts_source.value, record.capture_ns, record.capture_quality.value
        )

    def outcomes(self, records: Sequence[OutcomeRecord]) -> None:
        """Records of `outcomes`; those that close a key become lines. Raises StorageFailed, once: then it is over."""
        for record in records:
            if record.closed and not self._failed:
                self._write(record)
                self.written += 1

    def _write(self, record: OutcomeRecord) -> None:
        if self._file is None:
            return
        self._failed = True
        self._file.write(json.dumps(self._line(record), separators=(",", ":"), allow_nan=False) + "\n")
        self._failed = False
        self._sizes.pop(record.key.epoch - 1, None)  # keys close epoch by epoch
        pipelines = list(self._pipelines)
        if record.key.pipeline == pipelines[-1]:
            self._places.pop((record.key.epoch, record.key.frame_seq), None)

    def _line(self, record: OutcomeRecord) -> dict[str, Any]:
        key, outcome, pipeline = record.key, record.outcome, self._pipelines[record.key.pipeline]
        place = self._places.get((key.epoch, key.frame_seq))
        line: dict[str, Any] = {"schema": SCHEMA, "source_id": key.source_id, "epoch": key.epoch}
        line |= {"frame_seq": key.frame_seq, "pipeline": key.pipeline}
        line |= {"pts": place and place.pts, "time_base": place and place.time_base, "pts_ns": place and place.pts_ns}
        if place is not None:
            line |= {"pts_source": place.pts_source}
            if place.capture_ns is not None:
                line |= {"capture_ns": place.capture_ns, "capture_quality": place.capture_quality}
        line |= {"outcome": outcome.status.name.lower(), "reason": outcome.reason or None, "attempt": outcome.attempt}
        line |= {"model": pipeline.name, "model_version": str(pipeline.model_version), "task": pipeline.task}
        line |= {"certificate_id": pipeline.certificate_id}
        if outcome.result is not None:
            if (size := self._sizes.get(key.epoch)) is not None:
                line["image"] = {"width": size[0], "height": size[1]}
            line |= pipeline.document(outcome.result.result)
            line["timings_ms"] = {name: round(ms, 3) for name, ms in outcome.result.timings_ms}
        return line


def describe(shown: AlignedFrame) -> dict[str, Any]:
    """What one shown frame shows, for a side channel: its frame key, and every box with how it came to be."""
    frame = shown.frame
    return {
        "out_pts_ns": shown.out_pts_ns,
        "key": {"source_id": frame.source_id, "epoch": frame.epoch, "pts_ns": frame.pts_ns},
        "frame_seq": frame.frame_seq,
        "overlays": [_overlay(overlay) for overlay in shown.overlays],
    }


def _overlay(overlay: Overlay) -> dict[str, Any]:
    outcome = overlay.outcome
    status = outcome.status.name.lower() if outcome else None
    return {
        "pipeline": overlay.pipeline,
        "outcome": status,
        "missing": overlay.missing,
        "detections": _boxes(overlay.boxes, overlay.origin.tolist()),
    }


def _boxes(boxes: Detections, origins: Sequence[int]) -> list[dict[str, Any]]:
    ids = boxes.tracker_id.tolist() if boxes.tracker_id is not None else [-1] * len(boxes)
    columns = zip(boxes.xyxy.tolist(), boxes.confidence.tolist(), boxes.class_id.tolist(), ids, origins, strict=True)
    return [
        {"xyxy": [round(v, 2) for v in xyxy], "confidence": round(score, 4), "class_id": kind}
        | ({"track_id": track} if track >= 0 else {})
        | {"origin": Origin(origin).name.lower()}
        for xyxy, score, kind, track, origin in columns
    ]


class WebVtt:
    """A metadata track (WebVTT, W3C): one cue for each shown frame, until the next one, with `describe` as its text.

    of_video: it goes with a video, and has no cue of a frame that is not in it. source_times: that video keeps the
    source's PTS (MP4), so the cues begin where it does; else they count from 0, as output time does.
    """

    def __init__(self, file: TextSink, of_video: bool = False, source_times: bool = False) -> None:
        self.of_video = of_video
        self._file = file
        self._begin_ns: int | None = None if source_times else 0
        self._last: AlignedFrame | None = None
        self._step_ns = 40_000_000
        file.write("WEBVTT\n\n")

    def write(self, shown: AlignedFrame) -> None:
        """The cue of the frame before, which ends where this one begins."""
        if self._begin_ns is None:
            self._begin_ns = ticks_to_ns(max(0, origin_of(shown)), shown.frame.time_base)  # as `OutputTicks` does
        if self._last is not None:
            self._step_ns = shown.out_pts_ns - self._last.out_pts_ns
            self._cue(self._last, shown.out_pts_ns)
        self._last = shown

    def close(self) -> None:
        """The last cue."""
        if self._last is not None:
            self._cue(self._last, self._last.out_pts_ns + self._step_ns)
            self._last = None

    def _cue(self, shown: AlignedFrame, end_ns: int) -> None:
        text = json.dumps(describe(shown), separators=(",", ":"))
        begin_ns = self._begin_ns or 0
        self._file.write(f"{_stamp(begin_ns + shown.out_pts_ns)} --> {_stamp(begin_ns + end_ns)}\n{text}\n\n")


def _stamp(pts_ns: int) -> str:
    ms = (pts_ns + 500_000) // 1_000_000
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
