"""The thread that starts Triton, watches it, and starts it again; one look every TICK_SECONDS.

Three kinds of death are told apart: the server's (its process ended or does not answer), a model's (its stub ended;
Triton goes on saying ready), and a wrong answer (the canary). The first restarts the server on the same ports, the
second loads the model again by the key, the third makes the model not ready.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from serving.config import Settings
from serving.errors import Unavailable
from serving.triton.control import Control
from serving.triton.home import Ports, TritonHome, command, environment
from serving.triton.logs import LogLine, log
from serving.triton.process import TritonProcess, remove_shared_memory
from serving.triton.runtime import Runtime
from serving.triton.watch import ModelWatch

logger = logging.getLogger("lockstep.triton")

TICK_SECONDS = 0.1
LIVE_SECONDS = 30.0
LIVE_CHECK_SECONDS = 1.0
HUNG_SECONDS = 10.0
RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 30.0
LOADERS = 4


class Silence:
    """How long a server has not answered, from the first check without an answer on: time in which nobody asked,
    because this process was starved or stopped itself, is no silence of the server."""

    def __init__(self) -> None:
        self._since: float | None = None

    def after(self, now: float, answered: bool) -> float:
        """Seconds of silence after a check that began at `now`."""
        self._since = None if answered else now if self._since is None else self._since
        return 0.0 if self._since is None else now - self._since


class Supervisor(threading.Thread):
    """Runs until `stop`. `first_look` is set once every model answered its canary or has a reason why not."""

    def __init__(
        self,
        home: TritonHome,
        runtime: Runtime,
        ports: Ports,
        control: Control,
        watches: Mapping[str, ModelWatch],
        settings: Settings,
        on_line: Callable[[LogLine], None] = log,
    ) -> None:
        super().__init__(name="triton-supervisor", daemon=True)
        self._command = command(home, runtime.backends, runtime.repository, ports, control.key, runtime.shm_prefix)
        self._environment = environment(home, settings)
        self._runtime, self._control, self._watches, self._on_line = runtime, control, watches, on_line
        self._stopping = threading.Event()
        # One thread a model at most: models that hang must not keep the others from being watched.
        self._pool = ThreadPoolExecutor(max(LOADERS, len(watches)), thread_name_prefix="triton-model")
        self.first_look = threading.Event()
        self.failure = ""
        self.restarts = 0
        self.process: TritonProcess | None = None

    def run(self) -> None:
        """Start, watch, start again."""
        attempt = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            why = self._run_once()
            if self._stopping.is_set():
                break
            attempt = 1 if time.monotonic() - started > STABLE_SECONDS else attempt + 1
            pause = RESTART_SECONDS[min(attempt, len(RESTART_SECONDS)) - 1]
            logger.error("tritonserver: %s; starting it again in %.1f s", why, pause)
            self.restarts += 1
            self._stopping.wait(pause)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """End server, stubs and this thread."""
        self._stopping.set()
        self.join()

    def _run_once(self) -> str:
        """One life of the server; why it ended."""
        process = TritonProcess(self._command, self._environment, self._on_line)
        self.process = process
        try:
            self._wait_live(process)
            self.failure = ""
            why = self._watch(process)
        except Unavailable as error:
            why = self.failure = str(error)
        finally:
            process.end() if self._stopping.is_set() else process.kill()
            remove_shared_memory(self._runtime.shm_prefix)
        for watch in self._watches.values():
            watch.server_ended(why)
        if self.failure:
            self.first_look.set()
        return why

    def _wait_live(self, process: TritonProcess) -> None:
        deadline = time.monotonic() + LIVE_SECONDS
        while not self._control.live(0.5):
            if process.exit_code is not None:
                tail = "; ".join(list(process.last_lines)[-5:])
                raise Unavailable(f"tritonserver ended with {process.exit_code} while starting: {tail}")
            if self._stopping.is_set() or time.monotonic() > deadline:
                raise Unavailable(f"tritonserver was not live after {LIVE_SECONDS:.0f} s")
            self._stopping.wait(0.05)

    def _watch(self, process: TritonProcess) -> str:
        checked, silence = time.monotonic(), Silence()
        while not self._stopping.is_set():
            if process.exit_code is not None:
                return f"ended with {process.exit_code}"
            now = time.monotonic()
            if now - checked >= LIVE_CHECK_SECONDS:
                checked = now
                if silence.after(now, self._control.live()) > HUNG_SECONDS:
                    return f"did not answer for {HUNG_SECONDS:.0f} s"
            self._look(process.pid, now)
            self._stopping.wait(TICK_SECONDS)
        return "stopped"

    def _look(self, pid: int, now: float) -> None:
        for watch in self._watches.values():
            if watch.busy:
                watch.notice()
                continue
            if watch.stub_died or (not watch.loaded and now >= watch.due):
                self._submit(watch, partial(watch.load, pid))
            elif watch.loaded and now >= watch.due:
                self._submit(watch, watch.check)
        if all(w.looked for w in self._watches.values()):
            self.first_look.set()

    def _submit(self, watch: ModelWatch, step: Callable[[], None]) -> None:
        def run() -> None:
            try:
                step()
            except Exception:  # the watch must go on; a bug here is an error in the log, not a dead supervisor
                logger.exception("%s: watching failed", watch.name)
            finally:
                watch.busy, watch.looked = False, True

        watch.busy = True
        self._pool.submit(run)
