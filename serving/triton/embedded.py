"""`EmbeddedTriton`: the real Triton of the wheel on free loopback ports, for `serve` and for staging."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from serving.bundle import catalogue, newest_certified, read_certificate, versions_of
from serving.config import Settings
from serving.errors import CertificateRefused, EngineFailed, NotFound, Unavailable
from serving.ports import ServerModel
from serving.triton.control import Control
from serving.triton.home import Ports, TritonHome
from serving.triton.memory import ModelMemory, available, check_memory
from serving.triton.runtime import CONFIG, Runtime, instances_of
from serving.triton.supervisor import Supervisor
from serving.triton.watch import ModelWatch

logger = logging.getLogger("lockstep.triton")

START_ATTEMPTS = 3


class EmbeddedTriton:
    """A supervised Triton. `with EmbeddedTriton(...) as triton:` starts it and stops it without orphans.

    repository: `<model>/<version>/` folders; models: names to serve, empty for every certified one. Nothing is served
    without a passed certificate for `target`, except where settings.staging is on.
    """

    def __init__(self, repository: Path, models: Sequence[str], settings: Settings, target: str = "cpu") -> None:
        self._repository, self._models = repository.resolve(), tuple(models)
        self._settings, self._target = settings, target
        self._home = TritonHome(settings.triton_home.resolve())
        self._runtime: Runtime | None = None
        self._supervisor: Supervisor | None = None
        self._watches: dict[str, ModelWatch] = {}
        self.ports = Ports(0, 0, 0)

    @property
    def grpc_url(self) -> str:
        """`127.0.0.1:port`, the same after every restart."""
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """Triton's own Prometheus page."""
        return f"http://127.0.0.1:{self.ports.metrics}/metrics"

    @property
    def pid(self) -> int:
        """Process id of tritonserver now; 0 where none runs."""
        process = self._supervisor.process if self._supervisor else None
        return process.pid if process else 0

    @property
    def restarts(self) -> int:
        """How often the server had to be started again."""
        return self._supervisor.restarts if self._supervisor else 0

    def start(self, timeout_s: float = 180.0, strict: bool = False) -> None:
        """Start and wait until each model was loaded or has a reason why not.

        strict: a model that did not load is EngineFailed. Raises also MemoryTooSmall and CertificateRefused before
        anything starts, and Unavailable where Triton itself does not come up.
        """
        versions = self._choose()
        self._runtime = Runtime.create(self._settings.cache_dir.resolve() / "run", self._home)
        try:
            for name, version_dir in versions.items():
                self._runtime.add_model(name, version_dir, patient=self._settings.staging)
            check_memory(memory_of(versions, self._runtime, self._target), available())
            self._start_server(versions, timeout_s)
            failed = [w.state for w in self._watches.values() if not w.loaded]
            if strict and failed:
                raise EngineFailed("; ".join(f"{m.name}: {m.reason}" for m in failed))
        except BaseException:
            self.stop()
            raise

    def ready(self) -> bool:
        """Whether every model's last canary was right."""
        return bool(self._watches) and all(m.ready for m in self.states())

    def states(self) -> list[ServerModel]:
        """Each model with the reason why it is not ready."""
        return [watch.state for watch in self._watches.values()]

    def watch(self, name: str) -> ModelWatch:
        """One model's watch: its stubs, reloads, last canary. NotFound for a name that is not served."""
        if name not in self._watches:
            raise NotFound(f"unknown model {name[:60]!r}; served: {', '.join(self._watches) or 'none'}")
        return self._watches[name]

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every model is ready. Raises Unavailable with the reasons."""
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if time.monotonic() > deadline:
                reasons = "; ".join(f"{m.name}: {m.reason}" for m in self.states() if not m.ready)
                raise Unavailable(f"not ready after {timeout_s:.0f} s: {reasons}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End everything that was started; nothing is left. Safe to call twice."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        if self._runtime is not None:
            self._runtime.remove()
            self._runtime = None

    def __enter__(self) -> EmbeddedTriton:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _choose(self) -> dict[str, Path]:
        if self._settings.staging:
            found = {name: versions_of(self._repository, name) for name in self._models}
            missing = [name for name, versions in found.items() if not versions]
            if missing:
                raise NotFound(f"{self._repository}: no version of {', '.join(missing)}")
            return {name: versions[0] for name, versions in found.items()}
        if self._models:
            return {name: newest_certified(self._repository, name, self._target).version_dir for name in self._models}
        good, bad = catalogue(self._repository, self._target)
        if not good:
            raise CertificateRefused(f"{self._repository}: no certified model", hint="run `lockstep convert` first")
        for name, error in bad.items():
            logger.warning("%s is not served: %s", name, error)
        return {name: bundle.version_dir for name, bundle in good.items()}

    def _start_server(self, versions: Mapping[str, Path], timeout_s: float) -> None:
        """Start on free ports; where another program was faster at taking one, on others."""
        assert self._runtime is not None
        deadline = time.monotonic() + timeout_s
        for attempt in range(START_ATTEMPTS):
            self.ports = Ports.free(self._settings.triton_metrics_port)
            control = Control(self.ports.http, secrets.token_urlsafe(24))
            self._watches = {
                name: ModelWatch(name, path, self._settings, self._target, self._runtime, control)
                for name, path in versions.items()
            }
            self._supervisor = Supervisor(self._home, self._runtime, self.ports, control, self._watches, self._settings)
            self._supervisor.start()
            if not self._supervisor.first_look.wait(max(0.0, deadline - time.monotonic())):
                raise Unavailable(f"embedded Triton: models were not loaded after {timeout_s:.0f} s")
            failure = self._supervisor.failure
            if not failure:
                return
            self._supervisor.stop()
            if attempt + 1 == START_ATTEMPTS or "Address already in use" not in failure:
                raise Unavailable(f"embedded Triton: {failure}", hint="`lockstep doctor` looks for the cause")


def memory_of(versions: Mapping[str, Path], runtime: Runtime, target: str = "cpu") -> list[ModelMemory]:
    """What the certificates measured, times the instances of this run's configurations."""
    rows = []
    for name, version_dir in versions.items():
        instances = instances_of((runtime.repository / name / CONFIG).read_text("utf-8"))
        try:
            peak = int(read_certificate(version_dir, target)[0].get("memory", {}).get("peak_rss_bytes", 0))
        except CertificateRefused:
            peak = 0  # staging: this run is the one that measures it
        rows.append(ModelMemory(name, peak, instances))
    return rows
