"""One model's watch, without a server: what each answer to its canary means."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from triton_support import colours_model, settings_for

from serving.errors import EngineFailed, Unavailable
from serving.triton import watch as watch_module
from serving.triton.canary import Canary
from serving.triton.control import Control
from serving.triton.home import Ports, TritonHome
from serving.triton.runtime import Runtime
from serving.triton.stubs import Stub
from serving.triton.supervisor import Supervisor
from serving.triton.watch import ModelWatch
from serving.types import Array

RIGHT: dict[str, Array] = {"class_id": np.array([[1]], np.int32), "score": np.array([[0.9]], np.float32)}
WRONG: dict[str, Array] = {"class_id": np.array([[0]], np.int32), "score": np.array([[0.9]], np.float32)}


class ScriptedControl:
    """Answers `answer`, or raises it; counts loads."""

    def __init__(self) -> None:
        self.answer: dict[str, Array] | Exception = RIGHT
        self.load_error: Exception | None = None
        self.executed = 5
        self.loads, self.key = 0, "key"

    def load(self, model: str, timeout_s: float = 0) -> None:
        self.loads += 1
        if self.load_error is not None:
            raise self.load_error

    def executions(self, model: str, timeout_s: float = 0) -> int:
        return self.executed

    def infer(
        self, model: str, inputs: Mapping[str, Array], parameters: Any, outputs: Sequence[str], timeout_s: float
    ) -> dict[str, Array]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def control() -> ScriptedControl:
    return ScriptedControl()


@pytest.fixture
def stub() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the model's."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def watch(
    tmp_path: Path, control: ScriptedControl, stub: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> ModelWatch:
    version = colours_model(tmp_path / "repository")
    runtime = Runtime(tmp_path / "run", "test_")
    runtime.repository.mkdir(parents=True)
    runtime.add_model("colours", version)
    canary = Canary("colours", "classification", {"image": np.zeros((1, 3), np.uint8)}, {}, RIGHT)
    monkeypatch.setattr(watch_module, "canary_of", lambda *given: canary)
    monkeypatch.setattr(watch_module, "stubs_of", lambda pid, repository: [Stub(stub.pid, "colours", "test_region")])
    watch = ModelWatch(
        "colours", version, settings_for(tmp_path), "cpu", runtime, cast(Control, control), clock=Clock()
    )
    watch.load(1)
    assert watch.ready and watch.loaded
    return watch


def test_a_wrong_answer_is_not_ready_with_the_reason_and_a_right_one_ready_again(
    watch: ModelWatch, control: ScriptedControl
) -> None:
    control.answer = WRONG
    watch.check()
    assert not watch.ready and "class 1" in watch.state.reason and not watch.stub_died
    control.answer = RIGHT
    watch.check()
    assert watch.ready and watch.state.reason == ""


@pytest.mark.parametrize("text", ["[request id: 1] Exceeds maximum queue size", "Request timeout expired"])
def test_a_busy_model_stays_what_it_is(watch: ModelWatch, control: ScriptedControl, text: str) -> None:
    control.answer = EngineFailed(text)
    watch.check()
    assert watch.ready and not watch.stub_died


def test_a_dead_stub_is_recognised_by_its_error_and_loaded_again_in_place(
    watch: ModelWatch, control: ScriptedControl, stub: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    control.answer = EngineFailed("Stub process 'colours_0_0' is not healthy.")
    watch.check()
    stub.wait()
    assert not watch.ready and watch.stub_died, "of several instances none may be left half dead"
    fresh = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(watch_module, "stubs_of", lambda pid, repository: [Stub(fresh.pid, "colours", "other")])
    control.answer = RIGHT
    watch.load(1)
    assert watch.ready and watch.reloads == 1 and control.loads == 2
    assert (
        '"generation" value { string_value: "1" }'
        in (watch.runtime.repository / "colours" / "config.pbtxt").read_text()
    )
    fresh.kill()
    fresh.wait()


def test_a_death_is_noticed_while_a_canary_still_waits_for_the_dead_process(
    watch: ModelWatch, stub: subprocess.Popen[bytes]
) -> None:
    watch.busy = True
    watch.notice()
    assert watch.ready
    os.kill(stub.pid, signal.SIGKILL)
    stub.wait()
    watch.notice()
    assert not watch.ready and "process ended" in watch.state.reason


def test_silence_with_progress_is_load_and_without_progress_a_hang(
    watch: ModelWatch, control: ScriptedControl, stub: subprocess.Popen[bytes]
) -> None:
    control.answer = Unavailable("Triton does not answer: timed out")
    watch.check()
    control.executed += 1
    watch.check()
    assert watch.ready, "others are being answered: it is busy"
    watch.check()
    assert not watch.ready and stub.poll() is None
    watch.check()
    assert stub.wait(5) == -signal.SIGKILL and watch.stub_died


def test_a_model_that_does_not_load_is_tried_again_later_and_later(
    watch: ModelWatch, control: ScriptedControl, stub: subprocess.Popen[bytes]
) -> None:
    clock = cast(Clock, watch.clock)
    os.kill(stub.pid, signal.SIGKILL)
    stub.wait()
    control.load_error = EngineFailed("load failed: no such engine")
    waits = []
    for _ in range(7):
        watch.load(1)
        waits.append(watch.due - clock.now)
    assert waits == [1.0, 2.0, 5.0, 10.0, 30.0, 30.0, 30.0]
    assert not watch.loaded and "no such engine" in watch.state.reason
    control.load_error = None
    watch.load(1)
    assert watch.ready and watch.failures == 0


def test_when_the_server_ends_nothing_is_loaded(watch: ModelWatch) -> None:
    watch.server_ended("ended with -9")
    assert not watch.loaded and not watch.ready and watch.due == 0.0
    assert watch.state.reason == "tritonserver ended with -9"


def test_the_first_look_is_over_when_the_canary_has_answered(
    watch: ModelWatch, control: ScriptedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the model was loaded: whoever started the server would be told that nothing is loaded yet."""
    asked, answers = threading.Event(), threading.Event()

    def infer(*given: Any) -> dict[str, Array]:
        asked.set()
        assert answers.wait(10)
        return RIGHT

    monkeypatch.setattr(control, "infer", infer)
    watch.server_ended("ends")
    home = TritonHome(Path("/opt/triton"))
    ports = Ports(1, 2, 3)
    supervisor = Supervisor(home, watch.runtime, ports, watch.control, {"colours": watch}, watch.settings)
    supervisor._look(1, 2000.0)
    assert asked.wait(10)
    supervisor._look(1, 2000.1)
    assert watch.loaded and not supervisor.first_look.is_set()
    answers.set()
    for _ in range(1000):
        if watch.busy:
            time.sleep(0.01)
    supervisor._look(1, 2000.2)
    assert supervisor.first_look.is_set() and watch.ready
