"""Wiring of ingest: one source in this process, or a supervisor with a child process for each of its sources."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from serving.adapters.video import ReaderOptions
from serving.clock import SystemClock
from serving.config import Settings, as_environment, child_environment
from serving.errors import LogUnavailable
from serving.metrics import OTHER
from serving.ports_index import StateSink
from serving.records import StreamMessage, encode_stream
from serving.roles.index_open import open_states
from serving.roles.ingest import LogIngest
from serving.roles.ingest_child import Teller
from serving.roles.ingest_fleet import End, Fleet, FleetRules, SourceState
from serving.roles.ingest_process import IngestProcess
from serving.roles.ingest_supervisor import IngestSupervisor
from serving.roles.main import open_log, stop_on_signals
from serving.roles.monitor import RoleMonitor, RoleState
from serving.roles.page import open_page
from serving.roles.reading import role_of, split
from serving.roles.registered import Registered
from serving.roles.sender import Sender
from serving.roles.state import ingest_state, publish_state
from serving.streams.observe import StreamMetrics

LOOK_S = 1.0


def run_ingest(settings: Settings, stream: StreamMessage) -> list[LogIngest]:
    """One source, read in this process to its end or until a signal; registered so that no supervisor reads it too.

    Where models hear, its sound is a source beside it: a role each, in their order.
    """
    streams = split(replace(stream, supervised=False), settings.repository)
    log, names = open_log(settings, "ingest")
    registering = Sender(log.producer())
    for each in streams:
        registering.send(names.topic("streams"), encode_stream(each), None)
    acknowledged = registering.flush(10.0)
    registering.close()
    if not acknowledged:
        raise LogUnavailable(f"{names.topic('streams')}: the source's record was not acknowledged within 10 s")
    ending = threading.Event()
    reader = ReaderOptions(secrets=child_environment())  # an operator's own source may name any variable
    roles = [role_of(settings, log, names, each, reader, ending) for each in streams]

    def end() -> None:
        ending.set()
        for role in roles:
            role.stop()

    registered = Registered(log, names)
    registered.catch_up()
    threading.Thread(target=_end_removed, args=(registered, roles, ending), name="registry", daemon=True).start()
    index = open_states(settings)
    for role in roles:
        Teller(role, partial(_publish, index, role.stream.source_id)).start()
    with stop_on_signals(end), ThreadPoolExecutor(len(roles), "source") as pool:
        reading = [pool.submit(role.run) for role in roles]
        if wait(reading, return_when=FIRST_EXCEPTION).not_done:
            end()  # one of them cannot go on: the other ends at its present read
    for done in reading:
        done.result()
    return roles


def _end_removed(registered: Registered, roles: Sequence[LogIngest], ending: threading.Event) -> None:
    """Sources that are taken away (`DELETE /v1/streams/NAME`, `lockstep streams remove`) end here too."""
    here = {role.stream.source_id: role for role in roles}
    while here and not ending.wait(LOOK_S):
        with suppress(LogUnavailable):
            registered.poll()
        for name in list(here):
            wished = registered.get(name)
            if wished is None or not wished.active:
                here.pop(name).stop()
    ending.set()


def _publish(index: StateSink | None, source_id: str, status: Mapping[str, Any]) -> None:
    publish_state(index, "ingest", source_id, ingest_state(status))


def run_supervisor(settings: Settings, member: str = "") -> Fleet:
    """Until a signal: the sources of `streams` that are this process's share."""
    log, names = open_log(settings, "ingest")
    clock, environment = SystemClock(), child_environment(**as_environment(settings))
    fleet = Fleet(
        lambda stream: IngestProcess(stream, environment, clock), FleetRules(most=settings.ingest_max_sources), clock
    )
    monitor = RoleMonitor("ingest", clock, settings.kafka_prefix)
    counted = StreamMetrics(monitor.metrics)
    with ExitStack() as stack:
        if (index := open_states(settings)) is not None:
            stack.callback(index.close)
        stack.enter_context(open_page(monitor, settings, log, names))
        stop = stack.enter_context(stop_on_signals())
        threading.Thread(target=_beat, args=(fleet, stop), name="leases", daemon=True).start()
        role = IngestSupervisor(log, names, fleet, clock, monitor, stop.wait, member)
        try:
            while not stop.is_set():
                role.step()
                if monitor.turned():
                    report(monitor, fleet, counted, index)
        finally:
            monitor.state(RoleState.DRAINING)
            role.close()
    return fleet


def _beat(fleet: Fleet, stop: threading.Event) -> None:
    """The loop itself may wait for a broker for longer than a lease."""
    while not stop.wait(LOOK_S):
        fleet.beat()


def report(monitor: RoleMonitor, fleet: Fleet, counted: StreamMetrics, index: StateSink | None = None) -> None:
    """What the children are doing, as metrics and as states."""
    views, gone = fleet.views(), (SourceState.ENDED, SourceState.FENCED)
    for state in SourceState:
        count = sum(view.state is state for view in views)
        monitor.metrics.set("lockstep_ingest_sources", count, state=state.value)
    for view in views:
        status = view.status
        monitor.metrics.set("lockstep_ingest_source_up", view.state is SourceState.RUNNING, source=view.source_id)
        if "frames" in status:
            monitor.metrics.set("lockstep_ingest_source_frames", status["frames"], source=view.source_id)
            epoch, connections, errors = status.get("epoch", 0), status.get("connections", 0), status.get("errors", {})
            counted.read(view.source_id, epoch, connections, errors, view.pid)
        if view.state not in gone:  # without a child too: pictures of what backs off or never answered are missed
            monitor.metrics.set("lockstep_ingest_picture_age_seconds", view.silent_s, source=view.source_id)
        running = view.state is SourceState.RUNNING
        publish_state(index, "ingest", view.source_id, ingest_state(status if running else {}, view.error))
    here = {view.source_id for view in views if view.state not in gone}
    for name in ("lockstep_ingest_source_up", "lockstep_ingest_source_frames", "lockstep_ingest_picture_age_seconds"):
        monitor.metrics.keep(name, "source", {*here, OTHER})
    ends = fleet.take_ends()
    for how in (*(end.value for end in End), "stalled"):
        monitor.metrics.inc("lockstep_ingest_child_ends_total", ends.get(how, 0), how=how)
