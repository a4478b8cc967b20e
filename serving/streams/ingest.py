"""Ingest: one source, connected, read and connected again, as records of `frames`.

The reader decodes, `SourceTimeline` decides; this stage carries events from one to the other and owns the connection:
back-off, and the lease by which a source ends in whatever state it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from serving.align import PacketIn, PictureIn, SourceTimeline
from serving.clock import NS_PER_S, Clock
from serving.errors import SourceError, SourceStalled
from serving.frames import FrameRecord, SourceKind, StreamInfo
from serving.media import (
    DecoderRefused,
    MediaEvent,
    PacketSeen,
    PictureSeen,
    StreamEnded,
    StreamOpened,
    VideoReader,
    VideoSource,
)
from serving.streams.opening import Opening

LOOK_S = 0.1  # how often a stage that is connecting looks whether it was stopped
Wait = Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class ReconnectRules:
    """Back-off between connections of a live source, in seconds, doubling from first to most.

    lease_s: a live source without a picture for so long ends; None: never.
    """

    first_s: float = 0.5
    most_s: float = 8.0
    lease_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.most_s or (self.lease_s is not None and self.lease_s <= 0):
            raise ValueError(f"ReconnectRules: expected 0 < first_s <= most_s and lease_s > 0, got {self}")


@dataclass(slots=True)
class IngestCounters:
    """What happened to the connection; errors by code."""

    connections: int = 0
    pictures: int = 0
    decoder_errors: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class IngestStage:
    """Iterate `records`; from another thread `stop` ends it at the present read, `tick` lets time pass."""

    def __init__(
        self, source: VideoSource, timeline: SourceTimeline, clock: Clock, rules: ReconnectRules, wait: Wait
    ) -> None:
        """wait(seconds): sleep; True when told to stop."""
        self.counters = IngestCounters()
        self.error: SourceError | None = None
        self.info: StreamInfo | None = None
        self._source, self._timeline, self._clock = source, timeline, clock
        self._rules, self._wait = rules, wait
        self._reader: VideoReader | None = None
        self._stopped = False
        self._delay_s = rules.first_s
        self._last_picture_ns = clock.monotonic_ns()

    @property
    def last_picture_ns(self) -> int:
        """When the newest picture came, by the monotonic clock; before the first, when this began."""
        return self._last_picture_ns

    @property
    def live(self) -> bool:
        """By what the source is, or before it is connected, by what to expect of it."""
        return (self.info.kind if self.info else self._source.kind) is SourceKind.LIVE

    def stop(self) -> None:
        """End at the present read."""
        self._stopped = True
        if self._reader is not None:
            self._reader.close()

    def records(self) -> Iterator[list[FrameRecord]]:
        """What to write to `frames`, as it comes; an empty list where only the stream's parameters became known."""
        while not self._stopped:
            was_live = self.info is not None and self.live
            error = None
            try:
                self._reader = self._connected()
                if self._reader is None:
                    break
                self.counters.connections += 1
                connected_ns = self._clock.monotonic_ns()
                for event in self._reader.events():
                    if isinstance(event, StreamEnded):
                        error = event.error
                    elif was_live and isinstance(event, StreamOpened) and event.info.kind is not SourceKind.LIVE:
                        break  # what was live has become a recording of itself
                    else:
                        yield self._records_of(event)
                        if self._timeline.fenced or self._stopped:
                            break
                        if self.live and self._is_lease_over(0.0, connected_ns):
                            self._reader.close()  # packets, but no picture in them
            except SourceError as failure:
                error = failure
            if self._is_over(error):
                break
        if self.info is not None:
            yield self._timeline.close(self._clock.monotonic_ns())

    def _connected(self) -> VideoReader | None:
        """A new connection; None where `stop` came first."""
        opening = Opening(self._source)
        while not opening.wait(LOOK_S):
            if self._stopped:
                opening.abandon()
                return None
        return opening.result()

    def _records_of(self, event: MediaEvent) -> list[FrameRecord]:
        now_ns = self._clock.monotonic_ns()
        if isinstance(event, StreamOpened):
            self.info = event.info
            return self._timeline.open(event.info, now_ns, event.first_tag)
        if isinstance(event, PacketSeen):
            sent = PacketIn(event.tag, event.raw_pts, event.keyframe, event.discard)
            return self._timeline.packet(sent, now_ns)
        if isinstance(event, PictureSeen):
            self.counters.pictures += 1
            self._last_picture_ns, self._delay_s = now_ns, self._rules.first_s
            return self._timeline.picture(_picture_in(event), now_ns)
        assert isinstance(event, DecoderRefused)
        self.counters.decoder_errors += 1
        return self._timeline.decoder_error(now_ns)

    def _is_over(self, error: SourceError | None) -> bool:
        """Whether the source ends here; a live one waits for its next connection."""
        if error is not None:
            self.counters.errors[error.code] += 1
        if self._stopped or self._timeline.fenced:
            return True
        hopeless = error is not None and error.code in ("source_refused", "source_not_found")
        if not self.live or (hopeless and self.info is None):
            self.error = error
            return True
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, self._rules.most_s)
        if self._is_lease_over(delay_s):
            if self.info is None:
                self.error = error or SourceStalled(f"{self._source.source_id}: no picture came")
            return True
        return self._wait(delay_s)

    def _is_lease_over(self, ahead_s: float, since_ns: int = 0) -> bool:
        """Whether a live source will have been without a picture for too long, `ahead_s` from now.

        since_ns: the present connection's beginning, which had to look at the stream before it gave anything.
        """
        lease_s = self._rules.lease_s
        silent_s = (self._clock.monotonic_ns() - max(self._last_picture_ns, since_ns)) / NS_PER_S
        return lease_s is not None and silent_s + ahead_s >= lease_s


def _picture_in(event: PictureSeen) -> PictureIn:
    return PictureIn(
        raw_pts=event.raw_pts,
        arrival_mono_ns=event.arrival_mono_ns,
        picture=event.picture,
        tag=event.tag,
        corrupt=event.corrupt,
        packet_dts=event.packet_dts,
        capture_ns=event.capture_ns,
        capture_quality=event.capture_quality,
    )
