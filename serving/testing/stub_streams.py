"""The streams of a gateway over a log and an index in memory, with records written as the roles would write them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from serving.adapters.video.address import SourcePolicy, redacted, with_secrets
from serving.clock import NS_PER_S, SystemClock
from serving.frames import FrameResult, LedgerKey, Outcome, Posting
from serving.gateway.streams import StreamServices
from serving.murmur2 import partition_of
from serving.ports_log import NewRecord
from serving.records import (
    OutcomeMessage,
    ResultMessage,
    StreamMessage,
    encode_outcome,
    encode_result,
    encode_stream,
    result_document,
)
from serving.records.results import FrameTimes, ModelFacts
from serving.testing.memory_index import MemoryIndex
from serving.testing.memory_log import MemoryLog
from serving.types import Detections

PARTITIONS = 2
TOPICS = ("streams", "results", "outcomes", "frames", "timelines")
ALLOWED = ("198.51.100.0/24", "127.0.0.1")
FRAME_NS = NS_PER_S // 25
EMPTY = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


class StubStreams:
    """services: for the gateway. Files of mixed video lie in `folder`/mixed, allowed ones in `folder`/clips."""

    def __init__(self, folder: Path) -> None:
        self.log = MemoryLog(dict.fromkeys(TOPICS, PARTITIONS))
        self.index = MemoryIndex()
        self.mixed, self.clips = folder / "mixed", folder / "clips"
        self.clips.mkdir(parents=True, exist_ok=True)
        self.mixed.mkdir(parents=True, exist_ok=True)
        self.policy = SourcePolicy(False, (self.clips,), ALLOWED)
        self._producer = self.log.producer()
        self.services = StreamServices(
            self.log, self.index, str, self._check, redacted, self.mixed, SystemClock()
        )  # fmt: skip

    def fill(self) -> None:
        """A source `gate` with ten results, states, and a mixed video's playlist."""
        self.register(StreamMessage("gate", "udp://127.0.0.1:5004", ("persons",), mixed=True))
        self.recorded("gate", [(n, "persons") for n in range(10)], indexed=True)
        self.index.put_state("ingest", "gate", {"epoch": 1, "fps_in": 25.0, "connected": True})
        folder = self.mixed / "gate"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.m3u8").write_text("#EXTM3U\n#EXT-X-VERSION:7\n")

    def register(self, stream: StreamMessage) -> None:
        """What `lockstep streams add` writes."""
        self._write("streams", encode_stream(stream), None)

    def recorded(
        self, source_id: str, frames: Sequence[tuple[int, str]], epoch: int = 1, indexed: bool = False
    ) -> list[dict[str, Any]]:
        """Results of frames (number, pipeline) as worker and accountant write them; indexed: the index has them."""
        documents = []
        for seq, pipeline in frames:
            message = a_result(source_id, epoch, seq, pipeline)
            number = partition_of(source_id.encode(), PARTITIONS)
            posting = message.posting
            self._write("results", encode_result(message), number)
            self._write("outcomes", encode_outcome(OutcomeMessage(posting.key, posting.outcome)), number)
            documents.append(result_document(message))
        if indexed:
            self.index.write(source_id, documents)
        return documents

    def forged(self, source_id: str, seq: int, pipeline: str) -> None:
        """A result that no ledger key knows."""
        number = partition_of(source_id.encode(), PARTITIONS)
        self._write("results", encode_result(a_result(source_id, 1, seq, pipeline)), number)

    def _check(self, stream: StreamMessage) -> None:
        secrets = dict.fromkeys(("CAMERA_1_USER", "CAMERA_1_PASSWORD"), "secret")
        for address in filter(None, (stream.address, stream.publish)):
            self.policy.check(with_secrets(address, secrets))

    def _write(self, topic: str, encoded: Any, number: int | None) -> None:
        self._producer.append(NewRecord(topic, encoded.key, encoded.value, encoded.headers, number))
        self._producer.poll()


def a_result(source_id: str, epoch: int, seq: int, pipeline: str) -> ResultMessage:
    """A result without boxes."""
    digest = hashlib.sha256(f"{seq}".encode()).hexdigest()
    found = FrameResult(pipeline, 1, "detection", EMPTY, digest, ())
    posting = Posting(LedgerKey(source_id, epoch, seq, pipeline), seq * FRAME_NS, Outcome.of_result(found))
    return ResultMessage(
        posting, ModelFacts(pipeline, 1, "detection"), FrameTimes(seq, Fraction(1, 25)), {"detections": []}, (64, 48)
    )
