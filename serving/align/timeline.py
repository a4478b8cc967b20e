"""Ingest's half of the alignment: decoded pictures in, ledger frames out (docs/alignment.md, "Ingest").

Nothing here decodes, waits or reads a clock: packets, pictures and the time are handed in, and every call returns the
records that ingest has to write to `frames`, in order. The state is bounded.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from fractions import Fraction

from serving.align.claims import EpochClaims
from serving.align.durations import NominalDuration
from serving.align.freshness import presentation_delay_ns
from serving.align.steps import Step, StepRules
from serving.align.tags import MAX_OVERTAKERS, PacketTags
from serving.align.unwrap import ticks_to_ns, unwrap
from serving.frames import (
    NO_PTS,
    CaptureQuality,
    DroppedRun,
    DropReason,
    Frame,
    FrameRecord,
    Picture,
    PtsSource,
    SourceKind,
    StreamInfo,
    TimelineRecord,
)

NS_PER_S = 1_000_000_000
MAX_PENDING = 4096


@dataclass(frozen=True, slots=True)
class PacketIn:
    """A packet on its way into the decoder. tag: running index, rising with every packet of this source."""

    tag: int
    raw_pts: int | None
    keyframe: bool = False
    discard: bool = False


@dataclass(frozen=True, slots=True)
class PictureIn:
    """A picture out of the decoder, in the order it came out.

    arrival_mono_ns: when its packet was demuxed. packet_dts is carried into the record;
    nothing decides by it.
    """

    raw_pts: int | None
    arrival_mono_ns: int
    picture: Picture | None = None
    tag: int | None = None
    corrupt: bool = False
    discard: bool = False
    packet_dts: int | None = None
    capture_ns: int | None = None
    capture_quality: CaptureQuality = CaptureQuality.NONE


@dataclass(frozen=True, slots=True)
class TimelineSettings:
    """window_ns: D of live sources; more than ceil(D x max_fps) + R + 1 frames within it are overload. For files H's
    ceiling of a second stands in its place, and a live source in segments has two target durations at least.

    every: analyse each n-th accepted frame. hold_ns: how long a live source's stray frame may wait.
    """

    gap_max_ns: int = 10 * NS_PER_S
    window_ns: int = NS_PER_S // 4
    max_fps: int = 60
    every: int = 1
    hold_ns: int = NS_PER_S

    def __post_init__(self) -> None:
        for name in ("gap_max_ns", "window_ns", "max_fps", "every", "hold_ns"):
            if getattr(self, name) < 1:
                raise ValueError(f"TimelineSettings.{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(slots=True)
class TimelineCounters:
    """What has no ledger place, and what is worth a metric."""

    discarded: int = 0  # pictures of packets flagged discard
    unclaimed: int = 0  # dropped before an epoch could be opened
    after_fencing: int = 0  # pictures that came after another ingester took the source
    epochs: int = 0
    returned_after_loss: int = 0  # pictures that came after their packet had been given up
    by_reason: Counter[DropReason] = field(default_factory=Counter)


@dataclass(slots=True)
class _Epoch:
    record: TimelineRecord
    ref: int
    ref_arrival_ns: int
    next_seq: int = 0
    accepted: int = 0
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_OVERTAKERS))  # accepted pts_ns
    window: deque[int] = field(default_factory=deque)  # accepted pts_ns within window_ns


@dataclass(slots=True)
class _Held:
    picture: PictureIn
    raw: int
    since_ns: int


class SourceTimeline:
    """One source's timeline: unwraps, opens epochs, numbers frames, names the reason of every frame that is dropped."""

    def __init__(
        self,
        source_id: str,
        ingest_id: str,
        pipelines: tuple[str, ...],
        claims: EpochClaims,
        settings: TimelineSettings | None = None,
    ) -> None:
        self.source_id = source_id
        self.counters = TimelineCounters()
        self.fenced = False
        self._ingest_id = ingest_id
        self._pipelines = pipelines
        self._claims = claims
        self._settings = settings or TimelineSettings()
        self._epoch: _Epoch | None = None
        self._held: _Held | None = None
        self._tags = PacketTags(0, None)  # until a stream is opened
        self._hidden_frames = False
        self._pending: list[DropReason] = []  # drops that wait for their epoch's first accepted picture

    # -- what ingest calls ------------------------------------------------------------------------------------------

    def open(self, info: StreamInfo, now_ns: int, first_tag: int | None = None) -> list[FrameRecord]:
        """Connected, reconnected, or the codec parameters changed: the next accepted picture opens an epoch.

        first_tag: the decoder was not drained; what it was given from this packet on belongs to the new epoch.
        """
        out = self._end(first_tag) if self._epoch is not None or self._pending else []
        self._epoch, self._held = None, None
        self._info, self._hidden_frames = info, info.hidden_frames
        self._live = info.kind is SourceKind.LIVE
        self._rules = StepRules(self._live, self._settings.gap_max_ns)
        self._nominal = NominalDuration(info.time_base, info.average_rate)
        if first_tag is None:
            self._tags = PacketTags(info.reorder_depth, info.pts_modulus, track_losses=not info.hidden_frames)
        else:
            self._tags.begin_at(first_tag, info.reorder_depth)
        rate = info.average_rate or Fraction(0)
        self._window_ns = presentation_delay_ns(info, self._settings.window_ns) if self._live else NS_PER_S
        self._max_fps = self._settings.max_fps if self._live else max(self._settings.max_fps, -(-rate * 5 // 4))
        return out

    def packet(self, packet: PacketIn, now_ns: int) -> list[FrameRecord]:
        """A packet goes into the decoder. Its DTS is the decoder's business and not asked for."""
        self.counters.discarded += packet.discard
        reasons = self._tags.sent(packet.tag, _known(packet.raw_pts), packet.keyframe, packet.discard)
        return self.tick(now_ns) + self._drop_all(reasons)

    def picture(self, picture: PictureIn, now_ns: int) -> list[FrameRecord]:
        """A picture came out of the decoder."""
        out = self.tick(now_ns)
        raw = _known(picture.raw_pts)
        if picture.tag is not None:
            if self._tags.is_known_lost(picture.tag):
                self.counters.returned_after_loss += 1
                return out
            out += self._drop_all(self._tags.returned(picture.tag, raw))
        if self.fenced:
            self.counters.after_fencing += 1
            return out
        if self._tags.is_discard(picture.tag):
            return out
        if picture.discard:
            self.counters.discarded += 1
            return out
        if self._tags.before_first_keyframe(picture.tag):
            return out + self._drop(DropReason.PREROLL)
        if picture.corrupt:
            leading = self._tags.is_leading(raw)
            return out + self._drop(DropReason.PREROLL if leading else DropReason.DECODE_ERROR)
        return out + self._place(picture, raw, now_ns)

    def decoder_error(self, now_ns: int) -> list[FrameRecord]:
        """The decoder refused a packet. Counts as a loss only where packet tags cannot (hidden frames).

        It may do so before a stream is opened: of a camera that is joined between keyframes."""
        return self.tick(now_ns) + (self._drop(DropReason.DECODE_ERROR) if self._hidden_frames else [])

    def tick(self, now_ns: int) -> list[FrameRecord]:
        """Time passed. A live source's held frame that nothing followed is bad_pts."""
        held = self._held
        if held is None or not self._live or now_ns - held.since_ns <= self._hold_ns():
            return []
        self._held = None
        return self._drop(DropReason.BAD_PTS)

    def close(self, now_ns: int) -> list[FrameRecord]:
        """The input ended and the decoder was drained."""
        return self._end(None)

    @property
    def record(self) -> TimelineRecord | None:
        """The claim of the open epoch."""
        return self._epoch.record if self._epoch else None

    @property
    def reorder_depth(self) -> int:
        """R: the decoder's word, raised to what was seen."""
        return self._tags.reorder_depth

    # -- rules ------------------------------------------------------------------------------------------------------

    def _place(self, picture: PictureIn, raw: int | None, now_ns: int) -> list[FrameRecord]:
        if raw is None:
            return self._place_without_pts(picture)
        if self._held is not None:
            held, self._held = self._held, None
            if self._judge(raw, picture.arrival_mono_ns) is not Step.BREAK:
                return self._drop(DropReason.BAD_PTS) + self._place(picture, raw, now_ns)
            return self._open_epoch(held.picture, held.raw) + self._place(picture, raw, now_ns)
        if self._epoch is None:
            return self._open_epoch(picture, raw)
        step = self._judge(raw, picture.arrival_mono_ns)
        if step is Step.BREAK:
            self._held = _Held(picture, raw, now_ns)
            return []
        if step is Step.FORWARD:
            return self._accept(picture, self._unwrap(raw), raw)
        repeated = self._pts_ns(self._unwrap(raw)) in self._epoch.recent
        return self._drop(DropReason.DUPLICATE_PTS if repeated else DropReason.OUT_OF_ORDER)

    def _place_without_pts(self, picture: PictureIn) -> list[FrameRecord]:
        epoch = self._epoch
        if epoch is None or self._held is not None or self._tags.reorder_depth > 0:
            return self._drop(DropReason.NO_PTS)
        return self._accept(picture, epoch.ref + self._nominal.ticks, None)

    def _judge(self, raw: int, arrival_ns: int) -> Step:
        epoch = self._epoch
        assert epoch is not None
        step = self._unwrap(raw) - epoch.ref
        back_limit = ticks_to_ns(self._tags.reorder_depth * self._nominal.ticks, self._info.time_base)
        return self._rules.judge(ticks_to_ns(step, self._info.time_base), back_limit, arrival_ns - epoch.ref_arrival_ns)

    def _unwrap(self, raw: int) -> int:
        assert self._epoch is not None
        return unwrap(raw, self._epoch.ref, self._info.pts_modulus)

    def _pts_ns(self, ticks: int) -> int:
        assert self._epoch is not None
        return ticks_to_ns(ticks - self._epoch.record.u0, self._info.time_base)

    def _hold_ns(self) -> int:
        """Two nominal durations on sources slower than 2 fps, which could otherwise never open an epoch."""
        return max(self._settings.hold_ns, ticks_to_ns(2 * self._nominal.ticks, self._info.time_base))

    # -- records ----------------------------------------------------------------------------------------------------

    def _end(self, first_tag: int | None) -> list[FrameRecord]:
        """Whatever is still out, of the packets before `first_tag`, will not come."""
        out: list[FrameRecord] = []
        if self._held is not None:
            self._held = None
            out += self._drop(DropReason.BAD_PTS)
        out += self._drop_all(self._tags.flushed(first_tag))
        self.counters.unclaimed += len(self._pending)
        self._pending.clear()
        return out

    def _open_epoch(self, picture: PictureIn, raw: int) -> list[FrameRecord]:
        draft = TimelineRecord(
            source_id=self.source_id,
            epoch=0,
            ingest_id=self._ingest_id,
            time_base=self._info.time_base,
            u0=raw,
            first_raw_pts=raw,
            pts_modulus=self._info.pts_modulus,
            pipelines=self._pipelines,
        )
        record = self._claims.claim(draft)
        if record is None:
            self.fenced = True
            self._epoch = None
            self.counters.after_fencing += 1 + len(self._pending)
            self._pending.clear()
            return []
        self.counters.epochs += 1
        self._epoch = _Epoch(record, ref=raw, ref_arrival_ns=picture.arrival_mono_ns)
        pending, self._pending = self._pending, []
        return self._drop_all(pending) + self._accept(picture, raw, raw)

    def _accept(self, picture: PictureIn, ticks: int, raw: int | None) -> list[FrameRecord]:
        epoch = self._epoch
        assert epoch is not None
        pts_ns = self._pts_ns(ticks)
        if epoch.recent and pts_ns <= epoch.recent[-1]:  # two ticks finer than a nanosecond share a pts_ns
            return self._drop(DropReason.DUPLICATE_PTS)
        self._nominal.add(ticks - epoch.ref)
        epoch.ref, epoch.ref_arrival_ns = ticks, picture.arrival_mono_ns
        epoch.recent.append(pts_ns)
        if self._too_many(epoch, pts_ns):
            return self._drop(DropReason.OVERLOAD)
        epoch.window.append(pts_ns)
        frame = Frame(
            source_id=self.source_id,
            epoch=epoch.record.epoch,
            frame_seq=epoch.next_seq,
            pts_ns=pts_ns,
            pts=ticks,
            time_base=self._info.time_base,
            pipelines=self._pipelines,
            arrival_mono_ns=picture.arrival_mono_ns,
            picture=picture.picture,
            analyse=epoch.accepted % self._settings.every == 0,
            raw_pts=raw,
            pts_source=PtsSource.INFERRED if raw is None else self._info.pts_source,
            capture_ns=picture.capture_ns,
            capture_quality=picture.capture_quality,
            dts=_known(picture.packet_dts),
        )
        epoch.next_seq += 1
        epoch.accepted += 1
        return [frame]

    def _too_many(self, epoch: _Epoch, pts_ns: int) -> bool:
        """More frames within the mixer's window than it may hold pictures of."""
        window = self._window_ns
        while epoch.window and epoch.window[0] <= pts_ns - window:
            epoch.window.popleft()
        return len(epoch.window) > -(-window * self._max_fps // NS_PER_S) + self._tags.reorder_depth

    def _drop(self, reason: DropReason) -> list[FrameRecord]:
        return self._drop_all([reason])

    def _drop_all(self, reasons: list[DropReason]) -> list[FrameRecord]:
        epoch = self._epoch
        if self.fenced:
            self.counters.after_fencing += len(reasons)
            return []
        if epoch is None:
            room = MAX_PENDING - len(self._pending)
            self._pending += reasons[:room]
            self.counters.unclaimed += len(reasons[room:])
            return []
        out: list[FrameRecord] = []
        for reason in reasons:
            self.counters.by_reason[reason] += 1
            seq, epoch.next_seq = epoch.next_seq, epoch.next_seq + 1
            out.append(DroppedRun(self.source_id, epoch.record.epoch, seq, seq, reason, self._pipelines))
        return out


def _known(stamp: int | None) -> int | None:
    return None if stamp == NO_PTS else stamp
