"""States of sources on Redis, for roles that read nothing there.

The client of Redis takes a third of a worker's start to import; here the thread that writes imports it, after the role
has begun its work.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from serving.adapters.redis_values import dumps
from serving.errors import Unavailable
from serving.ports_index import Json

logger = logging.getLogger("lockstep.index")

MAX_STATES = 4096
JOIN_S = 5.0  # of a thread that may still import
SCHEMES = ("redis", "rediss", "unix")


def key_prefix(prefix: str) -> str:
    """Of every key of a system."""
    return f"{prefix}lockstep:"


def state_key(prefix: str, role: str, source_id: str) -> str:
    """What a role says of a source (docs/redis.md); prefix: that of the keys."""
    return f"{prefix}state:{role}:{source_id}"


class RedisStates:
    """`put_state` and `close` of `serving.adapters.redis.RedisIndex`. ValueError for an address that is none."""

    def __init__(self, url: str, prefix: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or (parts.port or 1) < 1:  # asking for the port refuses what is no number
            raise ValueError(f"expected {', '.join(SCHEMES)} before ://, got {parts.scheme[:20]!r}")
        self._url, self._prefix = url, prefix
        self._index: Any = None
        self._mailbox = StateMailbox(self._write, JOIN_S)

    def put_state(self, role: str, source_id: str, fields: Json) -> None:
        """What a role says of a source; written by a thread of its own."""
        self._mailbox.put(state_key(key_prefix(self._prefix), role, source_id), dumps(fields))

    def close(self) -> None:
        """Let go."""
        self._mailbox.close()
        if self._index is not None:
            self._index.close()

    def _write(self, states: Mapping[str, str]) -> None:
        if self._index is None:
            from serving.adapters.redis import RedisIndex

            self._index = RedisIndex(self._url, self._prefix)
        self._index.write_states(states)


class StateMailbox:
    """The newest state of each role and source, written by one thread; what cannot be written is forgotten."""

    def __init__(self, write: Callable[[Mapping[str, str]], None], join_s: float) -> None:
        self._write, self._waiting = write, dict[str, str]()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed, self._join_s = False, join_s

    def put(self, key: str, text: str) -> None:
        """Take a state; over MAX_STATES sources the ones that wait are enough."""
        with self._changed:
            if self._closed or (len(self._waiting) >= MAX_STATES and key not in self._waiting):
                return
            self._waiting[key] = text
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="index-states", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(self._join_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed and not self._waiting:
                    return
                states, self._waiting = self._waiting, {}
            try:
                self._write(states)
            except Unavailable as error:
                logger.debug("states of %d sources not written: %s", len(states), error)
            except Exception:  # such as text that is none; the next ones are written
                logger.exception("states of %d sources not written", len(states))
