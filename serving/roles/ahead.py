"""Results of one partition that were read before their frames.

`results` may be any length ahead of `frames`: a file is mixed more slowly than it was analysed, one of its models is
slower than the other, a mixer begins anew. What was read too early is kept in bounds; what does not fit is read again
once there is room, because the log keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving.clock import NS_PER_S
from serving.frames import Posting

PAUSE_AT, MOST = 2048, 4096
FORGET_NS = 60 * NS_PER_S  # where all frames are read, those of older results were deleted unread, or never were


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    posting: Posting
    offset: int
    since_ns: int


class Ahead:
    """next: the offset after the last result that was taken here. Times are monotonic nanoseconds, handed in."""

    def __init__(self, position: int) -> None:
        self.next = position
        self._kept: dict[str, dict[tuple[int, int], list[_Kept]]] = {}
        self._count = 0
        self._skipped: int | None = None  # the first result that found no room

    def __len__(self) -> int:
        """Results kept."""
        return self._count

    @property
    def crowded(self) -> bool:
        """No more of them should be read, if frames can be read instead."""
        return self._count >= PAUSE_AT

    @property
    def all_taken_to(self) -> int:
        """Every result before this offset is kept here, or was given out."""
        return self.next if self._skipped is None else min(self.next, self._skipped)

    @property
    def oldest(self) -> int:
        """No result before this offset is needed for a frame that was not read yet."""
        return min([self.all_taken_to, *(one.offset for one in self._all())])

    def keep(self, posting: Posting, offset: int, now_ns: int, all_read: bool) -> None:
        """all_read: there is no frame to be read now, so the older half may go: those never had one."""
        if self._count >= MOST and all_read:
            for one in sorted(self._all(), key=lambda one: one.offset)[: MOST // 2]:
                self._drop(one)
        if self._count >= MOST or self._skipped is not None:
            self._skipped = offset if self._skipped is None else min(self._skipped, offset)
            return
        key = posting.key
        kept = self._kept.setdefault(key.source_id, {}).setdefault((key.epoch, key.frame_seq), [])
        kept.append(_Kept(posting, offset, now_ns))
        self._count += 1

    def take(self, source_id: str, epoch: int, first: int, last: int) -> list[tuple[Posting, int]]:
        """Those of frames `first` to `last`, with their offsets, now that these were read."""
        waiting = self._kept.get(source_id, {})
        if last - first < len(waiting):
            found = [(epoch, seq) for seq in range(first, last + 1) if (epoch, seq) in waiting]
        else:
            found = [key for key in waiting if key[0] == epoch and first <= key[1] <= last]
        taken = [one for key in found for one in waiting.pop(key)]
        self._count -= len(taken)
        return [(one.posting, one.offset) for one in taken]

    def forget_before(self, source_id: str, epoch: int, seq: int) -> None:
        """Frames of the source begin here: older ones are not shown by this mixer."""
        for key in [key for key in self._kept.get(source_id, {}) if key < (epoch, seq)]:
            self._count -= len(self._kept[source_id].pop(key))

    def forget_old(self, now_ns: int) -> None:
        """Called where all frames are read."""
        for one in [one for one in self._all() if now_ns - one.since_ns > FORGET_NS]:
            self._drop(one)

    def again(self) -> int | None:
        """From where to read once more, now that there is room for what found none; None: go on."""
        if self._skipped is None or self._count >= PAUSE_AT:
            return None
        self.next, self._skipped = self._skipped, None
        return self.next

    def _all(self) -> Iterator[_Kept]:
        return (one for waiting in self._kept.values() for kept in waiting.values() for one in kept)

    def _drop(self, one: _Kept) -> None:
        key = one.posting.key
        waiting = self._kept[key.source_id]
        kept = waiting[key.epoch, key.frame_seq]
        kept.remove(one)
        self._count -= 1
        if not kept:
            del waiting[key.epoch, key.frame_seq]
        if not waiting:
            del self._kept[key.source_id]
