"""Attempts live beside the committed offset of a group, so that a process that dies does not take the count with it.

Before a record that may be poison is tried alone, its own offset is committed with `{"offset":17,"attempt":2}`. After
an assignment the next owner reads it: two tries of offset 17 have begun (docs/guarantees.md, G2).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from serving.errors import RecordInvalid
from serving.records.fields import Fields, json_bytes

MOST_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class AttemptMark:
    """The record at `offset` is being tried for the `attempt`-th time."""

    offset: int
    attempt: int

    def __post_init__(self) -> None:
        if self.offset < 0 or not 1 <= self.attempt <= MOST_ATTEMPTS:
            raise ValueError(f"AttemptMark: expected offset >= 0 and attempt 1 to {MOST_ATTEMPTS}, got {self}")

    def text(self) -> str:
        """What is committed beside the offset."""
        return json_bytes({"offset": self.offset, "attempt": self.attempt}).decode()

    @classmethod
    def parse(cls, metadata: str) -> AttemptMark | None:
        """None where nothing is written. What is not ours counts as nothing: a stranger's tool may have committed."""
        try:
            fields = Fields("metadata", json.loads(metadata)) if metadata else None
            if fields is None:
                return None
            return cls(fields.integer("offset", 0), fields.integer("attempt", 1, MOST_ATTEMPTS))
        except (ValueError, AttributeError, RecordInvalid, RecursionError):
            return None
