"""Ingest over the log: one source, as records of `frames`.

While the broker is away descriptors are kept and pictures go first (`Outbox`); a file waits instead, and loses nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

import cv2
import numpy as np

from serving.align import Outbox, SourceTimeline, TimelineSettings
from serving.clock import NS_PER_MS, NS_PER_S, Clock
from serving.frames import DroppedRun, DropReason, Frame, FrameRecord, PictureCodec, SourceKind
from serving.media import VideoSource
from serving.ports_log import RecordLog
from serving.records import FrameMessage, StreamMessage, encode_frame
from serving.records.cloud_events import new_traceparent
from serving.records.frames import MAX_PIXELS
from serving.roles.names import Names
from serving.roles.sender import Sender
from serving.roles.timelines import LogClaims, Timelines
from serving.streams.ingest import IngestStage, ReconnectRules, Wait
from serving.types import PixelArray

MAX_PAYLOAD = 900_000
LOOK_NS = NS_PER_S // 2
STOP_NS = 10 * NS_PER_S


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """codec: pictures on the log. reduced_side: longest side of a picture that had to be made smaller, pixels.

    held_pictures: of a live source, kept while the broker is away; beyond it the oldest become dropped(overload).
    on_their_way: records of a live source that the producer has without acknowledgement, at most: what it has can not
    be given up any more, and after an outage would be read, shown and answered for before the first fresh picture.
    """

    codec: PictureCodec
    max_payload: int = MAX_PAYLOAD
    reduced_side: int = 1280
    held_pictures: int = 120
    on_their_way: int = 32
    rules: ReconnectRules = field(default_factory=ReconnectRules)


class LogIngest:
    """`run` returns when the source is over, is fenced, or was stopped from another thread."""

    def __init__(
        self,
        log: RecordLog,
        names: Names,
        source: VideoSource,
        stream: StreamMessage,
        ingest_id: str,
        settings: IngestSettings,
        clock: Clock,
        wait: Wait,
    ) -> None:
        self.stream, self._settings, self._topic = stream, settings, names.topic("frames")
        self._sender = Sender(log.producer())
        self._timelines = Timelines(log, names)
        self._claims = LogClaims(
            self._timelines, self._sender, names, ingest_id, lambda: self.stage.info, wait,
            lambda: self._give_up_ns is not None,
        )  # fmt: skip
        window_ns = stream.delay_ms * NS_PER_MS if source.kind is SourceKind.LIVE else NS_PER_S
        timing = TimelineSettings(window_ns=max(1, window_ns), every=stream.every, max_fps=stream.max_fps)
        timeline = SourceTimeline(stream.source_id, ingest_id, stream.pipelines, self._claims, timing)
        self._timeline = timeline
        self.stage = IngestStage(source, timeline, clock, settings.rules, self._between_connections)
        self._clock, self._looked_ns, self._wait = clock, clock.monotonic_ns(), wait
        self._outbox = Outbox(settings.held_pictures)
        self._places: dict[int, int] = {}  # frames written, by epoch
        self.frames = 0
        self.over = True
        self._give_up_ns: int | None = None

    @property
    def epoch(self) -> int:
        """The newest epoch with a frame on the log; 0 before the first."""
        return max(self._places, default=0)

    @property
    def held(self) -> int:
        """Records that wait for the broker."""
        return len(self._outbox)

    @property
    def fenced(self) -> bool:
        """Another ingester has the source."""
        return self._timeline.fenced

    def run(self) -> None:
        """Read the source to its end. Raises LogError where the log refuses for good, and where it is told to stop and
        nothing can be written for STOP_NS: what it holds was never accepted."""
        try:
            for records in self.stage.records():
                for record in records:
                    self._outbox.put(record)
                    if self.stage.live:
                        self._drain(wait=False, most=self._settings.on_their_way)
                    else:
                        self._drain(wait=True)
                self._sender.poll()
                self._look_for_a_higher_epoch()
            self._drain(wait=True)
            self._sender.flush(10.0)
            if not self.fenced:
                newest = max(self._places, default=0)
                for epoch, frames in sorted(self._places.items()):
                    self._claims.ended(epoch, frames, last=self.over and epoch == newest)
        finally:
            self._sender.close()
            self._timelines.close()

    def stop(self, over: bool = True) -> None:
        """End at the present read. over: the source ends with it; else somebody goes on, in the next epoch."""
        self.over = over
        self._give_up_ns = self._give_up_ns or self._clock.monotonic_ns() + STOP_NS
        self.stage.stop()

    def _look_for_a_higher_epoch(self) -> None:
        """Whoever claimed after us has the source; what we read from then on would be dropped(fenced)."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns >= LOOK_NS:
            self._looked_ns = now_ns
            if self._claims.is_fenced():
                self._timeline.fenced = True
                self.stage.stop()

    def _between_connections(self, seconds: float) -> bool:
        """What is held goes out now: nobody knows when the next picture comes."""
        self._drain(wait=False)
        return self._wait(seconds)

    def _drain(self, wait: bool, most: float = math.inf) -> None:
        """Hand the producer what it has room for; its queue is bounded, never gives up, and keeps the order.

        wait: for room, instead of coming back with the next picture. most: that it has on their way.
        """
        while self._sender.waiting < most and (record := self._outbox.peek()) is not None:
            message, payload = self._message(record)
            encoded = encode_frame(message, payload)
            if wait:
                self._sender.send(self._topic, encoded, None, give_up=self._gives_up)
            elif not self._sender.try_send(self._topic, encoded, None):
                return
            self._outbox.acknowledged()
            self._sender.poll()
            last = record.last_seq if isinstance(record, DroppedRun) else record.frame_seq
            self._places[record.epoch] = last + 1
            self.frames += 1

    def _gives_up(self) -> bool:
        return self._give_up_ns is not None and self._clock.monotonic_ns() > self._give_up_ns

    def _message(self, record: FrameRecord) -> tuple[FrameMessage, bytes | None]:
        if isinstance(record, DroppedRun):
            return FrameMessage(record), None
        claimed = self._timelines.find(record.source_id, record.epoch)  # the stream may have become another one since
        assert claimed is not None, "an epoch's frames come after its claim"
        info = claimed.info
        if info.sample_rate:
            return self._piece(record)
        if info.width * info.height > MAX_PIXELS:
            return FrameMessage(_too_large(record)), None
        if record.picture is None or not (record.analyse or self.stream.mixed):
            return FrameMessage(record, info.width, info.height, traceparent=new_traceparent()), None
        codec, scale = self._settings.codec, Fraction(1)
        payload = record.picture.bytes(codec)
        if len(payload) > self._settings.max_payload:
            payload, scale = self._smaller(record.picture.rgb(codec))
        if len(payload) > self._settings.max_payload:
            return FrameMessage(_too_large(record)), None
        told = replace(record, picture=None)
        return FrameMessage(told, info.width, info.height, scale, new_traceparent()), payload

    def _piece(self, frame: Frame) -> tuple[FrameMessage, bytes | None]:
        """Of sound. One that was given up while the broker was away has none any more."""
        payload = frame.picture.encoded if frame.picture is not None else None
        if payload is not None and len(payload) > self._settings.max_payload:
            return FrameMessage(_too_large(frame)), None
        return FrameMessage(replace(frame, picture=None), traceparent=new_traceparent()), payload

    def _smaller(self, rgb: PixelArray) -> tuple[bytes, Fraction]:
        height, width = rgb.shape[:2]
        scale = min(Fraction(1), Fraction(self._settings.reduced_side, max(width, height)))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        return self._settings.codec.encode(np.asarray(small, np.uint8)), scale


def _too_large(frame: Frame) -> DroppedRun:
    seq = frame.frame_seq
    return DroppedRun(frame.source_id, frame.epoch, seq, seq, DropReason.TOO_LARGE, frame.pipelines)
