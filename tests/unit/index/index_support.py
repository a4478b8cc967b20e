"""Records of `results` and `outcomes` by hand, and an index writer over a log in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from serving.frames import DropReason, FrameResult, LedgerKey, Outcome, Posting
from serving.ports_log import NewRecord
from serving.records import OutcomeMessage, ResultMessage, encode_outcome, encode_result
from serving.records.results import FrameTimes, ModelFacts
from serving.roles.index import IndexWriter
from serving.roles.names import Names
from serving.testing.hand_clock import HandClock
from serving.testing.memory_index import MemoryIndex
from serving.testing.memory_log import MemoryLog
from serving.types import Detections

NAMES = Names("t.")
FRAME_NS = 40_000_000
EMPTY = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def result(seq: int, say: str = "a", *, source: str = "gate", epoch: int = 1, attempt: int = 1) -> ResultMessage:
    """A result whose hash and certificate tell it from another."""
    digest = hashlib.sha256(say.encode()).hexdigest()
    found = FrameResult("m", 1, "detection", EMPTY, digest, ())
    posting = Posting(LedgerKey(source, epoch, seq, "m"), seq * FRAME_NS, Outcome.of_result(found, attempt))
    return ResultMessage(
        posting, ModelFacts("m", 1, "detection", say), FrameTimes(seq, Fraction(1, 25)), {"detections": []}, (64, 48)
    )


def dropped(seq: int, reason: DropReason = DropReason.STALE, *, source: str = "gate", epoch: int = 1) -> ResultMessage:
    posting = Posting(LedgerKey(source, epoch, seq, "m"), seq * FRAME_NS, Outcome.dropped(reason))
    return ResultMessage(posting, ModelFacts("m", 1, "detection", "drop"), FrameTimes(seq, Fraction(1, 25)))


@dataclass
class World:
    """A log with two partitions, an index, and a writer that is stepped by hand."""

    clock: HandClock = field(default_factory=HandClock)
    log: MemoryLog = field(init=False)
    index: MemoryIndex = field(init=False)

    def __post_init__(self) -> None:
        self.log = MemoryLog({"t.results": 2, "t.outcomes": 2}, self.clock)
        self.index = MemoryIndex(clock=self.clock)
        self._producer = self.log.producer()

    def writer(self) -> IndexWriter:
        writer = IndexWriter(self.index, self.log, NAMES, self.clock)
        writer.assigned([0])
        return writer

    def candidate(self, message: ResultMessage) -> None:
        self._write("t.results", encode_result(message))

    def recorded(self, message: ResultMessage, closed: bool = False) -> None:
        posting = message.posting
        self._write("t.outcomes", encode_outcome(OutcomeMessage(posting.key, posting.outcome, closed)))

    def both(self, *messages: ResultMessage) -> None:
        for message in messages:
            self.candidate(message)
            self.recorded(message)

    def says(self, source: str = "gate", epoch: int = 1) -> dict[int, str]:
        """What the index tells of each frame."""
        found = self.index.results(source, epoch, 0, None, 100_000).documents
        return {document["frame_seq"]: document["certificate_id"] for document in found}

    def _write(self, topic: str, encoded: object) -> None:
        key, value, headers = encoded  # type: ignore[misc]
        self._producer.append(NewRecord(topic, key, value, headers, 0))
        self._producer.poll()


def turn(writer: IndexWriter, times: int = 5) -> None:
    for _ in range(times):
        writer.step(0)


def rebuilt(writer: IndexWriter) -> None:
    writer.step(0)
    for _ in range(1000):
        if not writer.rebuilding():
            return
        writer.step(0)
    raise AssertionError("the rebuild does not end")
