"""What ingest keeps while the log is away: every frame's descriptor, and as many pictures as fit.

Pictures go first, oldest first, and a frame that lost its picture is dropped(overload); runs of drops fold into one
record. So an outage costs pictures, never accounting.
"""

from __future__ import annotations

from collections import deque

from serving.frames import MAX_RUN, DroppedRun, DropReason, Frame, FrameRecord


def fold(records: list[FrameRecord]) -> list[FrameRecord]:
    """The same records with neighbouring runs of one reason joined."""
    out: list[FrameRecord] = []
    for record in records:
        last = out[-1] if out else None
        if isinstance(last, DroppedRun) and isinstance(record, DroppedRun) and _follows(last, record):
            out[-1] = _joined(last, record)
        else:
            out.append(record)
    return out


class Outbox:
    """Records not yet acknowledged by the log, oldest first. Holds `max_pictures` pictures at most."""

    __slots__ = ("_max_pictures", "_pictures", "_records", "evicted")

    def __init__(self, max_pictures: int) -> None:
        if max_pictures < 1:
            raise ValueError(f"Outbox: expected room for at least one picture, got {max_pictures}")
        self._max_pictures = max_pictures
        self._records: deque[FrameRecord] = deque()
        self._pictures = 0
        self.evicted = 0

    def put(self, record: FrameRecord) -> None:
        """A record to be written; the oldest pictures go when there are too many."""
        if self._records and isinstance(record, DroppedRun):
            last = self._records[-1]
            if isinstance(last, DroppedRun) and _follows(last, record):
                self._records[-1] = _joined(last, record)
                return
        self._records.append(record)
        self._pictures += isinstance(record, Frame)
        if self._pictures > self._max_pictures:
            self._evict_oldest()

    def peek(self) -> FrameRecord | None:
        """The oldest record, to be written next."""
        return self._records[0] if self._records else None

    def acknowledged(self) -> None:
        """The oldest record is on the log."""
        self._pictures -= isinstance(self._records.popleft(), Frame)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def pictures(self) -> int:
        """Frames that still have their picture."""
        return self._pictures

    def _evict_oldest(self) -> None:
        """Everything before the oldest picture is runs of drops, so the new run may join the one before it."""
        ahead: list[FrameRecord] = []
        while not isinstance(frame := self._records.popleft(), Frame):
            ahead.append(frame)
        run = DroppedRun(
            frame.source_id, frame.epoch, frame.frame_seq, frame.frame_seq, DropReason.OVERLOAD, frame.pipelines
        )
        following = self._records[0] if self._records else None
        folded = fold([*ahead, run])
        if isinstance(following, DroppedRun):
            self._records.popleft()
            folded = fold([*folded, following])
        self._records.extendleft(reversed(folded))
        self._pictures -= 1
        self.evicted += 1


def _follows(first: DroppedRun, second: DroppedRun) -> bool:
    same = (first.source_id, first.epoch, first.reason, first.pipelines)
    return (
        same == (second.source_id, second.epoch, second.reason, second.pipelines)
        and second.first_seq == first.last_seq + 1
        and second.last_seq - first.first_seq < MAX_RUN
    )


def _joined(first: DroppedRun, second: DroppedRun) -> DroppedRun:
    return DroppedRun(first.source_id, first.epoch, first.first_seq, second.last_seq, first.reason, first.pipelines)
