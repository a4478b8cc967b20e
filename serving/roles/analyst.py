"""The worker's inference thread: frames in, acknowledged outcomes out.

The polling thread offers jobs and asks how things stand; this thread takes a frame of each source in turn, asks the
models about all of them at once, and writes what came of it. It alone touches models, sessions and the producer.
"""

from __future__ import annotations

import statistics
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from serving.align import FairQueue, SheddingRules
from serving.clock import NS_PER_S, Clock
from serving.errors import EngineFailed, ParameterInvalid
from serving.frames import DeadReason, DropReason, Frame, Outcome, Posting
from serving.metrics import OTHER
from serving.ports_log import TopicPartition
from serving.records import DeadLetter, encode_dead_letter, encode_result
from serving.roles.absence import Absence, only
from serving.roles.answers import result_message
from serving.roles.jobs import POISON_AT, Job, JobKey, WorkerSettings
from serving.roles.monitor import RoleMonitor
from serving.roles.names import Names
from serving.roles.sender import Sender
from serving.streams.observe import count_rules
from serving.streams.worker import Worker

TRIAL_ACK_S = 0.02  # the next record is tried once this one's outcome is on the log, mostly 2 to 5 ms later
Answer = tuple[Job, list[Posting]]
_WHY = {
    DeadReason.POISON: "three attempts each ended or hung the process",
    DeadReason.RETRY_EXHAUSTED: "three attempts came back as errors, or the source's settings do not suit it",
    DeadReason.SCHEMA: "a model that hears takes sound at its own rate, one that looks takes pictures",
}


class Analyst:
    """Guarded by `changed`: what both threads touch. acknowledged(job): the log has an outcome of one pipeline."""

    def __init__(
        self, worker: Worker, sender: Sender, names: Names, settings: WorkerSettings, clock: Clock,
        monitor: RoleMonitor, acknowledged: Callable[[Job], None],
    ) -> None:  # fmt: skip
        self._worker, self._sender = worker, sender
        worker.watched(self._call_begins)
        self._topic, self._dead_topic = names.topic("results"), names.topic("dead_letter")
        self._settings, self._clock, self._monitor, self._told = settings, clock, monitor, acknowledged
        self.changed = threading.Condition()
        self.counters: Counter[str] = Counter()
        self.analysed: Counter[str] = Counter()  # by source
        self.failure: BaseException | None = None
        self.busy_since_ns: int | None = None
        self._stopping = False
        self._queue = FairQueue()
        self._rules: dict[str, SheddingRules] = {}
        self._jobs: dict[JobKey, Job] = {}  # in the queue
        self._alone: deque[Job] = deque()
        self._outgoing: deque[Answer] = deque()
        self._absence = Absence()
        self._errands: deque[Callable[[], None]] = deque()
        self._newest: dict[str, int] = {}  # when a source's last result was acknowledged

    # -- asked by the polling thread, who holds `changed` -------------------------------------------------------------

    def offer(self, job: Job) -> bool:
        """Take a job; False while a file's queue has no room, or the same frame, written twice, waits in it.

        A careful job is tried alone and never shed.
        """
        frame = job.frame
        self._rules[frame.source_id] = job.rules
        self._queue.source(frame.source_id, job.rules)
        if job.attempt >= POISON_AT:
            self._give_up(job, Outcome.dead_letter(DeadReason.POISON, job.attempt))
        elif frame.picture is None:
            self._give_up(job, Outcome.dropped(DropReason.DECODE_ERROR))
        elif job.careful:
            self._alone.append(job)
        elif job.key in self._jobs or not self._queue.room(frame.source_id):
            return False
        else:
            self._jobs[job.key] = job
            for shed, reason in self._queue.put(frame):
                self._give_up_key((shed.source_id, shed.epoch, shed.frame_seq), Outcome.dropped(reason))
        self.changed.notify_all()
        return True

    def relieve(self, place: TopicPartition, count: int, unread: int) -> None:
        """A full partition with `unread` records on the log: frames that those leave behind by max_age make room.

        At most `count`, oldest first. A live source's time goes on as the clock does, so the time between records in
        hand tells how long the unread ones took. More sources than frames in hand leave it unknown: the oldest go.
        """
        live = [job for job in self._jobs.values() if job.place == place and job.rules.live]
        record_ns, now_ns = _time_of_a_record_ns(live), self._clock.monotonic_ns()
        if record_ns is None and len(live) < count:  # what fills the partition is something else
            return
        old, reason = live, DropReason.OVERLOAD
        if record_ns is not None:
            behind_ns, reason = int(unread * record_ns), DropReason.STALE
            old = [job for job in live if self._queue.is_stale(job.frame, now_ns, behind_ns)]
        for job in old[:count]:
            self._give_up_key(job.key, Outcome.dropped(reason))
        if old:
            self.changed.notify_all()

    def drop(self, places: Sequence[TopicPartition], sources: Sequence[str]) -> None:
        """These partitions are another's: what waits here is passed over, what is remembered is worth nothing."""
        gone: set[object] = set(places)
        self._jobs = {key: job for key, job in self._jobs.items() if job.place not in gone}
        self._alone = deque(job for job in self._alone if job.place not in gone)
        self._absence.drop(gone)
        for source_id in sources:
            self.forget(source_id)
            self._newest.pop(source_id, None)
            if self._rules.pop(source_id, None) is not None:
                self._queue.remove(source_id)

    def over(self, source_id: str) -> None:
        """No more results of it are to be expected."""
        self._newest.pop(source_id, None)

    def forget(self, source_id: str) -> None:
        """The source's sessions begin anew, before its next frame is analysed."""
        self.errand(lambda: self._worker.forget(source_id))

    def errand(self, do: Callable[[], None]) -> None:
        """Do this on the inference thread before the next frame."""
        self._errands.append(do)

    def waiting(self) -> Counter[str]:
        """Frames that wait, by source."""
        return Counter(key[0] for key in self._jobs)

    def report(self) -> None:
        """Gauges that change with time."""
        now_ns, metrics = self._clock.monotonic_ns(), self._monitor.metrics
        waiting = self.waiting()
        for source_id, rules in self._rules.items():
            metrics.set("lockstep_worker_queue_frames", waiting[source_id], source=source_id)
            metrics.set("lockstep_worker_queue_fill", waiting[source_id] / rules.capacity, source=source_id)
        metrics.keep("lockstep_worker_result_age_seconds", "source", {*self._newest, OTHER})
        for source_id, at_ns in dict(self._newest).items():
            metrics.set("lockstep_worker_result_age_seconds", (now_ns - at_ns) / NS_PER_S, source=source_id)
        away = self._absence.names()
        for name in self._worker.pipelines:
            metrics.set("lockstep_worker_model_up", name not in away, pipeline=name)
            if name in away:
                why = self._worker.failures.get(name, "it does not answer")
                self._monitor.wrong(f"model {name}", why)
                self._monitor.complain(f"model {name}", why)
            else:
                self._monitor.right(f"model {name}")

    def stop(self) -> None:
        """Finish what is being analysed; what waits is left to the next owner of its partition."""
        with self.changed:
            self._stopping = True
            self.changed.notify_all()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until `stop`. What ends it is kept as `failure`, for the polling thread to raise."""
        try:
            while self.turn():
                pass
        except BaseException as error:  # noqa: BLE001 - handed to the polling thread, which raises it
            self.failure = error

    def turn(self) -> bool:
        """One batch, or a short wait; False when told to stop."""
        batch = self._await_batch()
        with self.changed:
            outgoing, self._outgoing = self._outgoing, deque()
            errands, self._errands = self._errands, deque()
        for errand in errands:
            errand()
        for job, postings in outgoing:  # outside the lock: sending may wait for room
            self._send(job, postings)
        if batch:
            for job, postings in self._analyse(batch):
                self._send(job, postings)
            self.busy_since_ns = None
            if batch[0].careful:
                self._sender.flush(TRIAL_ACK_S)
        self._sender.poll(0.005 if not batch and not outgoing and self._sender.waiting else 0.0)
        return not (self._stopping and not self._outgoing)

    def _call_begins(self) -> None:
        """What may hang is one call, not the batch: a slow model's frames that go one by one are no hang."""
        self.busy_since_ns = self._clock.monotonic_ns()

    def _await_batch(self) -> list[Job]:
        with self.changed:
            if not (self._outgoing or self._jobs or self._alone or self._sender.waiting or self._stopping):
                self.changed.wait(0.02)
            now_ns = self._clock.monotonic_ns()
            for job in self._absence.expired(now_ns):
                self._give_up(job, Outcome.dropped(DropReason.MODEL_UNAVAILABLE, job.attempt))
            batch = [] if self._stopping else self._next_batch(now_ns)
            self.busy_since_ns = now_ns if batch else None
            return batch

    def _next_batch(self, now_ns: int) -> list[Job]:
        """What was held for an absent model and is due; else a careful job by itself; else a frame of each source."""
        due = self._absence.due(now_ns, self._settings.max_batch)
        if due:
            return [job for job, _ in due]
        taken = [self._alone.popleft()] if self._alone else self._take(now_ns)
        batch = []
        for job in taken:
            asked, waits = self._absence.split(job, now_ns)
            for waiting in waits:
                self._absence.hold(waiting, waiting.worth_until_ns(self._settings.patience_s))
            if asked is not None:
                batch.append(asked)
        return batch

    def _take(self, now_ns: int) -> list[Job]:
        """One frame of each live source at most: a second one would make the first one later. Files fill the batch."""
        sources = {key[0] for key in self._jobs}
        live = any(self._rules[source].live for source in sources)
        most = min(self._settings.max_batch, len(sources)) if live else self._settings.max_batch
        taken: list[Job] = []
        while len(taken) < most and self._jobs:
            frame, shed = self._queue.take(now_ns)
            for old, reason in shed:
                self._give_up_key((old.source_id, old.epoch, old.frame_seq), Outcome.dropped(reason))
            if frame is None:
                break
            job = self._jobs.pop((frame.source_id, frame.epoch, frame.frame_seq), None)
            if job is not None:  # else its partition is another's now
                taken.append(job)
        return taken

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def _give_up_key(self, key: JobKey, outcome: Outcome) -> None:
        job = self._jobs.pop(key, None)
        if job is not None:
            self._give_up(job, outcome)

    def _give_up(self, job: Job, outcome: Outcome) -> None:
        self._outgoing.append((job, _all(job.frame, outcome)))

    def _analyse(self, batch: list[Job]) -> list[Answer]:
        """Ask; what a model that is away did not answer is held, the rest is returned."""
        self._monitor.metrics.observe("lockstep_worker_batch_frames", len(batch))
        answers: list[Answer] = []
        for job, found in zip(batch, self._worker.analyse_many([job.frame for job in batch]), strict=True):
            self.counters["analysed"] += 1
            self.analysed[job.frame.source_id] += 1
            if isinstance(found, ParameterInvalid):  # an operator's mistake about one source ends nobody else's frames
                self._monitor.complain(f"settings of {job.frame.source_id}", str(found))
                found = _all(job.frame, Outcome.dead_letter(DeadReason.RETRY_EXHAUSTED, job.attempt))
            elif isinstance(found, ValueError):  # the picture does not decode
                found = _all(job.frame, Outcome.dropped(DropReason.DECODE_ERROR, job.attempt))
            else:
                for name in job.frame.pipelines:
                    self._monitor.metrics.inc(
                        "lockstep_worker_analysed_total", source=job.frame.source_id, pipeline=name
                    )
                for posting in found:
                    count_rules(self._monitor.metrics, posting.outcome.result)
            answers.append((job, self._settled(job, found)))
        return answers

    def _settled(self, job: Job, found: Sequence[Posting]) -> list[Posting]:
        settled, now_ns = [], self._clock.monotonic_ns()
        with self.changed:
            for posting in found:
                name, away = posting.key.pipeline, posting.outcome.drop_reason is DropReason.MODEL_UNAVAILABLE
                if not away:
                    self._absence.end(name)
                    settled.append(posting)
                    continue
                self._absence.begin(name, now_ns)
                until_ns = job.worth_until_ns(self._settings.patience_s)
                if now_ns < until_ns:
                    self._absence.hold(only(job, (name,)), until_ns)
                else:
                    settled.append(posting)
        return settled

    def _send(self, job: Job, postings: list[Posting]) -> None:
        for posting in postings:
            encoded = encode_result(result_message(self._worker.pipelines[posting.key.pipeline], job, posting))
            if posting.outcome.dead_reason is not None:
                self._bury(job, posting.outcome.dead_reason)
            self._sender.send(self._topic, encoded, job.place.partition, self._report_of(job, posting))

    def _bury(self, job: Job, reason: DeadReason) -> None:
        """The record as it was read, so that it can be looked at and replayed; on the log before its outcome."""
        why, failures = _WHY[reason], self._worker.failures
        if reason is DeadReason.RETRY_EXHAUSTED:
            why = "; ".join([why, *(f"{name}: {failures[name]}" for name in job.frame.pipelines if name in failures)])
        error = EngineFailed(f"{', '.join(job.frame.pipelines)}: {why}; attempt {job.attempt}")
        letter = DeadLetter.of(job.record, reason.value, error)
        self._sender.send(self._dead_topic, encode_dead_letter(letter), None)
        self._monitor.metrics.inc("lockstep_role_dead_letters_total", reason=reason.value)

    def _report_of(self, job: Job, posting: Posting) -> Callable[[], None]:
        def acknowledged() -> None:
            frame, outcome, now_ns = job.frame, posting.outcome, self._clock.monotonic_ns()
            self._monitor.metrics.inc(
                "lockstep_worker_posted_total", source=frame.source_id, pipeline=posting.key.pipeline,
                outcome=outcome.status.name.lower(), reason=outcome.reason or "none",
            )  # fmt: skip
            if outcome.result is not None:
                seconds = (now_ns - frame.arrival_mono_ns) / NS_PER_S
                self._monitor.metrics.observe("lockstep_worker_result_seconds", seconds, source=frame.source_id)
                if frame.source_id in self._rules:  # else its partition is another's by now
                    self._newest[frame.source_id] = now_ns
            self._told(job)

        return acknowledged


def _all(frame: Frame, outcome: Outcome) -> list[Posting]:
    return [Posting(frame.ledger_key(name), frame.pts_ns, replace(outcome)) for name in frame.pipelines]


def _time_of_a_record_ns(jobs: Sequence[Job]) -> float | None:
    """Of one partition, by the PTS of live frames; None where no source has two of one epoch here."""
    ends: dict[tuple[str, int], tuple[Job, Job]] = {}
    for job in jobs:
        key = job.frame.source_id, job.frame.epoch
        ends[key] = ends.get(key, (job, job))[0], job
    spans = [
        (last.frame.pts_ns - first.frame.pts_ns) / (last.offset - first.offset)
        for first, last in ends.values()
        if last.offset > first.offset
    ]
    return statistics.median(spans) if spans else None
