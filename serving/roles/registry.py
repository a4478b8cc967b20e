"""The registry of sources: `streams` read as a whole, and written one record at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from serving.adapters.video import redacted
from serving.errors import LogUnavailable, NotFound, RecordInvalid
from serving.ports_log import RecordLog, TopicPartition
from serving.records import Encoded, StreamMessage, decode_stream, encode_forgotten_stream, encode_stream
from serving.roles.following import standing
from serving.roles.names import Names
from serving.roles.sender import Sender

SECONDS = 10.0


class Registry:
    """Made by `open_registry`. A record that is not what its topic promises counts for nothing."""

    def __init__(self, log: RecordLog, names: Names) -> None:
        self._log, self._topic = log, names.topic("streams")
        self._sender = Sender(log.producer())

    def read(self) -> dict[str, StreamMessage]:
        """Every source by name, removed ones too. Raises LogUnavailable, TopicUnknown."""
        found: dict[str, StreamMessage] = {}
        places = [TopicPartition(self._topic, n) for n in range(self._log.partitions(self._topic))]
        for record in chain.from_iterable(standing(self._log, places, SECONDS)):
            _apply(found, record.key, record.value)
        return found

    def find(self, source_id: str) -> StreamMessage:
        """An active source. Raises NotFound."""
        stream = self.read().get(source_id)
        if stream is None or not stream.active:
            raise NotFound(f"source {source_id[:64]!r} is not registered", hint="lockstep streams list")
        return stream

    def write(self, stream: StreamMessage) -> None:
        """Acknowledged when this returns. Raises RecordInvalid, LogUnavailable."""
        self._send(encode_stream(stream))

    def forget(self, source_id: str) -> None:
        """A tombstone."""
        self._send(encode_forgotten_stream(source_id))

    def close(self) -> None:
        """Let go."""
        self._sender.close()

    def _send(self, encoded: Encoded) -> None:
        self._sender.send(self._topic, encoded, None)
        if not self._sender.flush(SECONDS):
            raise LogUnavailable(f"{self._topic}: the record was not acknowledged within {SECONDS:.0f} s")


@contextmanager
def open_registry(log: RecordLog, names: Names) -> Iterator[Registry]:
    """The registry, let go at the end of the block."""
    registry = Registry(log, names)
    try:
        yield registry
    finally:
        registry.close()


def stream_document(stream: StreamMessage) -> dict[str, Any]:
    """A source as it may be shown: addresses without user, password and secret query values."""
    document: dict[str, Any] = json.loads(encode_stream(stream).value or b"{}")
    shown = {name: redacted(document[name]) for name in ("address", "publish") if document[name]}
    return document | shown


def _apply(found: dict[str, StreamMessage], key: bytes | None, value: bytes | None) -> None:
    try:
        stream = decode_stream(key, value)
    except RecordInvalid:
        return
    if stream is None:
        found.pop((key or b"").decode(), None)
    else:
        found[stream.source_id] = stream
