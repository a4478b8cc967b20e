"""Sums out of Prometheus pages, and the stages of a request out of their differences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from serving.stage_costs import STAGES as MODEL_STAGES


@dataclass(frozen=True, slots=True)
class Pages:
    """The gateway's and Triton's /metrics at one moment."""

    gateway: str
    triton: str


def total(page: str, name: str, **labels: str) -> float:
    """The sum of all series of a metric that carry these labels; 0 where there is none."""
    found = 0.0
    for told, value in re.findall(rf"^{re.escape(name)}(?:\{{(.*)\}})? (\S+)", page, re.M):
        if all(f'{label}="{text}"' in told.split(",") for label, text in labels.items()):
            found += float(value)
    return found


class Between:
    """What happened between two moments, a request each."""

    def __init__(self, before: Pages, after: Pages, model: str, route: str) -> None:
        self._before, self._after, self._model, self._route = before, after, model, route
        self._requests = max(1.0, self._triton("nv_inference_count"))

    @property
    def batch(self) -> float:
        """Requests an execution of the model."""
        return self._requests / max(1.0, self._triton("nv_inference_exec_count"))

    @property
    def copied_bytes(self) -> int:
        """Bytes of tensors that a request had copied in the model's process."""
        return round(self._triton("lockstep_model_copied_bytes_total") / self._requests)

    def cpu_ms(self) -> dict[str, float]:
        """CPU time of a request's stages in the model's process."""
        name = "lockstep_model_stage_cpu_seconds_total"
        return {s: round(self._triton(name, stage=s) / self._requests * 1e3, 4) for s in MODEL_STAGES}

    def stages_ms(self, client_ms: float) -> dict[str, float]:
        """A request's time by stage (serving/profiling/facts.py); client_ms: its mean time as the client saw it."""
        own = {
            s: self._triton("lockstep_model_stage_seconds_total", stage=s) / self._requests * 1e3 for s in MODEL_STAGES
        }
        queue = self._triton("nv_inference_queue_duration_us") / self._requests / 1e3
        in_triton = self._triton("nv_inference_request_duration_us") / self._requests / 1e3
        in_server = self._mean_ms("lockstep_inference_server_seconds", model=self._model)
        in_gateway = self._mean_ms("lockstep_http_request_seconds", route=self._route)
        found = {
            "wire": client_ms - in_gateway,
            "gateway": in_gateway - in_server,
            "transfer": in_server - in_triton,
            "queue": queue,
            **own,
            "batch": in_triton - queue - sum(own.values()),
        }
        return {stage: round(max(0.0, ms), 4) for stage, ms in found.items()}

    def _triton(self, name: str, **labels: str) -> float:
        labels = {"model": self._model, **labels}
        return total(self._after.triton, name, **labels) - total(self._before.triton, name, **labels)

    def _mean_ms(self, name: str, **labels: str) -> float:
        sums, counts = (self._gateway(f"{name}_{part}", labels) for part in ("sum", "count"))
        return sums / max(1.0, counts) * 1e3

    def _gateway(self, name: str, labels: Mapping[str, str]) -> float:
        return total(self._after.gateway, name, **labels) - total(self._before.gateway, name, **labels)
