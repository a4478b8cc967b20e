"""Plays a kind of clip through the genuine stages on a virtual clock, to a mixed MP4.

Reader, timeline, worker, mixer, accountant and writer are those of `lockstep run`; time is a number that moves from
event to event, results come after the kind's latencies, and mutants may replace parts.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from serving.adapters.video import AddressSource, Mp4Writer
from serving.align import (
    Accountant,
    Balance,
    CloseRule,
    LocalClaims,
    MixerSettings,
    PacketIn,
    PictureIn,
    TimelineSettings,
)
from serving.errors import ServingError
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
from serving.media import DecoderRefused, MediaEvent, OutputStream, PacketSeen, PictureSeen, StreamOpened, VideoWriter
from serving.streams.lines import ResultLines
from serving.streams.mix_role import MixRole
from serving.streams.worker import Infer, Pipeline, Worker
from serving.testing.coded_stream import CodedPacket
from serving.testing.hand_clock import HandClock
from serving.testing.sync_clips import NS_PER_S, Kind, Part
from serving.testing.sync_code import draw_strips, find_square, read_own
from serving.testing.sync_scene import Parts
from serving.types import Detections, ImageSize, InferRequest, InferResponse, PixelArray

SOURCE = "sync"


def read_picture(requests: Any) -> list[InferResponse | ServingError]:
    """The stub detector: reads number and square from the pixels; the number travels as class_id."""
    answers: list[InferResponse | ServingError] = []
    for request in requests:
        assert isinstance(request, InferRequest) and request.frame is not None
        own, box = read_own(request.frame), find_square(request.frame)
        found = Detections.empty()
        if own is not None and box is not None:
            found = Detections(box[None], np.array([0.99], np.float32), np.array([own[1]], np.int64))
        answers.append(InferResponse(found, ImageSize(request.frame.shape[1], request.frame.shape[0]), {}))
    return answers


class OneTrack:
    """The square is one object, so its box is always the same track; the number tells the pipeline."""

    def __init__(self, track: int) -> None:
        self._track = track

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        """See `serving.ports.Tracker`."""
        ids = np.full(len(detections), self._track, np.int64)
        return Detections(detections.xyxy, detections.confidence, detections.class_id, ids)


@dataclass(slots=True)
class Played:
    """What came of it. released: (release - when the mixer got the frame, deadline passed by) in ns, live frames only.

    true_ns: when each picture number is shown; connection_of: and by which connection it came.
    """

    output: Path
    true_ns: dict[int, int]
    connection_of: dict[int, int]
    released: list[tuple[int, int]] = field(default_factory=list)
    shown: int = 0
    accepted: int = 0
    not_sampled: int = 0
    epochs: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    balances: dict[str, Balance] = field(default_factory=dict)
    versions: set[int] = field(default_factory=set)
    pts_ns_of: dict[int, tuple[int, int]] = field(default_factory=dict)  # picture number -> (epoch, pts_ns)
    saw_wrap: bool = False


def play(kind: Kind, folder: Path, parts: Parts | None = None, infer: Infer = read_picture) -> Played:
    """Make the clip in `folder`, run it, and leave `mixed-KIND.mp4` there."""
    return _Player(kind, folder, parts or Parts(), infer).run()


class _Player:
    def __init__(self, kind: Kind, folder: Path, parts: Parts, infer: Infer) -> None:
        self.kind, self.parts = kind, parts
        self.files = _joined(kind.write(folder))
        self.clock = HandClock()
        live = kind.live
        window_ns = kind.delay_ns if live else NS_PER_S
        timing = TimelineSettings(window_ns=window_ns, every=kind.every, max_fps=75)
        self.timeline = parts.timeline(SOURCE, "sync-test", kind.pipelines, LocalClaims(), timing)
        mixer = parts.mixer(SOURCE, MixerSettings(live, kind.delay_ns, max_fps=75, reorder_depth=2), kind.wall)
        self.worker = Worker([_pipeline(name, place + 1, infer) for place, name in enumerate(kind.pipelines)])
        lines = ResultLines(SOURCE, self.worker.pipelines, None)
        accountant = Accountant(CloseRule(kind.delay_ns, live=live))
        self.role = MixRole(mixer, accountant, lines, self._draw, self._writers, sinks=[self])
        self.postings: list[tuple[int, int, Posting]] = []
        self.count = 0
        self.packets: list[CodedPacket] = []
        self.by_picture: dict[int, CodedPacket] = {}  # by id of the frame's Picture
        self.pictures: list[Picture] = []
        self.received: dict[tuple[int, int], int] = {}  # (epoch, frame_seq) -> when the mixer got it
        times = {
            first + n: t for place, (_, p, first) in enumerate(self.files) for n, t in enumerate(_times(kind, place))
        }
        self.out = Played(folder / f"mixed-{kind.name}.mp4", times, {})
        self.last_raw: int | None = None
        self.info: StreamInfo | None = None

    def run(self) -> Played:
        for place, (path, part, first) in enumerate(self.files):
            self.out.connection_of |= {first + n: place for n in range(len(_times(self.kind, place)))}
            self.packets, self.arrivals = [], _arrivals(self.kind, place)
            self.pictures_out, self.first = 0, first
            for event in AddressSource(SOURCE, str(path)).connect().events():
                self._event(event, part)
        self._feed(self.timeline.close(self.clock.monotonic_ns()))
        self.role.mixer.end()
        self._finish()
        return self.out

    def write(self, shown: AlignedFrame) -> None:
        """Called for every shown frame."""
        self.out.shown += 1
        if shown.deadline_mono_ns is not None:
            late = shown.released_mono_ns - shown.deadline_mono_ns
            came = self.received.pop((shown.frame.epoch, shown.frame.frame_seq))
            self.out.released.append((shown.released_mono_ns - came, late))
        for overlay in shown.overlays:
            if overlay.outcome is not None and overlay.outcome.result is not None:
                self.out.versions.add(overlay.outcome.result.model_version)

    # -- events -----------------------------------------------------------------------------------------------------

    def _event(self, event: MediaEvent, part: Part) -> None:
        now_ns = self.clock.monotonic_ns()
        if isinstance(event, StreamOpened):
            kind = SourceKind.LIVE if self.kind.live else SourceKind.FILE
            self.info = replace(event.info, kind=kind)
            self._feed(self.timeline.open(self.info, now_ns))
        elif isinstance(event, PacketSeen):
            self._until(self.arrivals[min(event.tag, len(self.arrivals) - 1)])
            self._watch_for_wrap(event)
            packet = CodedPacket(-1, 0, event.raw_pts, event.raw_dts, 0, event.tag, event.keyframe)
            self.packets.append(packet)
            sent = PacketIn(event.tag, event.raw_pts, event.keyframe, event.discard)
            self._feed(self.timeline.packet(sent, self.clock.monotonic_ns()))
        elif isinstance(event, PictureSeen):
            self._picture(event)
        elif isinstance(event, DecoderRefused):
            self._feed(self.timeline.decoder_error(now_ns))

    def _watch_for_wrap(self, event: PacketSeen) -> None:
        modulus = self.info.pts_modulus if self.info else None
        if modulus and event.raw_pts is not None:
            if self.last_raw is not None and abs(event.raw_pts - self.last_raw) > modulus // 2:
                self.out.saw_wrap = True
            self.last_raw = event.raw_pts

    def _picture(self, event: PictureSeen) -> None:
        assert event.tag is not None
        base = self.packets[event.tag]
        coded = CodedPacket(self.pictures_out, 0, base.raw_pts, base.raw_dts, 0, base.tag, base.keyframe)
        self.pictures_out += 1
        rgb = event.picture.rgb()
        picture = Picture(array=rgb)
        self.by_picture[id(picture)] = coded
        arrival = self.arrivals[min(event.tag, len(self.arrivals) - 1)]
        given = PictureIn(event.raw_pts, arrival, picture, event.tag, event.corrupt, packet_dts=event.packet_dts)
        self._feed(self.timeline.picture(given, self.clock.monotonic_ns()))
        self.pictures.append(picture)  # ids of pictures stay theirs while they are held
        del self.pictures[:-64]

    def _feed(self, records: list[FrameRecord]) -> None:
        for record in records:
            while self.role.mixer.full and self.postings:
                self._until(self.postings[0][0])
            if isinstance(record, Frame) and record.picture is not None:
                self.received[record.epoch, record.frame_seq] = self._came_at(record)
                self._note(record)
            self.role.frame(record, self.clock.monotonic_ns())
            if isinstance(record, Frame) and record.analyse:
                self._analyse(record)

    def _came_at(self, frame: Frame) -> int:
        """When the mixer got the frame; of pictures drained at an end, when they would have come."""
        assert frame.picture is not None and self.info is not None
        coded = self.by_picture[id(frame.picture)]
        if len(self.packets) < len(self.arrivals):
            return self.clock.monotonic_ns()
        behind = min(coded.index + self.info.reorder_depth, len(self.arrivals) - 1)
        beyond = coded.index + self.info.reorder_depth - behind
        return max(self.clock.monotonic_ns(), self.arrivals[-1] + beyond * (self.arrivals[-1] - self.arrivals[-2]))

    def _note(self, frame: Frame) -> None:
        assert frame.picture is not None
        own = read_own(frame.picture.rgb())
        if own is not None:
            self.out.pts_ns_of[own[1]] = frame.epoch, frame.pts_ns

    def _analyse(self, frame: Frame) -> None:
        assert frame.picture is not None
        coded = self.by_picture[id(frame.picture)]
        number = self.first + coded.index
        label = self.parts.label(frame, coded, self.packets)
        for posting in self.worker.analyse(frame):
            for reply in self.kind.replies(number, posting.key.pipeline):
                outcome = _outcome(posting.outcome, reply.version, reply.attempt)
                moved = Posting(posting.key, label, outcome)
                self.count += 1
                at = self.clock.monotonic_ns() + reply.after_ns
                heapq.heappush(self.postings, (at, self.count, moved))

    # -- time -------------------------------------------------------------------------------------------------------

    def _until(self, time_ns: int) -> None:
        while True:
            due = self.role.mixer.next_due_ns
            times = [t for t in (due, self.postings[0][0] if self.postings else None) if t is not None]
            if not times or min(times) > time_ns:
                break
            self.clock.set(max(self.clock.monotonic_ns(), min(times)))
            now_ns = self.clock.monotonic_ns()
            while self.postings and self.postings[0][0] <= now_ns:
                self.role.post(heapq.heappop(self.postings)[2], now_ns)
            before = self.out.shown
            self.role.poll(now_ns)
            if due is not None and due <= now_ns and self.out.shown == before:
                break  # a mutant that does not release what is due must not hang the test
        self.clock.set(max(self.clock.monotonic_ns(), time_ns))
        self.role.poll(self.clock.monotonic_ns())

    def _finish(self) -> None:
        for _ in range(10_000):
            due = self.role.mixer.next_due_ns
            times = [t for t in (due, self.postings[0][0] if self.postings else None) if t is not None]
            if not times:
                break
            self._until(max(self.clock.monotonic_ns(), min(times)))
        self.role.poll(self.clock.monotonic_ns())
        self.role.finish()
        self.out.balances = {n: self.role.accountant.total(SOURCE, n) for n in self.kind.pipelines}
        first = self.out.balances[self.kind.pipelines[0]]
        self.out.accepted, self.out.not_sampled = first.accepted, first.not_sampled
        self.out.epochs = self.timeline.counters.epochs
        self.out.drops = Counter({r.value: n for r, n in self.timeline.counters.by_reason.items() if n})

    # -- pictures ---------------------------------------------------------------------------------------------------

    def _draw(self, shown: AlignedFrame, rgb: PixelArray, note: str) -> PixelArray:
        return draw_strips(rgb, shown, self.kind.pipelines)

    def _writers(self, stream: OutputStream) -> list[VideoWriter]:
        self.out_base: Fraction = stream.time_base
        return [Mp4Writer(self.out.output, stream)]


def _pipeline(name: str, track: int, infer: Infer) -> Pipeline:
    return Pipeline(name, 1, "detection", infer, lambda result: {}, new_tracker=lambda: OneTrack(track))


def _outcome(genuine: Outcome, version: int | None, attempt: int) -> Outcome:
    if version is None:
        return Outcome.dropped(DropReason.STALE, attempt)
    result = genuine.result
    if result is None:
        return genuine
    moved = FrameResult(result.model, version, result.task, result.result, result.payload_hash)
    return Outcome.of_result(moved, attempt)


def _arrivals(kind: Kind, place: int) -> list[int]:
    """When each packet of a connection comes in: packets come as pictures are shown, and lost ones leave a gap."""
    lost = frozenset().union(*(part.lost for part in kind.parts))
    return [t for number, t in enumerate(_times(kind, place)) if number not in lost]


def _joined(files: list[tuple[Path, Part, int]]) -> list[tuple[Path, Part, int]]:
    """Parts without a signalled reconnect become bytes of the connection before."""
    out: list[tuple[Path, Part, int]] = []
    for path, part, first in files:
        if part.signalled or not out:
            out.append((path, part, first))
        else:
            before = out[-1][0]
            before.write_bytes(before.read_bytes() + path.read_bytes())
    return out


def _times(kind: Kind, place: int) -> list[int]:
    """True times of the pictures of connection `place`."""
    out: list[int] = []
    connection = -1
    for number, part in enumerate(kind.parts):
        connection += part.signalled or number == 0
        if connection == place:
            out += kind.true_ns(number)
    return out
