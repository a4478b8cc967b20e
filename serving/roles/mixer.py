"""Mixer over the log: frames and results of its partitions in, shown frames out, by the mix role of `lockstep run`.

A frame is released from its position once it is shown and its segment is whole; a mixer that takes over begins at the
oldest that was not. Of a live source it shows what lies between where that is little, and else jumps to the newest.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from serving.clock import NS_PER_S, Clock
from serving.errors import CommitRefused, LogUnavailable, RecordInvalid
from serving.frames import AlignedFrame, DroppedRun, FrameKey, FrameRecord, PictureCodec, SourceKind
from serving.media import OutputSummary
from serving.ports_index import StateSink
from serving.ports_log import Assignor, Committed, GroupOptions, LogRecord, RecordLog, TopicPartition
from serving.records import FrameMessage, TimelineMessage, decode_frame, decode_result
from serving.roles.ahead import Ahead
from serving.roles.following import pause_only
from serving.roles.monitor import RoleMonitor
from serving.roles.names import Names
from serving.roles.progress import Progress
from serving.roles.registered import Registered
from serving.roles.state import publish_state, shown_fields
from serving.roles.timelines import Timelines, check_ahead, first_and_last, is_whole
from serving.roles.transport import lazily
from serving.streams.mix_role import MixRole

Owner = Callable[[int], str | None]
NewMixRole = Callable[[TimelineMessage, Callable[[AlignedFrame], None], Owner], MixRole]
MAX_WAITING = 64
MAX_BACKLOG = 160  # frames of a live source between the last segment of a mixer that ended and the end of the log
OPEN_NS = 10 * NS_PER_S  # a live source whose segment stays open for so long has stopped: it holds no position
_Place = tuple[int, int]  # partition, offset


@dataclass(slots=True)
class _Source:
    """One source that is shown here. places: of frames on their way through the mixer, by (epoch, frame_seq).

    number: the partition it is in; another one once partitions were added. gathers: it goes on where another mixer
    ended, and what lies between is being read.
    """

    role: MixRole
    live: bool
    number: int
    gathers: bool
    waiting: deque[tuple[_Place, FrameRecord, bool]] = field(default_factory=deque)
    places: dict[tuple[int, int], _Place] = field(default_factory=dict)
    outputs: list[OutputSummary] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)  # next place to be read, by epoch
    shown: deque[tuple[FrameKey, tuple[int, int], int]] = field(default_factory=deque)  # when; and not yet done with
    done: bool = False

    def is_over(self, epoch: int) -> bool:
        """Whether a file that was shown whole is read again, in this epoch: its outputs go on with another role."""
        return self.done and epoch > max(self.seen)


class LogMixer:
    """Call `step` from one thread until told to stop, then `close`. new_role: outputs and drawing of one source;
    it is told of each shown frame, and asks who claimed an epoch.

    registered: what is wished for the sources; one that is wished otherwise gets a new role at its next frame.
    """

    def __init__(
        self, log: RecordLog, names: Names, new_role: NewMixRole, codec: PictureCodec, clock: Clock, member: str = "",
        monitor: RoleMonitor | None = None, index: StateSink | None = None, registered: Registered | None = None,
    ) -> None:  # fmt: skip
        self._index, self._registered = index, registered
        self._news: set[str] = set()  # sources that were wished otherwise while another one was opened
        self.monitor = monitor or RoleMonitor("mixer", clock, names.prefix)
        self._frames, self._results = names.topic("frames"), names.topic("results")
        self._new_role, self._codec, self._clock = new_role, codec, clock
        self._timelines = Timelines(log, names)
        self._sources: dict[str, _Source] = {}
        self._heard: set[str] = set()  # sources of sound: nothing of them is shown
        self._lost: dict[str, tuple[int, Callable[[], None]]] = {}  # what is open of these, until partitions come
        self._progress: dict[int, Progress] = {}
        self._ahead: dict[int, Ahead] = {}
        self._needs: defaultdict[int, dict[int, int]] = defaultdict(dict)  # of open frames: where their results begin
        self._results_at: dict[int, int] = {}  # committed
        self._unread: deque[LogRecord] = deque()
        self._behind: Mapping[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}  # when a partition came to us
        self._log = log
        self._paused: set[TopicPartition] = set()
        self._committed_ns = clock.monotonic_ns()
        self.refused = 0
        options = GroupOptions(names.group("mixer"), Assignor.RANGE, member=member)
        self._consumer = log.consumer([self._frames, self._results], options, self)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.02) -> None:
        """Read, show what is due, commit what was shown."""
        self._timelines.poll()
        if self._registered is not None:
            self._begin_anew(self._news | self._registered.poll())
            self._news.clear()
        polled = self._consumer.poll(timeout_s)
        self.monitor.polled(polled)
        self._unread.extend(sorted(polled.records, key=lambda record: record.topic != self._frames))  # results wait
        self._behind = self._consumer.lag() if self._unread or self._paused else self._behind
        try:
            self._take_unread()
        except LogUnavailable as error:  # nobody could tell whose a frame is: it is asked again
            self.monitor.complain("log", str(error))
        now_ns = self._clock.monotonic_ns()
        for source_id, source in self._sources.items():
            self._show(source_id, source, now_ns)
        self._pause_full()
        if now_ns - self._committed_ns >= NS_PER_S:
            self._committed_ns = now_ns
            for place in self._consumer.uncommitted():
                if place.topic == self._frames and place.partition in self._progress:
                    self._progress[place.partition].committed = -1
                self._results_at.pop(place.partition, None)
            self._commit(list(self._progress), later=True)
        if self.monitor.turned():
            self._report()

    def _take_unread(self) -> None:
        newest = self._newest(self._unread)
        while self._unread:
            record = self._unread[0]
            try:
                self._take(record, newest.get((record.partition, record.key)) == record.offset)
            except RecordInvalid:
                self.refused += 1  # the accountant gives it its dead letter
                if record.topic == self._frames:
                    self._progress[record.partition].read(record.offset, 0)
            self._unread.popleft()

    def outputs(self, source_id: str) -> list[OutputSummary] | None:
        """What was written of a source that is over; None before."""
        source = self._sources.get(source_id)
        return source.outputs if source is not None and source.done else None

    def role(self, source_id: str) -> MixRole | None:
        """The mix role of a source, for its counters."""
        source = self._sources.get(source_id)
        return source.role if source is not None else None

    def close(self) -> None:
        """Leave: what was shown is kept, whole, for who goes on; what else is half-written is abandoned."""
        self._hand_over(self._progress)
        self._commit(list(self._progress))
        self._consumer.close()
        self._timelines.close()
        if self._registered is not None:
            self._registered.close()
        for source in self._sources.values():
            if not source.done:
                source.role.abandon()

    # -- partitions come and go ---------------------------------------------------------------------------------------

    def assigned(self, positions: Mapping[TopicPartition, Committed | None]) -> None:
        """Begin at the oldest frame that was not shown."""
        for number, hand_over in self._lost.values():
            if any(place.partition == number for place in positions):
                hand_over()
        self._lost.clear()
        for place in positions:
            if place.topic == self._frames:
                self._progress[place.partition] = Progress(self._consumer.position(place))
            else:
                self._ahead[place.partition] = Ahead(self._consumer.position(place))
        with suppress(LogUnavailable):  # only to tell how much lies between
            self._ends.update((place, end) for place, (_, end) in self._log.bounds(positions).items())
        self.monitor.partitions(len(self._progress))

    def revoked(self, places: Sequence[TopicPartition]) -> None:
        """Another shows them from here on, behind the last picture that was shown here."""
        self._hand_over({place.partition for place in places})
        self._commit([place.partition for place in places])
        self.lost(places)

    def _hand_over(self, numbers: Collection[int]) -> None:
        """What was shown is in their outputs, whole, and done with."""
        for source in self._sources.values():
            if source.number in numbers and not source.done:
                source.role.hand_over()
                self._release(source, self._clock.monotonic_ns())

    def lost(self, places: Sequence[TopicPartition]) -> None:
        """Another shows them already; or nobody does, and they come back to us: see `assigned`."""
        gone = {place.partition for place in places}
        for number in gone:
            for known in (self._progress, self._ahead, self._needs, self._results_at):
                known.pop(number, None)
        self._unread = deque(record for record in self._unread if record.partition not in gone)
        self.monitor.partitions(len(self._progress))
        self._paused -= set(places)
        for source_id in [name for name, source in self._sources.items() if source.number in gone]:
            source = self._sources.pop(source_id)
            if not source.done:
                source.role.abandon()
                self._lost[source_id] = source.number, source.role.hand_over

    # -- inside -----------------------------------------------------------------------------------------------------

    def _newest(self, records: Iterable[LogRecord]) -> dict[tuple[int, bytes | None], int]:
        """The newest frame of each source, where its partition was read to its end: these tell the source's pace."""
        return {
            (record.partition, record.key): record.offset
            for record in records
            if record.topic == self._frames and self._behind.get(record.place, 0) == 0
        }

    def _begin_anew(self, changed: set[str]) -> None:
        """What is held of these is not shown; the next frame opens their outputs as they are wished now."""
        for source_id in changed & self._sources.keys():
            if not (source := self._sources[source_id]).done:
                source.role.hand_over()
                source.role.abandon()
                self._all_done(source)
                del self._sources[source_id]

    def _all_done(self, source: _Source) -> None:
        for place in (*source.places.values(), *(place for place, _, _ in source.waiting)):
            self._is_done(place)
        for held in (source.places, source.waiting, source.shown):
            held.clear()

    def _is_done(self, place: _Place) -> None:
        number, offset = place
        if number in self._progress:
            self._progress[number].done(offset)
            self._needs[number].pop(offset, None)

    def _take_result(self, record: LogRecord, now_ns: int) -> None:
        ahead, frames = self._ahead[record.partition], TopicPartition(self._frames, record.partition)
        ahead.next = record.offset + 1
        posting = decode_result(record.key, record.value, record.headers).posting
        key, source = posting.key, self._sources.get(posting.key.source_id)
        if source is not None and (key.frame_seq < source.seen.get(key.epoch, 0) or key.epoch < max(source.seen)):
            source.role.post(posting, now_ns)
        elif key.source_id not in self._heard:
            ahead.keep(posting, record.offset, now_ns, self._is_all_read(frames))

    def _is_all_read(self, frames: TopicPartition) -> bool:
        return frames not in self._paused and self._behind.get(frames, 0) == 0

    def _take(self, record: LogRecord, at_end: bool) -> None:
        now_ns = self._clock.monotonic_ns()
        if record.topic == self._results:
            self._take_result(record, now_ns)
            return
        message = decode_frame(record.key, record.value, record.headers, now_ns)
        claimed = self._timelines.check(message)
        if claimed.info.sample_rate:
            self._heard.add(message.record.source_id)
            self._ahead[record.partition].forget_before(message.record.source_id, message.record.epoch + 1, 0)
            self._progress[record.partition].read(record.offset, 0)
            return
        self._heard.discard(message.record.source_id)
        frame, known = message.record, self._sources.get(message.record.source_id)
        next_seq = known.seen.get(frame.epoch, 0) if known else 0
        first, last = first_and_last(frame)
        if known is not None:  # a mixer that takes over begins anywhere
            check_ahead(frame, next_seq)
        if first < next_seq:
            self._progress[record.partition].read(record.offset, 0)
            return
        if known is None or known.is_over(frame.epoch):
            source = self._open(message, claimed, record.partition)
            source.seen.update(known.seen if known else {})
            self._ahead[record.partition].forget_before(frame.source_id, frame.epoch, first)
        else:
            source = known
        source.seen[frame.epoch], source.number = last + 1, record.partition
        self._progress[record.partition].read(record.offset)
        source.waiting.append(((record.partition, record.offset), lazily(message, self._codec), at_end))
        ahead = self._ahead[record.partition]
        early = ahead.take(frame.source_id, frame.epoch, first, last)
        self._needs[record.partition][record.offset] = min([ahead.all_taken_to, *(offset for _, offset in early)])
        for posting, _ in early:
            source.role.post(posting, now_ns)

    def _open(self, message: FrameMessage, claimed: TimelineMessage, number: int) -> _Source:
        source_id = message.record.source_id
        if self._registered is not None:
            self._news |= self._registered.poll() - {source_id}
        role = self._new_role(claimed, partial(self._shown, source_id), partial(self._owner, source_id))
        live = claimed.info.kind is SourceKind.LIVE
        source = self._sources[source_id] = _Source(role, live, number, gathers=live and role.mixer.resumes)
        return source

    def _is_gathered(self, source: _Source) -> bool:
        """What a live source's last segment lacks, and its results, is read as it stood when we came; or it is much."""
        places = [TopicPartition(topic, source.number) for topic in (self._frames, self._results)]
        ours = set(self._consumer.assignment())
        if any(self._consumer.position(place) < self._ends.get(place, 0) for place in places if place in ours):
            source.gathers = len(source.waiting) <= MAX_BACKLOG
        else:
            source.gathers = False
            source.role.mixer.catch_up()
        return not source.gathers

    def _owner(self, source_id: str, epoch: int) -> str | None:
        return found.claim.ingest_id if (found := self._timelines.find(source_id, epoch)) is not None else None

    def _show(self, source_id: str, source: _Source, now_ns: int) -> None:
        mixer = source.role.mixer
        if source.gathers and not self._is_gathered(source):
            return
        while source.waiting and (source.live or not mixer.full):
            place, record, at_end = source.waiting.popleft()
            if isinstance(record, DroppedRun) or mixer.is_fenced(record.epoch):
                self._is_done(place)
            else:
                source.places[record.epoch, record.frame_seq] = place
            source.role.frame(record, now_ns, at_end)
        source.role.poll(now_ns)
        source.role.tick(now_ns)
        self._release(source, now_ns)
        ended = self._timelines.ended(source_id)
        if ended is not None and not source.done and not source.waiting and is_whole(source.seen, ended):
            mixer.end()
            source.role.poll(now_ns)
            if mixer.held == 0:
                source.done = True
                source.outputs = source.role.finish()
                self._all_done(source)

    def _shown(self, source_id: str, shown: AlignedFrame) -> None:
        source = self._sources[source_id]
        source.shown.append((shown.frame.key, (shown.frame.epoch, shown.frame.frame_seq), shown.released_mono_ns))

    def _release(self, source: _Source, now_ns: int) -> None:
        """What is shown, and not only held by an output, is done with, and so is what was left out before it."""
        while source.shown:
            key, place, released_ns = source.shown[0]
            stopped = source.live and now_ns - released_ns > OPEN_NS
            if not stopped and source.role.may_lose(key):
                return
            source.shown.popleft()
            while source.places and (oldest := next(iter(source.places))) <= place:
                self._is_done(source.places.pop(oldest))

    def _report(self) -> None:
        """Once a second: how far behind, and how each source is shown."""
        self.monitor.behind(self._consumer)
        for number, ahead in self._ahead.items():
            if self._is_all_read(TopicPartition(self._frames, number)):
                ahead.forget_old(self._clock.monotonic_ns())
        for source_id, source in self._sources.items():
            if not source.done:
                publish_state(self._index, "mixer", source_id, shown_fields(source.role, max(source.seen, default=0)))

    def _pause_full(self) -> None:
        """A file waits on the log, not here; and results, where there are frames to be read before more of them.

        Where frames wait for results these are read on, those of later frames are passed over and read again later.
        """
        full = {
            TopicPartition(self._frames, source.number)
            for source in self._sources.values()
            if len(source.waiting) > (MAX_BACKLOG if source.gathers else MAX_WAITING)
        }
        for number, ahead in self._ahead.items():
            frames = TopicPartition(self._frames, number)
            if ahead.crowded and frames not in full and self._behind.get(frames, 0) > 0:
                full.add(TopicPartition(self._results, number))
        pause_only(self._consumer, full, self._paused)
        self._paused = full
        for number, ahead in self._ahead.items():
            if (offset := ahead.again()) is not None:
                self._unread = deque(r for r in self._unread if (r.topic, r.partition) != (self._results, number))
                self._consumer.seek(TopicPartition(self._results, number), offset)

    def _commit(self, numbers: Sequence[int], later: bool = False) -> None:
        """Shown frames; results as far as no frame can need them that is not shown. later: no answer is waited for."""
        due = {}
        for number in numbers:
            if (progress := self._progress.get(number)) is None:
                continue
            if progress.safe > progress.committed:
                due[TopicPartition(self._frames, number)] = Committed(progress.safe)
            place = TopicPartition(self._results, number)
            if place in self._consumer.assignment():
                needed = min([self._ahead[number].oldest, *self._needs[number].values()])
                if needed > self._results_at.get(number, -1):
                    self._results_at[number], due[place] = needed, Committed(needed)
        if later:
            self._consumer.commit_later(due)  # refused: shown again by whoever begins there; a promise, not a count
        elif due:
            with suppress(CommitRefused, LogUnavailable):
                self._consumer.commit(due)
        for place, at in due.items():
            if place.topic == self._frames:
                self._progress[place.partition].committed = at.offset
