"""Sending records of a role: waits for room instead of losing, and says what could not be written."""

from __future__ import annotations

from collections.abc import Callable

from serving.errors import LockstepError, LogFull, LogUnavailable
from serving.ports_log import Delivery, LogProducer, NewRecord
from serving.records import Encoded


class Sender:
    """One thread uses it. A record that the log will never take (too large, no such topic) ends the role."""

    def __init__(self, producer: LogProducer) -> None:
        self._producer = producer
        self._failure: LockstepError | None = None

    def send(
        self, topic: str, record: Encoded, partition: int | None, done: Callable[[], None] | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """Queue a record, waiting for room; `done` is called once it is acknowledged.

        give_up: asked while there is no room; then LogUnavailable is raised, and the record is not queued.
        """
        while not self.try_send(topic, record, partition, done):
            if give_up():
                raise LogUnavailable(f"{topic}: a record found no room: the broker takes none")
            self.poll(0.05)

    def try_send(
        self, topic: str, record: Encoded, partition: int | None, done: Callable[[], None] | None = None
    ) -> bool:
        """Queue a record; False where there is no room now."""

        def report(delivery: Delivery) -> None:
            if delivery.error is not None:
                self._failure = self._failure or delivery.error
            elif done is not None:
                done()

        try:
            self._producer.append(NewRecord(topic, record.key, record.value, record.headers, partition), report)
        except LogFull:
            return False
        return True

    @property
    def waiting(self) -> int:
        """Records that are not acknowledged yet."""
        return self._producer.waiting()

    def poll(self, timeout_s: float = 0.0) -> None:
        """Take acknowledgements. Raises what made a record impossible to write."""
        self._producer.poll(timeout_s)
        if self._failure is not None:
            raise self._failure

    def flush(self, timeout_s: float) -> bool:
        """True when all is acknowledged."""
        left = self._producer.flush(timeout_s)
        if self._failure is not None:
            raise self._failure
        return left == 0

    def close(self, timeout_s: float = 5.0) -> int:
        """Flush and let go; records that stay unacknowledged."""
        return self._producer.close(timeout_s)
