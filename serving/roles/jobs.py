"""What a worker has in hand: partitions, and frames on their way from `frames` to `results`."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from uuid import uuid4

from serving.align import SheddingRules, max_age_ns
from serving.clock import NS_PER_MS, NS_PER_S
from serving.frames import Frame
from serving.ports_log import LogRecord, TopicPartition
from serving.records import AttemptMark, FrameMessage, StreamMessage
from serving.roles.progress import Progress

POISON_AT = 3
IDS_A_FRAME = 1000  # a tracker that begins at frame_seq n gives ids from n x this on: none twice in an epoch
CLEAN = '{"clean":true}'  # beside an offset: its owner left in good order, so no record behind it ended a process
JobKey = tuple[str, int, int]  # source_id, epoch, frame_seq


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """in_flight: records of a partition that are read and not finished, at most. member: for static membership.

    delay_ns, mixed, max_fps: of live sources that nobody registered, for shedding by age. max_batch: frames that go to
    a model together. patience_s: how long a file's frame waits for a model that is away; a live one waits its max_age.
    """

    in_flight: int = 32
    member: str = ""
    delay_ns: int = NS_PER_S // 4
    mixed: bool = True
    max_fps: int = 60
    inference_timeout_s: float = 8.0
    max_batch: int = 8
    patience_s: float = 300.0

    def __post_init__(self) -> None:
        if self.in_flight < 1 or self.max_batch < 1 or self.inference_timeout_s <= 0 or self.patience_s < 0:
            raise ValueError(f"WorkerSettings: expected in_flight, max_batch >= 1 and times above 0, got {self}")


def own_metadata() -> str:
    """Beside the offsets that one process commits, and no other: found again, nobody had the partition in between."""
    return json.dumps({"owner": uuid4().hex[:16]}, separators=(",", ":"))


def rules_of(wished: StreamMessage | None, settings: WorkerSettings, live: bool) -> SheddingRules:
    """How old frames of a source may grow, by its record on `streams`, or by the settings where it has none."""
    if wished is None:
        return SheddingRules(max_age_ns(settings.delay_ns, settings.mixed), settings.max_fps, live)
    return SheddingRules(max_age_ns(wished.delay_ms * NS_PER_MS, wished.mixed), wished.max_fps, live)


@dataclass(slots=True)
class Part:
    """One partition. waiting: read, not yet given to the analyst. careful: records left to be tried one at a time.

    trying: the offset that is tried now. sources: those seen here, with epoch and place of the first frame that was.
    """

    progress: Progress
    mark: AttemptMark | None
    careful: int
    waiting: deque[Job] = field(default_factory=deque)
    trying: int | None = None
    paused: bool = False
    sources: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def is_suspect(self) -> bool:
        """Its next record was being tried when a process ended."""
        return self.mark is not None and bool(self.waiting) and self.waiting[0].offset == self.mark.offset

    @property
    def turn(self) -> tuple[bool, int]:
        """Lower comes first: what ended a process last, as the others are done by then; else most left to be tried."""
        return self.is_suspect, -self.careful


@dataclass(frozen=True, slots=True)
class Job:
    """A frame to be analysed. frame: of message, with the pipelines that are ours. attempt: counted on the log.

    careful: it may have been in flight when its last owner ended, so it is tried alone.
    """

    record: LogRecord
    part: Part
    message: FrameMessage
    frame: Frame
    rules: SheddingRules
    attempt: int = 1
    careful: bool = False

    @property
    def place(self) -> TopicPartition:
        """Where its record lies; its results go to the same number."""
        return self.record.place

    @property
    def offset(self) -> int:
        """Of its record."""
        return self.record.offset

    @property
    def key(self) -> JobKey:
        """Which frame."""
        return self.frame.source_id, self.frame.epoch, self.frame.frame_seq

    def worth_until_ns(self, patience_s: float) -> int:
        """Until when it makes sense to wait for a model: a live frame's max_age, a file's patience."""
        wait_ns = self.rules.max_age_ns if self.rules.live else int(patience_s * NS_PER_S)
        return self.frame.arrival_mono_ns + wait_ns
