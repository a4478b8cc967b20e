"""Whether the machine can hold the models, said before any of them starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from serving.errors import StartFailed

HEADROOM = 0.20
_CGROUP = Path("/sys/fs/cgroup")


class MemoryTooSmall(StartFailed):
    """The models need more memory than there is."""

    code = "memory_too_small"


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Need of one model: peak resident bytes of one instance (0: never measured) times instances."""

    name: str
    peak_rss_bytes: int
    instances: int

    @property
    def total_bytes(self) -> int:
        """All instances: each is a process with its own weights."""
        return self.peak_rss_bytes * self.instances


@dataclass(frozen=True, slots=True)
class Available:
    """Bytes that may still be used, and which limit says so."""

    bytes: int
    source: str


def available(cgroup: Path = _CGROUP) -> Available:
    """The least of free memory and what the control group has left (version 2, then version 1)."""
    found = [Available(int(psutil.virtual_memory().available), "free memory")]
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, used = _number(cgroup / limit_name), _number(cgroup / used_name)
        if limit is not None:
            found.append(Available(max(0, limit - (used or 0)), "cgroup limit"))
    return min(found, key=lambda a: a.bytes)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def check_memory(models: Sequence[ModelMemory], there: Available) -> None:
    """Raise MemoryTooSmall with the table of models where their sum and 20 % exceed what is there."""
    need = int(sum(m.total_bytes for m in models) * (1 + HEADROOM))
    if need > there.bytes:
        raise MemoryTooSmall(
            f"the models need {_mib(need)} MiB (with {HEADROOM:.0%} on top), {there.source} leaves "
            f"{_mib(there.bytes)} MiB\n{table(models)}",
            hint="serve fewer models, or lower serving.instances",
        )


def table(models: Sequence[ModelMemory]) -> str:
    """One line a model, greatest first."""
    lines = [f"{'model':<32} {'peak MiB':>9} {'instances':>9} {'total MiB':>10}"]
    for m in sorted(models, key=lambda m: -m.total_bytes):
        peak = _mib(m.peak_rss_bytes) if m.peak_rss_bytes else "unknown"
        lines.append(f"{m.name:<32} {peak:>9} {m.instances:>9} {_mib(m.total_bytes):>10}")
    return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"


def peak_rss_bytes(pid: int) -> int:
    """Greatest resident set a process ever had (VmHWM of proc(5)), bytes; 0 where it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0
