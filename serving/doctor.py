"""What this machine is and which combinations will not work, and why. Facts are gathered once; judging them is pure.

Sources of the rules: NVIDIA's CUDA compatibility table (minimum driver by CUDA major version), TensorRT 11's removal
of weak typing, TensorRT-RTX's supported architectures, Triton's security bulletins (floor 26.07).
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

PACKAGES = (
    "numpy", "openvino", "onnxruntime", "onnx", "torch", "tensorrt", "tensorrt-rtx-cu13", "tritonclient", "av",
    "opencv-python-headless", "simplejpeg", "pillow", "fastapi", "gunicorn", "protobuf",
)  # fmt: skip
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")
# Oldest Linux driver for each CUDA major version (CUDA compatibility guide, minor-version compatibility).
MIN_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
CUDA_OF_WHEELS = {"tensorrt-rtx-cu13": 13}  # CUDA major version that a package was built for
EMBEDDED_TRITON = "24.10"
TRITON_FLOOR = "26.07"
AT_ENTRY = ("system", "driver", "tensorrt", "onnxruntime", "triton image")  # what an image's entry point refuses


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as the driver lists it."""

    name: str
    compute_capability: str
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is judged; gathered by `gather`, made by hand in tests."""

    system: str
    glibc: str
    python: str
    shared_libpython: bool
    cpu: str
    cpu_flags: tuple[str, ...]
    cores: int
    memory_mib: int
    driver: str = ""
    gpus: tuple[Gpu, ...] = ()
    container_cuda: str = ""
    container_triton: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    triton: str = ""
    programs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement: level ok, note, or bad (it will not work)."""

    level: Literal["ok", "note", "bad"]
    what: str
    why: str
    next_step: str = ""


def gather(triton_home: Path, cuda_version: str = "", triton_version: str = "") -> Facts:
    """Read the facts of this machine. Never raises for something that is missing."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(fields.get("flags", "").split())
    driver, gpus = _nvidia()
    return Facts(
        system=f"{platform.system()} {platform.machine()}",
        glibc=platform.libc_ver()[1],
        python=platform.python_version(),
        shared_libpython=_shared_libpython(),
        cpu=fields.get("model name", platform.processor()),
        cpu_flags=tuple(flag for flag in CPU_FLAGS if flag in flags),
        cores=_cores(cpuinfo),
        memory_mib=_memory_mib(),
        driver=driver,
        gpus=gpus,
        container_cuda=cuda_version,
        container_triton=triton_version,
        packages={name: version for name in PACKAGES if (version := _version(name))},
        triton=EMBEDDED_TRITON if (triton_home / "bin" / "tritonserver").is_file() else "",
        programs=tuple(p for p in ("ffmpeg", "ffprobe", "wrk", "mvn", "redis-server", "npm") if shutil.which(p)),
    )


def _cores(cpuinfo: str) -> int:
    return max(1, sum(line.startswith("processor") for line in cpuinfo.splitlines()))


def _shared_libpython() -> bool:
    """Debian calls each of its Pythons shared, and has the file in a package of its own."""
    name, folder = (str(sysconfig.get_config_var(key) or "") for key in ("INSTSONAME", "LIBDIR"))
    here = Path(folder, name).is_file() or ctypes.util.find_library(f"python{sysconfig.get_python_version()}")
    return bool(sysconfig.get_config_var("Py_ENABLE_SHARED") and here)


def _memory_mib() -> int:
    meminfo = Path("/proc/meminfo")
    words = meminfo.read_text().split() if meminfo.exists() else ["", "0"]
    return int(words[1]) // 1024


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _nvidia() -> tuple[str, tuple[Gpu, ...]]:
    query = ["nvidia-smi", "--query-gpu=driver_version,name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "", ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 3]
    gpus = tuple(Gpu(name, capability, int(memory)) for _, name, capability, memory in rows)
    return (rows[0][0] if rows else ""), gpus


def judge(facts: Facts) -> list[Finding]:
    """Every rule, worst first."""
    found = [*_machine(facts), *_gpu(facts), *_tensorrt(facts), *_triton(facts)]
    order = {"bad": 0, "note": 1, "ok": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _machine(facts: Facts) -> Sequence[Finding]:
    if facts.system != "Linux x86_64":
        why = f"{facts.system}: the wheels of Triton and TensorRT-RTX are for Linux x86_64"
        return [Finding("bad", "system", why, "use a Linux x86_64 machine or container")]
    found = []
    if not facts.shared_libpython:
        why = "Triton's Python stub loads the shared libpython, and this Python has none"
        package = "libpython{}.{}".format(*_numbers(facts.python))
        step = f"Debian: apt-get install {package}; else build Python with --enable-shared"
        found.append(Finding("bad", "python", why, step))
    bf16 = "amx_bf16" in facts.cpu_flags or "avx512_bf16" in facts.cpu_flags
    why = "OpenVINO may run bf16 where the certificate allows it" if bf16 else "no bf16: OpenVINO runs f32"
    found.append(Finding("ok" if bf16 else "note", "cpu", f"{facts.cores} cores, {why}"))
    return found


def _gpu(facts: Facts) -> Sequence[Finding]:
    if not facts.gpus:
        return [
            Finding("note", "gpu", "no NVIDIA GPU: engines run on the CPU; TensorRT-RTX engines are built, not run")
        ]
    found = list(_driver(facts))
    for gpu in facts.gpus:
        if gpu.compute_capability.startswith("9.") and "tensorrt" not in facts.packages:
            why = f"{gpu.name} (SM{gpu.compute_capability.replace('.', '')}): TensorRT-RTX knows no Hopper"
            found.append(Finding("bad", "tensorrt", why, "install TensorRT proper for this GPU"))
    return found or [Finding("ok", "gpu", f"{len(facts.gpus)} x {facts.gpus[0].name}, driver {facts.driver}")]


def _driver(facts: Facts) -> Iterator[Finding]:
    """The driver against the CUDA of the container, and against that of packages which bring their own."""
    driver = _numbers(facts.driver)
    needs = [(f"CUDA {facts.container_cuda}", _numbers(facts.container_cuda)[0])] if facts.container_cuda else []
    needs += [(f"{name} (CUDA {major})", major) for name, major in CUDA_OF_WHEELS.items() if name in facts.packages]
    for who, major in needs:
        least = MIN_DRIVER.get(major)
        if least and driver < least:
            why = f"{who} needs driver >= {least[0]}.{least[1]}, this one is {facts.driver}"
            yield Finding("bad", "driver", why, "update the driver, or take an image of an older CUDA")
            return


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; what is not one ends it."""
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0)


def _tensorrt(facts: Facts) -> Sequence[Finding]:
    version = facts.packages.get("tensorrt", "")
    if not version:
        return []
    major = int(version.split(".")[0])
    if major >= 11:
        why = f"TensorRT {version} has no FP16 builder flag: precision is in the graph, as our converter writes it"
        found = [Finding("note", "tensorrt", why)]
        runtime = facts.packages.get("onnxruntime", "1.27").split(".")
        if (int(runtime[0]), int(runtime[1])) < (1, 27):
            why = f"ONNX Runtime {'.'.join(runtime)} does not work with TensorRT {version}"
            found.append(Finding("bad", "onnxruntime", why, "use ONNX Runtime 1.27 or newer"))
        return found
    return [Finding("ok", "tensorrt", f"TensorRT {version}, strongly typed networks")]


def _triton(facts: Facts) -> Sequence[Finding]:
    if facts.container_triton:
        return [_triton_image(facts.container_triton)]
    if not facts.triton:
        return [
            Finding(
                "bad", "triton", "the embedded Triton is not unpacked", "make setup, or give --triton grpc://host:port"
            )
        ]
    why = (
        f"the embedded Triton is {facts.triton}, older than the floor {TRITON_FLOOR} for production: it listens on "
        "loopback only, with model control, shared memory and other front ends closed"
    )
    return [Finding("note", "triton", why, f"in production use NVIDIA's image {TRITON_FLOOR} or newer")]


def _triton_image(version: str) -> Finding:
    if _numbers(version) < _numbers(TRITON_FLOOR):
        why = f"Triton {version} is older than {TRITON_FLOOR}, which closes the known holes (docs/deployment.md)"
        return Finding("bad", "triton image", why, f"build on NVIDIA's image {TRITON_FLOOR} or newer")
    return Finding("ok", "triton image", f"Triton {version}, at or above the floor {TRITON_FLOOR}")


def refusals(facts: Facts) -> list[str]:
    """What an image's entry point refuses, a line each: pairs that can never work here. Nothing of what a process
    could do without, such as the embedded Triton."""
    bad = [finding for finding in judge(facts) if finding.level == "bad" and finding.what in AT_ENTRY]
    return [f"{finding.what}: {finding.why}; {finding.next_step}" for finding in bad]


def report(facts: Facts) -> dict[str, object]:
    """Facts and findings as one JSON document; `ok` is false when something will not work."""
    findings = judge(facts)
    ok = not any(finding.level == "bad" for finding in findings)
    return {"ok": ok, "facts": asdict(facts), "findings": [asdict(finding) for finding in findings]}
