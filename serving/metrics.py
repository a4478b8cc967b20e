"""The metrics of one process; the only module that touches prometheus objects. `serving.metrics_list` is the list.

In multiprocess mode (several gateway workers) the values live in files under PROMETHEUS_MULTIPROC_DIR, which has to be
set before this module is imported; `exposition` adds them up.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.metrics_list import METRICS as METRICS
from serving.metrics_list import OTHER as OTHER
from serving.metrics_list import MetricDefinition

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROOM_BYTES = {
    "counter": 512 << 10,
    "histogram": 512 << 10,
    "gauge": 64 << 10,
}  # a process's files


class Metrics:
    """The metrics of one process. A name that is not in the list is a KeyError: a programming error, not a series.

    Counters without labels stand at 0 from the start, gauges come when they are first set: a worker does not say that
    the result index, of which it knows nothing, is down.
    """

    def __init__(self, definitions: Sequence[MetricDefinition] = METRICS) -> None:
        self.registry = CollectorRegistry()
        self.untold = ""  # why there is no page: one without what this process counts would be wrong
        self._guard = threading.Lock()
        self._labels = {d.name: d.labels for d in definitions}
        self._gauges = {d.name: d for d in definitions if d.kind == "gauge" and not d.labels}
        self._metrics = {d.name: _make(d, self.registry) for d in definitions if d.name not in self._gauges}

    def inc(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        metric = self._metrics[name]
        (metric.labels(**labels) if labels else metric).inc(amount)  # type: ignore[union-attr]

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put one value into a histogram."""
        metric = self._metrics[name]
        (metric.labels(**labels) if labels else metric).observe(value)  # type: ignore[union-attr]

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        metric = self._metrics[name] if name in self._metrics else self._gauge(name)
        (metric.labels(**labels) if labels else metric).set(value)  # type: ignore[union-attr]

    def keep(self, name: str, label: str, values: Collection[str]) -> None:
        """Take the series of a gauge away whose `label` is none of these: what they told of is gone."""
        gauge = self._metrics[name]
        for sample in [sample for family in gauge.collect() for sample in family.samples]:
            if sample.labels[label] not in values:
                gauge.remove(*(sample.labels[one] for one in self._labels[name]))

    def prepare(self, name: str, **labels: str) -> None:
        """Make a series at 0, so that it is there before anything happens (and no stranger makes it appear)."""
        self._metrics[name].labels(**labels)

    def _gauge(self, name: str) -> Counter | Gauge | Histogram:
        with self._guard:
            if name not in self._metrics:
                self._metrics[name] = _make(self._gauges[name], self.registry)
            return self._metrics[name]

    def exposition(self, multiprocess_dir: Path | None = None) -> bytes:
        """Prometheus text format: of this process, or of all processes that share `multiprocess_dir`."""
        if multiprocess_dir is None:
            return generate_latest(self.registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged, str(multiprocess_dir))  # type: ignore[no-untyped-call]
        return generate_latest(merged)


def require_multiprocess() -> None:
    """Raise RuntimeError where this process's values would not reach the shared folder."""
    if not getattr(values.ValueClass, "_multiprocess", False):
        raise RuntimeError("PROMETHEUS_MULTIPROC_DIR was set after prometheus_client had been imported")


def reserve_room(folder: Path) -> str:
    """Take the disk space of this process's files in the shared folder, before it counts anything; "" once it is there.

    The files are mapped into memory, so a full disk would end the process (SIGBUS) at whatever it counts next. Without
    room this process counts in memory instead, and the reason is returned. A file gets its name when it is whole, so
    that a reader never meets an empty one.
    """
    names = sorted({d.kind if d.kind != "gauge" else f"gauge_{d.merge}" for d in METRICS})
    places = {name: folder / f"{name}_{os.getpid()}.db" for name in names}  # as prometheus_client names them
    try:
        for name, place in places.items():
            part = place.with_suffix(".part")
            places[name] = part
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, ROOM_BYTES[name.partition("_")[0]])
        for part in places.values():
            part.rename(part.with_suffix(".db"))
    except OSError as error:
        for place in places.values():
            place.unlink(missing_ok=True)
        values.ValueClass = values.MutexValue
        return f"{folder}: no room for the metrics of a worker: {error.strerror}"
    return ""


def forget_process(pid: int, multiprocess_dir: Path) -> None:
    """Take a dead worker's gauges out of the sum; its counters stay."""
    mark_process_dead(pid, str(multiprocess_dir))  # type: ignore[no-untyped-call]


def _make(definition: MetricDefinition, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if definition.kind == "counter":
        return Counter(definition.name, definition.help, definition.labels, registry=registry)
    if definition.kind == "gauge":
        return Gauge(
            definition.name, definition.help, definition.labels, registry=registry, multiprocess_mode=definition.merge
        )
    return Histogram(definition.name, definition.help, definition.labels, registry=registry, buckets=definition.buckets)
