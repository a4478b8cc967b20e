"""Names of topics and groups of one system; two systems on one Kafka differ by their prefix."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """prefix: the setting `kafka_prefix`."""

    prefix: str = ""

    def topic(self, name: str) -> str:
        """frames, results, outcomes, timelines, streams, dead_letter."""
        return self.prefix + name

    def group(self, role: str) -> str:
        """worker-MODEL, mixer, accountant, ingest."""
        return f"{self.prefix}{role}"


def process_name() -> str:
    """Who claims an epoch: this start of a process on this machine."""
    host = "".join(c for c in socket.gethostname() if c.isalnum() and c.isascii())[:24] or "host"
    return f"{host}-{os.getpid()}-{time.monotonic_ns() % 10**9}"
