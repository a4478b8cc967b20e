"""Writing to Kafka: idempotent, bounded, and nothing counts as written before its delivery report."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from serving.adapters.kafka.errors import translated
from serving.adapters.kafka.options import KafkaOptions, producing
from serving.errors import LogFull, LogUnavailable, RecordTooLarge
from serving.ports_log import MAX_RECORD_BYTES, Delivery, NewRecord

BY_KEY = -1
RECORD_OVERHEAD = 512  # bytes of framing that a batch of one record may need


class KafkaProducer:
    """Meets `serving.ports_log.LogProducer`."""

    def __init__(self, options: KafkaOptions) -> None:
        self._producer = Producer(producing(options))
        self._closed = False

    def append(self, record: NewRecord, done: Callable[[Delivery], None] | None = None) -> None:
        """Queue a record. Raises LogFull, RecordTooLarge, LogUnavailable (a fatal error: make a new producer)."""
        if record.size + RECORD_OVERHEAD > MAX_RECORD_BYTES:
            raise RecordTooLarge(
                f"record for {record.topic}: expected at most {MAX_RECORD_BYTES - RECORD_OVERHEAD} bytes,"
                f" got {record.size}"
            )

        def report(error: KafkaError | None, message: Message) -> None:
            if done is not None:
                done(_delivery(record, error, message))

        try:
            self._producer.produce(
                record.topic,
                value=record.value,
                key=record.key,
                partition=BY_KEY if record.partition is None else record.partition,
                headers=list(record.headers),
                on_delivery=report,
            )
        except BufferError as error:
            raise LogFull(f"producer: {len(self._producer)} records wait for their acknowledgement") from error
        except KafkaException as error:
            raise translated(error, f"append to {record.topic}") from error

    def poll(self, timeout_s: float = 0.0) -> None:
        """Call what is `done`."""
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Wait until all is acknowledged or failed; how many are still open."""
        return int(self._producer.flush(timeout_s))

    def waiting(self) -> int:
        """Records queued or on their way."""
        return len(self._producer)

    def close(self, timeout_s: float = 5.0) -> int:
        """Flush, then give up what is left (its reports say so); how many that were."""
        if self._closed:
            return 0
        self._closed = True
        left = self.flush(timeout_s)
        if left:
            self._producer.purge()
            self._producer.poll(0)
        return left


def _delivery(record: NewRecord, error: KafkaError | None, message: Message) -> Delivery:
    if error is None:
        return Delivery(record, int(message.partition() or 0), int(message.offset() or 0))
    if error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
        return Delivery(record, error=LogUnavailable(f"append to {record.topic}: given up at the producer's end"))
    return Delivery(record, error=translated(error, f"append to {record.topic}"))
