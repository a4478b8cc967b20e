"""Which models can answer now. A model is ready while its last canary passed and is not older than MAX_AGE_S.

A canary is a stored request and the answer that it must get; readiness means that the right answer came back.

A canary that is shed or late under load proves nothing; then a real answer of the last seconds counts instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from serving.errors import DeadlineExceeded, EngineFailed, Overloaded, ServingError
from serving.gateway import errors
from serving.gateway.catalogue import Catalogue
from serving.metrics import Metrics
from serving.ports import InferenceServer, ServerRequest
from serving.types import Array

logger = logging.getLogger("lockstep.gateway")

MAX_AGE_S = 5.0
CANARY_TIMEOUT_S = 4.0
REQUEST_ID = "canary"


class CanaryCheck(Protocol):
    """A known request to one model, and the judge of its answer."""

    def request(self) -> ServerRequest:
        """What is sent."""
        ...

    def verdict(self, tensors: Mapping[str, Array]) -> str:
        """Empty where the answer is right, else what is wrong with it (for the log)."""
        ...


@dataclass(frozen=True, slots=True)
class ModelState:
    """Ready or not, and why not (a text for strangers: codes and titles, nothing from inside)."""

    ready: bool
    reason: str = ""


@dataclass(slots=True)
class _Watch:
    canary: CanaryCheck
    request: ServerRequest
    passed_at: float = float("-inf")
    answered_at: float = float("-inf")
    reason: str = "no canary inference yet"
    failing: bool = True


class Readiness:
    """Runs the canaries of one process, one for each model of the catalogue (a KeyError names one that has none).

    Times are of the event loop's clock, seconds.
    """

    def __init__(
        self,
        server: InferenceServer,
        catalogue: Catalogue,
        canaries: Mapping[str, CanaryCheck],
        metrics: Metrics,
        interval_s: float,
    ) -> None:
        self._server = server
        self._metrics = metrics
        self._interval_s = interval_s
        self._max_age_s = max(MAX_AGE_S, 2.5 * interval_s)
        self._required = {b.name for b in catalogue if b.spec.serving.required}
        self._watches = {b.name: _watch(canaries[b.name], str(b.version)) for b in catalogue}

    def state(self, name: str) -> ModelState:
        """State of one model of the catalogue."""
        watch = self._watches[name]
        if watch.failing:
            return ModelState(False, watch.reason)
        if _now() - watch.passed_at > self._max_age_s:
            return ModelState(False, f"no canary passed for {self._max_age_s:g} s")
        return ModelState(True)

    def states(self) -> dict[str, ModelState]:
        """State of every model."""
        return {name: self.state(name) for name in self._watches}

    def ready(self) -> bool:
        """Whether every required model is ready; a gateway without models is not."""
        return bool(self._watches) and all(self.state(name).ready for name in self._required)

    def answered(self, name: str) -> None:
        """A real request to this model was answered just now."""
        self._watches[name].answered_at = _now()

    async def run(self) -> None:
        """Check each model every `interval_s`, until cancelled. One that hangs holds no other up."""
        async with asyncio.TaskGroup() as group:
            for name, watch in self._watches.items():
                group.create_task(self._follow(name, watch))

    async def check_all(self) -> None:
        """One round of canaries, all models at the same time."""
        await asyncio.gather(*(self._check(name, watch) for name, watch in self._watches.items()))

    async def _follow(self, name: str, watch: _Watch) -> None:
        while True:
            due = _now() + self._interval_s  # from start to start: an answer of 3.5 s is not too old by the next
            await self._check(name, watch)
            await asyncio.sleep(due - _now())

    async def _check(self, name: str, watch: _Watch) -> None:
        try:
            async with asyncio.timeout(CANARY_TIMEOUT_S):
                reply = await self._server.infer(watch.request, CANARY_TIMEOUT_S)
            if wrong := watch.canary.verdict(reply.tensors):
                raise EngineFailed(wrong)
        except Exception as error:  # noqa: BLE001 - whatever a canary dies of, the model is not ready and the watch goes on
            if self._excused(error, watch):
                watch.passed_at = _now()
            else:
                self._failed(name, watch, error)
        else:
            self._passed(name, watch)

    def _excused(self, error: Exception, watch: _Watch) -> bool:
        busy = isinstance(error, Overloaded | DeadlineExceeded | TimeoutError)
        return busy and not watch.failing and _now() - watch.answered_at <= self._max_age_s

    def _passed(self, name: str, watch: _Watch) -> None:
        if watch.failing:
            logger.info("model %s is ready", name)
        watch.failing, watch.reason, watch.passed_at = False, "", _now()
        self._metrics.set("lockstep_model_ready", 1, model=name)
        self._metrics.inc("lockstep_canary_total", model=name, outcome="passed")

    def _failed(self, name: str, watch: _Watch, error: Exception) -> None:
        code = error.code if isinstance(error, ServingError) else "internal"
        if not watch.failing:
            logger.warning("model %s is not ready: %s", name, error or type(error).__name__)
        watch.failing, watch.reason = True, f"canary failed: {errors.row_of(code)[0]}"
        self._metrics.set("lockstep_model_ready", 0, model=name)
        self._metrics.inc("lockstep_canary_total", model=name, outcome="failed")


def _watch(canary: CanaryCheck, version: str) -> _Watch:
    request = replace(canary.request(), model_version=version, request_id=REQUEST_ID)
    return _Watch(canary, request)


def _now() -> float:
    return asyncio.get_running_loop().time()
