"""Mutants of the roles on a real broker: each replaces a part of the wiring in the one process that it is loaded into.

The fault tests (tests/faults/) must catch every one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.adapters.kafka import consumer
from serving.roles import main_worker
from serving.roles.worker import LogWorker


@dataclass(frozen=True, slots=True)
class RoleMutant:
    """A defect; `apply` makes this process have it. caught_by: the check that must find it."""

    what: str
    apply: Callable[[], None]
    caught_by: str


class _EagerWorker(LogWorker):
    """Commits what it has read, before the outcomes are on the log."""

    def _commit(self, places: Any, leaving_well: bool | None = None) -> None:
        for place in places:
            part = self._parts.get(place)
            if part is not None:
                part.progress._open.clear()
        super()._commit(places, leaving_well)


class _ForgetfulWorker(LogWorker):
    """Counts attempts in memory: whoever takes over begins at one."""

    def assigned(self, positions: Any) -> None:
        super().assigned(positions)
        for place in positions:
            self._parts[place].mark = None


def _worker(kind: type[LogWorker]) -> Callable[[], None]:
    return lambda: setattr(main_worker, "LogWorker", kind)


def _auto_commit() -> None:
    joining: Callable[..., dict[str, Any]] = getattr(consumer, "joining")  # noqa: B009 - not exported, on purpose

    def automatic(*given: Any) -> Any:
        told: dict[str, Any] = {"enable.auto.commit": True, "enable.auto.offset.store": True}
        return joining(*given) | told | {"auto.commit.interval.ms": 200}

    setattr(consumer, "joining", automatic)  # noqa: B010


ROLE_MUTANTS: dict[str, RoleMutant] = {
    "commit_before_outcome": RoleMutant("commit before outcome", _worker(_EagerWorker), "history (d)"),
    "auto_commit": RoleMutant("auto-commit on", _auto_commit, "history (d)"),
    "attempts_in_memory": RoleMutant("retry counter in memory", _worker(_ForgetfulWorker), "F11"),
}
