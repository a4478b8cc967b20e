"""The topic `timelines` as every role reads it: who owns an epoch, what its frames must look like, when it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from serving.align import EpochRegister, ticks_to_ns
from serving.errors import LogUnavailable, RecordInvalid
from serving.frames import DroppedRun, FrameRecord, StreamInfo, TimelineRecord, is_sound
from serving.murmur2 import partition_of
from serving.ports_log import LogReader, LogRecord, RecordLog, TopicPartition
from serving.records import (
    Encoded,
    FrameMessage,
    TimelineMessage,
    decode_timeline,
    encode_timeline,
    encode_withdrawn_timeline,
)
from serving.roles.following import read_to_end
from serving.roles.names import Names
from serving.roles.sender import Sender

READ_SECONDS = 10.0
ASK_AGAIN_SECONDS = 0.5
MAX_AHEAD = 1_000_000  # a frame_seq so far ahead is no hole, but a forgery that would fill the memory


def first_and_last(record: FrameRecord) -> tuple[int, int]:
    """The places of a record of `frames`."""
    if isinstance(record, DroppedRun):
        return record.first_seq, record.last_seq
    return record.frame_seq, record.frame_seq


def check_ahead(record: FrameRecord, next_seq: int) -> None:
    """Raises RecordInvalid for a place so far ahead of the next one that it cannot be true.

    next_seq 0: nothing of the epoch was seen here, which may have gone on for days.
    """
    first, _ = first_and_last(record)
    if next_seq and first - next_seq > MAX_AHEAD:
        raise RecordInvalid(f"frames.frame_seq: {first} is over {MAX_AHEAD} ahead of {next_seq}", field="frame_seq")


def is_whole(read: Mapping[int, int], ended: Mapping[int, int | None]) -> bool:
    """Whether all frames of the ended epochs were read; both are places by epoch (`Timelines.ended`).

    Epochs before the newest that nothing was read of were finished by somebody before.
    """
    newest = max(read, default=0)
    counted = {epoch: frames or 0 for epoch, frames in ended.items() if epoch in read or epoch > newest}
    return all(read.get(epoch, 0) >= frames for epoch, frames in counted.items())


class Timelines:
    """Reads all partitions from their beginning: the topic is compacted and small.

    Partitions may be added while roles run. A claim stays where it was written; its epoch is as good as ever.
    """

    def __init__(self, log: RecordLog, names: Names) -> None:
        self._log, self._topic = log, names.topic("timelines")
        self.partitions = log.partitions(self._topic)
        self._reader = self._open()
        self._known: dict[tuple[str, int], TimelineMessage] = {}
        self._home: dict[tuple[str, int], int] = {}  # the partition of a claim, and so of its frames
        self._asked: dict[tuple[str, int], float] = {}
        self.register = EpochRegister()
        self.refused = 0

    def poll(self) -> None:
        """Take what is there; waits for nothing."""
        for record in self._reader.poll(0.0).records:
            self._apply(record)

    def catch_up(self, timeout_s: float = READ_SECONDS) -> None:
        """Read to the present end of every partition. Raises LogUnavailable."""
        self._look_for_more()
        self._read_to_end(self._places, timeout_s)

    def find(self, source_id: str, epoch: int) -> TimelineMessage | None:
        """The claim of an epoch. A claim stands on the log before its frames, so one look at the end is enough.

        First where it belongs: each partition's end costs an answer of the broker, which a far one takes its time for.
        Raises LogUnavailable where nobody could look.
        """
        key = (source_id, epoch)
        if key not in self._known:
            self.poll()
        if key not in self._known and time.monotonic() - self._asked.get(key, -1e9) > ASK_AGAIN_SECONDS:
            self._read_to_end([self._places[partition_of(source_id.encode(), self.partitions)]], READ_SECONDS)
            if key not in self._known:
                self.catch_up()
            if len(self._asked) > 1000:  # noted last: a look that failed is no look
                self._asked.clear()
            self._asked[key] = time.monotonic()
        return self._known.get(key)

    def check(self, message: FrameMessage) -> TimelineMessage:
        """The claim that this frame belongs to. Raises RecordInvalid: forged, or of another system."""
        record = message.record
        claimed = self.find(record.source_id, record.epoch)
        if claimed is None:
            raise RecordInvalid(f"frames.epoch: nobody claimed {record.source_id} {record.epoch}", field="epoch")
        claim = claimed.claim
        if record.pipelines != claim.pipelines:
            raise RecordInvalid(
                f"frames.pipelines: expected {claim.pipelines}, got {record.pipelines}", field="pipelines"
            )
        if isinstance(record, DroppedRun):
            return claimed
        if record.time_base != claim.time_base:
            raise RecordInvalid(
                f"frames.time_base: expected {claim.time_base}, got {record.time_base}", field="time_base"
            )
        pts_ns = ticks_to_ns(record.pts - claim.u0, claim.time_base)
        if record.pts_ns != pts_ns:
            raise RecordInvalid(f"frames.pts_ns: expected {pts_ns}, got {record.pts_ns}", field="pts_ns")
        payload = record.picture.encoded if record.picture is not None else None
        if payload is not None and is_sound(payload) != (claimed.info.sample_rate > 0):
            expected = "sound" if claimed.info.sample_rate else "a picture"
            raise RecordInvalid(f"frames.value: expected {expected}, as the epoch's claim says", field="value")
        return claimed

    def ended(self, source_id: str, partition: int | None = None) -> dict[int, int | None] | None:
        """Frames of each epoch of a source whose input is over; None while it goes on.

        An epoch whose reader was killed or fenced has no number: what there is of it lies before the next epoch.
        partition: only of the epochs that are written there.
        """
        newest = self.register.newest(source_id)
        if newest is None:
            return None
        found = {epoch: message for (name, epoch), message in self._known.items() if name == source_id}
        if not found[newest.epoch].last or found[newest.epoch].frames is None:
            return None
        return {
            epoch: message.frames
            for epoch, message in found.items()
            if partition in (None, self._home[source_id, epoch])
        }

    def close(self) -> None:
        """Let go."""
        self._reader.close()

    def _read_to_end(self, places: Sequence[TopicPartition], timeout_s: float) -> None:
        read_to_end(self._log, self._reader, places, timeout_s, self._apply)

    def _open(self) -> LogReader:
        self._places = [TopicPartition(self._topic, n) for n in range(self.partitions)]
        return self._log.reader(dict.fromkeys(self._places, 0))

    def _look_for_more(self) -> None:
        """After partitions were added all are read from their beginning: what is known already changes nothing."""
        partitions = self._log.partitions(self._topic)
        if partitions != self.partitions:
            self.partitions = partitions
            self._reader.close()
            self._reader = self._open()

    def _may_lie_there(self, source_id: str, partition: int) -> bool:
        """Where the key belongs among as many partitions as there are, or once were."""
        key = source_id.encode()
        return any(partition_of(key, count) == partition for count in range(self.partitions, partition, -1))

    def _apply(self, record: LogRecord) -> None:
        if record.value is None:
            return  # a claim that was withdrawn
        try:
            message = decode_timeline(record.key, record.value, record.headers)
        except RecordInvalid:
            self.refused += 1
            return
        claim = message.claim
        if not self._may_lie_there(claim.source_id, record.partition):
            self.refused += 1
        elif self.register.apply(claim):
            first = self._known.get((claim.source_id, claim.epoch))
            if first is not None:  # only the end may be added to a claim
                message = replace(first, frames=message.frames, last=message.last)
            self._known[claim.source_id, claim.epoch] = message
            self._home.setdefault((claim.source_id, claim.epoch), record.partition)


class LogClaims:
    """`serving.align.EpochClaims` on the log: append, read back, the first record with a number owns it.

    While the log does not answer a claim waits for it, and what was read before keeps its place; `gives_up` is asked
    before each `wait` (seconds), and at once where there is none.
    """

    def __init__(
        self, timelines: Timelines, sender: Sender, names: Names, ingest_id: str, info: Callable[[], StreamInfo | None],
        wait: Callable[[float], object] = time.sleep, gives_up: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self._timelines, self._sender, self._topic = timelines, sender, names.topic("timelines")
        self._ingest_id, self._info = ingest_id, info
        self._wait, self._gives_up = wait, gives_up
        self.held: TimelineMessage | None = None

    def claim(self, draft: TimelineRecord) -> TimelineRecord | None:
        """The draft with its number; None: another ingester has the source. Raises LogUnavailable."""
        self._patiently(self._timelines.catch_up)
        register, info = self._timelines.register, self._info()
        assert info is not None, "a claim is made when the first picture is at hand"
        if self.held is not None and register.is_fenced(draft.source_id, self.held.claim.epoch):
            return None
        record = replace(draft, ingest_id=self._ingest_id, epoch=register.next_epoch(draft.source_id))
        message = TimelineMessage(record, replace(info, source_id=draft.source_id))
        self._send(record, encode_timeline(message))
        self._patiently(self._acknowledged)  # not written again: what was sent arrives once the broker is back
        self._patiently(self._timelines.catch_up)
        if register.owner(draft.source_id, record.epoch) != self._ingest_id:
            self._write(record, encode_withdrawn_timeline(record))
            return None
        self.held = message
        return record

    def is_fenced(self) -> bool:
        """A higher epoch than ours is on the log: another ingester has the source."""
        self._timelines.poll()
        held = self.held
        return held is not None and self._timelines.register.is_fenced(held.claim.source_id, held.claim.epoch)

    def ended(self, epoch: int, frames: int, last: bool) -> None:
        """The epoch has so many places; last: and the source is over."""
        held = self._timelines.find(self.held.claim.source_id, epoch) if self.held is not None else None
        if held is not None and held.claim.ingest_id == self._ingest_id:
            self._write(held.claim, encode_timeline(replace(held, frames=frames, last=last)))

    def _patiently(self, action: Callable[[], object]) -> None:
        while True:
            try:
                action()
                return
            except LogUnavailable:
                if self._gives_up():
                    raise
                self._wait(ASK_AGAIN_SECONDS)

    def _write(self, claim: TimelineRecord, encoded: Encoded) -> None:
        self._send(claim, encoded)
        self._acknowledged()

    def _send(self, claim: TimelineRecord, encoded: Encoded) -> None:
        number = partition_of(claim.source_id.encode(), self._timelines.partitions)
        self._sender.send(self._topic, encoded, number, give_up=self._gives_up)

    def _acknowledged(self) -> None:
        if not self._sender.flush(READ_SECONDS):
            raise LogUnavailable(f"{self._topic}: a claim was not acknowledged within {READ_SECONDS:.0f} s")
