"""Machine facts beside every figure, and what foreign processes took while we measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("openvino", "onnxruntime", "simplejpeg", "opencv-python-headless", "fastapi", "gunicorn", "mosec", "numpy")


def machine_facts() -> dict[str, Any]:
    """CPU, cores, memory, kernel, versions, time of day."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def version(name: str) -> str:
    """Of an installed package, or that there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def tree_cpu_s(root: psutil.Process) -> float:
    """CPU seconds of a process and its living descendants, with their ended children."""
    ended = root.cpu_times()
    total = float(ended.children_user + ended.children_system)
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def tree_rss_bytes(root: psutil.Process) -> int:
    """Resident bytes of a process tree (shared pages counted once a process)."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


@dataclass(slots=True)
class ForeignLoad:
    """Cores used by neither us nor our children, and stolen by the host, between `start` and `stop`."""

    _busy: float = 0.0
    _ours: float = 0.0
    _at: float = 0.0

    def start(self) -> None:
        """Begin."""
        self._busy, self._ours, self._at = _busy_s(), tree_cpu_s(psutil.Process()), time.monotonic()

    def stop(self) -> float:
        """Foreign cores (0 = none) since `start`."""
        wall = time.monotonic() - self._at
        ours = tree_cpu_s(psutil.Process()) - self._ours
        return max(0.0, (_busy_s() - self._busy - ours) / wall)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
