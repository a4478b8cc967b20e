"""Wiring of the roles: settings become a log, models, outputs; signals become a stop in good order."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import FrameType

from serving.adapters.kafka import KafkaLog, KafkaOptions
from serving.adapters.trackers import TRACKERS
from serving.adapters.video import HlsWriter
from serving.align import Accountant, CloseRule, Mixer, MixerSettings
from serving.bundle import catalogue
from serving.clock import NS_PER_MS, SystemClock
from serving.config import ConfigInvalid, Settings
from serving.errors import EngineFailed
from serving.frames import AlignedFrame, SourceKind
from serving.media import OutputStream, VideoWriter
from serving.records import TimelineMessage
from serving.roles.accountant import LogAccountant
from serving.roles.mixer import LogMixer, NewMixRole
from serving.roles.names import Names
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker, WorkerSettings
from serving.streams.drawing import Drawing
from serving.streams.jpeg import JpegCodec
from serving.streams.lines import ResultLines, describe
from serving.streams.main import OpenModel
from serving.streams.mix_role import MixRole
from serving.streams.sessions import session_of
from serving.streams.worker import Pipeline, Worker
from serving.tasks import task_named


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


def run_worker(settings: Settings, models: Sequence[str], track: str, member: str, open_model: OpenModel) -> LogWorker:
    """Until a signal. A call that hangs ends the process, and the record's attempt is on the log."""
    log, names = open_log(settings, "worker")
    with ExitStack() as stack:
        pipelines = []
        for name in models:
            opened = open_model(name)
            stack.callback(opened.close)
            bundle, task = opened.bundle, task_named(opened.bundle.spec.task)
            tracker = TRACKERS[track] if track and task.name in ("detection", "tracking", "face") else None
            pipelines.append(
                Pipeline(
                    name,
                    bundle.version,
                    task.name,
                    opened.infer,
                    _document(task, bundle.labels),
                    bundle.labels,
                    new_tracker=tracker,
                    certificate_id=bundle.certificate_id,
                    new_session=session_of(task, bundle.spec, {}),
                )
            )
        worker = Worker(pipelines, transport=LogTransport(JpegCodec()))
        role = LogWorker(log, names, worker, WorkerSettings(member=member), SystemClock(), _hang)
        with stop_on_signals(role.stop):
            role.run()
        return role


@dataclass(frozen=True, slots=True)
class MixerOptions:
    """output: a folder for each source is made in it. delay_ms: D of live sources."""

    output: Path
    delay_ms: int = 250
    draw_threshold: float = 0.2
    member: str = ""


def run_mixer(settings: Settings, options: MixerOptions) -> LogMixer:
    """Until a signal: HLS of every source into its own folder."""
    log, names = open_log(settings, "mixer")
    good, _ = catalogue(settings.repository)
    labels = {name: bundle.labels for name, bundle in good.items()}
    role = LogMixer(log, names, _new_mix_role(settings, options, labels), JpegCodec(), SystemClock(), options.member)
    _loop(role)
    return role


def run_accountant(settings: Settings, member: str = "") -> LogAccountant:
    """Until a signal."""
    log, names = open_log(settings, "accountant")
    rule = CloseRule(settings.delay_max_ms * NS_PER_MS, settings.lateness_ms * NS_PER_MS)
    role = LogAccountant(log, names, rule, SystemClock(), member)
    _loop(role)
    return role


def _loop(role: LogMixer | LogAccountant) -> None:
    with stop_on_signals() as stop:
        try:
            while not stop.is_set():
                role.step()
        finally:
            role.close()


def _new_mix_role(settings: Settings, options: MixerOptions, labels: Mapping[str, Sequence[str]]) -> NewMixRole:
    def make(timeline: TimelineMessage, told: Callable[[AlignedFrame], None]) -> MixRole:
        source_id, info = timeline.claim.source_id, timeline.info
        live, folder = info.kind is SourceKind.LIVE, options.output / source_id
        delay_ns, lateness_ns = options.delay_ms * NS_PER_MS, settings.lateness_ms * NS_PER_MS

        def writers(stream: OutputStream) -> Sequence[VideoWriter]:
            folder.mkdir(parents=True, exist_ok=True)
            return [HlsWriter(folder, stream, describe)]

        return MixRole(
            Mixer(source_id, MixerSettings(live, delay_ns, lateness_ns, reorder_depth=info.reorder_depth)),
            Accountant(CloseRule(delay_ns, lateness_ns, live)),
            ResultLines(source_id, {}, None),
            Drawing(labels, options.draw_threshold),
            writers,
            [_Told(told)],
            average_rate=Fraction(info.average_rate) if info.average_rate else None,
        )

    return make


@dataclass(frozen=True, slots=True)
class _Told:
    tell: Callable[[AlignedFrame], None]

    def write(self, shown: AlignedFrame) -> None:
        self.tell(shown)


def _document(task: object, labels: Sequence[str]) -> Callable[..., Mapping[str, object]]:
    return lambda result: task.to_document(result, labels)  # type: ignore[attr-defined]


def _hang() -> None:
    print(f"error[{EngineFailed.code}]: a call took longer than it may; this process ends", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    os._exit(70)
