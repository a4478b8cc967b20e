"""The clock and the roles of these tests; the log, with the topics that it needs, is each file's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_support import NAMES

from serving.align import CloseRule
from serving.config import Settings
from serving.preprocess.jpeg import JpegCodec
from serving.roles.accountant import LogAccountant
from serving.roles.main_mixer import MixerOptions, _new_mix_role
from serving.roles.mixer import LogMixer
from serving.roles.monitor import RoleMonitor
from serving.roles.registered import Registered
from serving.testing.hand_clock import HandClock
from serving.testing.memory_log import MemoryLog


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def mixer(log: MemoryLog, clock: HandClock, tmp_path: Path) -> Iterator[Callable[[], LogMixer]]:
    made: list[LogMixer] = []

    def make(on: MemoryLog = log) -> LogMixer:
        registered, monitor = Registered(on, NAMES), RoleMonitor("mixer", clock)
        registered.catch_up()
        new_role = _new_mix_role(Settings(), MixerOptions(tmp_path), {}, registered, monitor)
        made.append(LogMixer(on, NAMES, new_role, JpegCodec(), clock, "", monitor, None, registered))
        return made[-1]

    yield make
    for role in made:
        role.close()


@pytest.fixture
def accountant(log: MemoryLog, clock: HandClock) -> Iterator[Callable[[], LogAccountant]]:
    made: list[LogAccountant] = []

    def make() -> LogAccountant:
        made.append(LogAccountant(log, NAMES, CloseRule(live=True), clock))
        return made[-1]

    yield make
    for role in made:
        role.close()
