"""What happened, as the log tells it: every frame, outcome candidate, outcome, dead letter and offset commit, in the
order of the broker, with the broker's own time. A tail follows all topics of a system while it runs.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from serving.ports_log import LogRecord, RecordLog, TopicPartition

COMMITS = "__consumer_offsets"
TOPICS = ("frames", "results", "outcomes", "timelines", "dead_letter")


class Place(NamedTuple):
    """Where and when a record was appended, by the broker. at_ms: milliseconds since 1970."""

    partition: int
    offset: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class FrameSeen:
    """A record of `frames`, without its picture."""

    place: Place
    source: str
    epoch: int
    first: int
    last: int
    pipelines: tuple[str, ...]
    pts_ns: int | None
    analyse: bool
    drop_reason: str
    size: int
    scale: str = "1/1"
    raw_pts: int | None = None


@dataclass(frozen=True, slots=True)
class ResultSeen:
    """A record of `results`."""

    place: Place
    source: str
    epoch: int
    seq: int
    pipeline: str
    outcome: str
    reason: str
    attempt: int
    digest: str
    infer_ms: float
    boxes: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class OutcomeSeen:
    """A record of `outcomes`."""

    place: Place
    source: str
    epoch: int
    seq: int
    pipeline: str
    outcome: str
    reason: str
    attempt: int
    digest: str
    closed: bool


@dataclass(frozen=True, slots=True)
class CommitSeen:
    """A committed position. offset -1: the group's position was deleted."""

    place: Place
    group: str
    topic: str
    partition: int
    offset: int
    metadata: str


@dataclass(slots=True)
class History:
    """Everything since the tail began."""

    frames: dict[str, list[FrameSeen]] = field(default_factory=lambda: defaultdict(list))
    results: dict[str, list[ResultSeen]] = field(default_factory=lambda: defaultdict(list))
    outcomes: dict[str, list[OutcomeSeen]] = field(default_factory=lambda: defaultdict(list))
    claims: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    letters: list[tuple[str, Mapping[str, bytes], bytes]] = field(default_factory=list)
    commits: list[CommitSeen] = field(default_factory=list)
    odd: int = 0  # records that are not what docs/kafka.md says (forged on purpose, or a defect)

    def take(self, topic: str, record: LogRecord) -> None:
        """One record of a topic (without the system's prefix)."""
        try:
            _TAKERS[topic](self, record)
        except (ValueError, KeyError, struct.error):
            self.odd += 1


class Tail:
    """Follows the topics in a thread of its own. One reader for pictures would be late for the rest; there is one."""

    def __init__(self, log: RecordLog, prefix: str) -> None:
        self.history = History()
        self._log, self._prefix = log, prefix
        self._names = {prefix + topic: topic for topic in TOPICS} | {COMMITS: COMMITS}
        places = [TopicPartition(name, n) for name in self._names for n in range(log.partitions(name))]
        self._reader = log.reader(dict.fromkeys(places, 0))
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._positions: dict[TopicPartition, int] = dict.fromkeys(places, 0)
        self._thread = threading.Thread(target=self._follow, name="tail", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._over.set()
        self._thread.join(10)
        self._reader.close()

    def caught_up(self, patience_s: float = 30.0) -> None:
        """Wait until everything that stands on the topics now has been taken. Raises TimeoutError."""
        ends = {place: end for place, (_, end) in self._log.bounds(self._positions).items()}
        deadline = time.monotonic() + patience_s
        while any(self._positions[place] < end for place, end in ends.items()):
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                raise TimeoutError(f"the tail is behind after {patience_s:.0f} s")
            time.sleep(0.05)

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                for record in self._reader.poll(0.1, 2000).records:
                    self.history.take(self._names[record.topic], record)
                    self._positions[record.place] = record.offset + 1
            except Exception as error:  # noqa: BLE001 - told to whoever waits
                self._failure = error
                return


def _headers(record: LogRecord) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


def _place(record: LogRecord) -> Place:
    return Place(record.partition, record.offset, record.timestamp_ms)


def _frame(history: History, record: LogRecord) -> None:
    told, source = _headers(record), (record.key or b"").decode()
    first = int(told["frame_seq"])
    history.frames[source].append(
        FrameSeen(
            _place(record), source, int(told["epoch"]), first, int(told.get("last_seq", first)),
            tuple(told["pipelines"].split(",")), int(told["pts_ns"]) if "pts_ns" in told else None,
            told.get("analyse", "true") == "true", told.get("drop_reason", ""), len(record.value or b""),
            told.get("scale", "1/1"), int(told["raw_pts"]) if "raw_pts" in told else None,
        )
    )  # fmt: skip


def _result(history: History, record: LogRecord) -> None:
    d, digest = json.loads(record.value or b""), _headers(record).get("payload_hash", "")
    boxes = tuple((*box["xyxy"], box["class_id"]) for box in d.get("detections", ()))
    spent = d.get("timings_ms", {}).get("infer", 0.0)
    history.results[d["source_id"]].append(
        ResultSeen(
            _place(record), d["source_id"], d["epoch"], d["frame_seq"], d["pipeline"], d["outcome"],
            d["reason"] or "", d["attempt"], digest, spent, boxes,
        )
    )  # fmt: skip


def _outcome(history: History, record: LogRecord) -> None:
    d = json.loads(record.value or b"")
    history.outcomes[d["source_id"]].append(
        OutcomeSeen(
            _place(record), d["source_id"], d["epoch"], d["frame_seq"], d["pipeline"], d["outcome"],
            d["reason"] or "", d["attempt"], d.get("payload_hash", ""), d["closed"],
        )
    )  # fmt: skip


def _claim(history: History, record: LogRecord) -> None:
    document = json.loads(record.value or b"")
    history.claims[document["source_id"]].append(document)


def _letter(history: History, record: LogRecord) -> None:
    history.letters.append(((record.key or b"").decode(), dict(record.headers), record.value or b""))


def _commit(history: History, record: LogRecord) -> None:
    """Kafka's OffsetCommitKey and OffsetCommitValue (its message definitions of these names, to versions 1 and 4)."""
    key = _Bytes(record.key or b"")
    if key.number(">h") > 1:
        return  # metadata of a group, not a position
    group, topic, partition = key.text(), key.text(), key.number(">i")
    if record.value is None:
        history.commits.append(CommitSeen(_place(record), group, topic, partition, -1, ""))
        return
    value = _Bytes(record.value)
    version = value.number(">h")
    offset = value.number(">q")
    if version >= 3:
        value.number(">i")  # leader epoch
    metadata = value.compact_text() if version >= 4 else value.text()
    history.commits.append(CommitSeen(_place(record), group, topic, partition, offset, metadata.strip("\0")))


class _Bytes:
    """Numbers and strings one after the other, big-endian, strings with a length of two bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        (found,) = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return int(found)

    def text(self) -> str:
        return self._text(self.number(">h"))

    def compact_text(self) -> str:
        """Its length and one, in groups of seven bits, the lowest first (KIP-482)."""
        size, shift = 0, 0
        while True:
            group = self.number(">B")
            size |= (group & 0x7F) << shift
            shift += 7
            if not group & 0x80:
                return self._text(size - 1)

    def _text(self, size: int) -> str:
        found = self._data[self._at : self._at + max(0, size)]
        self._at += max(0, size)
        return found.decode()


_TAKERS: Mapping[str, Any] = {
    "frames": _frame,
    "results": _result,
    "outcomes": _outcome,
    "timelines": _claim,
    "dead_letter": _letter,
    COMMITS: _commit,
}


def by_place(found: Iterable[FrameSeen]) -> dict[int, list[FrameSeen]]:
    """Frames by partition, in the order of the log."""
    out: dict[int, list[FrameSeen]] = defaultdict(list)
    for frame in found:
        out[frame.place.partition].append(frame)
    return {number: sorted(frames, key=lambda f: f.place.offset) for number, frames in out.items()}
