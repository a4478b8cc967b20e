"""The watermark of a timeline: the largest PTS at and below which every ledger frame is settled.

Settled: every pipeline has an outcome, or (live sources only) the frame's deadline has passed.
"""

from __future__ import annotations

from collections import deque


class Watermark:
    """Frames come in PTS order; terminal ones in any order. The value never falls. Memory: the frames not yet settled.

    `covers` answers for a frame that was given to `frame`.
    """

    __slots__ = ("_open", "_waiting", "value_ns")

    def __init__(self) -> None:
        self.value_ns: int | None = None
        self._waiting: deque[int] = deque()
        self._open: set[int] = set()

    def frame(self, pts_ns: int) -> None:
        """A frame of the ledger, later than all before."""
        self._waiting.append(pts_ns)
        self._open.add(pts_ns)

    def terminal(self, pts_ns: int) -> None:
        """Every pipeline has an outcome for this frame."""
        self._open.discard(pts_ns)
        self._advance()

    def past_deadline(self, pts_ns: int) -> None:
        """The deadlines of every frame at or below have passed (live sources)."""
        for pts in self._waiting:
            if pts > pts_ns:
                break
            self._open.discard(pts)
        self._advance()

    def covers(self, pts_ns: int) -> bool:
        """Every ledger frame at or below is settled."""
        return self.value_ns is not None and pts_ns <= self.value_ns

    def _advance(self) -> None:
        while self._waiting and self._waiting[0] not in self._open:
            self.value_ns = self._waiting.popleft()
