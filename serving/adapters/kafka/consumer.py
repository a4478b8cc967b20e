"""A member of a Kafka consumer group. Positions are committed by hand, with the attempt marks beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as RdPartition

from serving.adapters.kafka.bounds import KafkaBounds
from serving.adapters.kafka.errors import translated
from serving.adapters.kafka.options import KafkaOptions, joining
from serving.adapters.kafka.owners import OwnerWatch
from serving.adapters.kafka.reader import KafkaReader
from serving.errors import CommitRefused, LockstepError, LogUnavailable
from serving.ports_log import Assignor, Committed, GroupOptions, Polled, Rebalance, Start, TopicPartition

BROKER_SECONDS = 10.0


class KafkaConsumer(KafkaReader):
    """Meets `serving.ports_log.LogConsumer`."""

    def __init__(
        self,
        options: KafkaOptions,
        topics: Sequence[str],
        group: GroupOptions,
        rebalance: Rebalance | None = None,
        bounds: KafkaBounds | None = None,
    ) -> None:
        self._uncommitted: set[TopicPartition] = set()
        super().__init__(options, {}, {**joining(options, group), "on_commit": self._on_commit}, bounds)
        self._group, self._rebalance = group, rebalance
        self._what = f"the log as {group.member or 'a member'} of group {group.group}"
        self._incremental = group.assignor is Assignor.COOPERATIVE_STICKY
        self._polled_at = time.monotonic()
        self._owed: set[TopicPartition] = set()  # given to us while no broker said from where to read
        self._watch = OwnerWatch(options, topics, group) if self._incremental and group.member else None
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, timeout_s: float, most: int = 500) -> Polled:
        """What there is; partitions come and go here."""
        try:
            if self._owed:
                self._begin(self._consumer, sorted(self._owed))
            return super().poll(timeout_s, most)
        finally:
            self._polled_at = time.monotonic()

    def close(self) -> None:
        """Let go; a member without a name leaves its group."""
        if self._watch is not None:
            self._watch.close()
        super().close()

    def commit(self, positions: Mapping[TopicPartition, Committed]) -> None:
        """Write positions and wait. Raises CommitRefused, LogUnavailable."""
        foreign = [place for place in positions if place not in self._next]
        if foreign:
            raise CommitRefused(f"group {self._group.group}: {foreign} are not this member's")
        offsets = [RdPartition(*place, at.offset, at.metadata) for place, at in positions.items()]
        if not offsets:
            return
        try:
            answers = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise translated(error, f"commit of group {self._group.group}") from error
        for answer in answers or ():
            if answer.error is not None:
                raise translated(answer.error, f"commit of group {self._group.group}")

    def commit_later(self, positions: Mapping[TopicPartition, Committed]) -> None:
        """Hand positions over; `_on_commit` hears of them within a later poll."""
        offsets = [
            RdPartition(*place, at.offset, at.metadata) for place, at in positions.items() if place in self._next
        ]
        self._uncommitted |= positions.keys() - self._next.keys()
        try:
            if offsets:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException:
            self._uncommitted |= positions.keys()

    def uncommitted(self) -> set[TopicPartition]:
        """Those of `commit_later` whose position was not written, since this was asked last."""
        found, self._uncommitted = self._uncommitted, set()
        return found

    def committed(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, Committed | None]:
        """What was committed last. Raises LogUnavailable."""
        try:
            answers = self._consumer.committed([RdPartition(*place) for place in places], timeout=BROKER_SECONDS)
        except KafkaException as error:
            raise translated(error, f"positions of group {self._group.group}") from error
        for answer in answers:
            if answer.error is not None:
                raise translated(answer.error, f"positions of group {self._group.group}")
        return {
            TopicPartition(answer.topic, answer.partition): (
                Committed(answer.offset, answer.metadata or "") if answer.offset >= 0 else None
            )
            for answer in answers
        }

    # -- called by librdkafka within poll ---------------------------------------------------------------------------

    def _on_commit(self, error: KafkaError | None, partitions: list[RdPartition]) -> None:
        for part in partitions or ():
            if error is not None or part.error is not None:
                self._uncommitted.add(TopicPartition(part.topic, part.partition))

    def _on_assign(self, consumer: Consumer, partitions: list[RdPartition]) -> None:
        places = [TopicPartition(part.topic, part.partition) for part in partitions]
        if not self._incremental:
            self._forget([*self._next, *self._owed])
        self._forget(places)
        self._begin(consumer, places)

    def _begin(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        """Read where the group stands. Where no broker says where that is, the next poll asks again."""
        starts: Mapping[TopicPartition, int] = {}
        committed: Mapping[TopicPartition, Committed | None] = {}
        try:
            committed = self._patiently(places)
            bounds = self._bounds.of(places, BROKER_SECONDS)
            starts = {place: self._start(place, committed[place], bounds[place]) for place in places}
        except LogUnavailable:
            self._owed.update(places)
        except LockstepError as failure:
            self._failure = self._failure or failure
        self._owed.difference_update(starts)
        self._next.update(starts)
        if self._incremental:
            consumer.incremental_assign([RdPartition(*place, offset) for place, offset in starts.items()])
        else:
            consumer.assign([RdPartition(*place, offset) for place, offset in self._next.items()])
        if self._rebalance is not None and starts:
            self._told(lambda r: r.assigned(committed))

    def _on_revoke(self, consumer: Consumer, partitions: list[RdPartition]) -> None:
        """librdkafka says revoked, not lost, to a member that did not poll in time and has left the group for it."""
        if time.monotonic() - self._polled_at > self._group.max_poll_interval_s:
            self._on_lost(consumer, partitions)
            return
        places = [TopicPartition(part.topic, part.partition) for part in partitions]
        self._told(lambda r: r.revoked(places))
        self._forget(places)

    def _on_lost(self, consumer: Consumer, partitions: list[RdPartition]) -> None:
        places = [TopicPartition(part.topic, part.partition) for part in partitions]
        self._forget(places)
        self._told(lambda r: r.lost(places))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _told(self, tell: Callable[[Rebalance], None]) -> None:
        """An error of the role inside a callback comes out of poll, not lost in librdkafka's thread of control."""
        if self._rebalance is None:
            return
        try:
            tell(self._rebalance)
        except LockstepError as failure:
            self._failure = self._failure or failure

    def _start(self, place: TopicPartition, committed: Committed | None, bounds: tuple[int, int]) -> int:
        if committed is None:
            return bounds[0] if self._group.start is Start.BEGINNING else bounds[1]
        return self._from_within(place, committed.offset, bounds)

    def _patiently(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, Committed | None]:
        """Ask for positions; a coordinator that still loads them answers a little later."""
        deadline = time.monotonic() + BROKER_SECONDS
        while True:
            try:
                return self.committed(places)
            except LogUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _forget(self, places: Sequence[TopicPartition]) -> None:
        """librdkafka keeps a pause beyond the ownership: a partition that comes back would never be read."""
        held = [RdPartition(*place) for place in places if place in self._paused]
        if held:
            self._consumer.resume(held)
        for place in places:
            self._next.pop(place, None)
            self._paused.discard(place)
            self._owed.discard(place)
        gone = set(places)
        self._gathered = [record for record in self._gathered if record.place not in gone]
