"""F1: kill -9 of workers that own a live source, with records in flight; and of the mixer that shows them all."""

from __future__ import annotations

import time

import pytest
from fault_common import common, owners
from fault_mixed import Mixed
from fault_rig import Rig, Row
from fault_table import Figures, Table, spread

pytestmark = pytest.mark.needs("kafka")
FULL_KILLS = 20
LOOK_S = 10.0  # over so long after a kill the other sources are looked at
SEGMENTS = 3  # more than were whole when the mixer was killed; one of them it may have ended just before


def test_f1_kill_worker_twice(table: Table, rig: Rig) -> None:
    """The quick selection: one kill that is restarted at once, one whose partitions go to others."""
    with table.row("F1") as figures:
        _kill(figures, rig, kills=2, every_s=10.0)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_f1_kill_worker(table: Table, rig: Rig) -> None:
    """Twenty kills, one every 20 s."""
    with table.row("F1") as figures:
        _kill(figures, rig, kills=max(2, round(FULL_KILLS * min(1.0, rig.load.scale))), every_s=20.0)


def _kill(figures: Figures, rig: Rig, kills: int, every_s: float) -> None:
    restarted: list[float] = []
    taken_over: list[float] = []
    others: list[float] = []
    in_flight: list[int] = []
    in_call = 0
    with rig.row("F1") as row:
        time.sleep(2)
        for number in range(kills):
            began = time.monotonic()
            source = row.sources[number % len(row.sources)]
            owned = owners(row)
            victim = row.owner(source)
            member = rig.crew.members[victim]
            member.hold_s = 0.2 if number % 2 == 0 else 9.0
            at = rig.crew.kill(victim)
            in_call += bool(rig.at_work(victim))
            affected = sorted({source, *(s for s, name in owned.items() if name == victim)})
            in_flight.append(_in_flight(row, source, at))
            recovered = row.recovery(at, affected)
            (restarted if member.hold_s < 1 else taken_over).append(max(recovered.values()))
            time.sleep(max(0.0, every_s - (time.monotonic() - began)))
            calm = [s for s in row.sources if s not in affected]
            if calm:
                others.append(row.coverage(calm, at, at + LOOK_S))
            member.hold_s = 0.2
        mixed = _kill_mixer(row)
    figures.told("kills", f"{kills}, {in_call} in the middle of a call")
    figures.at_least("records in flight at each kill, fewest", min(in_flight), 1)
    if restarted:
        figures.at_most("fresh again, static member restarted at once", max(restarted), 5.0, " s")
        figures.told("min / median / max", spread(restarted))
    if taken_over:
        figures.at_most("fresh again, others take over", max(taken_over), 8.0, " s")
        figures.told("min / median / max", spread(taken_over))
    if others:
        figures.at_least("coverage of the other sources", min(others), 0.99)
        figures.told("by kill", " ".join(f"{share:.3f}" for share in others))
    figures.at_most("mixer killed: gap in its HLS, one segment at most", mixed.gap_s(), mixed.longest_s, " s")
    figures.none("mixer killed: frames that stand twice in it, numbers left out", mixed.faults())
    common(figures, row, once=False)  # what was in no whole segment is drawn again


def _kill_mixer(row: Row) -> Mixed:
    """Once, started again at once; returns when every source has whole segments of the new one."""
    mixed = Mixed(row.rig.folder / "mixed", row.sources)
    mixed.look()
    known = mixed.newest()
    row.rig.crew.kill("mixer")

    def goes_on() -> bool:
        mixed.look()
        return all(number >= known[source] + SEGMENTS for source, number in mixed.newest().items())

    row.until(goes_on, "segments of the mixer after its kill", 60)
    return mixed


def _in_flight(row: Row, source: str, at: float) -> int:
    """Frames of a source that were written and not answered when the kill came."""
    row.rig.tail.caught_up()
    written = {(f.epoch, f.first) for f in row.frames(source) if f.place.at_ms <= at * 1000 and not f.drop_reason}
    answered = {(r.epoch, r.seq) for r in row.results(source) if r.place.at_ms <= at * 1000}
    return len(written - answered)
