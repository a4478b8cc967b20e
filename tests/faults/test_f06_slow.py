"""F6: a worker that is five times slower. F14: an inference server that is half a second slower and errs."""

from __future__ import annotations

import os
import time

import psutil
import pytest
from fault_common import common, memory_mb, owners
from fault_rig import Rig
from fault_table import Table, percentile

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.faults, pytest.mark.timeout(600)]


def test_f6_slow_worker(table: Table, rig: Rig) -> None:
    """It sheds, with names; the others do not notice."""
    with table.row("F6") as figures:
        with rig.row("F6") as row:
            began, memory = time.time() + rig.load.lasting(10), memory_mb(rig)  # sources begin with old frames
            psutil.cpu_percent()
            time.sleep(max(5.0, rig.load.lasting(30)))
            busy = psutil.cpu_percent() / 100 * (os.cpu_count() or 1)
            owned = owners(row)
            victim = owned[row.sources[0]]
            struck = time.time()
            rig.calm(slow={victim: 5})
            time.sleep(max(8.0, rig.load.lasting(50)))
            over = time.time()
            rig.calm()
            recovered = row.recovery(over)
            time.sleep(2)
        others = [source for source in row.sources if owned.get(source) != victim]
        figures.told("cores that the load keeps busy in calm", f"{busy:.2f} of {os.cpu_count()}")
        ages = row.shown_ages(row.sources, struck, over)
        figures.at_most("age of shown results, oldest", max(ages), 1.5 * rig.load.delay_ms / 1000, " s")
        dropped = row.account().dropped
        figures.at_least("dropped(stale, overload)", dropped.get("stale", 0) + dropped.get("overload", 0), 1)
        if others:
            calm = percentile(row.ages(others, began, struck), 0.99)
            sick = percentile(row.ages(others, struck, over), 0.99)
            figures.told("p99 age of other workers' results, before and during", f"{calm:.3f} s, {sick:.3f} s")
            figures.at_least("coverage of other workers' sources", row.coverage(others, struck, over), 0.99)
        figures.at_most("fresh again after it", max(recovered.values()), 2.0, " s")
        common(figures, row, before=memory)


def test_f14_slow_and_failing_server(table: Table, rig: Rig) -> None:
    """500 ms more for each picture and 1 % errors."""
    with table.row("F14") as figures:
        with rig.row("F14") as row:
            memory = memory_mb(rig)
            time.sleep(max(4.0, rig.load.lasting(20)))
            restarts = rig.restarts()
            rig.calm(extra_ms=500, error_share=0.01)
            time.sleep(max(8.0, rig.load.lasting(60)))
            healed = time.time()
            rig.calm()
            recovered = row.recovery(healed)
            time.sleep(2)
        account = row.account()
        other = set(account.dropped) - {"stale", "deadline", "overload", "not_sampled", "preroll", "decode_error"}
        figures.equal("reasons of drops beside stale, deadline, overload", sorted(other), [])
        figures.at_least("dropped(stale, deadline, overload)", sum(account.dropped.values()), 1)
        figures.equal("roles that ended", rig.restarts() - restarts, 0)
        figures.at_most("fresh again after healing", max(recovered.values()), 2.0, " s")
        common(figures, row, before=memory)
