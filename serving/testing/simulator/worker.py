"""A worker as a process: reads frames, sheds, infers, posts outcomes, commits what has its outcome on the log.

After an assignment the records that were in flight are tried one at a time, each preceded by a commit of its offset
with the number of the attempt; what ended or hung three processes is a dead letter (docs/guarantees.md, G2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from serving.align import FairQueue, SheddingRules
from serving.frames import DeadReason, DroppedRun, DropReason, Frame, FrameResult, Outcome, Posting
from serving.testing.simulator.log import Committed, Consumer, FakeLog, Group
from serving.testing.simulator.scheduler import MS, NS_PER_S, Process, Scheduler
from serving.testing.simulator.services import Answer, FakeTriton
from serving.types import Detections

IN_FLIGHT = 48
ATTEMPTS = 3
WATCHDOG_NS = 8 * NS_PER_S
ERROR_TRIES = 3


@dataclass(slots=True)
class _Share:
    """One assigned partition. done: offsets at or above `base` whose outcomes are on the log."""

    consumer: Consumer
    generation: int
    base: int
    recover_until: int
    trying: tuple[int, int] | None
    read_to: int
    done: set[int] = field(default_factory=set)
    newest_epoch: dict[str, int] = field(default_factory=dict)
    recovering: deque[tuple[int, Frame]] = field(default_factory=deque)


class Worker(Process):
    """A member of the group. `slow` stretches what it does (F6)."""

    def __init__(
        self, scheduler: Scheduler, log: FakeLog, group: Group, triton: FakeTriton, name: str, rules: SheddingRules
    ) -> None:
        super().__init__(scheduler)
        self.log, self.group, self.triton, self.name, self.rules = log, group, triton, name, rules
        self.slow = 1.0
        self.longest_queue = 0
        self.shares: dict[int, _Share] = {}

    def start(self) -> None:
        """Join the group."""
        self.shares = {}
        self.queue = FairQueue()
        self.known: dict[str, int] = {}
        self.offsets: dict[tuple[str, int, int], tuple[int, int]] = {}
        self.unsent: deque[tuple[int, int, list[Posting]]] = deque()
        self.busy = False
        self.after(0, lambda: self.group.join(self.name, self))

    def died(self) -> None:
        """The group finds out by the session, unless the supervisor is quicker."""
        for share in self.shares.values():
            share.consumer.close()
        self.group.silent(self.name)

    def stop(self, for_ns: int) -> None:
        """SIGSTOP: the group hears nothing of it either."""
        super().stop(for_ns)
        self.group.silent(self.name)

    def leave(self) -> None:
        """Leave the group in good order; what was begun may still be posted."""
        for partition in list(self.shares):
            self._forget(partition)
        self.group.leave(self.name)

    def rejoin(self) -> None:
        """Come back."""
        if self.alive and self.name not in self.group.names:
            self.group.join(self.name, self)

    @property
    def in_flight(self) -> int:
        """Records read whose outcome is not on the log."""
        return sum(share.consumer.position - share.base - len(share.done) for share in self.shares.values())

    # -- the group calls --------------------------------------------------------------------------------------------

    def assigned(self, partitions: list[int], generation: int) -> None:
        """Read on from what was committed."""
        for p in partitions:
            self._forget(p)  # had it before, and missed that it was taken away
            committed = self.group.committed[p]
            until = min(self.log.end("frames", p), committed.offset + IN_FLIGHT)
            handle = self._handler(p)
            consumer = Consumer(self, self.log, "frames", p, committed.offset, handle)
            self.shares[p] = _Share(consumer, generation, committed.offset, until, committed.trying, committed.offset)

    def revoked(self, partition: int) -> None:
        """Another's now. A stopped process does not hear of it."""
        if not self.stopped:
            self._forget(partition)

    def _forget(self, partition: int) -> None:
        share = self.shares.pop(partition, None)
        if share is None:
            return
        share.consumer.close()
        for source_id in [source for source, where in self.known.items() if where == partition]:
            del self.known[source_id]
            for frame in self.queue.remove(source_id):
                self._where(frame)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _handler(self, partition: int) -> Callable[[int, Any, bool], None]:
        return lambda offset, record, at_end: self._read(partition, offset, record)

    def _read(self, partition: int, offset: int, record: Any) -> None:
        share = self.shares.get(partition)
        if share is None:
            return
        share.done.update(range(share.read_to, offset))  # deleted unread: nothing to wait for
        share.read_to = offset + 1
        newest = share.newest_epoch.get(record.source_id, 0)
        share.newest_epoch[record.source_id] = max(newest, record.epoch)
        if isinstance(record, DroppedRun):
            self._finish(partition, offset, [])
            return
        frame = replace(record, arrival_mono_ns=self.scheduler.monotonic_ns())
        if frame.epoch < newest:
            self._drop(partition, offset, frame, DropReason.FENCED)
            return
        if frame.source_id not in self.known:
            self.known[frame.source_id] = partition
            self.queue.source(frame.source_id, self.rules)
        if not frame.analyse:
            self.queue.put(frame)
            self._finish(partition, offset, [])
            return
        if offset < share.recover_until:
            share.recovering.append((offset, frame))
        else:
            self.offsets[frame.source_id, frame.epoch, frame.frame_seq] = (partition, offset)
            for shed, reason in self.queue.put(frame):
                self._drop(*self._where(shed), shed, reason)
            self.longest_queue = max(self.longest_queue, len(self.queue))
        self._work()

    def _where(self, frame: Frame) -> tuple[int, int]:
        return self.offsets.pop((frame.source_id, frame.epoch, frame.frame_seq))

    # -- working ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self.busy or self.unsent:
            return
        for partition, share in self.shares.items():
            if share.recovering:
                self._recover(partition, share)
                return
        frame, stale = self.queue.take(self.scheduler.monotonic_ns())
        for shed, reason in stale:
            self._drop(*self._where(shed), shed, reason)
        if frame is not None:
            partition, offset = self._where(frame)
            self._infer(partition, offset, frame, 1)

    def _recover(self, partition: int, share: _Share) -> None:
        """One record of those that may have ended a process: count the attempt before making it."""
        offset, frame = share.recovering.popleft()
        tried = share.trying[1] if share.trying is not None and share.trying[0] == offset else 1
        if tried >= ATTEMPTS:
            self.log.append("dead_letter", partition, (frame, DeadReason.POISON))
            dead = Outcome.dead_letter(DeadReason.POISON, tried)
            self._finish(partition, offset, [Posting(frame.ledger_key(p), frame.pts_ns, dead) for p in frame.pipelines])
            self.after(0, self._work)
            return
        if not self._commit(partition, share, Committed(share.base, (offset, tried + 1))):
            return
        self._infer(partition, offset, frame, tried + 1)

    def _infer(self, partition: int, offset: int, frame: Frame, attempt: int) -> None:
        self.busy = True
        started = self.scheduler.monotonic_ns()
        postings: list[Posting] = []
        tries = 0

        def ask() -> None:
            assert frame.picture is not None and frame.picture.encoded is not None
            index = int(frame.picture.encoded)
            later = self.mine(lambda got: self.after(extra(), lambda: answered(got)))
            answer = self.triton.infer(frame.source_id, index, later)
            if answer is Answer.EXIT:
                self.after(0, lambda: self.kill(self.scheduler.between(300, 1500)))
            elif answer is Answer.HANG:
                self.after(WATCHDOG_NS, lambda: self.kill(self.scheduler.between(300, 1500)))

        def extra() -> int:
            return int((self.slow - 1) * 20 * MS)

        def answered(answer: Answer) -> None:
            nonlocal tries
            if answer is Answer.AWAY and self.scheduler.monotonic_ns() - started < self.rules.max_age_ns:
                self.after(100 * MS, ask)
                return
            tries += 1
            if answer is Answer.ERROR and tries < ERROR_TRIES:
                ask()
                return
            pipeline = frame.pipelines[len(postings)]
            outcome = outcome_of(answer, frame, len(postings), attempt)
            postings.append(Posting(frame.ledger_key(pipeline), frame.pts_ns, outcome))
            tries = 0
            if len(postings) < len(frame.pipelines):
                ask()
                return
            self.busy = False
            self._finish(partition, offset, postings)
            self._work()

        ask()

    # -- outcomes and commits ---------------------------------------------------------------------------------------

    def _drop(self, partition: int, offset: int, frame: Frame, reason: DropReason) -> None:
        outcome = Outcome.dropped(reason)
        self._finish(partition, offset, [Posting(frame.ledger_key(p), frame.pts_ns, outcome) for p in frame.pipelines])

    def _finish(self, partition: int, offset: int, postings: list[Posting]) -> None:
        self.unsent.append((partition, offset, postings))
        self._send()

    def _send(self) -> None:
        """Outcomes first, then the commit."""
        while self.unsent:
            partition, offset, postings = self.unsent[0]
            for posting in postings:
                if self.log.append("results", partition, posting) is None:
                    self.after(200 * MS, self._send_again)
                    return
            self.unsent.popleft()
            share = self.shares.get(partition)
            if share is not None and offset >= share.base:
                share.done.add(offset)
                self._advance(partition, share)

    def _send_again(self) -> None:
        self._send()
        self._work()

    def _advance(self, partition: int, share: _Share) -> None:
        base = share.base
        while share.base in share.done:
            share.done.discard(share.base)
            share.base += 1
        if share.base > base:
            self._commit(partition, share, Committed(share.base))

    def _commit(self, partition: int, share: _Share, committed: Committed) -> bool:
        if not self.log.up:
            return True  # the next commit says it all
        if self.group.commit(self.name, share.generation, partition, committed):
            return True
        self._forget(partition)
        if self.name not in self.group.names:
            self.after(0, lambda: self.group.join(self.name, self))
        return False


def outcome_of(answer: Answer, frame: Frame, place: int, attempt: int) -> Outcome:
    """What a worker posts for an answer. A result says by class_id which picture and pipeline it comes from."""
    if answer is Answer.AWAY:
        return Outcome.dropped(DropReason.MODEL_UNAVAILABLE, attempt)
    if answer is Answer.ERROR:
        return Outcome.dead_letter(DeadReason.RETRY_EXHAUSTED, attempt)
    if answer is Answer.BROKEN:
        return Outcome.dead_letter(DeadReason.SCHEMA, attempt)
    assert frame.picture is not None and frame.picture.encoded is not None
    index = int(frame.picture.encoded)
    box = np.array([[index, 10, index + 40, 60]], np.float32)
    found = Detections(box, _SCORE, np.array([index * MOST_PIPELINES + place], np.int64), _TRACK)
    return Outcome.of_result(FrameResult("stub", 1, "detection", found, f"{index:08} {place}"), attempt)


MOST_PIPELINES = 8
_SCORE = np.array([0.9], np.float32)
_TRACK = np.array([1], np.int64)
