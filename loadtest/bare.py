"""Bare-loop processes, one per core, told over a pipe to run for so many seconds. `python -m loadtest.bare` is one."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.loops import LOOPS
from loadtest.workload import Workload

THREAD_CAPS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Block:
    """What one timed block did: answers, wall seconds, CPU seconds of the arm's own processes."""

    count: int
    wall_s: float
    cpu_s: float


class BareArm:
    """`processes` loop processes of one kind; loaded and warmed once, then asked for blocks."""

    def __init__(self, kind: str, workload: Workload, corpus: Path, batch: int, processes: int) -> None:
        command = [sys.executable, "-m", "loadtest.bare", kind, str(workload.version_dir), str(corpus), str(batch)]
        env = {**os.environ, **(THREAD_CAPS if kind == "best" else {})}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._children = [subprocess.Popen(command, env=env, text=True, **pipes) for _ in range(processes)]
        first_lines = [self._read(child) for child in self._children]
        self.answers = first_lines[0]

    @staticmethod
    def _read(child: subprocess.Popen[str]) -> Any:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"a bare loop ended with {child.wait()}; its own message is above")
        return json.loads(line)

    def block(self, seconds: float) -> Block:
        """Run all processes for `seconds` at once."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{seconds}\n")
            child.stdin.flush()
        rows = [self._read(child) for child in self._children]
        wall = max(row["wall_s"] for row in rows)
        return Block(sum(row["count"] for row in rows), wall, sum(row["cpu_s"] for row in rows))

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(10)


def main() -> None:
    """One loop process: answers of the whole corpus on the first line, then a line a block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(LOOPS))
    parser.add_argument("version_dir", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("batch", type=int)
    options = parser.parse_args()
    run = LOOPS[options.kind](Workload.read(options.version_dir))
    pictures = [path.read_bytes() for path in sorted(options.corpus.glob("*.jpg"))]
    print(json.dumps([run([data])[0] for data in pictures]), flush=True)
    for line in sys.stdin:
        print(json.dumps(_block(run, pictures, options.batch, float(line))), flush=True)


def _block(run: Any, pictures: list[bytes], batch: int, seconds: float) -> dict[str, float]:
    start, cpu, count, at = time.perf_counter(), time.process_time(), 0, 0
    while time.perf_counter() - start < seconds:
        run([pictures[(at + i) % len(pictures)] for i in range(batch)])
        count, at = count + batch, at + batch
    return {"count": count, "wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    main()
