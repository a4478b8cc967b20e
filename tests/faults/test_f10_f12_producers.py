"""F10: two ingesters of one source. F12: a worker that is stopped for longer than its session and comes back."""

from __future__ import annotations

import itertools
import signal
import time

import pytest
from confluent_kafka.admin import AdminClient
from fault_common import common
from fault_rig import Rig, Row
from fault_table import Table

from serving.adapters.kafka.owners import assigned_to
from serving.free_ports import UDP, free_port
from serving.testing.faults.stub_model import NAME

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.timeout(600)]
STOPPED_S = 20.0
HOUR = 3600 * 90_000


# Not among the quick ones: where the stopped call has outlived inference_timeout, the watchdog ends the process.
@pytest.mark.faults
def test_f12_zombie_worker(table: Table, rig: Rig) -> None:
    """SIGSTOP with a picture in hand, 20 s, SIGCONT: what it still sends changes nothing, and it commits nothing."""
    with table.row("F12") as figures:
        with rig.row("F12") as row:
            time.sleep(2)
            source = row.sources[0]
            victim = row.owner(source)
            exits = len(rig.crew.members[victim].exits)
            at = rig.crew.strike(victim, signal.SIGSTOP)
            held = rig.at_work(victim)
            recovered = row.recovery(at, [source])
            time.sleep(max(0.0, STOPPED_S - (time.time() - at)))
            resumed = rig.crew.strike(victim, signal.SIGCONT)
            time.sleep(4)
            again = row.recovery(resumed)
        late = [
            r for s in row.sources for r in row.results(s)
            if r.place.at_ms >= resumed * 1000 and _answered_before(row, s, r.epoch, r.seq, r.place.at_ms)
        ]  # fmt: skip
        figures.told("in hand when it was stopped", held or "nothing")
        figures.at_most("fresh again while it is stopped", max(recovered.values()), 8.0, " s")
        figures.told("outcomes it sent for frames that others had answered", str(len(late)))
        figures.at_most("fresh after it came back", max(again.values()), 8.0, " s")
        figures.equal("ends of its process", len(rig.crew.members[victim].exits) - exits, 0)
        common(figures, row)


@pytest.mark.faults
def test_f12_partitioned_worker(table: Table, rig: Rig) -> None:
    """Its network is cut for a minute: it goes on for a while, then comes back to a group that went on without it."""
    with table.row("F12") as figures:
        victim = rig.workers[0]
        with rig.bad_network(victim) as network, rig.row("F12", first=_partition_of(rig, victim)) as row:
            time.sleep(2)  # as in the other rows: a first batch that was never committed is tried again whole, 1.6 s
            row.until(lambda: bool(rig.at_work(victim)), f"{victim} has a source")
            at = time.time()
            network.cut()
            recovered = row.recovery(at)
            time.sleep(max(12.0, rig.load.lasting(60)))
            mended = time.time()
            network.mend()
            again = row.recovery(mended)
            time.sleep(6)
        figures.at_most("cut off: fresh again", max(recovered.values()), 8.0, " s")
        figures.at_most("fresh after it came back", max(again.values()), 8.0, " s")
        common(figures, row)


def _partition_of(rig: Rig, worker: str) -> int:
    """One of those that it has, by its group."""
    admin, found = AdminClient({"bootstrap.servers": rig.broker.bootstrap}), list[int]()

    def has_some() -> bool:
        (group,) = admin.list_groups(f"{rig.prefix}worker-{NAME}", 10)
        given = [m.assignment for m in group.members if group.state == "Stable" and m.id.startswith(f"{worker}-")]
        found.extend(number for data in given for _, number in assigned_to(data))
        return bool(found)

    rig.crew.until(has_some, f"{worker} has a partition")
    return found[0]


def _answered_before(row: Row, source: str, epoch: int, seq: int, at_ms: int) -> bool:
    return any((r.epoch, r.seq) == (epoch, seq) and r.place.at_ms < at_ms for r in row.results(source))


@pytest.mark.faults
def test_f10_duplicate_producer(table: Table, rig: Rig, load) -> None:  # type: ignore[no-untyped-def]
    """A second ingester of a source that is read already, from a camera connection that counts from elsewhere."""
    port = free_port(UDP)

    def cameras(row: Row) -> None:
        row.more_cameras = [{"clip": 0, "port": port, "pts": HOUR}]

    with table.row("F10") as figures:
        with rig.row("F10", cameras=cameras) as row:
            time.sleep(load.lasting(20))
            source, first = row.sources[0], row.ingests[row.sources[0]]
            second = row.start_ingest(source, port, "ingest-second")
            row.until(lambda: any(c["epoch"] == 2 for c in rig.history.claims[source]), "a second epoch", 40)
            row.until(lambda: not rig.crew.alive(first), "the first is fenced")
            fenced_at = rig.crew.members[first].ended_at
            time.sleep(max(8.0, load.lasting(40)))
            assert rig.crew.alive("ingest-second"), rig.crew.said(second.name)
        claimed = min(f.place.at_ms for f in row.frames(source) if f.epoch == 2) / 1000
        figures.at_most("the first has ended after the second's first frame", fenced_at - claimed, 2.0, " s")
        figures.equal("it says that it was fenced", '"fenced": true' in rig.crew.said(first), True)
        shown = rig.releases([source])
        switched = next(n for n, r in enumerate(shown) if r["epoch"] == 2)
        figures.equal("frames of epoch 1 shown after one of epoch 2", sum(r["epoch"] == 1 for r in shown[switched:]), 0)
        after = [r for r in shown if r["epoch"] == 2][rig.load.fps * 2 :]
        toggles = sum(bool(a["boxes"]) != bool(b["boxes"]) for a, b in itertools.pairwise(after))
        figures.at_most("toggles after the switch, per minute", toggles * 60 * rig.load.fps / max(1, len(after)), 1.0)
        common(figures, row)
