"""A source's own process, as the supervisor holds it (`serving.roles.ingest_child` is the other end).

Its standard input is its lease: a beat each second, or it ends by itself; the end of the pipe, and so the end of this
process, ends it too. Its standard output tells once a second how it is, in JSON lines, and last how it ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from serving.clock import Clock
from serving.records import StreamMessage, encode_stream
from serving.roles.ingest_fleet import ChildEnd, End

BEAT, OVER, HAND_OVER = b".", b"o", b"h"
MODULE = "serving.roles.ingest_child"


class IngestProcess:
    """See `serving.roles.ingest_fleet.Child`."""

    def __init__(self, stream: StreamMessage, environment: Mapping[str, str], clock: Clock) -> None:
        self._clock, self._heard_ns = clock, clock.monotonic_ns()
        self._status: Mapping[str, Any] = {}
        self._said_end: Mapping[str, Any] | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._write((encode_stream(stream).value or b"") + b"\n")
        self._listener = threading.Thread(target=self._listen, name=f"ingest-{stream.source_id}", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def status(self) -> Mapping[str, Any]:
        """What it said last."""
        return self._status

    def heard_ns(self) -> int:
        """When."""
        return self._heard_ns

    def beat(self) -> None:
        """Renew its lease."""
        self._write(BEAT)

    def end(self, over: bool) -> None:
        """Ask it to end."""
        self._write(OVER if over else HAND_OVER)

    def ended(self) -> ChildEnd | None:
        """None while it lives."""
        code = self._process.poll()
        if code is None:
            return None
        self._listener.join(2.0)  # its last line may still be in the pipe
        self._let_go()
        said = self._said_end
        if said is None:
            how = f"signal {-code}" if code < 0 else f"status {code}"
            return ChildEnd(End.CRASHED, "crashed", f"its process ended with {how}")
        return ChildEnd(End(said["end"]), str(said.get("code", "")), str(said.get("message", "")))

    def kill(self) -> None:
        """At once."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                document = json.loads(line)
            except ValueError:
                continue  # not ours: a library that prints
            if isinstance(document, dict):
                self._heard_ns = self._clock.monotonic_ns()
                if "end" in document:
                    self._said_end = document
                else:
                    self._status = document

    def _write(self, data: bytes) -> None:
        """A child that is gone is noticed by `ended`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):
            self._status = {**self._status, "gone": True}

    def _let_go(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except OSError:
                    self._status = {**self._status, "gone": True}
