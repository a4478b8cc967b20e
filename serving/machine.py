"""What a process and its machine have left: memory, CPU, disk, open files, as gauges and one counter.

Asked for when someone reads the metrics (a role's page) or now and then (a gateway worker), so there is no thread of
its own. Children count with their parent: an ingest process and those that read its sources are one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from serving.config import Settings
from serving.metrics import Metrics


def machine_watch(metrics: Metrics, settings: Settings, children: bool = True) -> MachineWatch:
    """The watch of a running process, over the folders that a system of these settings writes to."""
    disks = {"cache": settings.cache_dir, "mixed": settings.mixed_dir, "repository": settings.repository}
    return MachineWatch(metrics, disks, children)


class MachineWatch:
    """`look` sets `lockstep_process_*` and `lockstep_machine_*`. disks: a path for each place; it need not exist yet.

    children: whether the process's children are counted too; finding them takes a walk over all processes.
    """

    def __init__(self, metrics: Metrics, disks: Mapping[str, Path], children: bool = True) -> None:
        self._metrics, self._disks, self._children = metrics, dict(disks), children
        self._me = psutil.Process()
        self._cpu_told = 0.0
        psutil.cpu_percent()  # the first call only starts the interval
        metrics.set("lockstep_process_started_seconds", self._me.create_time())

    def look(self) -> None:
        """Measure now; a few milliseconds with children, well under one without."""
        self._process()
        memory = psutil.virtual_memory()
        self._metrics.set("lockstep_machine_memory_bytes", memory.total, kind="total")
        self._metrics.set("lockstep_machine_memory_bytes", memory.available, kind="available")
        self._metrics.set("lockstep_machine_cpu_busy", psutil.cpu_percent() / 100)
        for place, path in self._disks.items():
            self._disk(place, path)

    def _process(self) -> None:
        resident, files, cpu = 0, 0, 0.0
        for process in (self._me, *(self._me.children(recursive=True) if self._children else ())):
            try:
                with process.oneshot():
                    resident += process.memory_info().rss
                    files += process.num_fds()
                    cpu += sum(process.cpu_times()[:2])
            except psutil.Error:
                continue  # ended between the listing and the look
        self._metrics.set("lockstep_process_resident_bytes", resident)
        self._metrics.set("lockstep_process_open_files", files)
        if cpu > self._cpu_told:  # a child that ended takes its share along; what was told stays told
            self._metrics.inc("lockstep_process_cpu_seconds_total", cpu - self._cpu_told)
        self._cpu_told = cpu

    def _disk(self, place: str, path: Path) -> None:
        there = next((p for p in (path, *path.absolute().parents) if p.exists()), None)
        if there is None:
            return
        usage = psutil.disk_usage(str(there))
        self._metrics.set("lockstep_machine_disk_bytes", usage.total, place=place, kind="total")
        self._metrics.set("lockstep_machine_disk_bytes", usage.free, place=place, kind="available")
