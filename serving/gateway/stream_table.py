"""The registered sources, as the topic `streams` tells them: followed by a thread, written with an acknowledgement.

The thread also knows whether the log answers. While it does not, callers are told at once instead of waiting for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from serving.clock import NS_PER_S, Clock
from serving.errors import (
    LockstepError,
    LogError,
    LogFull,
    LogTruncated,
    LogUnavailable,
    RecordInvalid,
    StreamsUnavailable,
    TopicUnknown,
)
from serving.murmur2 import partition_of
from serving.ports_log import Delivery, LogProducer, LogReader, NewRecord, RecordLog, TopicPartition
from serving.records import Encoded, StreamMessage, decode_stream

logger = logging.getLogger("lockstep.streams")

LOOK_S = 0.1
FRESH_NS = 10 * NS_PER_S
ANSWER_S = 2.0
WRITE_S = 4.0
FIRST_S = 20.0
ALIVE_S = 1.0


class StreamTable:
    """`start` once, `close` once; the rest from any thread. Blocking calls say so."""

    def __init__(self, log: RecordLog, topic: str, clock: Clock) -> None:
        self._log, self._topic, self._clock = log, topic, clock
        self._known: dict[str, StreamMessage] = {}
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._reader: LogReader | None = None
        self._places: list[TopicPartition] = []
        self._producer: LogProducer | None = None
        self._answered_ns: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream-table", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """Let go."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * ANSWER_S)
        with self._reading:
            if self._reader is not None:
                self._reader.close()
        with self._writing:
            if self._producer is not None:
                self._producer.close(0.5)

    def check_up(self) -> None:
        """Raises StreamsUnavailable where the log has not answered for FRESH_NS."""
        answered = self._answered_ns
        if answered is None or self._clock.monotonic_ns() - answered > FRESH_NS:
            raise StreamsUnavailable(f"{self._topic}: the log does not answer")

    def get(self, source_id: str) -> StreamMessage | None:
        """What is registered under a name, also if it was removed."""
        return self._known.get(source_id)

    def active(self) -> list[StreamMessage]:
        """The sources that are to be read, by name."""
        return sorted((s for s in list(self._known.values()) if s.active), key=lambda stream: stream.source_id)

    def refresh(self, source_id: str) -> None:
        """Read what the log has of one source; blocks up to about two seconds. Raises StreamsUnavailable."""
        try:
            with self._reading:
                number = partition_of(source_id.encode(), len(self._places) or self._log.partitions(self._topic))
                self._catch_up([TopicPartition(self._topic, number)], ANSWER_S, ANSWER_S)
        except LogError as error:
            raise StreamsUnavailable(f"{self._topic}: {error}") from error

    def write(self, record: Encoded) -> None:
        """Write a record and read it back; blocks until it is acknowledged. Raises StreamsUnavailable: it may still
        have been written, so that the caller should ask, or write the same again."""
        reports: list[Delivery] = []
        try:
            with self._writing:
                producer = self._producer = self._producer or self._log.producer()
                producer.append(NewRecord(self._topic, record.key, record.value, record.headers), reports.append)
                deadline_ns = self._clock.monotonic_ns() + int(WRITE_S * NS_PER_S)
                while not reports and self._clock.monotonic_ns() < deadline_ns:
                    producer.poll(0.05)
            if not reports:
                raise LogUnavailable("the record was not acknowledged in time")
            if reports[0].error is not None:
                raise reports[0].error
            with self._reading:
                place = TopicPartition(self._topic, reports[0].partition)
                self._read_to({place: reports[0].offset + 1}, ANSWER_S)
        except (LogError, LogFull) as error:
            raise StreamsUnavailable(f"{self._topic}: {error}") from error

    # -- inside -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Follow the log. It is read to its end once; then one request a second says whether the log answers."""
        told, asked = False, 0.0
        while not self._stop.is_set():
            try:
                with self._reading:
                    if not told:
                        self._catch_up(self._open(), ANSWER_S, FIRST_S)
                    self._apply_all(0.0)
                if time.monotonic() - asked > ALIVE_S:
                    self._log.partitions(self._topic)
                    asked, self._answered_ns = time.monotonic(), self._clock.monotonic_ns()
                if not told:
                    logger.info("streams: %d sources registered", len(self._known))
                told = True
            except Exception as error:  # without this thread the stream routes would be away for ever
                known = isinstance(error, LockstepError)
                if told or self._answered_ns is None or not known:
                    logger.warning("streams are not available: %s", error, exc_info=None if known else error)
                told = False
                if isinstance(error, LogTruncated | TopicUnknown):
                    self._begin_anew()
            self._stop.wait(LOOK_S if told else 5 * LOOK_S)

    def _begin_anew(self) -> None:
        """The topic was deleted, and perhaps made again: what was known of it is gone."""
        with self._reading:
            if self._reader is not None:
                self._reader.close()
            self._reader = None
            self._known.clear()

    def _open(self) -> Sequence[TopicPartition]:
        """All partitions, read from their beginning. With `_reading` held."""
        if self._reader is None:
            self._places = [TopicPartition(self._topic, n) for n in range(self._log.partitions(self._topic))]
            self._reader = self._log.reader(dict.fromkeys(self._places, 0))
        return self._places

    def _catch_up(self, places: Sequence[TopicPartition], answer_s: float, read_s: float) -> None:
        """Read these to their present end. With `_reading` held, so a broker that is away holds nobody up for long."""
        ends = {place: end for place, (_, end) in self._log.bounds(places, answer_s).items()}
        self._read_to(ends, read_s)

    def _read_to(self, ends: Mapping[TopicPartition, int], timeout_s: float) -> None:
        """With `_reading` held. The time begins once the ends are known."""
        self._open()
        assert self._reader is not None
        deadline = time.monotonic() + timeout_s
        while any(self._reader.position(place) < end for place, end in ends.items()):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{self._topic}: its end was not reached")
            self._apply_all(0.05)
        self._answered_ns = self._clock.monotonic_ns()

    def _apply_all(self, timeout_s: float) -> None:
        assert self._reader is not None
        for record in self._reader.poll(timeout_s).records:
            self._apply(record.key, record.value)

    def _apply(self, key: bytes | None, value: bytes | None) -> None:
        try:
            stream = decode_stream(key, value)
        except RecordInvalid as error:
            logger.warning("streams: a record was refused: %s", error.field)
            return
        if stream is None:
            self._known.pop((key or b"").decode(), None)
        else:
            self._known[stream.source_id] = stream
