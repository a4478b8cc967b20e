"""Worker over the log: frames in, one outcome for each of its pipelines out, positions committed behind them.

Two threads. The polling thread reads, feeds and commits; it never waits for a model, so the group keeps it. The
inference thread (`Analyst`) asks the models and writes results. After an assignment the records that may have been in
flight are tried one at a time, each marked first, so that one that ends the process three times is known by whoever
comes next (docs/guarantees.md, G2). A process that gets back what it alone had, a broker's absence later, has shown by
living that none of them ends it, and goes on at once.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from serving.clock import NS_PER_S, Clock
from serving.errors import CommitRefused, LogUnavailable, RecordInvalid
from serving.frames import DroppedRun, Frame, PictureCodec, SourceKind
from serving.ports_index import StateSink
from serving.ports_log import Assignor, Committed, GroupOptions, LogRecord, RecordLog, TopicPartition
from serving.records import AttemptMark, decode_frame
from serving.roles.analyst import Analyst
from serving.roles.jobs import CLEAN, IDS_A_FRAME, POISON_AT, Job, Part, WorkerSettings, own_metadata, rules_of
from serving.roles.monitor import RoleMonitor, RoleState
from serving.roles.names import Names
from serving.roles.progress import Progress
from serving.roles.regions import SourceRegions
from serving.roles.registered import Registered
from serving.roles.sender import Sender
from serving.roles.state import publish_state
from serving.roles.timelines import Timelines, first_and_last
from serving.roles.transport import at_source_size
from serving.streams.worker import Worker

COMMIT_NS = NS_PER_S // 5  # what was done since is tried again, one by one, by whoever takes over from a killed one
IDLE_NS = 5 * NS_PER_S


class LogWorker:
    """`run` until `stop`. on_hang: called when one call takes longer than inference_timeout; a process ends itself.

    registered, regions: what `streams` wishes for each source; None: the settings' defaults for all of them.
    """

    def __init__(
        self, log: RecordLog, names: Names, worker: Worker, settings: WorkerSettings, clock: Clock,
        on_hang: Callable[[], None], monitor: RoleMonitor | None = None, registered: Registered | None = None,
        regions: SourceRegions | None = None, index: StateSink | None = None, codec: PictureCodec | None = None,
    ) -> None:  # fmt: skip
        self.worker, self._settings, self._clock, self._on_hang = worker, settings, clock, on_hang
        self.monitor = monitor or RoleMonitor("worker", clock, names.prefix)
        self._registered, self._regions, self._index, self._codec = registered, regions, index, codec
        self._topic = names.topic("frames")
        self._timelines = Timelines(log, names)
        self._sender = Sender(log.producer())
        self.analyst = Analyst(worker, self._sender, names, settings, clock, self.monitor, self._acknowledged)
        self._changed = self.analyst.changed  # guards parts and all that the analyst holds
        self._parts: dict[TopicPartition, Part] = {}
        self._own = own_metadata()
        self._unread: deque[LogRecord] = deque()
        self._stopping = False
        self._overdue: tuple[int, int] | None = None  # a call that takes too long: since when, and when that was seen
        self._started_ns = self._committed_ns = clock.monotonic_ns()
        self._analysed: Counter[str] = Counter()
        group = names.group("worker-" + "-".join(sorted(worker.pipelines)))
        options = GroupOptions(group, Assignor.COOPERATIVE_STICKY, member=settings.member)
        self._consumer = log.consumer([self._topic], options, self)  # joins its group meanwhile
        if registered is not None:
            registered.catch_up()
            self._follow(registered.sources())

    @property
    def counters(self) -> Counter[str]:
        """What was done, by word."""
        return self.analyst.counters

    # -- the polling thread -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Poll until stopped, then finish what is being analysed, commit and leave (G9)."""
        inference = threading.Thread(target=self.analyst.run, name="inference", daemon=True)
        inference.start()
        try:
            while not self._stopping and self.analyst.failure is None:
                try:
                    self.step()
                except LogUnavailable as error:  # it comes back; what was read and what waits is kept
                    self.monitor.complain("log", str(error))
        finally:
            self.monitor.state(RoleState.DRAINING)
            self.analyst.stop()
            inference.join(2 * self._settings.inference_timeout_s)
            self._sender.close()
            self._consumer.close()
            self._timelines.close()
            if self._registered is not None:
                self._registered.close()
        if self.analyst.failure is not None:
            raise self.analyst.failure

    def step(self, timeout_s: float = 0.05) -> None:
        """Take what there is, feed the analyst, commit."""
        polled = self._consumer.poll(0.0 if self._await_trial(timeout_s) else timeout_s)
        self.monitor.polled(polled)
        self.counters["deleted_unread"] += sum(lost.count for lost in polled.lost)
        self._unread.extend(polled.records)
        while self._unread:  # taken one by one: what the log's absence keeps from being judged is not passed over
            self._take(self._unread[0])
            self._unread.popleft()
        for place, part in sorted(self._parts.items(), key=lambda item: item[1].turn):
            self._feed(place, part)
        now_ns = self._clock.monotonic_ns()
        self._look_for_hang(now_ns)
        if self._registered is not None:
            self._follow(self._registered.poll())
            self._aim(self._registered.aimed())
        if now_ns - self._committed_ns >= COMMIT_NS or self._much_is_done():
            self._committed_ns = now_ns
            self._look_at_refused()
            self._commit(list(self._parts))
        if self.monitor.turned():
            self._report(now_ns)

    def _look_for_hang(self, now_ns: int) -> None:
        """One look more, a second later: a process that was stopped meanwhile has had no time to end its call."""
        busy = self.analyst.busy_since_ns
        if busy is None or now_ns - busy <= self._settings.inference_timeout_s * NS_PER_S:
            self._overdue = None
        elif self._overdue is None or self._overdue[0] != busy:
            self._overdue = busy, now_ns
        elif now_ns - self._overdue[1] >= NS_PER_S:
            self._on_hang()

    def _await_trial(self, timeout_s: float) -> bool:
        """Wait for a record that is tried alone, rather than for what is read: the next one can be tried then."""
        with self._changed:
            trying = any(part.trying is not None for part in self._parts.values())
            if trying:
                self._changed.wait_for(lambda: all(part.trying is None for part in self._parts.values()), timeout_s)
            return trying

    def stop(self) -> None:
        """From another thread: finish in good order."""
        self._stopping = True

    # -- partitions come and go (`serving.ports_log.Rebalance`) -------------------------------------------------------

    def assigned(self, positions: Mapping[TopicPartition, Committed | None]) -> None:
        """What lies behind the committed offset may have been in flight when its owner ended, unless it left well."""
        begun = {}
        with self._changed:
            for place, committed in positions.items():
                start = self._consumer.position(place)
                if committed is None or committed.metadata in (CLEAN, self._own):
                    self._parts[place] = Part(Progress(start), None, 0)
                    begun[place] = Committed(start, self._own)
                else:
                    mark = AttemptMark.parse(committed.metadata)
                    self._parts[place] = Part(Progress(start), mark, self._settings.in_flight)
        self._try_commit(begun)  # from here on, whoever comes after us without our farewell is careful
        self.monitor.rebalanced("assigned", positions)
        self.monitor.partitions(len(self._parts))

    def revoked(self, places: Sequence[TopicPartition]) -> None:
        """What is done is committed; what waits is another's now, and none of it has ended us."""
        busy = self.analyst.busy_since_ns
        well = self.analyst.failure is None and (busy is None or self._clock.monotonic_ns() - busy < NS_PER_S)
        self._commit(places, leaving_well=well)
        self._forget(places)
        self.monitor.rebalanced("revoked", places)

    def lost(self, places: Sequence[TopicPartition]) -> None:
        """Outcomes of these that still come are harmless: the merge takes the better one."""
        self._forget(places)
        self.monitor.rebalanced("lost", places)

    def _forget(self, places: Sequence[TopicPartition]) -> None:
        gone = set(places)
        self._unread = deque(record for record in self._unread if record.place not in gone)
        with self._changed:
            parts = [self._parts.pop(place) for place in places if place in self._parts]
            self.analyst.drop(places, [source_id for part in parts for source_id in part.sources])
        self.monitor.partitions(len(self._parts))

    # -- reading and feeding ------------------------------------------------------------------------------------------

    def _take(self, record: LogRecord) -> None:
        part = self._parts[record.place]
        try:
            message = decode_frame(record.key, record.value, record.headers, self._clock.monotonic_ns())
            claimed = self._timelines.check(message)
        except RecordInvalid:
            self.counters["refused"] += 1  # the accountant gives it its dead letter
            self.monitor.refused(self._topic)
            part.progress.read(record.offset, 0)
            return
        frame = message.record
        mine = tuple(name for name in frame.pipelines if name in self.worker.pipelines)
        if mine and part.sources.get(frame.source_id, (0, 0))[0] != frame.epoch:
            part.sources[frame.source_id] = frame.epoch, first_and_last(frame)[0]
        if isinstance(frame, DroppedRun) or not frame.analyse or not mine:
            part.progress.read(record.offset, 0)
            return
        wished = self._registered.get(frame.source_id) if self._registered is not None else None
        rules = rules_of(wished, self._settings, claimed.info.kind is SourceKind.LIVE)
        with self._changed:
            part.progress.read(record.offset, len(mine))
        if self._codec is not None and wished is not None and (wished.roi or wished.mask or wished.targets):
            message = at_source_size(message, self._codec)  # what is wished is in pixels of the source's picture
        wanted = replace(frame, pipelines=mine, picture=message.record.picture)  # type: ignore[union-attr]
        part.waiting.append(Job(record, part, message, wanted, rules))

    def _feed(self, place: TopicPartition, part: Part) -> None:
        """Offer what waits; a partition with too much in flight is paused, membership goes on."""
        while part.waiting:
            job = part.waiting[0]
            if part.careful > 0:
                if any(other.trying is not None for other in self._parts.values()):
                    break  # one at a time, over all partitions: else a record is blamed for what another one did
                job = replace(job, attempt=self._next_attempt(place, part, job.offset), careful=True)
            with self._changed:
                if not self.analyst.offer(job):
                    break
            part.waiting.popleft()
        full = part.progress.open >= self._settings.in_flight
        if full and (unread := self._consumer.lag().get(place, 0)):
            with self._changed:
                self.analyst.relieve(place, self._settings.in_flight // 2, unread)
        if full and not part.paused:
            self._consumer.pause([place])
        elif part.paused and not full:
            self._consumer.resume([place])
        part.paused = full

    def _next_attempt(self, place: TopicPartition, part: Part, offset: int) -> int:
        """Mark the record before it is tried, so that the mark survives what the record may do to us."""
        mark = part.mark
        attempt = mark.attempt + 1 if mark is not None and mark.offset == offset else 1
        part.trying = offset
        if attempt < POISON_AT:
            part.mark = AttemptMark(offset, attempt)
            if not self._try_commit({place: Committed(offset, part.mark.text())}):
                self.counters["unmarked"] += 1  # not ours any more, or no broker: tried all the same, once
        return attempt

    def _acknowledged(self, job: Job) -> None:
        """By the inference thread."""
        with self._changed:
            part = job.part
            if part.progress.done(job.offset) and part.trying == job.offset:
                part.trying = None
                part.careful -= 1
                self._changed.notify_all()

    def first_id(self, frame: Frame) -> int:
        """Of the tracks of a tracker that begins with this frame: 0 where its epoch begins here too."""
        for part in list(self._parts.values()):
            epoch, first_seq = part.sources.get(frame.source_id, (0, 0))
            if epoch == frame.epoch:
                return IDS_A_FRAME * frame.frame_seq if first_seq > 0 else 0
        return IDS_A_FRAME * frame.frame_seq

    def _follow(self, changed: set[str]) -> None:
        """Roi, mask, scenario or tracker of these are other ones now: their sessions begin anew."""
        for source_id in changed:
            wished = self._registered.get(source_id) if self._registered is not None else None
            with self._changed:
                for part in self._parts.values():
                    if source_id in part.sources:
                        part.sources[source_id] = part.sources[source_id][0], 1  # the epoch did not begin here
                if self._regions is not None:
                    self.analyst.errand(partial(self._regions.wish, source_id, wished))
                self.analyst.forget(source_id)

    def _aim(self, changed: set[str]) -> None:
        """Only the targets of these are other ones: their sessions go on."""
        if self._regions is None or self._registered is None:
            return
        for source_id in changed:
            with self._changed:
                self.analyst.errand(partial(self._regions.wish, source_id, self._registered.get(source_id)))

    # -- positions ----------------------------------------------------------------------------------------------------

    def _much_is_done(self) -> bool:
        """So that little is tried again after an end without warning."""
        most = self._settings.in_flight
        with self._changed:
            return any(part.progress.safe - part.progress.committed >= most for part in self._parts.values())

    def _commit(self, places: Sequence[TopicPartition], leaving_well: bool | None = None) -> None:
        """leaving_well: None while they stay ours; no answer is waited for then, unless marks are written as well."""
        with self._changed:
            found = {place: self._parts[place] for place in places if place in self._parts}
            safe = {place: part.progress.safe for place, part in found.items()}
        due = {}
        for place, part in found.items():
            if part.trying == safe[place] and part.mark is not None and part.mark.offset == safe[place]:
                continue  # its mark stands there
            clean = bool(leaving_well) and part.trying is None
            if clean or safe[place] > part.progress.committed:
                mine = "" if part.careful else self._own  # until all are tried, another's end may be their doing
                due[place] = Committed(safe[place], CLEAN if clean else mine)
        if leaving_well is None and not any(part.careful for part in found.values()):
            self._consumer.commit_later(due)  # what is refused is known at the next turn, and written again
        elif not self._try_commit(due):
            return
        for place, at in due.items():
            found[place].progress.committed = at.offset

    def _look_at_refused(self) -> None:
        for place in self._consumer.uncommitted():
            self._refused()
            if place in self._parts:
                self._parts[place].progress.committed = -1

    def _refused(self) -> None:
        self.counters["commits_refused"] += 1
        self.monitor.metrics.inc("lockstep_role_commits_refused_total")

    def _try_commit(self, positions: Mapping[TopicPartition, Committed]) -> bool:
        try:
            if positions:
                self._consumer.commit(positions)
        except (CommitRefused, LogUnavailable):
            self._refused()
            return False
        return True

    # -- once a second ------------------------------------------------------------------------------------------------

    def _report(self, now_ns: int) -> None:
        self.monitor.behind(self._consumer)
        if not self._parts and now_ns - self._started_ns > IDLE_NS:
            self.monitor.state(RoleState.IDLE)
            self.monitor.complain("idle", "no partition: as many workers of these models as partitions have them all")
        with self._changed:
            in_flight = sum(part.progress.open for part in self._parts.values())
            for source_id in self._over():
                self.analyst.over(source_id)
            self.analyst.report()
            analysed = dict(self.analyst.analysed)
            sources = [source_id for part in self._parts.values() for source_id in part.sources]
        self.monitor.metrics.set("lockstep_role_in_flight", in_flight)
        for source_id in sources:
            count = analysed.get(source_id, 0)
            fields = {"fps_analysed": count - self._analysed[source_id], "analysed": count}
            publish_state(self._index, "worker", source_id, fields)
        self._analysed = Counter(analysed)

    def _over(self) -> list[str]:
        """Sources that were taken away, or whose input is over."""
        self._timelines.poll()
        here = {source_id for part in self._parts.values() for source_id in part.sources}
        return [
            source_id
            for source_id in here
            if self._timelines.ended(source_id) is not None
            or (self._registered is not None and (wished := self._registered.get(source_id)) and not wished.active)
        ]
