"""The result index in memory, with every promise of the port; faults on request: `down`, `flush`, `lose_after`."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from threading import RLock
from typing import Any

from serving.clock import NS_PER_S, Clock, SystemClock
from serving.errors import Unavailable
from serving.ports_index import STATE_TTL_S, Json, Latest, Page, Place, place_of


class MemoryIndex:
    """Meets `serving.ports_index.ResultIndex`. Retention is by the clock since the last write of an epoch's minute."""

    def __init__(self, retention_s: float = 21_600.0, clock: Clock | None = None) -> None:
        self._clock, self._retention_ns = clock or SystemClock(), int(retention_s * NS_PER_S)
        self._lock = RLock()
        self._down = False
        self.flush()

    # -- the port ---------------------------------------------------------------------------------------------------

    def write(self, source_id: str, documents: Sequence[Json], fresh: bool = True) -> None:
        """Put result documents at their places."""
        with self._lock:
            self._check_up()
            now_ns = self._clock.monotonic_ns()
            for document in documents:
                place, text = place_of(document), json.dumps(document, allow_nan=False)
                self._results[source_id][place] = (now_ns, text)
                if document.get("outcome") == "result":
                    self._keep_latest(source_id, place, text)
            if fresh and any(document.get("outcome") == "result" for document in documents):
                self._latest_ns[source_id] = now_ns

    def results(self, source_id: str, epoch: int, from_ns: int, to_ns: int | None, limit: int) -> Page:
        """Documents of a half-open range."""
        with self._lock:
            self._check_up()
            found = sorted(
                place
                for place, (written_ns, _) in self._results[source_id].items()
                if place.epoch == epoch
                and place.pts_ns >= from_ns
                and (to_ns is None or place.pts_ns < to_ns)
                and self._clock.monotonic_ns() - written_ns < self._retention_ns
            )
            last_pts = found[limit - 1].pts_ns if len(found) > limit else None
            taken = [place for place in found if last_pts is None or place.pts_ns <= last_pts]
            after = found[len(taken)].pts_ns if len(taken) < len(found) else None
            return Page(tuple(json.loads(self._results[source_id][place][1]) for place in taken), after)

    def epochs(self, source_id: str) -> tuple[int, ...]:
        """Epochs that have results."""
        with self._lock:
            self._check_up()
            return tuple(sorted({place.epoch for place in self._results[source_id]}))

    def latest(self, source_id: str) -> Latest:
        """The newest results."""
        with self._lock:
            self._check_up()
            documents = {name: json.loads(text) for name, (_, text) in self._latest[source_id].items()}
            since = self._latest_ns.get(source_id)
            return Latest(documents, None if since is None else (self._clock.monotonic_ns() - since) / NS_PER_S)

    def put_state(self, role: str, source_id: str, fields: Json) -> None:
        """What a role says of a source."""
        with self._lock:
            if not self._down:
                self._states[source_id][role] = (self._clock.monotonic_ns(), copy.deepcopy(dict(fields)))

    def states(self, source_ids: Sequence[str]) -> Mapping[str, Mapping[str, Json]]:
        """What the roles say."""
        with self._lock:
            self._check_up()
            oldest_ns = self._clock.monotonic_ns() - int(STATE_TTL_S * NS_PER_S)
            return {
                source_id: {
                    role: copy.deepcopy(fields)
                    for role, (at_ns, fields) in self._states[source_id].items()
                    if at_ns >= oldest_ns
                }
                for source_id in source_ids
            }

    def forget(self, source_id: str) -> None:
        """Take states and latest results away."""
        with self._lock:
            self._check_up()
            for table in (self._states, self._latest, self._latest_ns):
                table.pop(source_id, None)

    def exchange(self, name: str, value: str) -> str | None:
        """Leave a mark, return the last one."""
        with self._lock:
            self._check_up()
            before, self._marks[name] = self._marks.get(name), value
            return before

    def close(self) -> None:
        """Nothing is held."""

    # -- faults -----------------------------------------------------------------------------------------------------

    def set_down(self, down: bool) -> None:
        """The index goes, or comes back with what it had."""
        with self._lock:
            self._down = down

    def flush(self) -> None:
        """FLUSHALL."""
        with self._lock:
            self._results: defaultdict[str, dict[Place, tuple[int, str]]] = defaultdict(dict)
            self._latest: defaultdict[str, dict[str, tuple[Place, str]]] = defaultdict(dict)
            self._latest_ns: dict[str, int] = {}
            self._states: defaultdict[str, dict[str, tuple[int, dict[str, Any]]]] = defaultdict(dict)
            self._marks: dict[str, str] = {}

    def snapshot(self) -> dict[str, Any]:
        """All there is, for `restore`."""
        with self._lock:
            return copy.deepcopy(
                {name: getattr(self, name) for name in ("_results", "_latest", "_latest_ns", "_marks")}
            )

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """A failover that lost what came after the snapshot."""
        with self._lock:
            for name, value in snapshot.items():
                setattr(self, name, copy.deepcopy(value))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _check_up(self) -> None:
        if self._down:
            raise Unavailable("the index in memory is down")

    def _keep_latest(self, source_id: str, place: Place, text: str) -> None:
        known = self._latest[source_id].get(place.pipeline)
        if known is None or place >= known[0]:
            self._latest[source_id][place.pipeline] = (place, text)
