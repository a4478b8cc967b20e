"""`lockstep serve` for a tool of ours: on a free port, ended on the way out."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from serving.config import child_environment

ROOT = Path(__file__).resolve().parents[1]
LOCKSTEP = str(Path(sys.executable).with_name("lockstep"))


class Server:
    """Triton and gateway for `models`, as a context manager; settings by `environment`. `url` is known inside.

    RuntimeError where it ends before it serves; its own message is on stderr then.
    """

    def __init__(self, models: Sequence[str], **environment: str) -> None:
        self._models, self._environment = tuple(models), environment
        self.url = ""

    def __enter__(self) -> Self:
        print(f"  $ lockstep serve {' '.join(self._models)} --port 0", flush=True)
        self.process = subprocess.Popen(
            [LOCKSTEP, "serve", *self._models, "--port", "0"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, env=child_environment(**self._environment),
        )  # fmt: skip
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if match := re.search(r"http://\S+", line):
                self.url = match.group()
                return self
        raise RuntimeError(f"the server ended with {self.process.wait()}; its message is above")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        print(f"  servers stopped (exit {self.process.wait(60)})")
