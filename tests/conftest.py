"""Shared test set-up: what a machine lacks is a named skip, or a failure where FAIL_WITHOUT names it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _has_triton() -> bool:
    return (ROOT / ".triton" / "site" / "pytriton" / "tritonserver").is_dir()


def _has_kafka() -> bool:
    from deploy.embedded.kafka_jars import obtainable

    return obtainable()


def _may_mount() -> bool:
    """In a mount namespace of its own, which ends with the command."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "lockstep-test", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


_WITH_SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])

# What a test may need: (is it here?, how to get it). The words are those of FAIL_WITHOUT.
NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "torch": (_module("torch"), "make setup"),
    "triton": (_has_triton, "make setup"),
    "tensorrt_rtx": (_module("tensorrt_rtx"), "make setup on Linux x86-64"),
    "ffmpeg": (lambda: shutil.which("ffmpeg") is not None, "apt-get install ffmpeg"),
    "npm": (lambda: shutil.which("npm") is not None, "apt-get install npm"),
    "wrk": (lambda: shutil.which("wrk") is not None, "apt-get install wrk"),
    "opencv-doc": (lambda: shutil.which("apt-get") is not None, "a Debian-like machine (apt-get download opencv-doc)"),
    "g++": (lambda: shutil.which("g++") is not None, "apt-get install g++"),
    "nvrtc": (lambda: _module("cuda")() and _module("cuda.bindings.nvrtc")(), "make setup on Linux x86-64"),
    "kafka": (_has_kafka, "apt-get install default-jdk-headless maven, and a network once for 43 MB of jars"),
    "redis": (lambda: shutil.which("redis-server") is not None, "apt-get install redis-server"),
    "prometheus": (lambda: shutil.which("promtool") is not None, "apt-get install prometheus"),
    "nginx": (lambda: shutil.which("nginx", path=_WITH_SBIN) is not None, "apt-get install nginx-light"),
    "kubectl": (lambda: shutil.which("kubectl") is not None, "apt-get install kubectl, or a download of one file"),
    "kcat": (lambda: shutil.which("kcat") is not None, "apt-get install kcat"),
    "mount": (_may_mount, "root with the right to mount (in a container: the capability SYS_ADMIN)"),
    "gpu": (lambda: shutil.which("nvidia-smi") is not None, "a machine with an NVIDIA GPU"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Turn `needs("x")` into a skip that names what is missing, or into a failure under FAIL_WITHOUT=x,y."""
    required = {word for word in os.environ.get("FAIL_WITHOUT", "").split(",") if word}
    unknown = required - NEEDS.keys()
    if unknown:
        raise pytest.UsageError(f"FAIL_WITHOUT names {sorted(unknown)}; known: {sorted(NEEDS)}")
    for item in items:
        for mark in item.iter_markers("needs"):
            for word in mark.args:
                present, how = NEEDS[word]
                if not present() and word not in required:
                    item.add_marker(pytest.mark.skip(reason=f"skipped: {word}: {how}"))


@pytest.fixture(autouse=True)
def _missing_is_a_failure_when_required(request: pytest.FixtureRequest) -> None:
    required = {word for word in os.environ.get("FAIL_WITHOUT", "").split(",") if word}
    for mark in request.node.iter_markers("needs"):
        for word in mark.args:
            present, how = NEEDS[word]
            if word in required and not present():
                pytest.fail(f"FAIL_WITHOUT names {word}, and this machine lacks it: {how}")
