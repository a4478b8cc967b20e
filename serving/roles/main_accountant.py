"""Wiring of the accountant."""

from __future__ import annotations

from contextlib import ExitStack

from serving.align import CloseRule
from serving.clock import NS_PER_MS, SystemClock
from serving.config import Settings
from serving.roles.accountant import LogAccountant
from serving.roles.index import IndexWriter
from serving.roles.index_open import open_index
from serving.roles.main import loop, open_log
from serving.roles.monitor import RoleMonitor
from serving.roles.page import open_page


def run_accountant(settings: Settings, member: str = "") -> LogAccountant:
    """Until a signal."""
    log, names = open_log(settings, "accountant")
    rule = CloseRule(settings.delay_max_ms * NS_PER_MS, settings.lateness_ms * NS_PER_MS)
    clock = SystemClock()
    monitor = RoleMonitor("accountant", clock, names.prefix)
    with ExitStack() as stack:
        index, writer = open_index(settings), None
        if index is not None:
            stack.callback(index.close)
            writer = IndexWriter(index, log, names, clock, monitor.metrics).start()
            stack.callback(writer.close)
        role = LogAccountant(log, names, rule, clock, member, monitor, index, writer)
        stack.enter_context(open_page(monitor, settings, log, names))
        loop(role, monitor)
    return role
