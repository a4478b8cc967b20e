"""The process of an embedded server: it ends with the thread that started it, and in good order when told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.triton import exec_bound


def start_bound(
    command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Started in a session of its own, what it says appended to `output` (see serving.triton.exec_bound).

    environment: None for our own.
    """
    shim = [sys.executable, "-I", "-S", exec_bound.__file__, str(os.getpid())]
    with output.open("ab") as out:
        return subprocess.Popen(
            [*shim, *command], env=None if environment is None else dict(environment), stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip


def end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """SIGTERM, and SIGKILL where that takes too long; it has ended when this returns."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
