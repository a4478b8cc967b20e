"""mosec: Rust front, `LOADTEST_WORKERS` workers, batch 4 without waiting, the BEST loop inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mosec import Server, Worker

from loadtest.loops import best_loop
from loadtest.workload import Workload


class Infer(Worker):  # type: ignore[misc]
    """One process, one thread, whole batches."""

    def __init__(self) -> None:
        super().__init__()
        self._run = best_loop(Workload.read(Path(os.environ["LOADTEST_VERSION_DIR"])))

    def deserialize(self, data: bytes) -> bytes:
        """The body is the picture."""
        return data

    def forward(self, data: list[bytes]) -> list[Any]:
        """A batch of pictures -> their answers."""
        return [{"answer": answer} for answer in self._run(data)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Infer, num=int(os.environ["LOADTEST_WORKERS"]), max_batch_size=4, max_wait_time=1)
    server.run()
