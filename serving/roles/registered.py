"""The topic `streams` as workers and mixers follow it: what is wished for each source, as soon as it is wished."""

from __future__ import annotations

from dataclasses import replace

from serving.errors import RecordInvalid
from serving.ports_log import LogRecord, RecordLog, TopicPartition
from serving.records import StreamMessage, decode_stream
from serving.roles.following import read_to_end
from serving.roles.names import Names

READ_SECONDS = 10.0


class Registered:
    """Reads all partitions from their beginning: the topic is compacted and small. One thread uses it."""

    def __init__(self, log: RecordLog, names: Names) -> None:
        self._log, self._topic = log, names.topic("streams")
        self._places = [TopicPartition(self._topic, n) for n in range(log.partitions(self._topic))]
        self._reader = log.reader(dict.fromkeys(self._places, 0))
        self._known: dict[str, StreamMessage] = {}
        self._aimed: set[str] = set()
        self.refused = 0

    def catch_up(self, timeout_s: float = READ_SECONDS) -> None:
        """Read to the present end. Raises LogUnavailable."""
        read_to_end(self._log, self._reader, self._places, timeout_s, self._apply)

    def poll(self) -> set[str]:
        """Take what is there, waiting for nothing; the sources about which anything is new, but for their targets."""
        return {name for record in self._reader.poll(0.0).records if (name := self._apply(record))}

    def aimed(self) -> set[str]:
        """The sources of which nothing but the targets are other ones, since this was asked last."""
        found, self._aimed = self._aimed, set()
        return found

    def sources(self) -> set[str]:
        """Those that anything is wished for."""
        return set(self._known)

    def get(self, source_id: str) -> StreamMessage | None:
        """What is wished for a source; None where nobody registered it (a stranger's own ingest)."""
        return self._known.get(source_id)

    def close(self) -> None:
        """Let go."""
        self._reader.close()

    def _apply(self, record: LogRecord) -> str:
        try:
            message = decode_stream(record.key, record.value, record.headers)
        except RecordInvalid:
            self.refused += 1
            return ""
        source_id = (record.key or b"").decode()
        before = self._known.pop(source_id, None)
        if message is not None:
            self._known[source_id] = message
        if message is not None and before is not None and replace(before, targets=message.targets) == message:
            self._aimed |= {source_id} if message.targets != before.targets else set()
            return ""
        return source_id if message != before else ""
