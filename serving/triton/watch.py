"""One model of the embedded Triton: loaded, checked by its canary, brought back when its stub dies or hangs."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from serving.config import Settings
from serving.errors import EngineFailed, LockstepError, Unavailable
from serving.ports import ServerModel
from serving.triton.canary import Canary
from serving.triton.control import Control
from serving.triton.derive import canary_of
from serving.triton.logs import UNHEALTHY_STUB
from serving.triton.runtime import Runtime
from serving.triton.stubs import Stub, stubs_of

logger = logging.getLogger("lockstep.triton")

CANARY_SECONDS = 5.0
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
SILENT_CANARIES = 2
# Triton's own words for a full queue and for a request that waited too long in it: the model is busy, not broken.
_BUSY = ("Exceeds maximum queue size", "Request timeout expired")


@dataclass(slots=True)
class ModelWatch:
    """State of one served model. Its methods run in one thread at a time (`busy`); readers take what they see.

    looked: its first step is over, so that it is ready or has a reason; loaded alone comes before its first canary.
    """

    name: str
    version_dir: Path
    settings: Settings
    target: str
    runtime: Runtime
    control: Control
    clock: Callable[[], float] = time.monotonic
    loaded: bool = False
    ready: bool = False
    reason: str = "not loaded yet"
    reloads: int = 0
    failures: int = 0
    busy: bool = False
    looked: bool = False
    due: float = 0.0
    last_passed: float = -1e9
    stubs: list[Stub] = field(default_factory=list)
    _canary: Canary | None = None
    _silent: int = 0
    _executions: int = -1

    @property
    def state(self) -> ServerModel:
        """What others may know of it."""
        return ServerModel(self.name, self.version_dir.name, self.ready, "" if self.ready else self.reason)

    @property
    def stub_died(self) -> bool:
        """Whether a process that served this model ended by itself."""
        return self.loaded and not all(stub.alive for stub in self.stubs)

    def notice(self) -> None:
        """Called while a step of it runs: a model whose process died is not ready at once, though that step may still
        wait for the dead process."""
        if self.ready and self.stub_died:
            self._not_ready("a model process ended")

    def server_ended(self, why: str) -> None:
        """Nothing is loaded any more. The server says so itself: one line in the log, not one a model."""
        self.ready, self.reason = False, f"tritonserver {why}"
        self.loaded, self.stubs, self.due, self.failures, self._executions = False, [], 0.0, 0, -1

    def load(self, server_pid: int) -> None:
        """Load it (again) and ask its canary. A failure is kept as the reason and tried again later."""
        try:
            if self.stubs:
                self._bury()
            self.control.load(self.name)
            self.stubs = [s for s in stubs_of(server_pid, self.runtime.repository) if s.model == self.name]
            if self._canary is None:
                kept = self.runtime.folder if self.settings.staging else None
                self._canary = canary_of(self.version_dir, self.settings, self.target, kept)
            self.loaded, self.failures, self._executions = True, 0, 0
        except LockstepError as error:
            self.loaded = False
            self._not_ready(str(error))
            self.due = self.clock() + RETRY_SECONDS[min(self.failures, len(RETRY_SECONDS) - 1)]
            self.failures += 1
            return
        self.check()

    def check(self) -> None:
        """One canary inference: the right answer makes it ready; a dead stub is loaded again at the next look."""
        assert self._canary is not None
        request = self._canary.request()
        inputs = {tensor.name: tensor.array for tensor in request.tensors}
        self.due = self.clock() + self.settings.canary_interval_s
        try:
            answer = self.control.infer(self.name, inputs, request.parameters, request.outputs, CANARY_SECONDS)
        except EngineFailed as error:
            self._refused(str(error))
        except Unavailable as error:
            self._no_answer(str(error))
        else:
            self._silent = 0
            self._judge(self._canary.verdict(answer))

    def _judge(self, wrong: str) -> None:
        if wrong:
            self._not_ready(wrong)
            return
        if not self.ready:
            logger.info("%s: ready (version %s)", self.name, self.version_dir.name)
        self.ready, self.reason, self.last_passed = True, "", self.clock()

    def _refused(self, text: str) -> None:
        if any(words in text for words in _BUSY):
            return
        self._not_ready(f"canary: {text}")
        if UNHEALTHY_STUB in text:
            self._end_stubs()

    def _no_answer(self, text: str) -> None:
        """Busy where executions go on; hung where they do not: then its processes are ended and replaced."""
        before, self._executions = self._executions, self._count_executions()
        if self._executions > before >= 0:
            return
        self._not_ready(f"canary: {text}")
        self._silent += 1
        if self._silent >= SILENT_CANARIES:
            self._silent = 0
            self._end_stubs()

    def _count_executions(self) -> int:
        try:
            return self.control.executions(self.name)
        except (Unavailable, EngineFailed) as error:
            logger.debug("%s: no statistics: %s", self.name, error)
            return -1

    def _not_ready(self, reason: str) -> None:
        if self.ready or reason != self.reason:
            logger.warning("%s: not ready: %s", self.name, reason)
        self.ready, self.reason = False, reason

    def _end_stubs(self) -> None:
        """With one instance of several dead or hung, all are replaced: a load replaces all anyway."""
        for stub in self.stubs:
            if stub.alive:
                try:
                    os.kill(stub.pid, signal.SIGKILL)
                except ProcessLookupError:
                    logger.debug("%s: stub %d ended by itself", self.name, stub.pid)

    def _bury(self) -> None:
        """Prepare the load that replaces dead instances: another generation, and their shared memory freed."""
        self._not_ready("a model process ended; it is being loaded again")
        self.reloads += 1
        self.runtime.next_generation(self.name, self.reloads)
        for stub in self.stubs:
            if not stub.alive:
                (Path("/dev/shm") / stub.region).unlink(missing_ok=True)
        self.stubs = []
