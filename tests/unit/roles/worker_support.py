"""A worker on the log in memory, driven by hand: both of its threads' loops, one turn at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from serving.frames import Frame, SourceKind, StreamInfo, TimelineRecord
from serving.ports_log import TopicPartition
from serving.preprocess.jpeg import JpegCodec
from serving.records import (
    FrameMessage,
    ResultMessage,
    StreamMessage,
    decode_result,
    encode_frame,
    encode_stream,
)
from serving.roles.jobs import WorkerSettings
from serving.roles.names import Names
from serving.roles.regions import SourceRegions
from serving.roles.registered import Registered
from serving.roles.sender import Sender
from serving.roles.timelines import LogClaims, Timelines
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker
from serving.streams.worker import Pipeline, Worker
from serving.tasks.detection import TASK
from serving.testing.hand_clock import HandClock
from serving.testing.memory_log import MemoryLog
from serving.types import Detections, ImageSize, InferRequest, InferResponse

NAMES = Names("t.")
CODEC = JpegCodec()
INFO = StreamInfo("gate", SourceKind.LIVE, Fraction(1, 90_000), 64, 48)
JPEG = CODEC.encode(np.full((48, 64, 3), 90, np.uint8))


class Counting:
    """A tracker whose ids are 1, 2, 3 ... in the order of calls."""

    def __init__(self) -> None:
        self.calls = 0

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        self.calls += 1
        ids = np.full(len(detections), self.calls, np.int64)
        return Detections(detections.xyxy, detections.confidence, detections.class_id, ids)


class Model:
    """One box a frame. away: raised instead. calls: parameters of each request of each call."""

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.calls: list[list[dict[str, Any]]] = []

    def __call__(self, requests: Sequence[InferRequest]) -> list[InferResponse]:
        self.calls.append([dict(request.parameters) for request in requests])
        if self.away is not None:
            raise self.away
        box = Detections(np.array([[1, 2, 3, 4]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
        return [InferResponse(box, ImageSize(64, 48), {"infer": 1.0}) for _ in requests]


class System:
    """Topics of one or more partitions, and workers on them."""

    def __init__(self, partitions: int = 1) -> None:
        topics = ("frames", "results", "outcomes", "timelines", "dead_letter", "streams")
        self.log = MemoryLog({NAMES.topic(t): partitions for t in topics})
        self.clock, self.model, self.partitions = HandClock(), Model(), partitions

    def claim(
        self, source: str, kind: SourceKind = SourceKind.LIVE, pipelines: tuple[str, ...] = ("person",), **about: Any
    ) -> None:
        info = replace(INFO, source_id=source, kind=kind, **about)
        claims = LogClaims(
            Timelines(self.log, NAMES), Sender(self.log.producer()), NAMES, f"ingest-{source}", lambda: info
        )
        draft = TimelineRecord(source, 0, f"ingest-{source}", info.time_base, 0, 0, None, pipelines)
        assert claims.claim(draft) is not None

    def register(self, source: str, **wishes: Any) -> None:
        self._write("streams", encode_stream(StreamMessage(source, "udp://127.0.0.1:5000", ("person",), **wishes)))

    def frames(
        self, source: str, seqs: Sequence[int], payload: bytes = JPEG, pipelines: tuple[str, ...] = ("person",)
    ) -> None:
        for seq in seqs:
            frame = Frame(source, 1, seq, seq * 40_000_000, seq * 3600, INFO.time_base, pipelines, 0)
            self._write("frames", encode_frame(FrameMessage(frame, 64, 48), payload))

    def worker(self, *models: tuple[str, Model], settings: WorkerSettings | None = None, **more: Any) -> LogWorker:
        pipelines = [
            Pipeline(name, 1, "detection", model, lambda r: TASK.to_document(r, ("thing",)))
            for name, model in (models or (("person", self.model),))
        ]
        regions = SourceRegions({"counting": Counting}, lambda stream, path: True)
        role = Worker(pipelines, regions, LogTransport(CODEC), lambda frame: made.first_id(frame))
        made = LogWorker(
            self.log, NAMES, role, settings or WorkerSettings(), self.clock, lambda: None,
            registered=Registered(self.log, NAMES), regions=regions, codec=CODEC, **more,
        )  # fmt: skip
        return made

    def until(self, condition: Callable[[], bool], *workers: LogWorker, step_ms: int = 0) -> None:
        """Turn the loops until the condition holds; the clock goes on by step_ms a turn."""
        for _ in range(500):
            if condition():
                return
            for worker in workers:
                worker.step(0.0)
                worker.analyst.turn()
            self.clock.advance(step_ms * 1_000_000)
        raise AssertionError("the condition was never met")

    def results(self) -> list[ResultMessage]:
        places = {TopicPartition(NAMES.topic("results"), n): 0 for n in range(self.partitions)}
        records = self.log.reader(places).poll(0.0, 10_000).records
        return [decode_result(r.key, r.value, r.headers) for r in records]

    def ends(self) -> dict[tuple[str, int], str]:
        """Reason, or 'result', by source and frame."""
        return {
            (m.posting.key.source_id, m.posting.key.frame_seq): m.posting.outcome.reason or "result"
            for m in self.results()
        }

    def ids(self) -> dict[int, int]:
        """Track id by frame."""
        found = {}
        for message in self.results():
            result = message.posting.outcome.result
            assert result is not None and result.detections is not None and result.detections.tracker_id is not None
            found[message.posting.key.frame_seq] = int(result.detections.tracker_id[0])
        return found

    def leave(self, worker: LogWorker) -> None:
        """The worker ends in good order."""
        worker._consumer.close()

    def kill(self, worker: LogWorker) -> None:
        """The worker's process ends."""
        self.log.expire(worker._consumer)  # type: ignore[arg-type]

    def _write(self, topic: str, record: Any) -> None:
        sender = Sender(self.log.producer())
        sender.send(NAMES.topic(topic), record, None)
        sender.flush(1)
