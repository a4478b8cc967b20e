"""A private Triton and a private gateway on free loopback ports, for one staged version; ended with everything they
started. `python -m converters.private_server JOB.json` is the gateway's process: the real gunicorn and its worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx

from serving.bundle import ModelBundle
from serving.config import Settings, child_environment
from serving.errors import Unavailable
from serving.triton import exec_bound
from serving.triton.embedded import EmbeddedTriton
from serving.triton.home import TritonHome

START_S, STOP_S = 60.0, 15.0
# The rows compare numbers at batch 1. A canary that came while a sample was asked would share its batch and move the
# last digits, so each watcher asks its one canary before the samples, and none after.
QUIET_S = 24 * 3600.0
FIRST_CANARY_S = 15.0
NO_CANARY = "no canary inference yet"  # what the gateway's /readyz says before its first one


def why_no_triton(settings: Settings) -> str:
    """Why this machine cannot run the embedded Triton; '' where it can."""
    try:
        TritonHome(settings.triton_home.resolve()).check()
    except Unavailable as error:
        return str(error)
    return ""


@contextlib.contextmanager
def private_triton(version_dir: Path, settings: Settings) -> Iterator[EmbeddedTriton]:
    """The staged model, loaded; whether it answers right is for the rows to say. Raises ServingError classes."""
    model, repository = version_dir.parent.name, version_dir.parent.parent
    private = settings.model_copy(
        update={"staging": True, "repository": repository, "triton_url": "", "canary_interval_s": QUIET_S}
    )
    triton = EmbeddedTriton(repository, [model], private)
    try:
        triton.start(strict=True)
        _after(lambda: triton.ready() or "canary" in triton.states()[0].reason)
        yield triton
    finally:
        triton.stop()


def peak_rss_bytes(triton: EmbeddedTriton, model: str) -> int:
    """Peak resident memory of the model's greatest instance so far; 0 where none is found."""
    return max((stub.peak_rss_bytes for stub in triton.watch(model).stubs), default=0)


@contextlib.contextmanager
def private_gateway(version_dir: Path, triton_url: str, settings: Settings) -> Iterator[str]:
    """Address of a gateway with one worker, in a process of its own. Raises Unavailable where it does not come up."""
    private = settings.model_copy(
        update={"staging": True, "host": "127.0.0.1", "port": 0, "workers": 1, "triton_url": f"grpc://{triton_url}",
                "drain_s": 0.0, "canary_interval_s": QUIET_S, "repository": version_dir.parent.parent,
                "request_timeout_ms": 60_000}
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="lockstep-gateway-") as folder:
        job = Path(folder) / "gateway.json"
        told = {"version_dir": str(version_dir.resolve()), "settings": private.model_dump(mode="json")}
        job.write_text(json.dumps(told), "utf-8")
        process = subprocess.Popen(
            # exec_bound: the gateway ends when this process is killed.
            [
                sys.executable,
                "-I",
                "-S",
                exec_bound.__file__,
                str(os.getpid()),
                sys.executable,
                "-m",
                "converters.private_server",
                str(job),
            ],
            env=child_environment(PYTHONPATH=str(Path(__file__).resolve().parents[1]), LOCKSTEP_STAGING="1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            address = _address(process)
            _after(lambda: _judged(address))
            yield address
        finally:
            _end(process)


def _judged(address: str) -> bool:
    """Whether the gateway at this address has had an answer to its first canary; one that is still starting has not."""
    try:
        return NO_CANARY not in httpx.get(f"{address}/readyz", timeout=FIRST_CANARY_S).text
    except httpx.HTTPError:
        return False


def _after(first_canary: Callable[[], bool]) -> None:
    """Wait for the first canary's verdict, whatever it is; a watcher that never asks one is no reason to stop."""
    deadline = time.monotonic() + FIRST_CANARY_S
    while not first_canary() and time.monotonic() < deadline:
        time.sleep(0.05)


def _end(process: subprocess.Popen[str]) -> None:
    """SIGTERM, and after STOP_S the whole group: gunicorn's workers do not outlive it."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    """Its first line that begins with `gateway http://`; the rest is read on so that it never blocks."""
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=20)
    found, told = threading.Event(), [""]

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                tail.append(line.rstrip())
                if line.startswith("gateway http://"):
                    told[0] = line.split()[1]
                    found.set()
        found.set()

    threading.Thread(target=read, name="gateway-log", daemon=True).start()
    if not found.wait(START_S) or not told[0]:
        raise Unavailable(f"the private gateway did not start: {'; '.join(list(tail)[-3:]) or 'it said nothing'}")
    return told[0]


def main(arguments: list[str]) -> int:
    """The gateway's process: serve the staged version until SIGTERM."""
    from serving.gateway.main import make_triton, serve
    from serving.triton.derive import canary_of

    job = json.loads(Path(arguments[0]).read_text("utf-8"))
    settings, version_dir = Settings.model_validate(job["settings"]), Path(job["version_dir"])
    bundle = ModelBundle.staging(version_dir)
    canaries = {bundle.name: canary_of(version_dir, settings, "cpu", Path(arguments[0]).parent)}

    def announce(host: str, port: int) -> None:
        sys.stdout.write(f"gateway http://{host}:{port}\n")
        sys.stdout.flush()

    serve(settings, {bundle.name: bundle}, canaries, lambda: make_triton(settings), announce)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
