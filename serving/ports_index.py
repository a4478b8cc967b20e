"""The index as roles and gateway see it: results by PTS, the latest ones, and what each role says of a source.

It is an index and a cache: everything in it is on the log, or is said again within a second. It may be flushed or be
away at any time; then answers are missing, never wrong. `serving.adapters.redis` meets it with a real Redis,
`serving.testing.memory_index` in memory; both pass tests/contract/test_result_index.py. Values are JSON and nothing
else: what does not decode is a miss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from serving.clock import NS_PER_S

Json = Mapping[str, Any]
STATE_TTL_S = 10.0
ROLES = ("ingest", "worker", "mixer", "accountant")
NS_PER_US = 1000
MINUTE_NS = 60 * NS_PER_S


class Place(NamedTuple):
    """Where a result stands among those of its source; results are ordered by it."""

    epoch: int
    pts_ns: int
    pipeline: str


def place_of(document: Json) -> Place:
    """The place of a result document (docs/results.schema.json). KeyError, TypeError where it has no PTS."""
    epoch, pts_ns, pipeline = document["epoch"], document["pts_ns"], document["pipeline"]
    if type(epoch) is not int or type(pts_ns) is not int or not isinstance(pipeline, str):
        raise TypeError(f"result document: expected integers epoch and pts_ns, got {epoch!r} and {pts_ns!r}")
    return Place(epoch, pts_ns, pipeline)


@dataclass(frozen=True, slots=True)
class Page:
    """documents: in the order of their places. next_pts_ns: from where the next page goes on, None at the end.

    All documents of one pts_ns stand on one page, so a page may hold a few more than was asked for.
    """

    documents: tuple[Json, ...]
    next_pts_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Latest:
    """documents: the newest result of each pipeline. age_s: since the last one came in; None where nobody knows."""

    documents: Mapping[str, Json]
    age_s: float | None = None


class StateSink(Protocol):
    """Where a role says how its sources are."""

    def put_state(self, role: str, source_id: str, fields: Json) -> None:
        """See `ResultIndex`."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class ResultIndex(Protocol):
    """Every call but `put_state` raises Unavailable, within about half a second, while the index is away.

    May be used by several threads.
    """

    def write(self, source_id: str, documents: Sequence[Json], fresh: bool = True) -> None:
        """Put result documents at their places; one that stands there is replaced.

        fresh: they have just come in (not read back from the log), so the age of the latest result begins anew.
        """
        ...

    def results(self, source_id: str, epoch: int, from_ns: int, to_ns: int | None, limit: int) -> Page:
        """Documents with from_ns <= pts_ns < to_ns (None: no end) of one epoch, about `limit` of them."""
        ...

    def epochs(self, source_id: str) -> tuple[int, ...]:
        """Epochs that have results, rising."""
        ...

    def latest(self, source_id: str) -> Latest:
        """The newest results."""
        ...

    def put_state(self, role: str, source_id: str, fields: Json) -> None:
        """What a role says of a source, for STATE_TTL_S. Returns at once and never fails; what cannot be written
        within the second is overtaken by the next one."""
        ...

    def states(self, source_ids: Sequence[str]) -> Mapping[str, Mapping[str, Json]]:
        """What the roles say, by source and role; a role that is silent is missing."""
        ...

    def forget(self, source_id: str) -> None:
        """Take a source's states and latest results away; its results by PTS go with their retention."""
        ...

    def exchange(self, name: str, value: str) -> str | None:
        """Leave a mark, and return the one that stood there: whoever does not find its own knows of a loss."""
        ...

    def close(self) -> None:
        """Let go."""
        ...
