"""When requests of an open loop are sent: phases of a given rate, drawn as a Poisson process beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_ARRIVALS = 100_000
MOST_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run: its rate goes straight from `first` to `last` requests a second in `seconds`."""

    name: str
    seconds: float
    first: float
    last: float

    @property
    def mean_rate(self) -> float:
        """Requests a second, on average."""
        return (self.first + self.last) / 2


@dataclass(frozen=True, slots=True)
class Arrival:
    """at_s: seconds after the start of the run at which the request is meant to be sent; phase: its number."""

    at_s: float
    phase: int


def flat(name: str, seconds: float, rate: float) -> Phase:
    """A phase of one rate."""
    return Phase(name, seconds, rate, rate)


def shapes(peak: float, seconds: float) -> list[Phase]:
    """Steady, ramp, spike, then the peak rate and 2x in turn, twice, and 5x; rests between, so that no block pays for
    another."""
    rest = flat("rest", 2.0, peak * 0.1)
    return [
        flat("steady", seconds, peak * 0.5),
        Phase("ramp", seconds, peak * 0.2, peak),
        flat("calm", seconds / 4, peak * 0.4),
        flat("spike 3x", seconds / 4, peak * 3),
        flat("calm again", seconds / 2, peak * 0.4),
        flat("peak", seconds, peak),
        rest,
        flat("2x", seconds, peak * 2),
        rest,
        flat("peak again", seconds, peak),
        rest,
        flat("2x again", seconds, peak * 2),
        rest,
        flat("5x", seconds, peak * 5),
        flat("recovery", seconds, peak * 0.5),
    ]


def shape_of(name: str) -> str:
    """The name without the word that tells a repeated phase from the first one."""
    return name.removesuffix(" again")


def starts(phases: Sequence[Phase]) -> list[float]:
    """Seconds after the start at which each phase begins, and the end of the last."""
    return [0.0, *np.cumsum([phase.seconds for phase in phases]).tolist()]


def schedule(phases: Sequence[Phase], seed: int = 7) -> list[Arrival]:
    """All arrivals in order of time. Poisson with a rate that changes, by thinning (Lewis and Shedler 1979).

    Raises ValueError where the run would be longer or larger than MOST_SECONDS and MOST_ARRIVALS.
    """
    seconds = sum(phase.seconds for phase in phases)
    expected = sum(phase.seconds * phase.mean_rate for phase in phases)
    if seconds > MOST_SECONDS or expected > MOST_ARRIVALS:
        raise ValueError(
            f"a run of {seconds:.0f} s and about {expected:.0f} requests is too large (at most {MOST_SECONDS:.0f} s "
            f"and {MOST_ARRIVALS}); give less --seconds or a lower --rate"
        )
    rng = np.random.default_rng(seed)
    arrivals: list[Arrival] = []
    for number, (phase, start) in enumerate(zip(phases, starts(phases), strict=False)):
        most = max(phase.first, phase.last)
        times = np.sort(rng.uniform(0, phase.seconds, rng.poisson(most * phase.seconds)))
        rates = phase.first + (phase.last - phase.first) * times / phase.seconds
        kept = times[rng.uniform(0, most, len(times)) < rates]
        arrivals += [Arrival(start + float(t), number) for t in kept]
    return arrivals
