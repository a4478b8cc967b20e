"""Reading Kafka partitions from positions that are ours to say, without a group.

librdkafka may reset a position to either end when it is out of range; that is switched off (`auto.offset.reset=error`)
and what it would have hidden is told: deleted records as `Lost`, a log that was cut or made anew as LogTruncated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as RdPartition

from serving.adapters.kafka.bounds import KafkaBounds
from serving.adapters.kafka.errors import translated
from serving.adapters.kafka.options import KafkaOptions, reading
from serving.errors import LockstepError, LogTruncated, LogUnavailable
from serving.ports_log import LogRecord, Lost, Polled, TopicPartition

BOUNDS_SECONDS = 5.0
# Told by librdkafka while it goes on trying by itself.
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._PARTITION_EOF,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError._MAX_POLL_EXCEEDED,
    }
)


class KafkaReader:
    """Meets `serving.ports_log.LogReader`."""

    def __init__(
        self,
        options: KafkaOptions,
        positions: Mapping[TopicPartition, int],
        config: dict[str, Any] | None = None,
        bounds: KafkaBounds | None = None,
    ) -> None:
        self._bounds = bounds or KafkaBounds(options)
        self._consumer = Consumer(config or reading(options))
        self._incremental, self._what = False, "the log"
        self._next: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._gathered: list[LogRecord] = []
        self._lost: list[Lost] = []
        self._failure: LockstepError | None = None
        self._astray: set[TopicPartition] = set()  # out of range, and no broker said where to read on
        self._unknown: dict[str, float] = {}  # topics the broker did not know, and since when
        self._patience_s = options.topic_patience_s
        self._closed = False
        if positions:
            self._next.update(positions)
            self._consumer.assign([RdPartition(*place, offset) for place, offset in positions.items()])

    # -- the port ---------------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float, most: int = 500) -> Polled:
        """What there is, as soon as there is something."""
        if self._astray:
            self._out_of_range(sorted(self._astray))
        first = self._consumer.poll(timeout_s)
        if first is not None:
            self._take(first)
            for message in self._consumer.consume(most - 1, timeout=0) if most > 1 else ():
                self._take(message)
        if self._unknown:
            self._check_unknown()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        polled = Polled(tuple(self._gathered), tuple(self._lost))
        self._gathered, self._lost = [], []
        return polled

    def pause(self, places: Sequence[TopicPartition]) -> None:
        """Give no records of these until `resume`."""
        self._consumer.pause([RdPartition(*place) for place in self._ours(places)])
        self._paused |= set(places)

    def resume(self, places: Sequence[TopicPartition]) -> None:
        """Give them again."""
        self._consumer.resume([RdPartition(*place) for place in self._ours(places)])
        self._paused -= set(places)

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Read this one from here on."""
        self._ours([place])
        self._gathered = [record for record in self._gathered if record.place != place]
        self._next[place] = offset
        try:
            self._consumer.seek(RdPartition(*place, offset))
        except KafkaException as error:
            raise translated(error, f"seek {place.topic}/{place.partition}") from error

    def position(self, place: TopicPartition) -> int:
        """The offset of the next record to be given."""
        self._ours([place])
        return self._next[place]

    def assignment(self) -> tuple[TopicPartition, ...]:
        """What is read, sorted."""
        return tuple(sorted(self._next))

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records between position and end, by the last answer of the broker."""
        behind = {}
        for place, position in self._next.items():
            _, high = self._consumer.get_watermark_offsets(RdPartition(*place), cached=True)
            behind[place] = max(0, int(high) - position) if high >= 0 else 0
        return behind

    def close(self) -> None:
        """Let go."""
        if not self._closed:
            self._closed = True
            self._consumer.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _ours(self, places: Sequence[TopicPartition]) -> Sequence[TopicPartition]:
        for place in places:
            if place not in self._next:
                raise ValueError(f"{place.topic}/{place.partition} is not read here; {self.assignment()} are")
        return places

    def _take(self, message: Message) -> None:
        error = message.error()
        topic, partition = message.topic(), message.partition()
        place = TopicPartition(topic or "", -1 if partition is None else partition)
        if error is not None:
            self._take_error(error, place)
            return
        offset = message.offset()
        assert offset is not None
        if place not in self._next or offset < self._next[place]:
            return  # fetched before a seek, or before the partition went away
        self._next[place] = offset + 1
        headers = tuple((name, _bytes(value)) for name, value in _pairs(message))
        self._gathered.append(
            LogRecord(*place, offset, message.key(), message.value(), headers, message.timestamp()[1])
        )

    def _take_error(self, error: KafkaError, place: TopicPartition) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._out_of_range([place])
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART and place.topic:
            self._unknown.setdefault(place.topic, time.monotonic())
        elif error.fatal() or error.code() not in _PASSING:
            self._failure = self._failure or translated(error, f"reading {place.topic or self._what}")

    def _check_unknown(self) -> None:
        """A topic just made is unknown for a moment; one that stays unknown was deleted or never made."""
        for topic, since in list(self._unknown.items()):
            if time.monotonic() - since < self._patience_s:
                continue
            del self._unknown[topic]
            try:
                error = self._consumer.list_topics(topic, timeout=BOUNDS_SECONDS).topics[topic].error
            except KafkaException:
                self._unknown[topic] = time.monotonic()  # nobody answers: that is no news about the topic
                continue
            if error is not None:
                self._failure = self._failure or translated(error, f"reading {topic}")

    def _out_of_range(self, places: Sequence[TopicPartition]) -> None:
        """These positions are no longer between the log's ends. librdkafka has stopped to fetch, so a seek is refused.
        Where no broker says where the ends are, the next poll asks again."""
        places = [place for place in places if place in self._next]
        self._astray = set(places)
        try:
            found = self._bounds.of(places, BOUNDS_SECONDS)
        except LogUnavailable:
            return
        except LockstepError as failure:
            self._failure = self._failure or failure
            return
        self._astray.clear()
        for place, bounds in found.items():
            try:
                self._next[place] = self._from_within(place, self._next[place], bounds)
                self._restart(place)
            except LockstepError as failure:
                self._failure = self._failure or failure

    def _restart(self, place: TopicPartition) -> None:
        """Assign again what is assigned; the eager protocol takes nothing less than all."""
        try:
            if self._incremental:
                self._consumer.incremental_unassign([RdPartition(*place)])
                self._consumer.incremental_assign([RdPartition(*place, self._next[place])])
            else:
                self._consumer.assign([RdPartition(*one, offset) for one, offset in self._next.items()])
            self._consumer.pause([RdPartition(*one) for one in self._paused])
        except KafkaException as error:
            raise translated(error, f"reading on in {place.topic}/{place.partition}") from error

    def _from_within(self, place: TopicPartition, position: int, bounds: tuple[int, int]) -> int:
        """Where to read on: the position itself, or the oldest record kept, with what lay between told as lost."""
        low, high = bounds
        if position > high:
            raise LogTruncated(
                f"{place.topic}/{place.partition}: our position is {position}, the log ends at {high}: the topic was"
                " deleted and made anew, or lost its end",
                hint="if that was meant, start the role under a new group name",
            )
        if position < low:
            self._lost.append(Lost(place, position, low - 1))
        return max(position, low)


def _pairs(message: Message) -> list[tuple[str, bytes | str | None]]:
    """None of them where a name is not UTF-8, which confluent-kafka cannot say: the record is refused without them."""
    try:
        return list(message.headers() or ())  # type: ignore[arg-type]
    except (SystemError, UnicodeDecodeError):
        return []


def _bytes(value: bytes | str | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
