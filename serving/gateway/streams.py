"""What the stream routes of one process share. Handed in by the wiring; without it the routes answer 503."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from serving.clock import Clock
from serving.errors import DeadlineExceeded, IndexUnavailable, Overloaded, Unavailable
from serving.gateway.stream_events import EventHub
from serving.gateway.stream_table import StreamTable
from serving.metrics import Metrics
from serving.ports_index import ResultIndex
from serving.ports_log import RecordLog
from serving.records import StreamMessage

CALLS_AT_ONCE = 8
CALLS_WAITING = 64
CHECKS_AT_ONCE = 2
CHECK_S = 5.0
Answer = TypeVar("Answer")


@dataclass(slots=True)
class StreamServices:
    """log, index: of the streams (no index: no results, no states). topic: from a topic's name to the log's.

    check: raises SourceError for a source that ingest would not open; may ask a name server. redacted: an address as it
    may be shown. mixed_dir: folder of the mixers' HLS, a folder a source.
    """

    log: RecordLog
    index: ResultIndex | None
    topic: Callable[[str], str]
    check: Callable[[StreamMessage], None]
    redacted: Callable[[str], str]
    mixed_dir: Path
    clock: Clock
    table: StreamTable = field(init=False)
    hub: EventHub = field(init=False)
    _calls: ThreadPoolExecutor = field(init=False)
    _checks: ThreadPoolExecutor = field(init=False)
    _waiting: int = 0
    _checking: int = 0
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        self.table = StreamTable(self.log, self.topic("streams"), self.clock)
        self.hub = EventHub(self.log, self.topic("results"), self.topic("outcomes"), self.clock)
        self._calls = ThreadPoolExecutor(CALLS_AT_ONCE, "stream-call")
        self._checks = ThreadPoolExecutor(CHECKS_AT_ONCE, "stream-check")

    def start(self, metrics: Metrics) -> None:
        """Begin to follow the log."""
        self.hub.metrics = metrics
        self.table.start()

    def close(self) -> None:
        """Let go of log and index; may take a second."""
        self.hub.close()
        self.table.close()
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._checks.shutdown(wait=False, cancel_futures=True)
        if self.index is not None:
            self.index.close()
        self.log.close()

    @asynccontextmanager
    async def alone(self, deadline: float, source_id: str) -> AsyncIterator[None]:
        """One change of a source at a time, from reading what it is to writing what it becomes. Other processes of the
        gateway are not kept out. Raises DeadlineExceeded."""
        lock = self._locks.setdefault(source_id, asyncio.Lock())  # goes when nobody has it any more
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise DeadlineExceeded(f"{source_id}: the deadline passed while it was being changed") from None
        try:
            yield
        finally:
            lock.release()

    async def call(self, deadline: float, function: Callable[[], Answer]) -> Answer:
        """A blocking function in a thread. deadline: the loop's clock. Raises Overloaded, DeadlineExceeded."""
        if self._waiting >= CALLS_WAITING:
            raise Overloaded(f"{self._waiting} calls of stream routes wait")
        self._waiting += 1
        try:
            return await _within(deadline, self._calls, function)
        finally:
            self._waiting -= 1

    async def check_source(self, deadline: float, stream: StreamMessage) -> None:
        """`check` in a thread of its own kind, as a name server may keep it waiting. Raises SourceError."""
        if self._checking >= CALLS_AT_ONCE:
            raise Overloaded(f"{self._checking} addresses are being checked")
        self._checking += 1
        try:
            deadline = min(deadline, asyncio.get_running_loop().time() + CHECK_S)
            await _within(deadline, self._checks, lambda: self.check(stream))
        finally:
            self._checking -= 1

    async def ask(self, deadline: float, question: Callable[[ResultIndex], Answer]) -> Answer:
        """A question to the index. Raises IndexUnavailable."""
        index = self.index
        if index is None:
            raise IndexUnavailable("no index is configured")
        try:
            return await self.call(deadline, lambda: question(index))
        except Unavailable as error:
            raise IndexUnavailable(error.message) from error


async def _within(deadline: float, pool: ThreadPoolExecutor, function: Callable[[], Answer]) -> Answer:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(deadline):
            return await loop.run_in_executor(pool, function)
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed while the streams were asked") from None
