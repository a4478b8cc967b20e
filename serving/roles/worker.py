"""Worker over the log: frames in, one outcome for each of its pipelines out; positions follow the acknowledgements.

Two threads. One polls, keeps membership and positions, and never infers; the other takes the next frame, source by
source in turn, and sends what came of it. Attempts live beside the committed offset: after an assignment the records
that may have been in flight are tried one at a time, each marked first, so that one that ends the process three times
is known by whoever comes next (docs/guarantees.md, G2).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from serving.align import FairQueue, SheddingRules, max_age_ns
from serving.clock import NS_PER_S, Clock
from serving.errors import CommitRefused, LogUnavailable, RecordInvalid
from serving.frames import DeadReason, DropReason, Frame, Outcome, Posting, SourceKind
from serving.ports_log import Assignor, Committed, GroupOptions, LogRecord, RecordLog, TopicPartition
from serving.records import AttemptMark, FrameMessage, ResultMessage, decode_frame, encode_result
from serving.records.results import FrameTimes, ModelFacts
from serving.roles.names import Names
from serving.roles.progress import Progress
from serving.roles.sender import Sender
from serving.roles.timelines import Timelines
from serving.streams.worker import Worker
from serving.tasks import task_named
from serving.tasks.base import moved

POISON_AT = 3
COMMIT_NS = NS_PER_S // 2


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """in_flight: records of a partition that are read and not finished, at most. member: for static membership.

    delay_ns, mixed, max_fps: of live sources, for shedding by age.
    """

    in_flight: int = 32
    member: str = ""
    delay_ns: int = NS_PER_S // 4
    mixed: bool = True
    max_fps: int = 60
    inference_timeout_s: float = 8.0


@dataclass(slots=True)
class _Part:
    """One partition. waiting: read, not yet given to the queue. careful: records left to be tried one at a time."""

    progress: Progress
    mark: AttemptMark | None
    careful: int
    waiting: deque[tuple[int, FrameMessage]] = field(default_factory=deque)
    trying: int | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    place: TopicPartition
    part: _Part
    offset: int
    message: FrameMessage
    attempt: int


class LogWorker:
    """`run` until `stop`. on_hang: called when one call takes longer than inference_timeout; a process ends itself."""

    def __init__(
        self, log: RecordLog, names: Names, worker: Worker, settings: WorkerSettings, clock: Clock,
        on_hang: Callable[[], None],
    ) -> None:  # fmt: skip
        self.worker, self._settings, self._clock, self._on_hang = worker, settings, clock, on_hang
        self._topic, self._results = names.topic("frames"), names.topic("results")
        self._timelines = Timelines(log, names)
        self._sender = Sender(log.producer())
        self._changed = threading.Condition()  # guards everything below but the consumer and the timelines
        self._parts: dict[TopicPartition, _Part] = {}
        self._queue = FairQueue()
        self._jobs: dict[tuple[str, int, int], _Job] = {}
        self._outgoing: deque[tuple[_Job, list[Posting]]] = deque()
        self._stopping = False
        self._busy_since_ns: int | None = None
        self._failure: BaseException | None = None
        self._committed_ns = clock.monotonic_ns()
        self.counters: Counter[str] = Counter()
        group = names.group("worker-" + "-".join(sorted(worker.pipelines)))
        options = GroupOptions(group, Assignor.COOPERATIVE_STICKY, member=settings.member)
        self._consumer = log.consumer([self._topic], options, self)

    # -- the polling thread -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Poll until stopped, then finish what is in flight, commit and leave (G9)."""
        inference = threading.Thread(target=self._infer_guarded, name="inference", daemon=True)
        inference.start()
        try:
            while not self._stopping and self._failure is None:
                self.step()
        finally:
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            inference.join(2 * self._settings.inference_timeout_s)
            self._sender.close()
            self._consumer.close()
            self._timelines.close()
        if self._failure is not None:
            raise self._failure

    def step(self, timeout_s: float = 0.05) -> None:
        """Take what there is, feed the queue, commit."""
        polled = self._consumer.poll(timeout_s)
        self.counters["deleted_unread"] += sum(lost.count for lost in polled.lost)
        for record in polled.records:
            self._take(record)
        for place, part in list(self._parts.items()):
            self._feed(place, part)
        now_ns = self._clock.monotonic_ns()
        busy = self._busy_since_ns
        if busy is not None and now_ns - busy > self._settings.inference_timeout_s * NS_PER_S:
            self._on_hang()
        if now_ns - self._committed_ns >= COMMIT_NS:
            self._committed_ns = now_ns
            self._commit(list(self._parts))

    def stop(self) -> None:
        """From another thread: finish in good order."""
        self._stopping = True

    def assigned(self, positions: Mapping[TopicPartition, Committed | None]) -> None:
        """What lies behind the committed offset may have been in flight when its owner ended."""
        with self._changed:
            for place, committed in positions.items():
                mark = AttemptMark.parse(committed.metadata) if committed else None
                start = self._consumer.position(place)
                careful = self._settings.in_flight if committed else 0
                self._parts[place] = _Part(Progress(start), mark, careful)

    def revoked(self, places: Sequence[TopicPartition]) -> None:
        """What is done is committed; what waits is another's now."""
        self._commit(places)
        self.lost(places)

    def lost(self, places: Sequence[TopicPartition]) -> None:
        """Outcomes of these that still come are harmless: the merge takes the better one."""
        with self._changed:
            gone = set(places)
            for place in places:
                self._parts.pop(place, None)
            for key in [key for key, job in self._jobs.items() if job.place in gone]:
                self._forget(key)

    # -- inside the polling thread ------------------------------------------------------------------------------------

    def _take(self, record: LogRecord) -> None:
        part = self._parts[record.place]
        try:
            message = decode_frame(record.key, record.value, record.headers, self._clock.monotonic_ns())
            claimed = self._timelines.check(message)
        except RecordInvalid:
            self.counters["refused"] += 1  # the accountant gives it its dead letter
            part.progress.read(record.offset, 0)
            return
        frame = message.record
        mine = [name for name in frame.pipelines if name in self.worker.pipelines]
        if not isinstance(frame, Frame) or not frame.analyse or not mine:
            part.progress.read(record.offset, 0)
            return
        live = claimed.info.kind is SourceKind.LIVE
        age = max_age_ns(self._settings.delay_ns, self._settings.mixed)
        with self._changed:
            self._queue.source(frame.source_id, SheddingRules(age, self._settings.max_fps, live))
            part.progress.read(record.offset, len(mine))
            part.waiting.append((record.offset, replace(message, record=replace(frame, pipelines=tuple(mine)))))

    def _feed(self, place: TopicPartition, part: _Part) -> None:
        """Move what waits into the queue; a partition with too much in flight is paused, membership goes on."""
        while part.waiting:
            offset, message = part.waiting[0]
            frame = message.record
            assert isinstance(frame, Frame)
            attempt = 1
            if part.careful > 0:
                if part.trying is not None:
                    break
                attempt = self._next_attempt(place, part, offset)
            with self._changed:
                if not self._queue.room(frame.source_id):
                    break
                part.waiting.popleft()
                self._enqueue(_Job(place, part, offset, message, attempt), frame)
        full = part.progress.open >= self._settings.in_flight
        if full and not part.paused:
            self._consumer.pause([place])
        elif part.paused and not full:
            self._consumer.resume([place])
        part.paused = full

    def _next_attempt(self, place: TopicPartition, part: _Part, offset: int) -> int:
        """Mark the record before it is tried, so that the mark survives what the record may do to us."""
        mark = part.mark
        if part.trying is None and mark is not None and mark.offset == offset:
            attempt = mark.attempt + 1
        else:
            attempt = 1
        part.trying = offset
        if attempt < POISON_AT:
            part.mark = AttemptMark(offset, attempt)
            try:
                self._consumer.commit({place: Committed(offset, part.mark.text())})
            except (CommitRefused, LogUnavailable):
                self.counters["unmarked"] += 1  # not ours any more, or no broker: tried all the same, once
        return attempt

    def _enqueue(self, job: _Job, frame: Frame) -> None:
        key = (frame.source_id, frame.epoch, frame.frame_seq)
        self._jobs[key] = job
        if job.attempt >= POISON_AT:
            self._give_up(key, Outcome.dead_letter(DeadReason.POISON, job.attempt))
        elif frame.picture is None:
            self._give_up(key, Outcome.dropped(DropReason.DECODE_ERROR))
        else:
            for shed, reason in self._queue.put(frame):
                self._give_up((shed.source_id, shed.epoch, shed.frame_seq), Outcome.dropped(reason))
        self._changed.notify_all()

    def _give_up(self, key: tuple[str, int, int], outcome: Outcome) -> None:
        job = self._jobs.pop(key, None)
        if job is not None:
            frame = job.message.record
            assert isinstance(frame, Frame)
            self._outgoing.append((job, [Posting(frame.ledger_key(p), frame.pts_ns, outcome) for p in frame.pipelines]))

    def _forget(self, key: tuple[str, int, int]) -> None:
        """It stays in the queue and is passed over there."""
        del self._jobs[key]

    def _commit(self, places: Sequence[TopicPartition]) -> None:
        with self._changed:
            found = {place: self._parts[place] for place in places if place in self._parts}
            safe = {place: part.progress.safe for place, part in found.items()}
        due = {place: Committed(at) for place, at in safe.items() if at > found[place].progress.committed}
        if not due:
            return
        try:
            self._consumer.commit(due)
        except (CommitRefused, LogUnavailable):
            self.counters["commits_refused"] += 1
            return
        for place, at in due.items():
            found[place].progress.committed = at.offset

    # -- the inference thread -----------------------------------------------------------------------------------------

    def _infer_guarded(self) -> None:
        try:
            self._infer()
        except BaseException as error:  # noqa: BLE001 - handed to the polling thread, which raises it
            self._failure = error

    def _infer(self) -> None:
        while True:
            with self._changed:
                if not self._outgoing and not len(self._queue):
                    if self._stopping:
                        return
                    self._changed.wait(0.02)
                outgoing, self._outgoing = list(self._outgoing), deque()
                frame = None if self._stopping else self._next()
                job = self._jobs.pop((frame.source_id, frame.epoch, frame.frame_seq), None) if frame else None
                self._busy_since_ns = self._clock.monotonic_ns() if job else None
            for shed_job, postings in outgoing:  # outside the lock: sending may wait for room
                self._send(shed_job, postings)
            if job is not None and frame is not None:
                postings = self._analyse(job, frame)
                self._busy_since_ns = None
                self._send(job, postings)
            self._sender.poll()

    def _next(self) -> Frame | None:
        frame, shed = self._queue.take(self._clock.monotonic_ns())
        for old, reason in shed:
            self._give_up((old.source_id, old.epoch, old.frame_seq), Outcome.dropped(reason))
        return frame

    def _analyse(self, job: _Job, frame: Frame) -> list[Posting]:
        self.counters["analysed"] += 1
        try:
            return self.worker.analyse(frame)
        except ValueError:  # the picture does not decode
            outcome = Outcome.dropped(DropReason.DECODE_ERROR)
            return [Posting(frame.ledger_key(name), frame.pts_ns, outcome) for name in frame.pipelines]

    def _send(self, job: _Job, postings: list[Posting]) -> None:
        for posting in postings:
            message = self._message(job, posting)
            self._sender.send(
                self._results, encode_result(message), job.place.partition, lambda: self._acknowledged(job)
            )

    def _acknowledged(self, job: _Job) -> None:
        with self._changed:
            job.part.progress.done(job.offset)
            if job.part.trying == job.offset:
                job.part.trying = None
                job.part.careful -= 1

    def _message(self, job: _Job, posting: Posting) -> ResultMessage:
        pipeline, frame, about = self.worker.pipelines[posting.key.pipeline], job.message.record, job.message
        assert isinstance(frame, Frame)
        outcome = posting.outcome
        if outcome.result is not None and about.scale != 1:
            found = moved(task_named(pipeline.task), outcome.result.result, 1 / float(about.scale))
            outcome = replace(outcome, result=replace(outcome.result, result=found))
        answer = pipeline.document(outcome.result.result) if outcome.result is not None else {}
        return ResultMessage(
            replace(posting, outcome=outcome),
            ModelFacts(pipeline.name, pipeline.model_version, pipeline.task, pipeline.certificate_id),
            FrameTimes(
                frame.pts,
                frame.time_base,
                frame.raw_pts,
                about.dts,
                frame.pts_source,
                frame.capture_ns,
                frame.capture_quality,
            ),
            answer,
            (about.width, about.height) if about.width and about.height else None,
            about.traceparent,
        )
