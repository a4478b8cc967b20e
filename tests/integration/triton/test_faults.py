"""Processes that die under load: how soon it is seen, refused at once, and right again. Bounds: guarantee F3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from triton_load import Watcher, check_recovery, under_load
from triton_support import adder_model, colours_model, settings_for

from serving.errors import Unavailable
from serving.triton.embedded import EmbeddedTriton

pytestmark = pytest.mark.needs("triton")


# Answers are flipped when a file appears: the engine of a running server that begins to lie.
LIAR_PY = """
from pathlib import Path

from serving.backend import TritonPythonModel as Served


class Liar:
    def __init__(self, engine):
        self.info, self.close, self.honest = engine.info, engine.close, engine.run

    def run(self, inputs):
        sign = -1 if Path({flag!r}).exists() else 1
        return {{name: sign * array for name, array in self.honest(inputs).items()}}


class TritonPythonModel(Served):
    def initialize(self, args):
        super().initialize(args)
        self._model.engine = Liar(self._model.engine)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def triton(folder: Path) -> Iterator[EmbeddedTriton]:
    colours_model(folder / "repository")
    adder_model(folder / "repository")
    adder_model(folder / "repository", "liar", model_py=LIAR_PY.format(flag=str(folder / "lie")))
    with EmbeddedTriton(folder / "repository", (), settings_for(folder)) as triton:
        triton.wait_ready(30)
        yield triton


def fault_and_follow(triton: EmbeddedTriton, fault: Callable[[], None], seconds: float) -> tuple[float, float, float]:
    watcher = Watcher(triton)
    thread = threading.Thread(target=watcher.follow, args=(seconds,))

    def strike() -> None:
        fault()
        thread.start()

    at, calls = under_load(triton, strike, seconds)
    thread.join()
    assert watcher.lost and watcher.back, f"lost {watcher.lost}, back {watcher.back}"
    check_recovery(at, calls, watcher.back)
    return at, watcher.lost, watcher.back


def test_a_models_process_is_killed_alone(triton: EmbeddedTriton) -> None:
    """Triton goes on saying ready; the other model is not touched."""
    stub = triton.watch("adder").stubs[0]
    other = triton.watch("colours").stubs[0]
    reloads = triton.watch("adder").reloads
    at, lost, back = fault_and_follow(triton, lambda: os.kill(stub.pid, signal.SIGKILL), 10.0)
    print(f"stub killed: not ready after {lost - at:.2f} s, ready again after {back - at:.2f} s")
    assert lost - at <= 1.0
    assert back - at <= 10.0
    assert triton.watch("adder").reloads == reloads + 1
    assert other.alive and triton.watch("colours").ready
    assert not (Path("/dev/shm") / stub.region).exists()


def test_the_server_is_killed(triton: EmbeddedTriton) -> None:
    restarts, pid, url = triton.restarts, triton.pid, triton.grpc_url
    at, lost, back = fault_and_follow(triton, lambda: os.kill(pid, signal.SIGKILL), 12.0)
    print(f"server killed: not ready after {lost - at:.2f} s, ready again after {back - at:.2f} s")
    assert lost - at <= 1.0
    assert triton.restarts == restarts + 1 and triton.pid != pid and triton.grpc_url == url
    assert not psutil.pid_exists(pid)


@pytest.mark.faults
def test_a_models_process_hangs(triton: EmbeddedTriton) -> None:
    """Stopped, not dead: no error comes back, so canaries without any progress end it."""
    watch = triton.watch("colours")
    reloads = watch.reloads
    os.kill(watch.stubs[0].pid, signal.SIGSTOP)
    watcher = Watcher(triton, "colours")
    watcher.follow(30.0)
    assert watcher.lost and watcher.back
    assert watch.reloads == reloads + 1


def test_a_wrong_answer_makes_a_model_not_ready_though_triton_says_200(triton: EmbeddedTriton, folder: Path) -> None:
    (folder / "lie").touch()
    watcher = Watcher(triton, "liar")
    watcher.follow(3.0)
    assert watcher.lost and not watcher.back
    state = triton.watch("liar").state
    assert "cosine" in state.reason
    with pytest.raises(Unavailable, match="cosine"):
        triton.wait_ready(0.1)
    (folder / "lie").unlink()
    triton.wait_ready(5)


OWNER = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from triton_support import settings_for
from serving.triton.embedded import EmbeddedTriton
folder = Path({folder!r})
triton = EmbeddedTriton(folder / "repository", (), settings_for(folder))
triton.start()
print(triton.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.faults
def test_when_its_owner_is_killed_nothing_is_left_running(tmp_path: Path) -> None:
    adder_model(tmp_path / "repository")
    tests = Path(__file__).resolve().parents[2]
    code = OWNER.format(paths=[str(tests), str(tests.parent)], folder=str(tmp_path))
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(family) >= 2
    owner.kill()
    owner.wait()
    owner.stdout.close()
    _gone, alive = psutil.wait_procs(family, timeout=10)
    running = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not running
    # The next start clears away what the killed one could not.
    with EmbeddedTriton(tmp_path / "repository", (), settings_for(tmp_path)) as triton:
        triton.wait_ready(30)
        assert [p.name for p in (tmp_path / "cache" / "run").iterdir()] == [triton._runtime.folder.name]  # type: ignore[union-attr]
    assert not list(Path("/dev/shm").glob(f"lockstep_{owner.pid}_*"))
