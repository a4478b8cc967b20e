"""Public load generators: wrk for closed loops. Their own CPU seconds are measured and taken off the limit."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

LUA = """
local bodies, n, bad = {}, 0, 0
for path in io.lines("%(list)s") do
  local f = io.open(path, "rb"); n = n + 1; bodies[n] = f:read("*a"); f:close()
end
local i = 0
request = function()
  i = i %% n + 1
  return wrk.format("POST", nil, {["Content-Type"] = "image/jpeg"}, bodies[i])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("LOADTEST %%d %%d %%d %%f %%f %%f %%f\\n", summary.requests,
    e.status, e.connect + e.read + e.write + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One block of load. Latencies in milliseconds; `refused` are answers other than 2xx."""

    requests: int
    refused: int
    broken: int
    wall_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    generator_cpu_s: float

    @property
    def good(self) -> int:
        """Answers 2xx."""
        return self.requests - self.refused


class Wrk:
    """`wrk` posting the corpus in turn; one thread, so that it uses at most one core."""

    def __init__(self, corpus: list[Path]) -> None:
        if shutil.which("wrk") is None:
            raise RuntimeError("wrk is not installed: apt-get install wrk")
        self._folder = tempfile.TemporaryDirectory(prefix="loadtest-")
        folder = Path(self._folder.name)
        (folder / "files").write_text("".join(f"{path}\n" for path in corpus))
        (folder / "post.lua").write_text(LUA % {"list": folder / "files"})
        self._script = folder / "post.lua"

    def block(self, url: str, connections: int, seconds: float) -> Load:
        """Closed loop of `connections` clients for `seconds`."""
        length = max(1, round(seconds))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{length}s", "--timeout", "10s", "-s", str(self._script), url]
        child = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output, _ = child.communicate(timeout=length + 60)
        match = re.search(r"LOADTEST (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)", output)
        if match is None:
            raise RuntimeError(f"wrk gave no summary: {output[-500:]}")
        numbers = [float(word) for word in match.groups()]
        cpu = _generator_cpu_s()
        requests, refused, broken = (int(n) for n in numbers[:3])
        wall, p50, p95, p99 = numbers[3:]
        return Load(requests, refused, broken, wall, p50, p95, p99, cpu)

    def close(self) -> None:
        """Remove the script."""
        self._folder.cleanup()


_seen = 0.0


def _generator_cpu_s() -> float:
    """CPU seconds of ended children since the last call; only the generator ends between two calls."""
    global _seen
    times = psutil.Process().cpu_times()
    total = times.children_user + times.children_system
    used, _seen = total - _seen, total
    return float(used)
