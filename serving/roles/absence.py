"""Models that are away: their frames are held for as long as they are worth it, and asked about again now and then.

A frame's other models do not wait. Order is kept: while frames of a model are held, newer ones stand behind them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from serving.clock import NS_PER_MS, NS_PER_S
from serving.roles.jobs import Job

FIRST_NS = 100 * NS_PER_MS
MOST_NS = NS_PER_S // 2


@dataclass(slots=True)
class _Away:
    again_ns: int
    delay_ns: int = FIRST_NS
    held: list[tuple[Job, int]] = field(default_factory=list)  # with the time until which it is worth it


class Absence:
    """By pipeline. A job here has exactly one pipeline. Times are monotonic nanoseconds, handed in."""

    def __init__(self) -> None:
        self._away: dict[str, _Away] = {}

    def __len__(self) -> int:
        """Jobs held."""
        return sum(len(away.held) for away in self._away.values())

    def names(self) -> tuple[str, ...]:
        """Models that are away."""
        return tuple(self._away)

    def begin(self, pipeline: str, now_ns: int) -> None:
        """It did not answer: asked again after 0.1 s, then after twice as long each time, at most half a second."""
        known = self._away.get(pipeline)
        if known is None:
            self._away[pipeline] = _Away(now_ns + FIRST_NS)
        elif now_ns >= known.again_ns:  # once for all frames of a batch
            known.delay_ns = min(2 * known.delay_ns, MOST_NS)
            known.again_ns = now_ns + known.delay_ns

    def end(self, pipeline: str) -> None:
        """It answered. What is held is due at once, before anything newer."""
        away = self._away.get(pipeline)
        if away is None:
            return
        if away.held:
            away.again_ns, away.delay_ns = 0, FIRST_NS
        else:
            del self._away[pipeline]

    def hold(self, job: Job, until_ns: int) -> None:
        """Keep the job in its place: by the order of reading within its partition."""
        held = self._away[job.frame.pipelines[0]].held
        place = len(held)
        while place and held[place - 1][0].place == job.place and held[place - 1][0].offset > job.offset:
            place -= 1
        held.insert(place, (job, until_ns))

    def split(self, job: Job, now_ns: int) -> tuple[Job | None, list[Job]]:
        """What of a new job may be asked now, and what has to wait. A model without held frames is probed when due."""
        waits = [
            name
            for name in job.frame.pipelines
            if (away := self._away.get(name)) is not None and (away.held or now_ns < away.again_ns)
        ]
        if not waits:
            return job, []
        asked = tuple(name for name in job.frame.pipelines if name not in waits)
        return (only(job, asked) if asked else None), [only(job, (name,)) for name in waits]

    def due(self, now_ns: int, most: int) -> list[tuple[Job, int]]:
        """Held jobs of one model that is to be asked again."""
        for away in self._away.values():
            if away.held and now_ns >= away.again_ns:
                found, away.held = away.held[:most], away.held[most:]
                return found
        return []

    def expired(self, now_ns: int) -> list[Job]:
        """Held for as long as they were worth it."""
        found = []
        for away in self._away.values():
            found += [job for job, until_ns in away.held if until_ns <= now_ns]
            away.held = [(job, until_ns) for job, until_ns in away.held if until_ns > now_ns]
        return found

    def drop(self, gone: set[object]) -> None:
        """Partitions that are another's now."""
        for away in self._away.values():
            away.held = [(job, until_ns) for job, until_ns in away.held if job.place not in gone]


def only(job: Job, pipelines: tuple[str, ...]) -> Job:
    """The same frame for these of its pipelines."""
    return replace(job, frame=replace(job.frame, pipelines=pipelines))
