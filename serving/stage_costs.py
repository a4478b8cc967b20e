"""What a model's process spends on each stage of a request: the currency of limits, tuning and dashboards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

STAGES = ("header", "decode", "preprocess", "infer", "postprocess")


@dataclass(slots=True)
class Spent:
    """One stage of one request or batch; known once the `with` block is left."""

    ms: float = 0.0


@dataclass(slots=True)
class StageCosts:
    """What this process spent since it started, by stage of STAGES: seconds, CPU seconds of all its threads; and the
    bytes of tensors it copied.

    The sums only grow, so a reader takes differences. A process serves one batch at a time, so its CPU time between
    two moments is the stage's own, also where the engine has threads.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    cpu_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    copied_bytes: int = 0

    @classmethod
    def total(cls, costs: Sequence[StageCosts]) -> StageCosts:
        """The sums of several models in one process."""
        return cls(
            {stage: sum(c.seconds[stage] for c in costs) for stage in STAGES},
            {stage: sum(c.cpu_seconds[stage] for c in costs) for stage in STAGES},
            sum(c.copied_bytes for c in costs),
        )

    @contextmanager
    def spent(self, stage: str) -> Iterator[Spent]:
        """Count the time of a `with` block to `stage`, also where it raises."""
        spent, began, cpu_began = Spent(), time.perf_counter(), time.process_time()
        try:
            yield spent
        finally:
            seconds = time.perf_counter() - began
            spent.ms = seconds * 1e3
            self.seconds[stage] += seconds
            self.cpu_seconds[stage] += time.process_time() - cpu_began
