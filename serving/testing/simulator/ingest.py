"""Ingest as a process: decoder, timeline, claims over the log, outbox."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import replace
from fractions import Fraction

from serving.align import EpochRegister, Outbox, PacketIn, PictureIn, SourceTimeline, TimelineSettings
from serving.align.unwrap import MPEG_TS_MODULUS
from serving.frames import (
    DroppedRun,
    DropReason,
    Frame,
    FrameRecord,
    Picture,
    SourceKind,
    StreamInfo,
    TimelineRecord,
)
from serving.testing.coded_stream import CodedPacket
from serving.testing.simulator.camera import Camera, Sent
from serving.testing.simulator.log import FakeLog
from serving.testing.simulator.scheduler import MS, Process, Scheduler

DEPTH = 1
OUTBOX_PICTURES = 20


class LogClaims:
    """Claims by appending to `timelines` and reading back; a fresh assignment may try higher, a holder may not."""

    def __init__(self, log: FakeLog, partition: int) -> None:
        self._log, self._partition = log, partition
        self._held: int | None = None

    def claim(self, draft: TimelineRecord) -> TimelineRecord | None:
        """Stands for a call that blocks while the log is away, so it looks past an outage."""
        while True:
            register = self._register()
            if self._held is not None and register.is_fenced(draft.source_id, self._held):
                return None
            record = replace(draft, epoch=register.next_epoch(draft.source_id))
            records = self._log.all("timelines", self._partition)
            records.append(record)
            if self._register().owner(record.source_id, record.epoch) == record.ingest_id:
                self._held = record.epoch
                return record

    def lost(self, source_id: str) -> bool:
        """Another ingester has a higher epoch."""
        return self._held is not None and self._register().is_fenced(source_id, self._held)

    def _register(self) -> EpochRegister:
        register = EpochRegister()
        for record in self._log.all("timelines", self._partition):
            register.apply(record)
        return register


class Ingest(Process):
    """Reads one camera. A killed one starts with a new claim; one that sees a higher epoch stops for good."""

    def __init__(
        self, scheduler: Scheduler, log: FakeLog, camera: Camera, partition: int, name: str, settings: TimelineSettings,
        pipelines: tuple[str, ...],
    ) -> None:  # fmt: skip
        super().__init__(scheduler)
        self.log, self.camera, self.partition, self.name = log, camera, partition, name
        self.settings, self.pipelines = settings, pipelines
        self.fenced = False
        self.claims_made = 0
        self.evicted = 0
        self.huge: set[bytes] = set()  # pictures that fit into no record
        camera.listeners.append(self._received)

    def start(self) -> None:
        """A new decoder, a new timeline, an empty outbox."""
        self.claims_made += 1
        self.claims = LogClaims(self.log, self.partition)
        who = f"{self.name}.{self.claims_made}"
        self.timeline = SourceTimeline(self.camera.source_id, who, self.pipelines, self.claims, self.settings)
        self.outbox = Outbox(OUTBOX_PICTURES)
        self.connection: int | None = None
        self.decoder: list[tuple[int, int, Sent]] = []
        self.blocked: deque[Sent] = deque()
        self.flushing = False
        self.after(300 * MS, self._watch)

    def _received(self, sent: Sent) -> None:
        if not self.alive or self.fenced:
            return
        if self.stopped:
            self._waiting.append(lambda: self._received(sent))
            return
        if not self.log.up and (self.blocked or self.timeline.record is None or sent.connection != self.connection):
            self.blocked.append(sent)  # no claim can be made now
            return
        while self.blocked:
            self._take(self.blocked.popleft())
        self._take(sent)

    def _take(self, sent: Sent) -> None:
        now = self.scheduler.monotonic_ns()
        if sent.connection != self.connection:
            self.connection = sent.connection
            self._drain(now)
            self._put(self.timeline.open(self._info(), now))
        packet = sent.packet
        self._put(self.timeline.packet(PacketIn(packet.tag, packet.raw_pts, packet.keyframe), now))
        if not packet.lost:
            heapq.heappush(self.decoder, (sent.index, packet.tag, sent))
        if len(self.decoder) > DEPTH:
            self._picture(heapq.heappop(self.decoder)[2], now)

    def _drain(self, now: int) -> None:
        while self.decoder:
            self._picture(heapq.heappop(self.decoder)[2], now)

    def _picture(self, sent: Sent, now: int) -> None:
        packet: CodedPacket = sent.packet
        picture = Picture(encoded=str(sent.index).encode())
        if sent.huge and picture.encoded is not None:
            self.huge.add(picture.encoded)
        self._put(self.timeline.picture(PictureIn(packet.raw_pts, now, picture, packet.tag, sent.corrupt), now))

    def _info(self) -> StreamInfo:
        return StreamInfo(
            self.camera.source_id, SourceKind.LIVE, Fraction(1, 90_000), 320, 240, "h264", MPEG_TS_MODULUS,
            reorder_depth=DEPTH,
        )  # fmt: skip

    def _put(self, records: list[FrameRecord]) -> None:
        for record in records:
            self.outbox.put(record)
        self._flush()

    def _flush(self) -> None:
        while (record := self.outbox.peek()) is not None:
            before = self.log.end("frames", self.partition)
            acked = self.log.append("frames", self.partition, self._fitting(record)) is not None
            if not acked and self.log.end("frames", self.partition) == before:
                break  # not written; where only the acknowledgement is lost, an idempotent producer writes once
            self.outbox.acknowledged()
        if self.outbox.peek() is not None and not self.flushing:
            self.flushing = True
            self.after(200 * MS, self._retry)

    def _fitting(self, record: FrameRecord) -> FrameRecord:
        """A picture that no record can hold is dropped in its place."""
        if not isinstance(record, Frame) or record.picture is None or record.picture.encoded not in self.huge:
            return record
        seq = record.frame_seq
        return DroppedRun(record.source_id, record.epoch, seq, seq, DropReason.TOO_LARGE, record.pipelines)

    def _retry(self) -> None:
        self.flushing = False
        self._flush()

    def _watch(self) -> None:
        """Twice a second: has another ingester taken the source; is a held frame too old?"""
        if self.claims.lost(self.camera.source_id):
            self.fenced = True
            return
        now = self.scheduler.monotonic_ns()
        if self.connection is not None:
            self._put(self.timeline.tick(now))
        if self.camera.done and not self.camera.paused_until_ns > now and self.connection is not None:
            self.after(500 * MS, self._end)
            return
        if self.log.up and self.blocked:
            blocked, self.blocked = self.blocked, deque()
            for sent in blocked:
                self._take(sent)
        self.after(500 * MS, self._watch)

    def _end(self) -> None:
        now = self.scheduler.monotonic_ns()
        while self.blocked:
            self._take(self.blocked.popleft())
        self._drain(now)
        self._put(self.timeline.close(now))
