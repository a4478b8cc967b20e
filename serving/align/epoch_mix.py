"""One epoch inside the mixer: the frames that wait to be shown, the outcomes joined to them, the tracks seen so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

import numpy as np

from serving.align.anchor import Anchor
from serving.align.durations import AnalysisInterval, NominalDuration
from serving.align.merge import merge
from serving.align.tracks import Later, TrackRules, Tracks, boxes_by_track
from serving.align.watermark import Watermark
from serving.frames import DropReason, Frame, Outcome, Overlay, Posting
from serving.types import Detections

MAX_RECENT = 512


class Joined(Enum):
    """Where a posting belongs."""

    WAITING = "waiting"  # to a frame that was not shown yet
    SHOWN = "shown"  # to a frame that was shown: late
    NO_PICTURE = "no_picture"  # to a ledger place that is not shown, or was shown too long ago
    MISMATCH = "mismatch"  # its PTS is not that of its frame_seq, or its pipeline is not subscribed
    EARLY = "early"  # its frame record has not been read yet


@dataclass(slots=True)
class Waiting:
    """A frame that waits, with what is known of it. h_ns is H as of this frame, so that later frames change nothing."""

    frame: Frame
    h_ns: int
    outcomes: dict[str, Outcome]
    later: dict[str, Later] = field(default_factory=dict)

    @property
    def terminal(self) -> bool:
        """Every pipeline has an outcome."""
        return len(self.outcomes) == len(self.frame.pipelines)

    def has_result(self, pipeline: str) -> bool:
        """The pipeline gave a result for this frame."""
        outcome = self.outcomes.get(pipeline)
        return outcome is not None and outcome.result is not None


class EpochMix:
    """The state of one epoch. `live` decides what later measurements a fill may look at."""

    tracks_class: type[Tracks] = Tracks

    def __init__(self, epoch: int, live: bool, rules: TrackRules, lateness_ns: int) -> None:
        self.epoch = epoch
        self.anchor = Anchor()
        self.watermark = Watermark()
        self.waiting: deque[Waiting] = deque()
        self.last_seq = -1
        self.first_arrival_ns = 0
        self.last_arrival_ns = 0
        self.nominal = NominalDuration(Fraction(1, 1_000_000_000), None)
        self._live = live
        self._rules = rules
        self._lateness_ns = lateness_ns
        self._interval = AnalysisInterval()
        self._by_pts: dict[int, Waiting] = {}
        self._recent: dict[int, int] = {}  # pts_ns -> frame_seq of frames shown within L
        self._tracks: dict[str, Tracks] = {}
        self._last_pts: int | None = None

    def add(self, frame: Frame, now_ns: int) -> Waiting:
        """A frame record, later than all before."""
        self.last_seq, self.last_arrival_ns = frame.frame_seq, now_ns
        if self._last_pts is None:
            self.first_arrival_ns = now_ns
        else:
            self.nominal.add(frame.pts_ns - self._last_pts)
        self._last_pts = frame.pts_ns
        outcomes: dict[str, Outcome] = {}
        if frame.analyse:
            self._interval.add(frame.pts_ns)
        else:
            outcomes = dict.fromkeys(frame.pipelines, _NOT_SAMPLED)
        entry = Waiting(frame, self._interval.h_ns, outcomes)
        self.waiting.append(entry)
        self._by_pts[frame.pts_ns] = entry
        self.watermark.frame(frame.pts_ns)
        if entry.terminal:
            self.watermark.terminal(frame.pts_ns)
        return entry

    def join(self, posting: Posting) -> Joined:
        """Where the posting belongs: by frame key, which must agree with the ledger key."""
        seq = posting.key.frame_seq
        if seq > self.last_seq:
            return Joined.EARLY
        if posting.pts_ns is None:
            return Joined.NO_PICTURE
        entry = self._by_pts.get(posting.pts_ns)
        if entry is not None:
            known = posting.key.pipeline in entry.frame.pipelines
            return Joined.WAITING if known and entry.frame.frame_seq == seq else Joined.MISMATCH
        if posting.pts_ns in self._recent:
            return Joined.SHOWN if self._recent[posting.pts_ns] == seq else Joined.MISMATCH
        return Joined.NO_PICTURE

    def put(self, posting: Posting) -> None:
        """Merge the outcome of a frame that waits."""
        assert posting.pts_ns is not None
        entry = self._by_pts[posting.pts_ns]
        pipeline = posting.key.pipeline
        known = entry.outcomes.get(pipeline)
        merged = merge(known, posting.outcome)
        if merged is known:
            return
        entry.outcomes[pipeline] = merged
        entry.later.pop(pipeline, None)
        self._tracks_of(pipeline).look_again(posting.pts_ns)
        if known is None and entry.terminal:
            self.watermark.terminal(posting.pts_ns)

    def learn_late(self, posting: Posting) -> None:
        """A result of a frame shown without it: drawn nowhere, but later frames are filled from it."""
        result = posting.outcome.result
        if result is not None and result.detections is not None and posting.pts_ns is not None:
            self._tracks_of(posting.key.pipeline).learn_late(posting.pts_ns, result.detections)

    def deadline_ns(self, entry: Waiting, delay_ns: int) -> int | None:
        """When a live frame has to be shown; None while nothing is known of the source's pace."""
        return None if self.anchor.value_ns is None else self.anchor.value_ns + entry.frame.pts_ns + delay_ns

    def restart_pace(self) -> None:
        """The line has moved for good: start the anchor anew from the newest frame, which came in last."""
        self.anchor = Anchor()
        self.anchor.sample(self.last_arrival_ns, self.waiting[-1].frame.pts_ns)

    def release(self) -> tuple[Frame, tuple[Overlay, ...]]:
        """The oldest waiting frame with what may be drawn on it."""
        entry = self._pop()
        return entry.frame, tuple(self._overlay(entry, pipeline) for pipeline in entry.frame.pipelines)

    def skip(self, keep: int) -> int:
        """Give up all but the newest `keep` waiting frames; how many."""
        skipped = max(0, len(self.waiting) - keep)
        for _ in range(skipped):
            entry = self._pop()
            for pipeline in entry.frame.pipelines:
                self._overlay(entry, pipeline)
        return skipped

    # -- inside -----------------------------------------------------------------------------------------------------

    def _pop(self) -> Waiting:
        entry = self.waiting.popleft()
        pts_ns = entry.frame.pts_ns
        del self._by_pts[pts_ns]
        self.watermark.past_deadline(pts_ns)
        self._recent[pts_ns] = entry.frame.frame_seq
        oldest = next(iter(self._recent))
        while oldest < pts_ns - self._lateness_ns or len(self._recent) > MAX_RECENT:
            del self._recent[oldest]
            oldest = next(iter(self._recent))
        return entry

    def _tracks_of(self, pipeline: str) -> Tracks:
        tracks = self._tracks.get(pipeline)
        if tracks is None:
            tracks = self._tracks[pipeline] = self.tracks_class(self._rules)
        return tracks

    def _overlay(self, entry: Waiting, pipeline: str) -> Overlay:
        outcome = entry.outcomes.get(pipeline)
        result = outcome.result if outcome is not None else None
        pts_ns, h_ns = entry.frame.pts_ns, entry.h_ns
        if result is not None and result.detections is None:
            return Overlay(pipeline, outcome, Detections.empty(), _NO_ORIGIN)
        tracks = self._tracks_of(pipeline)

        def later() -> Iterator[Later]:
            return self._later(entry, pipeline)

        if result is None or result.detections is None:
            return Overlay(pipeline, outcome, *tracks.unmeasured(pts_ns, h_ns, later))
        return Overlay(pipeline, outcome, *tracks.measured(pts_ns, h_ns, result.detections, later))

    def _later(self, entry: Waiting, pipeline: str) -> Iterator[Later]:
        """The measured frames after `entry` that a fill may look at, nearest first.

        Files see the next one only, and only from frames without a result: what they waited for, so that the output
        depends on the input alone. Live sources see what has come.
        """
        if not self._live and entry.has_result(pipeline):
            return
        for other in self.waiting:
            if other.frame.pts_ns - entry.frame.pts_ns > entry.h_ns:
                return
            if other.has_result(pipeline):
                yield _measured(other, pipeline)
                if not self._live:
                    return


def _measured(entry: Waiting, pipeline: str) -> Later:
    later = entry.later.get(pipeline)
    if later is None:
        result = entry.outcomes[pipeline].result
        found = result.detections if result is not None else None
        boxes = {} if found is None else boxes_by_track(found)
        later = entry.later[pipeline] = Later(entry.frame.pts_ns, boxes)
    return later


_NOT_SAMPLED = Outcome.dropped(DropReason.NOT_SAMPLED)
_NO_ORIGIN = np.zeros(0, np.uint8)
