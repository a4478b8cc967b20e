"""Epoch numbers are claims: append to the compacted `timelines` topic, read back, the first record of a number wins.

`EpochRegister` is the fold of one partition; the adapter to the log appends and reads, and asks it who won.
`LocalClaims` is the whole thing for one process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from serving.frames import TimelineRecord


class EpochClaims(Protocol):
    """Gets the number of a new epoch; returns when the claim has been read back."""

    def claim(self, draft: TimelineRecord) -> TimelineRecord | None:
        """The draft (epoch 0) with the number it won; None if another ingester owns the source now: stop it."""
        ...


class EpochRegister:
    """Who owns which epoch. Feed every record of the partition, in log order."""

    __slots__ = ("_newest", "_owners")

    def __init__(self) -> None:
        self._newest: dict[str, TimelineRecord] = {}
        self._owners: dict[tuple[str, int], str] = {}

    def apply(self, record: TimelineRecord) -> bool:
        """True if the record owns its number, False if it came second."""
        key = (record.source_id, record.epoch)
        owner = self._owners.setdefault(key, record.ingest_id)
        if owner != record.ingest_id:
            return False
        newest = self._newest.get(record.source_id)
        if newest is None or record.epoch > newest.epoch:
            self._newest[record.source_id] = record
        return True

    def owner(self, source_id: str, epoch: int) -> str | None:
        """The ingest_id that owns the number, None if it is free."""
        return self._owners.get((source_id, epoch))

    def newest(self, source_id: str) -> TimelineRecord | None:
        """The record of the source's highest epoch."""
        return self._newest.get(source_id)

    def next_epoch(self, source_id: str) -> int:
        """The number to claim: one above the highest."""
        newest = self._newest.get(source_id)
        return 1 if newest is None else newest.epoch + 1

    def is_fenced(self, source_id: str, epoch: int) -> bool:
        """A higher epoch exists, so whoever holds `epoch` must stop."""
        newest = self._newest.get(source_id)
        return newest is not None and newest.epoch > epoch


class LocalClaims:
    """Claims inside one process: every claim wins the next number. Keeps the records, oldest first, per source."""

    __slots__ = ("_register",)

    def __init__(self) -> None:
        self._register = EpochRegister()

    def claim(self, draft: TimelineRecord) -> TimelineRecord | None:
        """The draft with the next free number of its source."""
        record = replace(draft, epoch=self._register.next_epoch(draft.source_id))
        self._register.apply(record)
        return record
