"""T0: the whole system on a virtual clock, struck by faults, with the genuine alignment code inside.

`run_seeds` plays seeds and adds up; `python -m serving.testing.simulator --seeds 1000` prints the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from serving.testing.simulator.checker import check
from serving.testing.simulator.faults import FAULTS
from serving.testing.simulator.system import SimParts, System

LEAST_STRIKES = 50

__all__ = ["FAULTS", "LEAST_STRIKES", "SimParts", "System", "Tally", "check", "run_seeds"]


@dataclass(slots=True)
class Tally:
    """What many seeds came to. wrong: what the checker found, by seed."""

    seeds: int = 0
    keys: int = 0
    shown: int = 0
    measured: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: dict[int, list[str]] = field(default_factory=dict)

    def too_rare(self, least: int = LEAST_STRIKES) -> list[str]:
        """The faults that struck fewer than `least` times."""
        return [name for name in FAULTS if self.struck[name] < least]

    def line(self) -> str:
        """The totals in one line."""
        strikes = " ".join(f"{name} {self.struck[name]}" for name in FAULTS)
        ends = " ".join(f"{name} {count}" for name, count in self.ends.most_common())
        return (
            f"simulator: {self.seeds} seeds, {self.keys} ledger keys, {len(self.wrong)} seeds wrong; "
            f"{self.shown} frames shown, {self.measured} measured boxes; struck {strikes}; ends {ends}"
        )

    def add(self, other: Tally) -> None:
        """Take another run's numbers in."""
        self.seeds += other.seeds
        self.keys += other.keys
        self.shown += other.shown
        self.measured += other.measured
        self.struck += other.struck
        self.ends += other.ends
        self.wrong |= other.wrong


def run_seeds(seeds: Iterable[int], parts: SimParts | None = None) -> Tally:
    """Play the seeds one after another."""
    tally = Tally()
    for seed in seeds:
        system = System(seed, parts or SimParts())
        system.run()
        wrong, ends = check(system)
        tally.seeds += 1
        tally.keys += sum(ends.values())
        tally.shown += sum(len(mixer.output) for mixer in system.mixers)
        tally.measured += sum(len(shown.measured) for mixer in system.mixers for shown in mixer.output)
        tally.struck += system.struck
        tally.ends += ends
        if wrong:
            tally.wrong[seed] = wrong
    return tally
