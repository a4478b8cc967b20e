"""Training side and hostile factories of the child's tests, run inside the child."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def bytes_as_picture(data: bytes, scale: int) -> tuple[Any, Any]:
    """64 bytes as an 8x8 grey picture, and that times `scale` over 255."""
    pixels = np.frombuffer(data, np.uint8).reshape(8, 8, 1)
    return pixels, (pixels.transpose(2, 0, 1) * scale / 255).astype(np.float32)


def attack(port: int, outside: str) -> None:
    """Try every way out and report which one was open."""

    def opened(way: Callable[[], object]) -> bool:
        try:
            way()
        except (OSError, subprocess.SubprocessError):
            return False
        return True

    found = {
        "connect": opened(lambda: socket.create_connection(("127.0.0.1", port), 2).close()),
        "connect_out": opened(lambda: socket.create_connection(("198.51.100.1", 80), 2).close()),
        "write_outside": opened(lambda: Path(outside).write_text("was here")),
        "run_program": opened(lambda: subprocess.run([sys.executable, "-c", "1"], check=True)),
        "environment": "hunter2" in str(dict(os.environ)),
        "write_inside": opened(lambda: Path(os.environ["HOME"], "mine").write_text("x")),
    }
    raise ValueError(json.dumps(found))


def hungry() -> None:
    """Ask for more memory than any limit."""
    np.ones(1 << 34)


def busy() -> None:
    """Never come back."""
    while True:
        pass


def broken() -> float:
    """A constants function that fails."""
    return {}["nms"]
