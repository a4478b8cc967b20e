"""Wiring of the worker: models in this process or in a Triton, trackers, wishes for each source."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from serving.clock import SystemClock
from serving.config import Settings, words
from serving.errors import EngineFailed, ParameterInvalid
from serving.preprocess.jpeg import JpegCodec
from serving.records import StreamMessage
from serving.roles.index_open import open_states
from serving.roles.jobs import WorkerSettings
from serving.roles.main import open_log, stop_on_signals
from serving.roles.monitor import RoleMonitor
from serving.roles.page import open_page
from serving.roles.regions import SourceRegions
from serving.roles.registered import Registered
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker
from serving.streams.models import OpenModel, open_pipelines
from serving.streams.worker import Worker
from serving.trackers import TRACKERS, check_track


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """track: of sources that nobody registered. member: for static membership. max_batch: 0, what the models allow.

    reid: an embedding model, for sources whose tracker compares appearances.
    """

    models: tuple[str, ...]
    track: str = ""
    member: str = ""
    max_batch: int = 0
    reid: str = ""

    def __post_init__(self) -> None:
        check_track("--track", self.track)
        if len(set(self.models)) != len(self.models) or not self.models:
            raise ParameterInvalid(f"--model: expected different models, at least one, got {self.models}")


def run_worker(settings: Settings, options: WorkerOptions, open_model: OpenModel) -> LogWorker:
    """Until a signal. A call that hangs ends the process, and the record's attempt is on the log."""
    log, names = open_log(settings, "worker")
    clock, codec = SystemClock(), JpegCodec()
    monitor = RoleMonitor("worker", clock, names.prefix)
    with ExitStack() as stack:
        pipelines, most = open_pipelines(options.models, open_model, stack, options.track, options.reid)
        blind = frozenset(pipeline.name for pipeline in pipelines if pipeline.blind)
        regions = SourceRegions(TRACKERS, partial(_may_read, settings), blind)
        index = open_states(settings)
        if index is not None:
            stack.callback(index.close)
        worker = Worker(pipelines, regions, LogTransport(codec), lambda frame: role.first_id(frame))
        wanted = WorkerSettings(member=options.member, max_batch=min(options.max_batch or most, most))
        role = LogWorker(
            log, names, worker, wanted, clock, _hang, monitor, Registered(log, names), regions, index, codec,
        )  # fmt: skip
        stack.enter_context(open_page(monitor, settings, log, names))
        stack.enter_context(stop_on_signals(role.stop))
        role.run()
        return role


def _may_read(settings: Settings, stream: StreamMessage, path: Path) -> bool:
    """An operator's own source may name any mask; one registered over REST only files of the allowed folders."""
    if not stream.supervised:
        return True
    folders = [Path(word).resolve() for word in words(settings.sources_allowed_folders)]
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def _hang() -> None:
    print(f"error[{EngineFailed.code}]: a call took longer than it may; this process ends", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    os._exit(70)
