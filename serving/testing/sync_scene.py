"""Plays coded streams through the alignment core on a virtual clock and reads back what was drawn on what.

No codec, no model: a stub detector returns the index that its picture carries (as class_id) and the box of an object on
a known path, after a latency of the scene's choice. `play` runs it; `sync_score` compares it with the truth.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from serving.align import (
    Accountant,
    LocalClaims,
    Mixer,
    MixerSettings,
    PacketIn,
    PictureIn,
    SourceTimeline,
    TimelineSettings,
    payload_hash,
)
from serving.frames import (
    AlignedFrame,
    DropReason,
    Frame,
    FrameRecord,
    FrameResult,
    Outcome,
    Picture,
    Posting,
    SourceKind,
    StreamInfo,
)
from serving.testing.coded_stream import NS_PER_S, CodedPacket, pictures
from serving.types import Detections, FloatArray

SPEED = 0.24e-6  # pixels per nanosecond of the object on its path
SIDE = 96.0

Label = Callable[[Frame, CodedPacket, Sequence[CodedPacket]], int | None]
Wall = Callable[[int], int]


def right_label(frame: Frame, packet: CodedPacket, packets: Sequence[CodedPacket]) -> int | None:
    """A result carries the pts_ns of its frame."""
    return frame.pts_ns


def make_mixer(source_id: str, settings: MixerSettings, wall: Wall) -> Mixer:
    """The genuine mixer, which is told monotonic time and never the wall clock."""
    return Mixer(source_id, settings)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a scene is played with; mutants replace parts."""

    timeline: type[SourceTimeline] = SourceTimeline
    mixer: Callable[[str, MixerSettings, Wall], Mixer] = make_mixer
    label: Label = right_label


@dataclass(frozen=True, slots=True)
class Reply:
    """What a pipeline posts for a frame, `after_ns` the picture came out. version None: dropped(stale)."""

    after_ns: int
    version: int | None = 1
    attempt: int = 1


Replies = Callable[[int, str], Sequence[Reply]]


def steady(latency_ns: int) -> Replies:
    """Every pipeline answers every frame once, after the same time."""
    return lambda index, pipeline: (Reply(latency_ns),)


@dataclass(frozen=True, slots=True)
class Scene:
    """A stream, how it is analysed, and what must come of it.

    replies: by picture index and pipeline. drops: by reason at ingest. wall: the wall clock as a function of monotonic
    time, which nothing may depend on. version: the model_version every measured box must have. absent: pictures
    without the object, on which nothing may be drawn.
    """

    name: str
    packets: Sequence[CodedPacket]
    depth: int = 0
    live: bool = True
    time_base: Fraction = Fraction(1, 90_000)
    modulus: int | None = None
    rate: Fraction | None = None
    pipelines: tuple[str, ...] = ("code",)
    delay_ns: int = NS_PER_S // 4
    every: int = 1
    replies: Replies = field(default_factory=lambda: steady(80_000_000))
    wall: Wall = lambda now_ns: now_ns
    drops: dict[DropReason, int] = field(default_factory=dict)
    epochs: int = 1
    version: int = 1
    absent: range = range(0)
    min_measured: float = 0.95
    min_coverage: float = 0.99
    max_fill_error: float = 0.5


@dataclass(slots=True)
class Played:
    """What came of a scene. index_of: the picture index of each accepted frame by (epoch, frame_seq)."""

    shown: list[AlignedFrame] = field(default_factory=list)
    records: list[FrameRecord] = field(default_factory=list)
    index_of: dict[tuple[int, int], int] = field(default_factory=dict)
    mixer: Mixer | None = None
    timeline: SourceTimeline | None = None
    accountant: Accountant = field(default_factory=Accountant)
    results_ns: dict[tuple[int, int, str], int] = field(default_factory=dict)  # when a frame's first result was posted


def play(scene: Scene, parts: Parts | None = None) -> Played:
    """Run the scene to its end."""
    return _Player(scene, parts or Parts()).run()


class _Player:
    def __init__(self, scene: Scene, parts: Parts) -> None:
        self.scene, self.parts, self.out = scene, parts, Played()
        live = scene.live
        settings = TimelineSettings(window_ns=scene.delay_ns if live else NS_PER_S, every=scene.every)
        self.timeline = parts.timeline("scene", "test", scene.pipelines, LocalClaims(), settings)
        mixing = MixerSettings(live=live, delay_ns=scene.delay_ns, reorder_depth=scene.depth)
        self.mixer = parts.mixer("scene", mixing, scene.wall)
        self.out.mixer, self.out.timeline = self.mixer, self.timeline
        self.postings: list[tuple[int, int, Posting]] = []
        self.by_index = {packet.index: packet for packet in scene.packets}
        self.now_ns = 0
        self.count = 0

    def run(self) -> Played:
        scene = self.scene
        connection = -1
        for packet, picture in pictures(scene.packets, scene.depth):
            if packet is not None:
                self._until(packet.arrival_ns)
                if packet.connection != connection:
                    connection = packet.connection
                    self._records(self.timeline.open(self._info(), self.now_ns))
                sent = PacketIn(packet.tag, packet.raw_pts, packet.keyframe)
                self._records(self.timeline.packet(sent, self.now_ns))
            if picture is not None:
                self._records(self.timeline.picture(self._picture(picture), self.now_ns))
            self._poll()
        self._records(self.timeline.close(self.now_ns))
        self.mixer.end()
        self._finish()
        return self.out

    def _info(self) -> StreamInfo:
        scene = self.scene
        kind = SourceKind.LIVE if scene.live else SourceKind.FILE
        return StreamInfo(
            "scene", kind, scene.time_base, 320, 240, "stub", scene.modulus, scene.rate, reorder_depth=scene.depth
        )

    def _picture(self, packet: CodedPacket) -> PictureIn:
        picture = Picture(encoded=str(packet.index).encode())
        return PictureIn(packet.raw_pts, self.now_ns, picture, packet.tag, packet_dts=packet.raw_dts)

    def _records(self, records: list[FrameRecord]) -> None:
        for record in records:
            while self.mixer.full and self.postings:
                self._until(self.postings[0][0])
            self.out.records.append(record)
            self.out.shown += self.mixer.frame(record, self.now_ns)
            self.out.accountant.frame(record, self.now_ns)
            if isinstance(record, Frame) and record.picture is not None:
                self._analyse(record)

    def _analyse(self, frame: Frame) -> None:
        assert frame.picture is not None and frame.picture.encoded is not None
        index = int(frame.picture.encoded)
        self.out.index_of[frame.epoch, frame.frame_seq] = index
        if not frame.analyse:
            return
        packet = self.by_index[index]
        pts_ns = self.parts.label(frame, packet, self.scene.packets)
        for pipeline in frame.pipelines:
            for reply in self.scene.replies(index, pipeline):
                outcome = self._outcome(packet, pipeline, reply)
                self.count += 1
                posting = Posting(frame.ledger_key(pipeline), pts_ns, outcome)
                at = self.now_ns + reply.after_ns
                heapq.heappush(self.postings, (at, self.count, posting))
                if reply.version is not None:
                    key = frame.epoch, frame.pts_ns, pipeline
                    self.out.results_ns[key] = min(at, self.out.results_ns.get(key, at))

    def _outcome(self, packet: CodedPacket, pipeline: str, reply: Reply) -> Outcome:
        if reply.version is None:
            return Outcome.dropped(DropReason.STALE, reply.attempt)
        there = slice(0, int(packet.index not in self.scene.absent))
        found = Detections(
            box_at(packet.true_ns)[None][there],
            np.array([0.9], np.float32)[there],
            np.array([packet.index], np.int64)[there],
            np.array([self.scene.pipelines.index(pipeline)], np.int64)[there],
        )
        return Outcome.of_result(
            FrameResult(pipeline, reply.version, "detection", found, payload_hash(found)), reply.attempt
        )

    def _until(self, time_ns: int) -> None:
        """Let time pass, with everything that is due before `time_ns`."""
        while True:
            due = self.mixer.next_due_ns
            events = [t for t in (due, self.postings[0][0] if self.postings else None) if t is not None]
            if not events or min(events) > time_ns:
                break
            self.now_ns = max(self.now_ns, min(events))
            while self.postings and self.postings[0][0] <= self.now_ns:
                posting = heapq.heappop(self.postings)[2]
                self.mixer.post(posting, self.now_ns)
                self.out.accountant.post(posting, self.now_ns)
            before = len(self.out.shown)
            self._poll()
            if due is not None and due <= self.now_ns and len(self.out.shown) == before:
                break  # a mutant that does not release what is due must not hang the scene
        self.now_ns = max(self.now_ns, time_ns)

    def _poll(self) -> None:
        self.out.shown += self.mixer.poll(self.now_ns)

    def _finish(self) -> None:
        for _ in range(10_000):
            due = self.mixer.next_due_ns
            times = [t for t in (due, self.postings[0][0] if self.postings else None) if t is not None]
            if not times:
                break
            self._until(max(self.now_ns, min(times)))
        self._poll()
        self.out.accountant.finish("scene")


def box_at(true_ns: int) -> FloatArray:
    """The object's box, float32 [4], at a time of the stream."""
    x = 50.0 + SPEED * true_ns
    return np.array([x, 60.0, x + SIDE, 60.0 + SIDE], np.float32)
