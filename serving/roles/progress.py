"""How far a partition is done: nothing is committed beyond the first record whose work is not acknowledged."""

from __future__ import annotations


class Progress:
    """Offsets of one partition. Records are read in order and finished in any."""

    __slots__ = ("_next", "_open", "committed")

    def __init__(self, position: int) -> None:
        self.committed = position
        self._next = position
        self._open: dict[int, int] = {}  # in the order of reading

    def read(self, offset: int, parts: int = 1) -> None:
        """A record was read; `parts` acknowledgements finish it, none if there is nothing to do."""
        self._next = max(self._next, offset + 1)
        if parts:
            self._open[offset] = parts

    def done(self, offset: int) -> bool:
        """One part is acknowledged; True where none is left."""
        left = self._open.get(offset, 0) - 1
        if left > 0:
            self._open[offset] = left
            return False
        self._open.pop(offset, None)
        return True

    @property
    def safe(self) -> int:
        """The offset to commit: of the oldest record that is not finished, else of the next one."""
        return next(iter(self._open), self._next)

    @property
    def open(self) -> int:
        """Records that are not finished."""
        return len(self._open)
