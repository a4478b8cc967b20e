"""Where the embedded Triton lives, and how it is called: command line and environment."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import serving
from serving.config import Settings, child_environment
from serving.errors import Unavailable
from serving.free_ports import free_ports

KEY_HEADER = "lockstep-key"
# Closed to everyone without the key: what changes the server, or reads more of it than an answer.
RESTRICTED = "model-repository,shared-memory,trace,logging"


@dataclass(frozen=True, slots=True)
class TritonHome:
    """The `tritonserver` folder of the nvidia-pytriton wheel."""

    path: Path

    @property
    def server(self) -> Path:
        """The program."""
        return self.path / "bin" / "tritonserver"

    @property
    def python_backend(self) -> Path:
        """Folder of the Python backend's library."""
        return self.path / "backends" / "python"

    @property
    def stub(self) -> Path:
        """The Python backend's stub for the Python that runs now."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return self.path / "python_backend_stubs" / version / "triton_python_backend_stub"

    @property
    def libraries(self) -> Path:
        """Shared libraries that the wheel brings along."""
        return self.path.parent.parent / "nvidia_pytriton.libs"

    def check(self) -> None:
        """Raise Unavailable naming the first file that is missing."""
        for path in (self.server, self.python_backend / "libtriton_python.so", self.stub):
            if not path.is_file():
                raise Unavailable(f"embedded Triton: {path} is missing", hint="run `make setup`, or set triton_url")


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of one server."""

    grpc: int
    http: int
    metrics: int

    @classmethod
    def free(cls, metrics: int = 0) -> Ports:
        """Ports nobody listens on now, but for a `metrics` port that was asked for. Another program may take one
        before Triton does; the start then fails."""
        grpc, http, any_free = free_ports(3)
        return cls(grpc, http, metrics or any_free)


def command(home: TritonHome, backends: Path, repository: Path, ports: Ports, key: str, shm_prefix: str) -> list[str]:
    """Triton's command line: loopback only, no model loaded yet, control by key, no alternate front end."""
    return [
        str(home.server),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        "--exit-timeout-secs=5",
        "--log-format=ISO8601",
        *(f"--{name}-address=127.0.0.1" for name in ("grpc", "http", "metrics")),
        *(f"--{name}-port={getattr(ports, name)}" for name in ("grpc", "http", "metrics")),
        "--http-thread-count=2",
        "--allow-gpu-metrics=false",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        f"--http-restricted-api={RESTRICTED}:{KEY_HEADER}={key}",
        f"--grpc-restricted-protocol={RESTRICTED}:{KEY_HEADER}={key}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--backend-config=python,stub-timeout-seconds=60",
    ]


def python_environment(settings: Settings) -> dict[str, str]:
    """For a Python of ours in another process: it finds `serving`, has our settings, and one thread a library."""
    names = ("staging", "max_pixels", "max_side", "max_sound_s", "log_level")
    ours = {f"LOCKSTEP_{name.upper()}": str(getattr(settings, name)) for name in names}
    ours["LOCKSTEP_GALLERIES"] = str(settings.galleries.resolve())
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    inherited = child_environment()
    folders = [str(Path(serving.__file__).resolve().parents[1]), inherited.get("PYTHONPATH", "")]
    return {**inherited, **threads, **ours, "PYTHONPATH": _joined(folders), "PYTHONUNBUFFERED": "1"}


def environment(home: TritonHome, settings: Settings) -> dict[str, str]:
    """For Triton: our Python first on PATH (the stub takes its packages from there), and its libpython found."""
    ours = python_environment(settings)
    libraries = [str(sysconfig.get_config_var("LIBDIR")), str(home.libraries), ours.get("LD_LIBRARY_PATH", "")]
    path = [str(Path(sys.executable).parent), ours.get("PATH", "")]
    return {**ours, "PATH": _joined(path), "LD_LIBRARY_PATH": _joined(libraries)}


def _joined(parts: Sequence[str]) -> str:
    return ":".join(part for part in parts if part)


def cpu_name() -> str:
    """The processor's name as the kernel tells it; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
