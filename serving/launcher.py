"""`lockstep serve`: the embedded Triton and the gateway, started, watched and stopped as one.

The gateway is a process of its own (its workers must be forked before anything opens a gRPC channel). SIGTERM or
Ctrl-C goes to the gateway first, which drains; Triton ends after it, so that no accepted request loses its server.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

import httpx2 as httpx

from serving.config import PREFIX, Settings, as_environment, child_environment
from serving.errors import Unavailable
from serving.triton import exec_bound
from serving.triton.embedded import EmbeddedTriton

logger = logging.getLogger("lockstep.serve")
START_TIMEOUT_S = 180.0
READY_TIMEOUT_S = 60.0
GATEWAY_EXIT_S = 40.0


def serve(settings: Settings, models: Sequence[str]) -> int:
    """Run until a signal ends it; the exit status of the gateway (0: drained and stopped)."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # the looks at our own /readyz
    require_free_port(settings.host, settings.port)
    with _triton(settings, models) as triton_url, gateway_process(settings, models, triton_url) as (gateway, address):
        sys.stdout.write(f"gateway {address}\n")
        sys.stdout.flush()
        return _wait(gateway)


def require_free_port(host: str, port: int) -> None:
    """Raise Unavailable where another program listens already: before models are loaded, not after."""
    if not port:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise Unavailable(
            f"{host}:{port} cannot be listened on: {error.strerror or error}", hint="choose another --port; 0 is any"
        ) from error


@contextlib.contextmanager
def _triton(settings: Settings, models: Sequence[str]) -> Iterator[str]:
    """The grpc:// address of an existing Triton, or of the embedded one, which ends with the block."""
    if settings.triton_url:
        yield settings.triton_url
        return
    triton = EmbeddedTriton(settings.repository, models, settings)
    try:
        triton.start(START_TIMEOUT_S)
        triton.wait_ready(START_TIMEOUT_S)
        yield f"grpc://{triton.grpc_url}"
    finally:
        triton.stop()


@contextlib.contextmanager
def gateway_process(
    settings: Settings, models: Sequence[str], triton_url: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The gateway's process and its `http://` address, once it is ready; drained and ended with the block.

    Raises Unavailable where it does not become ready or does not drain.
    """
    values = as_environment(settings)
    values[PREFIX + "TRITON_URL"] = triton_url
    # exec_bound: the gateway ends when this process is killed.
    bound = [sys.executable, "-I", "-S", exec_bound.__file__, str(os.getpid())]
    command = [*bound, sys.executable, "-m", "serving.gateway.main", *models]
    env = child_environment(**values)
    process = subprocess.Popen(command, env=env, start_new_session=True, stdout=subprocess.PIPE, text=True)
    try:
        yield process, _address_once_ready(process)
    finally:
        process.terminate()
        try:
            process.wait(GATEWAY_EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Unavailable(f"the gateway did not drain within {GATEWAY_EXIT_S:.0f} s and was killed") from None
        finally:
            assert process.stdout is not None
            process.stdout.close()


def _address_once_ready(gateway: subprocess.Popen[str]) -> str:
    """The gateway's address once it answers ready, so that whoever is told it may ask at once."""
    assert gateway.stdout is not None
    line = gateway.stdout.readline()
    address = re.search(r"http://\S+", line)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while address and time.monotonic() < deadline and gateway.poll() is None:
        try:
            if httpx.get(f"{address.group()}/readyz", timeout=2).status_code == 200:
                break
        except httpx.HTTPError as error:
            logger.debug("the gateway does not answer yet: %s", error)
        time.sleep(0.1)
    else:
        raise Unavailable("the gateway did not become ready", hint="its own lines above say why")
    return address.group()


def _wait(gateway: subprocess.Popen[str]) -> int:
    """Wait for a signal (then drain the gateway) or for the gateway's own end."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not stop.wait(0.2):
            if (code := gateway.poll()) is not None:
                return code or 1
        gateway.terminate()
        return gateway.wait(GATEWAY_EXIT_S)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
