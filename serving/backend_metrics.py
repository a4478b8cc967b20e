"""What a model's process tells on Triton's own /metrics page, beside Triton's `nv_inference_*`.

Each call into Triton's metric family crosses to another process, so what was spent is told at most once a second; the
canary's requests see to it that the last second of a load is told too.
"""

from __future__ import annotations

import time
from typing import Any

from serving.metrics_list import BACKEND_METRICS
from serving.stage_costs import STAGES, StageCosts

TOLD_EVERY_S = 1.0


class BackendMetrics:
    """Counters of one instance; instances of a model add up under the same labels. pb_utils: Triton's module."""

    def __init__(self, pb_utils: Any, model: str) -> None:
        families = [
            pb_utils.MetricFamily(name=d.name, description=d.help, kind=pb_utils.MetricFamily.COUNTER)
            for d in BACKEND_METRICS
        ]
        self._families = families  # a metric dies with its family
        wall, cpu, copied = families
        self._wall = {stage: wall.Metric(labels={"model": model, "stage": stage}) for stage in STAGES}
        self._cpu = {stage: cpu.Metric(labels={"model": model, "stage": stage}) for stage in STAGES}
        self._copied = copied.Metric(labels={"model": model})
        self._told = StageCosts()
        self._told_at = time.monotonic()

    def tell(self, costs: StageCosts) -> None:
        """Add what was spent since the last time, where that is a second ago."""
        if (now := time.monotonic()) - self._told_at < TOLD_EVERY_S:
            return
        told, self._told_at = self._told, now
        for metrics, spent, known in (
            (self._wall, costs.seconds, told.seconds),
            (self._cpu, costs.cpu_seconds, told.cpu_seconds),
        ):
            for stage, metric in metrics.items():
                metric.increment(spent[stage] - known[stage])
        self._copied.increment(costs.copied_bytes - told.copied_bytes)
        self._told = StageCosts(dict(costs.seconds), dict(costs.cpu_seconds), costs.copied_bytes)
