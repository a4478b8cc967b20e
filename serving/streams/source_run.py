"""One source of a run: an ingest thread that reads and a mix thread that shows, with what passes between them.

The only shared state is the `Hub`'s, under its lock. A file waits for room at every place; a live source never waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from threading import Condition, Lock
from typing import Protocol

import numpy as np

from serving.align import (
    Accountant,
    CloseRule,
    FairQueue,
    LocalClaims,
    Mixer,
    MixerSettings,
    SheddingRules,
    SourceTimeline,
    TimelineSettings,
    max_age_ns,
    presentation_delay_ns,
)
from serving.clock import Clock
from serving.errors import LockstepError
from serving.frames import DropReason, Frame, FrameRecord, Posting, StreamInfo
from serving.media import OutputSummary, VideoSource
from serving.streams.drawing import Draw
from serving.streams.event_lines import EventLines
from serving.streams.ingest import IngestStage, ReconnectRules
from serving.streams.lines import ResultLines
from serving.streams.mix_role import MakeWriters, MixRole, Observer, ShownSink
from serving.streams.outputs import OutputGuard, TextSink
from serving.streams.sheet import ContactSheet
from serving.streams.summary import SourceSummary
from serving.streams.worker import Pipeline, Region

INBOX_FILE = 8  # frames between ingest and mixer
INBOX_LIVE_S = 2  # seconds of frames; beyond it the oldest lose their pictures
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SourceJob:
    """What to do with one source. shown_as: its address without secrets. mixed: somebody looks at the pictures.

    closing: called once all is shown, for what is written last. pipelines: who analyses it; none named: all of the run.
    heard: its pictures are pieces of sound: nobody looks at them, and each is analysed.
    """

    source: VideoSource
    draw: Draw
    make_writers: MakeWriters
    shown_as: str = ""
    results: TextSink | None = None
    sinks: Sequence[ShownSink] = ()
    sheet: ContactSheet | None = None
    region: Region = field(default_factory=Region)
    mixed: bool = True
    events: EventLines | None = None
    pipelines: tuple[str, ...] = ()
    heard: bool = False
    closing: Sequence[Callable[[], object]] = ()


class StreamSettings(Protocol):
    """The settings of a run that concern one source (`serving.streams.run.RunSettings`)."""

    @property
    def every(self) -> int: ...
    @property
    def delay_ns(self) -> int: ...
    @property
    def lateness_ns(self) -> int: ...
    @property
    def max_fps(self) -> int: ...
    @property
    def high_threshold(self) -> float: ...
    @property
    def fill(self) -> bool: ...
    @property
    def rules(self) -> ReconnectRules: ...


class HubPort(Protocol):
    """What the sources of a run share (`serving.streams.run.Hub`); `changed` guards all of it."""

    changed: Condition
    stopping: bool
    clock: Clock
    pipelines: dict[str, Pipeline]
    observer: Observer | None

    @property
    def settings(self) -> StreamSettings: ...
    def queue_of(self, source_id: str) -> FairQueue: ...
    def wait(self, seconds: float) -> bool: ...
    def drop(self, frame: Frame, reason: DropReason) -> None: ...
    def given_up(self, frame: Frame) -> list[Posting]: ...
    def beat(self, source: SourceRun) -> None: ...


class SourceRun:
    """Threads call `ingest` and `mix`; the hub calls `refuse`. refused: why its pictures cannot be analysed."""

    def __init__(self, job: SourceJob, hub: HubPort) -> None:
        self.job, self.hub = job, hub
        self.source_id = job.source.source_id
        self.queue = hub.queue_of(self.source_id)
        settings = hub.settings
        self.pipelines = {name: hub.pipelines[name] for name in job.pipelines or hub.pipelines}
        every = 1 if job.heard else settings.every
        timing = TimelineSettings(window_ns=max(1, settings.delay_ns), every=every, max_fps=settings.max_fps)
        self.timeline = SourceTimeline(self.source_id, "run", tuple(self.pipelines), LocalClaims(), timing)
        self.stage = IngestStage(job.source, self.timeline, hub.clock, settings.rules, hub.wait)
        self.role: MixRole | None = None
        self.frames: deque[FrameRecord] = deque()
        self.postings: deque[Posting] = deque()
        self.outstanding = 0  # frames given to the worker that have no outcome yet
        self.read_to_end = False
        self.done = False
        self.unshown = 0
        self._sized = 0  # the newest epoch whose size was told
        self.refused: LockstepError | None = None
        self.guard = OutputGuard()
        self._events_failed = False
        self.outputs: list[OutputSummary] = []
        self._mixing = Lock()  # a progress report must not read what a step is changing

    def refuse(self, error: LockstepError) -> None:
        """Read no further: what comes cannot be analysed. What was read is accounted."""
        self.refused = self.refused or error
        self.stage.stop()

    # -- the ingest thread ------------------------------------------------------------------------------------------

    def ingest(self) -> None:
        """Read the source to its end."""
        try:
            for records in self.stage.records():
                if self.role is None and self.stage.info is not None:
                    self._begin(self.stage.info)
                for record in records:
                    self._tell_size(record)
                    self._emit(record)
        finally:
            with self.hub.changed:
                self.read_to_end = True
                self.hub.changed.notify_all()

    def _begin(self, info: StreamInfo) -> None:
        settings, live = self.hub.settings, self.stage.live
        max_fps = settings.max_fps
        if not live and info.average_rate:
            max_fps = max(max_fps, int(-(-info.average_rate * 5 // 4)))  # as the timeline does for files
        delay_ns = presentation_delay_ns(info, settings.delay_ns)
        mixing = MixerSettings(
            live,
            delay_ns,
            settings.lateness_ns,
            max_fps,
            info.reorder_depth,
            settings.high_threshold,
            settings.fill,
        )
        rule = CloseRule(delay_ns, settings.lateness_ns, live)
        lines = ResultLines(self.source_id, self.pipelines, self.job.results)
        age = max_age_ns(delay_ns, self.job.mixed)
        role = MixRole(
            Mixer(self.source_id, mixing),
            Accountant(rule),
            lines,
            self.job.draw,
            self.job.make_writers,
            self.job.sinks,
            self.job.sheet,
            Fraction(info.average_rate) if info.average_rate else None,
            self.hub.observer,
            sample_aspect=info.sample_aspect,
            guard=self.guard,
            _writers=() if self.job.heard else None,
        )
        with self.hub.changed:
            self.queue.source(self.source_id, SheddingRules(age, settings.max_fps, live))
            self.role = role
            self.hub.changed.notify_all()

    def _tell_size(self, record: FrameRecord) -> None:
        """A change of size opens an epoch, so the present size is that of the newest epoch."""
        role, info = self.role, self.stage.info
        if role is not None and info is not None and not self.job.heard and record.epoch > self._sized:
            self._sized = record.epoch
            role.lines.sized(record.epoch, info.width, info.height)

    def _emit(self, record: FrameRecord) -> None:
        hub = self.hub
        with hub.changed:
            if not self.stage.live:
                hub.changed.wait_for(lambda: self._has_room() or hub.stopping)
            self.frames.append(record)
            if isinstance(record, Frame) and not hub.stopping:
                self._to_worker(record)
            elif isinstance(record, Frame):
                self.postings += hub.given_up(record)
            self._bound_inbox()
            hub.changed.notify_all()

    def _to_worker(self, frame: Frame) -> None:
        self.outstanding += frame.analyse
        for shed, reason in self.queue.put(frame):
            self.hub.drop(shed, reason)

    def _has_room(self) -> bool:
        return len(self.frames) < INBOX_FILE and self.queue.room(self.source_id)

    def _bound_inbox(self) -> None:
        """A mixer that cannot keep up loses pictures, not records."""
        most = INBOX_LIVE_S * self.hub.settings.max_fps
        if not self.stage.live or len(self.frames) <= most:
            return
        for place, record in enumerate(self.frames):
            if isinstance(record, Frame) and record.picture is not None:
                self.frames[place] = replace(record, picture=None)
                self.unshown += 1
                return

    # -- the mix thread ---------------------------------------------------------------------------------------------

    def mix(self) -> None:
        """Show frames until the input is over and every outcome is in."""
        try:
            while not self._step():
                self.hub.beat(self)
            if self.role is not None:
                self.outputs = self.role.finish()
            for close in self.job.closing:
                self.guard(close)
        except BaseException:
            if self.role is not None:
                self.role.abandon()
            raise
        finally:
            with self.hub.changed:
                self.done = True
                self.hub.changed.notify_all()

    def _step(self) -> bool:
        """Take what there is, show what is due; True when all is done."""
        frames, postings, over = self._take()
        role = self.role
        if role is None:
            return over
        clock = self.hub.clock
        with self._mixing:
            for record in frames:
                role.frame(record, clock.monotonic_ns())
            for posting in postings:
                self._follow(posting)
                role.post(posting, clock.monotonic_ns())
            role.poll(clock.monotonic_ns())
            if over:
                role.mixer.end()
                role.poll(clock.monotonic_ns())
            if self.guard.error is not None:
                self.stage.stop()  # what was read is accounted; nobody could see the rest
            return over and role.mixer.held == 0

    def _follow(self, posting: Posting) -> None:
        events = self.job.events
        if events is not None and not self._events_failed:
            self._events_failed = not self.guard(events.take, posting)

    def _take(self) -> tuple[list[FrameRecord], list[Posting], bool]:
        """What to feed now (a file's mixer takes one frame at a time), and whether nothing more will come."""
        hub = self.hub
        with hub.changed:
            hub.changed.wait_for(self._has_work, timeout=self._patience_s())
            if self.role is None:
                return [], [], self.read_to_end
            frames: list[FrameRecord] = []
            while self.frames and not (self.role.mixer.full or (frames and not self.stage.live)):
                frames.append(self.frames.popleft())
            postings = list(self.postings)
            self.postings.clear()
            over = self.read_to_end and not self.frames and self.outstanding == 0
            hub.changed.notify_all()
            return frames, postings, over

    def _has_work(self) -> bool:
        if self.role is None:
            return self.read_to_end
        if self.postings or (self.frames and not self.role.mixer.full):
            return True
        return self.read_to_end and not self.frames and self.outstanding == 0

    def _patience_s(self) -> float:
        due = self.role.mixer.next_due_ns if self.role else None
        if due is None:
            return 0.25
        return min(0.25, max(0.0, (due - self.hub.clock.monotonic_ns()) / NS_PER_S))

    # -- afterwards -------------------------------------------------------------------------------------------------

    def summary(self) -> SourceSummary:
        """The numbers of this source, at any time."""
        with self._mixing:
            return self._summary()

    def _summary(self) -> SourceSummary:
        role, info, stage = self.role, self.stage.info, self.stage
        error = stage.error or self.refused or self.guard.error
        accountant = role.accountant if role else Accountant()
        counters = role.counters if role else None
        spans = [ns / 1e6 for ns in counters.latency_ns] if counters and counters.latency_ns else [0.0]
        p50, p99 = (round(float(v), 3) for v in np.percentile(spans, [50, 99]))
        return SourceSummary(
            source_id=self.source_id,
            address=self.job.shown_as,
            kind=info.kind.value if info else "",
            codec=info.codec if info else "",
            width=info.width if info and not self.job.heard else 0,
            height=info.height if info and not self.job.heard else 0,
            epochs=self.timeline.counters.epochs,
            connections=stage.counters.connections,
            shown=counters.frames if counters else 0,
            covered=counters.with_boxes if counters else 0,
            unshown=self.unshown,
            skipped=role.mixer.counters.skipped if role else 0,
            balances={name: accountant.total(self.source_id, name) for name in self.pipelines},
            drawn=dict(counters.boxes) if counters else {},
            missing={k: v for k, v in counters.missing.items() if v} if counters else {},
            late=role.mixer.counters.late if role else 0,
            mismatched=role.mixer.counters.mismatched if role else 0,
            discarded=self.timeline.counters.discarded,
            unclaimed=self.timeline.counters.unclaimed,
            result_lines=role.lines.written if role else 0,
            latency_ms=(p50, p99),
            outputs=tuple(self.outputs),
            errors=dict(stage.counters.errors),
            error=str(error) if error else "",
            error_code=error.code if error else "",
        )
