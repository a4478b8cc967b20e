"""The registered sources, as the topic `streams` tells them: followed by a thread, written with an acknowledgement.

The thread also knows whether the log answers. While it does not, callers are told at once instead of waiting for it.
"""

from __future__ import annotations

import logging
import threading
import time

from serving.clock import NS_PER_S, Clock
from serving.errors import LockstepError, LogError, LogFull, LogUnavailable, RecordInvalid, StreamsUnavailable
from serving.ports_log import Delivery, LogProducer, LogReader, NewRecord, RecordLog, TopicPartition
from serving.records import Encoded, StreamMessage, decode_stream

logger = logging.getLogger("lockstep.streams")

LOOK_S = 0.1
FRESH_NS = 10 * NS_PER_S
ANSWER_S = 2.0
WRITE_S = 4.0


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

    def refresh(self) -> None:
        """Read to the present end; blocks up to about two seconds. Raises StreamsUnavailable."""
        try:
            with self._reading:
                self._catch_up(ANSWER_S)
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
        except (LogError, LogFull) as error:
            raise StreamsUnavailable(f"{self._topic}: {error}") from error
        self.refresh()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        told = False
        while not self._stop.is_set():
            try:
                with self._reading:
                    self._catch_up(ANSWER_S)
                if not told:
                    logger.info("streams: %d sources registered", len(self._known))
                told = True
            except LockstepError as error:
                if told or self._answered_ns is None:
                    logger.warning("streams are not available: %s", error)
                told = False
            self._stop.wait(LOOK_S if told else 5 * LOOK_S)

    def _catch_up(self, timeout_s: float) -> None:
        """With `_reading` held."""
        if self._reader is None:
            self._places = [TopicPartition(self._topic, n) for n in range(self._log.partitions(self._topic))]
            self._reader = self._log.reader(dict.fromkeys(self._places, 0))
        reader, deadline = self._reader, time.monotonic() + max(timeout_s, 10 * timeout_s * (self._answered_ns is None))
        ends = {place: reader.bounds(place, timeout_s)[1] for place in self._places}
        while any(reader.position(place) < end for place, end in ends.items()):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{self._topic}: its end was not reached")
            for record in reader.poll(0.05).records:
                self._apply(record.key, record.value)
        self._answered_ns = self._clock.monotonic_ns()

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
