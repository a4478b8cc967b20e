"""Which sources this process reads, and what became of each: one child process a source, started, watched, ended.

A child that crashed, hung or failed is started again after a back-off; one whose source is over, or that another
ingester fenced, is not, until its record changes. Nothing here knows processes (`serving.roles.ingest_process`) or the
log (`serving.roles.ingest_supervisor`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

from serving.clock import NS_PER_MS, NS_PER_S, Clock
from serving.errors import LogUnavailable
from serving.records import StreamMessage

HELD_UP_S = 120.0


class SourceState(Enum):
    """What a source of this process is doing."""

    RUNNING = "running"
    BACKOFF = "backoff"  # crashed, hung or failed; tried again
    ENDED = "ended"  # its input is over, or its lease
    FENCED = "fenced"  # another ingester has it
    CROWDED = "crowded"  # more sources than this process may read


class End(Enum):
    """How a child ended. CRASHED: it could not say."""

    OVER = "over"
    HANDED_OVER = "handed_over"
    FENCED = "fenced"
    FAILED = "failed"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """code, message: of the error, where there was one."""

    how: End
    code: str = ""
    message: str = ""


class Child(Protocol):
    """One process that reads one source."""

    @property
    def pid(self) -> int: ...

    def status(self) -> Mapping[str, Any]:
        """What it said last: pictures, frames, epoch and so on; empty before it said anything."""
        ...

    def heard_ns(self) -> int:
        """When it said something last, by the monotonic clock."""
        ...

    def beat(self) -> None:
        """Renew its lease: without this it ends by itself."""
        ...

    def end(self, over: bool) -> None:
        """Ask it to end. over: the source is taken away; else somebody goes on with it."""
        ...

    def ended(self) -> ChildEnd | None:
        """How it ended; None while it lives."""
        ...

    def kill(self) -> None:
        """At once, and wait for it."""
        ...


Spawn = Callable[[StreamMessage], Child]


@dataclass(frozen=True, slots=True)
class FleetRules:
    """Back-off between starts of one source doubles from first_s to most_s and begins anew after steady_s of running.

    refused_s: least wait after an error that time alone does not mend. silent_s: a child that says nothing for so long
    hangs and is killed. grace_s: time to end in good order. most: sources read by this process at once.
    """

    first_s: float = 0.5
    most_s: float = 8.0
    refused_s: float = 10.0
    steady_s: float = 30.0
    silent_s: float = 20.0
    grace_s: float = 6.0
    most: int = 64


@dataclass(slots=True)
class _Source:
    stream: StreamMessage
    state: SourceState
    child: Child | None = None
    due_ns: int = 0
    delay_s: float = 0.0
    started_ns: int = 0
    restarts: int = 0
    last: ChildEnd | None = None
    picture_ns: int = 0  # when its newest picture came; before the first, when it was wanted


@dataclass(slots=True)
class _Leaving:
    child: Child
    until_ns: int


@dataclass(frozen=True, slots=True)
class SourceView:
    """One source for pages and tables. error: code and message of what went wrong last; "" while it runs well.

    silent_s: since its newest picture, whichever child had it; where there was none, since it is wanted.
    """

    source_id: str
    state: SourceState
    pid: int
    restarts: int
    error: str
    silent_s: float
    status: Mapping[str, Any] = field(default_factory=dict)


class Fleet:
    """One thread calls it, `tick` about once a second. `beat` may be called by another one meanwhile."""

    def __init__(self, spawn: Spawn, rules: FleetRules, clock: Clock) -> None:
        self._spawn, self._rules, self._clock = spawn, rules, clock
        self._sources: dict[str, _Source] = {}
        self._leaving: dict[str, list[_Leaving]] = {}
        self._held: frozenset[str] = frozenset()
        self._beaten_ns = 0
        self._ticked_ns = clock.monotonic_ns()
        self._ends: Counter[str] = Counter()

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def want(self, stream: StreamMessage, ended: bool = False, again: bool = False) -> None:
        """Read this source from now on. ended: it was over before this process had it, so it is only named.

        again: it was registered anew, so one that is over or fenced begins again.
        """
        known = self._sources.get(stream.source_id)
        rests = known is not None and known.state in (SourceState.ENDED, SourceState.FENCED)
        if known is not None and _reads_alike(known.stream, stream) and not (rests and again):
            known.stream = stream
            return
        if known is not None:
            self._part_from(known, over=False)
        state = SourceState.ENDED if ended else SourceState.BACKOFF
        now_ns = self._clock.monotonic_ns()
        self._sources[stream.source_id] = _Source(stream, state, due_ns=now_ns, picture_ns=now_ns)

    def drop(self, source_id: str, over: bool) -> None:
        """Read it no more. over: it was taken away; else somebody goes on with it."""
        known = self._sources.pop(source_id, None)
        if known is not None:
            self._part_from(known, over)

    def hold(self, source_ids: frozenset[str]) -> None:
        """No child is started for these, and what still runs of them goes on: it is not known whose they are."""
        self._held = source_ids

    @property
    def wanted(self) -> frozenset[str]:
        """Names of all sources of this process."""
        return frozenset(self._sources)

    @property
    def leaving(self) -> int:
        """Children that were asked to end and still live."""
        return sum(map(len, self._leaving.values()))

    # -- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look after the children: renew, start, take ends, kill what hangs."""
        now_ns = self._ticked_ns = self._clock.monotonic_ns()
        self.beat()
        self._reap(now_ns)
        for source in self._sources.values():
            if source.child is not None:
                self._look_after(source, source.child, now_ns)
        self._start_due(now_ns)

    def beat(self) -> None:
        """Renew the leases, once a second at most. A broker that lets `tick` wait ends no child; where nobody looked
        after them for HELD_UP_S somebody else shall read them."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._beaten_ns < NS_PER_S or now_ns - self._ticked_ns > HELD_UP_S * NS_PER_S:
            return
        self._beaten_ns = now_ns
        for source in list(self._sources.values()):
            if (child := source.child) is not None:
                child.beat()

    def close(self, grace_s: float | None = None) -> None:
        """Ask all children to hand over; `tick` until `leaving` is 0, then nothing of ours lives."""
        for source_id in list(self._sources):
            self.drop(source_id, over=False)
        if grace_s is not None:
            until_ns = self._clock.monotonic_ns() + int(grace_s * NS_PER_S)
            for leaving in self._leaving.values():
                leaving[:] = [replace_until(one, until_ns) for one in leaving]

    def views(self) -> list[SourceView]:
        """Each source, by name."""
        now_ns = self._clock.monotonic_ns()
        return [_view(source, now_ns) for _, source in sorted(self._sources.items())]

    def reap(self) -> int:
        """Take the ends of children that were asked to end, kill those whose time is over; how many are left."""
        self._reap(self._clock.monotonic_ns())
        return self.leaving

    def take_ends(self) -> Mapping[str, int]:
        """How children ended since this was asked last, by `End` and "stalled"."""
        taken, self._ends = self._ends, Counter()
        return taken

    # -- inside -----------------------------------------------------------------------------------------------------

    def _part_from(self, source: _Source, over: bool) -> None:
        if source.child is None:
            return
        source.child.end(over)
        until_ns = self._clock.monotonic_ns() + int(self._rules.grace_s * NS_PER_S)
        self._leaving.setdefault(source.stream.source_id, []).append(_Leaving(source.child, until_ns))
        source.child = None

    def _reap(self, now_ns: int) -> None:
        for source_id, leaving in list(self._leaving.items()):
            for one in list(leaving):
                if one.child.ended() is None and now_ns >= one.until_ns:
                    one.child.kill()
                if one.child.ended() is not None:
                    leaving.remove(one)
            if not leaving:
                del self._leaving[source_id]

    def _look_after(self, source: _Source, child: Child, now_ns: int) -> None:
        _note_picture(source, child)
        end = child.ended()
        if end is None and now_ns - child.heard_ns() > self._rules.silent_s * NS_PER_S:
            child.kill()
            end = ChildEnd(End.CRASHED, "source_stalled", f"said nothing for {self._rules.silent_s:g} s and was killed")
            self._ends["stalled"] += 1
        elif end is not None:
            self._ends[end.how.value] += 1
        if end is None:
            if now_ns - source.started_ns > self._rules.steady_s * NS_PER_S:
                source.delay_s, source.last = 0.0, None
            return
        source.child, source.last = None, end
        if end.how is End.OVER:
            source.state = SourceState.ENDED
        elif end.how is End.FENCED:
            source.state = SourceState.FENCED
        else:
            self._back_off(source, end, now_ns)

    def _back_off(self, source: _Source, end: ChildEnd, now_ns: int) -> None:
        """HANDED_OVER comes here where nobody asked for it: its lease ran out while this process was held up."""
        rules = self._rules
        source.state, source.restarts = SourceState.BACKOFF, source.restarts + 1
        refused = end.how is End.FAILED and end.code != LogUnavailable.code  # the broker refuses no source
        least = rules.refused_s if refused else rules.first_s
        source.delay_s = min(max(2 * source.delay_s, least), max(rules.most_s, least))
        wait_s = 0.0 if end.how is End.HANDED_OVER else source.delay_s
        source.due_ns = now_ns + int(wait_s * NS_PER_S)

    def _start_due(self, now_ns: int) -> None:
        """Oldest names first; a source whose last child still ends waits for it, so that none is read twice."""
        running = sum(source.child is not None for source in self._sources.values())
        waiting = (SourceState.BACKOFF, SourceState.CROWDED)
        for source_id, source in self._sources.items():
            due = source.child is None and source.state in waiting and now_ns >= source.due_ns
            if not due or source_id in self._leaving or source_id in self._held:
                continue
            if running >= self._rules.most:
                source.state = SourceState.CROWDED
                continue
            source.child, source.state, source.started_ns = self._spawn(source.stream), SourceState.RUNNING, now_ns
            running += 1


def replace_until(one: _Leaving, until_ns: int) -> _Leaving:
    """The same child with a nearer end."""
    return replace(one, until_ns=min(one.until_ns, until_ns))


def _note_picture(source: _Source, child: Child) -> None:
    """Take the newest picture's time from what the child said; one that has had none yet says nothing of it."""
    status = child.status()
    age_ms = status.get("picture_age_ms")
    if status.get("pictures") and age_ms is not None:
        source.picture_ns = max(source.picture_ns, child.heard_ns() - age_ms * NS_PER_MS)


def _view(source: _Source, now_ns: int) -> SourceView:
    child, last = source.child, source.last
    if child is not None:
        _note_picture(source, child)
    error = f"{last.code or last.how.value}: {last.message}" if last is not None and last.how is not End.OVER else ""
    if source.state is SourceState.CROWDED:
        error = "overloaded: this process reads as many sources as it may (ingest_max_sources)"
    return SourceView(
        source.stream.source_id, source.state, child.pid if child else 0, source.restarts, error,
        (now_ns - source.picture_ns) / NS_PER_S, child.status() if child else {},
    )  # fmt: skip


def _reads_alike(one: StreamMessage, other: StreamMessage) -> bool:
    """Whether ingest does the same for both: what only workers and mixers read changes nothing here."""
    neutral = {"track": "", "mask": "", "roi": "", "scenario": "", "recording": False, "publish": "", "captions": True,
               "targets": ()}  # fmt: skip
    return replace(one, **neutral) == replace(other, **neutral)  # type: ignore[arg-type]
