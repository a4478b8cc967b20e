"""The Python backend's stub processes: which belongs to which model, and whether it still lives.

A stub's command line names the model's file and its shared-memory region, so nothing has to be asked of Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from serving.triton.memory import peak_rss_bytes

_NAME = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class Stub:
    """One instance of one model."""

    pid: int
    model: str
    region: str

    @property
    def alive(self) -> bool:
        """Whether it runs: not gone, and not a zombie that Triton has not reaped."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text("utf-8", "replace").rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in "ZX"

    @property
    def peak_rss_bytes(self) -> int:
        """Greatest resident set so far."""
        return peak_rss_bytes(self.pid)


def stubs_of(server_pid: int, repository: Path) -> list[Stub]:
    """Living stubs of a server whose models lie in `repository`."""
    try:
        children = psutil.Process(server_pid).children()
    except psutil.NoSuchProcess:
        return []
    found = []
    for child in children:
        try:
            words = child.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if len(words) > 2 and Path(words[0]).name == _NAME:
            model = Path(words[1]).relative_to(repository).parts[0]
            found.append(Stub(child.pid, model, words[2]))
    return found
