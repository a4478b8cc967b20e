"""What a load run's shots come to: outcomes, goodput and latencies of each phase."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.arrivals import shape_of, starts
from loadtest.load import Run, cores_between

GOOD, LATE, REJECTED, EXPIRED, REFUSED, WRONG, BROKEN = range(7)
OVERLOADS = ("2x", "5x")
OUTCOMES = ("good", "late", "rejected", "expired", "bad input refused", "wrong", "no answer")
MEANINGS = {
    "good": "200 within the deadline",
    "late": "200 after the deadline",
    "rejected": "429 or 503: told to come back",
    "expired": "504: the server's own deadline",
    "bad input refused": "4xx for a bad body, as it should be",
    "wrong": "any other answer: 4xx for a good body, 200 for a bad one, 500",
    "no answer": "connection refused, cut or silent for 10 s",
}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PhaseFigures:
    """One phase. Rates a second; latencies in ms from the intended time, NaN where there was no such answer."""

    name: str
    seconds: float
    offered: float
    goodput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    reject_p50_ms: float
    reject_p99_ms: float
    late_start_p95_ms: float
    counts: tuple[int, ...]


def outcomes(run: Run) -> npt.NDArray[np.int64]:
    """The outcome of every shot, by its place in OUTCOMES."""
    status = run.shots[:, 6].astype(int)
    good_body = np.array([p.good for p in run.payloads])[run.shots[:, 2].astype(int)]
    streams = np.array([w["kind"] == "streams" for w in run.works])[run.shots[:, 1].astype(int)]
    good_body = good_body | streams
    late = latencies(run) > run.job.deadline_ms
    found = np.full(len(status), WRONG, np.int64)
    found[(status == 200) & good_body] = GOOD
    found[(status == 200) & good_body & late] = LATE
    found[(status >= 400) & (status < 500) & ~good_body] = REFUSED
    found[(status == 429) | (status == 503)] = REJECTED
    found[status == 504] = EXPIRED
    found[status == 0] = BROKEN
    return found


def latencies(run: Run) -> Floats:
    """Milliseconds from the intended time to the end of the answer."""
    return np.asarray((run.shots[:, 5] - run.shots[:, 3]) * 1e3, np.float64)


def phases(run: Run) -> list[PhaseFigures]:
    """The figures of each phase, by the phase in which a request was meant to be sent."""
    kinds, ms, number = outcomes(run), latencies(run), run.shots[:, 0].astype(int)
    waited = (run.shots[:, 4] - run.shots[:, 3]) * 1e3
    rows = []
    for place, phase in enumerate(run.phases):
        mine = number == place
        answered = ms[mine & np.isin(kinds, (GOOD, LATE))]
        rejected = ms[mine & (kinds == REJECTED)]
        counts = tuple(int((kinds[mine] == kind).sum()) for kind in range(len(OUTCOMES)))
        rows.append(
            PhaseFigures(
                phase.name, phase.seconds, sum(counts) / phase.seconds, counts[GOOD] / phase.seconds,
                percentile(answered, 50), percentile(answered, 95), percentile(answered, 99),
                percentile(rejected, 50), percentile(rejected, 99), percentile(waited[mine], 95), counts,
            )
        )  # fmt: skip
    return rows


def kept(run: Run) -> dict[str, float]:
    """Goodput under 2x and 5x over the best that was seen: by the closed loop, or in any shape that is no overload.

    A server that already breaks down at its peak rate would look well beside the blocks at that rate alone.
    """
    return _over_best(run, {row.name: row.goodput for row in phases(run)}, run.closed)


def kept_of_rest(run: Run) -> dict[str, float]:
    """As `kept`, by goodput for each core that the generators left to the server: they share its machine, and send
    twice as much at 2x. Empty where the server was not started here."""
    if not run.samples:
        return {}
    cores, used = os.cpu_count() or 1, sender_cores(run)
    rates = {row.name: row.goodput / (cores - used[row.name]) for row in phases(run)}
    return _over_best(run, rates, run.closed / (cores - run.closed_cores))


def sender_cores(run: Run) -> dict[str, float]:
    """Cores that the generators used in each phase; NaN where it was too short to tell."""
    edges = starts(run.phases)
    return {phase.name: cores_between(run.sent, *edges[n : n + 2]) for n, phase in enumerate(run.phases)}


def _over_best(run: Run, rates: dict[str, float], closed: float) -> dict[str, float]:
    """The overloads' rates over the best of the closed loop's and those of the calm phases; NaN is none.

    Phases of one shape count as their mean: machines swing, and the best of single ones is a lucky one.
    """
    shapes: dict[str, list[float]] = {}
    for phase in run.phases:
        if not math.isnan(rates[phase.name]):
            shapes.setdefault(shape_of(phase.name), []).append(rates[phase.name])
    means = {name: float(np.mean(found)) for name, found in shapes.items()}
    calm = {shape_of(phase.name) for phase in run.phases if phase.mean_rate <= run.peak}
    best = max(rate for rate in (closed, *(means[name] for name in calm & means.keys())) if not math.isnan(rate))
    return {name: means[name] / best for name in OVERLOADS if best > 0 and name in means}


def per_second(run: Run, values: Floats, kinds: tuple[int, ...], q: float) -> tuple[Floats, Floats]:
    """(seconds, percentile) of values of these outcomes in each second; NaN where it has none."""
    chosen = np.isin(outcomes(run), kinds)
    second, values = run.shots[chosen, 3].astype(int), values[chosen]
    there = np.arange(int(second.max(initial=-1)) + 1)
    return np.asarray(there + 0.5, np.float64), np.array([percentile(values[second == s], q) for s in there])


def rate(run: Run, chosen: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(seconds, shots a second), by the time at which they were meant to be sent."""
    length = max(1, int(np.ceil(sum(phase.seconds for phase in run.phases))))
    counts = np.bincount(run.shots[chosen, 3].astype(int).clip(0, length - 1), minlength=length)
    return np.arange(length, dtype=np.float64) + 0.5, counts.astype(np.float64)


def percentile(values: Floats, q: float) -> float:
    """NaN where there is no value."""
    return float(np.percentile(values, q)) if len(values) else float("nan")
