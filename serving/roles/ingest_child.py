"""The process of one supervised source: `python -m serving.roles.ingest_child`, its record on the first line of stdin.

The rest of stdin is its lease (`serving.roles.ingest_process`): without a beat for LEASE_S, or at its end, the source
is handed over: whoever goes on opens the next epoch.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from serving.adapters.video import ReaderOptions
from serving.clock import NS_PER_MS, NS_PER_S, SystemClock
from serving.config import Settings, load_settings
from serving.errors import LockstepError
from serving.records import StreamMessage, decode_stream
from serving.roles.ingest import LogIngest
from serving.roles.ingest_process import HAND_OVER, OVER
from serving.roles.main import open_log
from serving.roles.reading import role_of
from serving.roles.sources import registered_policy, registered_secrets

LEASE_S = 5.0
TELL_S = 1.0
LOOKS = 6
MAX_RECORD = 1 << 20
EX_TEMPFAIL = 75


class Lease(threading.Thread):
    """Ends the role when its supervisor says so, or says nothing any more."""

    def __init__(self, role: LogIngest, ending: threading.Event) -> None:
        super().__init__(name="lease", daemon=True)
        self._role, self._ending = role, ending

    def run(self) -> None:
        """Until the supervisor lets go."""
        over = False
        while True:
            ready, _, _ = select.select([0], [], [], LEASE_S)
            said = os.read(0, 4096) if ready else b""
            if OVER in said:
                over = True
            if not said or OVER in said or HAND_OVER in said:
                break
        self._role.stop(over)
        self._ending.set()
        time.sleep(LEASE_S)
        os._exit(EX_TEMPFAIL)  # the decoder does not come back: a lease that is over ends whatever goes on


class Teller(threading.Thread):
    """Says once a second how the source is."""

    def __init__(self, role: LogIngest, say: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(name="teller", daemon=True)
        self._role, self._say, self._clock, self._rate = role, say, SystemClock(), Rate()

    def run(self) -> None:
        """As long as the process lives."""
        while True:
            now_ns = self._clock.monotonic_ns()
            status = status_of(self._role, now_ns)
            self._say({**status, "fps_in": self._rate.of(status["pictures"], now_ns)})
            time.sleep(TELL_S)


class Rate:
    """Pictures a second, over the last few looks at their count."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque(maxlen=LOOKS)

    def of(self, count: int, now_ns: int) -> float | None:
        """None before the second look."""
        self._seen.append((now_ns, count))
        elapsed_ns = now_ns - self._seen[0][0]
        return round((count - self._seen[0][1]) * NS_PER_S / elapsed_ns, 2) if elapsed_ns > 0 else None


def status_of(role: LogIngest, now_ns: int) -> dict[str, Any]:
    """Counters of one source, for its supervisor."""
    stage = role.stage
    info = stage.info
    age_ns = now_ns - stage.last_picture_ns
    return {
        "frames": role.frames,
        "pictures": stage.counters.pictures,
        "connections": stage.counters.connections,
        "errors": dict(stage.counters.errors),
        "epoch": role.epoch,
        "picture_age_ms": age_ns // NS_PER_MS if info is not None else None,
        "held": role.held,
        "width": info.width if info else None,
        "height": info.height if info else None,
    }


def say(document: Mapping[str, Any]) -> None:
    """One line to the supervisor; a supervisor that is gone ends the lease, not this call."""
    try:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        os._exit(1)


def new_role(settings: Settings, stream: StreamMessage, ending: threading.Event) -> LogIngest:
    """The source of a record that came over the log: held to the policy of registered sources."""
    log, names = open_log(settings, "ingest")
    reader = ReaderOptions(policy=registered_policy(settings), secrets=registered_secrets(settings))
    return role_of(settings, log, names, stream, reader, ending)


def read(settings: Settings, stream: StreamMessage) -> dict[str, Any]:
    """Read the source to its end; how it ended."""
    ending = threading.Event()
    role = new_role(settings, stream, ending)
    Lease(role, ending).start()
    Teller(role, say).start()
    role.run()
    error = role.stage.error
    if role.fenced:
        return {"end": "fenced", "code": "fenced", "message": "another ingester opened a higher epoch"}
    if error is not None:
        return {"end": "failed", "code": error.code, "message": str(error)}
    return {"end": "over" if role.over else "handed_over"}


def main() -> int:
    """0: it said how it ended."""
    with os.fdopen(0, "rb", buffering=0, closefd=False) as lease:  # unbuffered: the rest is read by `Lease`
        line = lease.readline(MAX_RECORD)
    document = json.loads(line)
    stream = decode_stream(str(document.get("source_id")).encode(), line)
    assert stream is not None, "a supervisor sends records, not tombstones"
    try:
        end = read(load_settings().settings, stream)
    except LockstepError as error:
        end = {"end": "failed", "code": error.code, "message": str(error)}
    say(end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
