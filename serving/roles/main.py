"""Wiring that all roles share: the log of the settings, a stop in good order, the loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from serving.adapters.kafka import KafkaLog, KafkaOptions
from serving.config import ConfigInvalid, Settings
from serving.roles.monitor import RoleMonitor, RoleState
from serving.roles.names import Names


class Stepping(Protocol):
    """A role of one thread."""

    def step(self) -> None: ...

    def close(self) -> None: ...


def open_log(settings: Settings, role: str) -> tuple[KafkaLog, Names]:
    """The log of the settings. A role never gives a record up while it lives: its queue is bounded instead.

    Raises ConfigInvalid where no broker is named.
    """
    if not settings.kafka:
        raise ConfigInvalid("kafka: expected host:port of a broker, got nothing", hint="--kafka HOST:PORT")
    try:
        options = KafkaOptions(settings.kafka, f"lockstep-{role}", delivery_timeout_s=0)
    except ValueError as error:
        raise ConfigInvalid(f"kafka: {error}") from error
    return KafkaLog(options), Names(settings.kafka_prefix)


@contextmanager
def stop_on_signals(also: Callable[[], None] | None = None) -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; `also` is called then."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        if also is not None:
            also()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def loop(role: Stepping, monitor: RoleMonitor) -> None:
    """Step until a signal, then leave in good order (G9)."""
    with stop_on_signals() as stop:
        try:
            while not stop.is_set():
                role.step()
        finally:
            monitor.state(RoleState.DRAINING)
            role.close()
