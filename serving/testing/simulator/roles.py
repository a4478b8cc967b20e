"""The mixer and the accountant as processes around the genuine `Mixer` and `Accountant`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from serving.align import Accountant, CloseRule, Joined, Mixer, MixerSettings, OutcomeRecord
from serving.frames import AlignedFrame, Frame, FrameKey, Posting
from serving.testing.simulator.log import Consumer, FakeLog
from serving.testing.simulator.scheduler import MS, NS_PER_S, Process, Scheduler
from serving.testing.simulator.services import FakeRedis
from serving.testing.simulator.worker import MOST_PIPELINES

SEGMENT_FRAMES = 10
REREAD = 60

MakeMixer = Callable[[str, MixerSettings, Callable[[int], int]], Mixer]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the checker keeps of a shown frame.

    measured: for each measured box the picture it was computed from, and whether by the pipeline it is drawn under.
    waited_ns: time in the mixer.
    """

    key: FrameKey
    frame_seq: int
    index: int
    out_pts_ns: int
    measured: tuple[tuple[int, bool], ...]
    filled: int
    waited_ns: int


class MixerRole(Process):
    """Mixes one source into segments; a segment that was not finished is never seen."""

    def __init__(
        self, scheduler: Scheduler, log: FakeLog, source_id: str, partition: int, settings: MixerSettings,
        make: MakeMixer,
    ) -> None:  # fmt: skip
        super().__init__(scheduler)
        self.log, self.source_id, self.partition, self.settings, self.make = log, source_id, partition, settings, make
        self.output: list[Shown] = []
        self.most_held = 0
        self.joined: dict[Joined, int] = dict.fromkeys(Joined, 0)
        self._position: tuple[FrameKey, int, int, int] | None = None

    def start(self) -> None:
        """Go on after the last complete segment, reading again the records of the last seconds."""
        self.mixer = self.make(self.source_id, self.settings, self._wall)
        self.segment: list[Shown] = []
        self.planned_ns: int | None = None
        frames = results = 0
        if self._position is not None:
            key, out_pts_ns, frames, results = self._position
            self.mixer.resume(key, out_pts_ns)
        self.consumers = [
            Consumer(self, self.log, "frames", self.partition, max(0, frames - REREAD), self._frame),
            Consumer(self, self.log, "results", self.partition, max(0, results - 4 * REREAD), self._result),
        ]

    def died(self) -> None:
        """The unfinished segment is lost."""
        self.most_held = max(self.most_held, self.mixer.counters.most_held)
        for consumer in self.consumers:
            consumer.close()

    def finish(self) -> None:
        """The run is over: close the last segment."""
        self.most_held = max(self.most_held, self.mixer.counters.most_held)
        self._complete()

    def _wall(self, now_ns: int) -> int:
        return now_ns + self.scheduler.wall_offset_ns

    def _frame(self, offset: int, record: Any, at_end: bool) -> None:
        if record.source_id != self.source_id:
            return
        now = self.scheduler.monotonic_ns()
        if isinstance(record, Frame):
            record = replace(record, arrival_mono_ns=now)
        self._show(self.mixer.frame(record, now, at_end) + self.mixer.poll(now))

    def _result(self, offset: int, posting: Posting, at_end: bool) -> None:
        if posting.key.source_id == self.source_id:
            self.joined[self.mixer.post(posting, self.scheduler.monotonic_ns())] += 1

    def _due(self, planned_ns: int) -> None:
        if planned_ns != self.planned_ns:
            return  # another time was set since
        self.planned_ns = None
        self._show(self.mixer.poll(self.scheduler.monotonic_ns()))

    def _show(self, frames: list[AlignedFrame]) -> None:
        for shown in frames:
            self.segment.append(_summary(shown, self.scheduler.monotonic_ns()))
            if len(self.segment) >= SEGMENT_FRAMES:
                self._complete()
        due, now = self.mixer.next_due_ns, self.scheduler.monotonic_ns()
        if due is not None and due != self.planned_ns:
            self.planned_ns = due
            self.after(max(due - now, MS), lambda: self._due(due))  # a mutant may be due for ever

    def _complete(self) -> None:
        if self.segment:
            last = self.segment[-1]
            frames, results = self.consumers
            self._position = (last.key, last.out_pts_ns, frames.position, results.position)
            self.output += self.segment
            self.segment = []


def _summary(shown: AlignedFrame, now_ns: int) -> Shown:
    assert shown.frame.picture is not None and shown.frame.picture.encoded is not None
    measured, filled = [], 0
    for place, overlay in enumerate(shown.overlays):
        for class_id, origin in zip(overlay.boxes.class_id.tolist(), overlay.origin.tolist(), strict=True):
            if origin:
                filled += 1
            else:
                index, of = divmod(class_id, MOST_PIPELINES)
                measured.append((index, of == place))
    return Shown(
        shown.frame.key,
        shown.frame.frame_seq,
        int(shown.frame.picture.encoded),
        shown.out_pts_ns,
        tuple(measured),
        filled,
        now_ns - shown.frame.arrival_mono_ns,
    )


class AccountantRole(Process):
    """Owns the merge of one partition, writes `outcomes`, keeps the index; a restart reads everything again."""

    def __init__(
        self, scheduler: Scheduler, log: FakeLog, redis: FakeRedis, partition: int, rule: CloseRule,
        make: Callable[[CloseRule], Accountant],
    ) -> None:  # fmt: skip
        super().__init__(scheduler)
        self.log, self.redis, self.partition, self.rule, self.make = log, redis, partition, rule, make

    def start(self) -> None:
        """Restore what was closed, then read frames and results from the start."""
        self.accountant = self.make(self.rule)
        self.unsent: deque[OutcomeRecord] = deque()
        self.timelines = 0
        self.indexed = -1
        for record in self.log.all("outcomes", self.partition):
            self.accountant.restore(record)
        self.consumers = [
            Consumer(self, self.log, "frames", self.partition, 0, self._frame),
            Consumer(self, self.log, "results", self.partition, 0, self._result),
        ]
        self.after(NS_PER_S, self._tick)

    def died(self) -> None:
        """Another reads from here on."""
        for consumer in self.consumers:
            consumer.close()

    def _frame(self, offset: int, record: Any, at_end: bool) -> None:
        claims = self.log.all("timelines", self.partition)
        for claim in claims[self.timelines :]:
            self.accountant.timeline(claim)
        self.timelines = len(claims)
        self._write(self.accountant.frame(record, self.scheduler.monotonic_ns()))

    def _result(self, offset: int, posting: Posting, at_end: bool) -> None:
        self._write(self.accountant.post(posting, self.scheduler.monotonic_ns()))

    def _tick(self) -> None:
        self._write(self.accountant.tick(self.scheduler.monotonic_ns()))
        if self.redis.up and self.indexed != self.redis.generation:
            self.indexed = self.redis.generation
            for record in self.log.all("outcomes", self.partition):
                self._index(record)
        self.after(NS_PER_S, self._tick)

    def _write(self, records: list[OutcomeRecord]) -> None:
        self.unsent.extend(records)
        while self.unsent:
            if self.log.append("outcomes", self.partition, self.unsent[0]) is None:
                break  # the tick comes back to it
            self._index(self.unsent.popleft())

    def _index(self, record: OutcomeRecord) -> None:
        if record.outcome.result is not None and not self.redis.add(record.key):
            self.indexed = -1
