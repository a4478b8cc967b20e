"""`lockstep run`: the stages of a stream in one process, over a log in memory.

    ingest (a thread a source) -> frames -> workers (each its own sources) -> results -> mixer (a thread a source)

The stages are those of the distributed roles. Files wait for each other and lose nothing; live sources shed by age.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from serving.align import FairQueue
from serving.clock import NS_PER_S, Clock, SystemClock
from serving.errors import EngineFailed, ParameterInvalid
from serving.frames import DeadReason, DropReason, Frame, Outcome, PictureCodec, Posting
from serving.streams.ingest import ReconnectRules
from serving.streams.mix_role import Observer
from serving.streams.observe import StreamMetrics
from serving.streams.source_run import SourceJob, SourceRun
from serving.streams.summary import RunSummary, SourceSummary
from serving.streams.worker import Pipeline, Worker

OnProgress = Callable[[Sequence[SourceSummary]], None]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """every: analyse each n-th frame. delay_ns: D of live sources. lateness_ns: L. fill: draw boxes between results.

    high_threshold: score from which a track is drawn at once. inference_timeout_s: one call longer than this ends the
    worker: its frame is dead_letter(poison), later ones dropped(model_unavailable).
    """

    every: int = 1
    delay_ns: int = NS_PER_S // 4
    lateness_ns: int = 2 * NS_PER_S
    max_fps: int = 60
    high_threshold: float = 0.6
    fill: bool = True
    inference_timeout_s: float = 30.0
    rules: ReconnectRules = field(default_factory=ReconnectRules)

    def __post_init__(self) -> None:
        if self.every < 1 or self.delay_ns < 0 or self.max_fps < 1 or self.inference_timeout_s <= 0:
            raise ValueError(
                f"RunSettings: expected every >= 1, delay_ns >= 0, max_fps >= 1, a timeout > 0, got {self}"
            )


class Lane:
    """One worker and what waits for it; a source belongs to one lane, so that its frames are analysed in their order.

    busy: since when it has which frame. generation: rises when a worker is given up, and so it learns of it.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.queue = FairQueue()
        self.sources: list[SourceRun] = []
        self.busy: tuple[int, Frame] | None = None
        self.generation = 0

    @property
    def all_done(self) -> bool:
        """Its sources are read, and nothing of theirs waits."""
        return all(source.done or (source.read_to_end and not source.outstanding) for source in self.sources)


class Hub:
    """What the threads share. `changed` guards the lanes, every source's inboxes, and the flags below."""

    def __init__(
        self,
        jobs: Sequence[SourceJob],
        workers: Sequence[Sequence[Pipeline]],
        settings: RunSettings,
        clock: Clock,
        transport: PictureCodec | None,
        observer: StreamMetrics | None,
    ) -> None:
        names = [job.source.source_id for job in jobs]
        if len(set(names)) < len(names) or not jobs or not workers or not workers[0]:
            raise ValueError(f"run: expected sources of different names and at least one model, got {names}")
        self.settings, self.clock = settings, clock
        self.observer: Observer | None = observer
        self.pipelines = {pipeline.name: pipeline for pipeline in workers[0]}
        self.changed = threading.Condition()
        self.stopping = False
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._ticked_ns: dict[str, int] = {}
        regions = {job.source.source_id: job.region for job in jobs}
        self.lanes = [Lane(Worker(pipelines, regions, transport)) for pipelines in workers[: len(jobs)]]
        self._lane_of = {name: self.lanes[n % len(self.lanes)] for n, name in enumerate(names)}
        self.sources = {job.source.source_id: SourceRun(job, self) for job in jobs}
        for name, source in self.sources.items():
            self._lane_of[name].sources.append(source)

    # -- what the sources call --------------------------------------------------------------------------------------

    def queue_of(self, source_id: str) -> FairQueue:
        """Where its frames wait for inference."""
        return self._lane_of[source_id].queue

    def wait(self, seconds: float) -> bool:
        """Sleep; True when the run is to end."""
        return self._stop.wait(seconds)

    def drop(self, frame: Frame, reason: DropReason) -> None:
        """A frame that waited for inference had to go. Called with `changed` held."""
        self._deliver(frame, _all(frame, Outcome.dropped(reason)))

    def given_up(self, frame: Frame) -> list[Posting]:
        """Outcomes of a frame that came while the run was ending."""
        return _all(frame, Outcome.dropped(DropReason.OVERLOAD)) if frame.analyse else []

    def beat(self, source: SourceRun) -> None:
        """Called by a mix thread after every step: once a second its keys are closed by time."""
        now_ns = self.clock.monotonic_ns()
        if source.role is not None and now_ns - self._ticked_ns.get(source.source_id, 0) > NS_PER_S:
            self._ticked_ns[source.source_id] = now_ns
            source.role.tick(now_ns)

    # -- the worker threads -----------------------------------------------------------------------------------------

    def work(self, lane: Lane, generation: int = 0) -> None:
        """Analyse frames, sources in turn, until all sources are read and nothing waits."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: len(lane.queue) > 0 or lane.all_done, timeout=0.5)
                if generation != lane.generation or lane.all_done:
                    return
                now_ns = self.clock.monotonic_ns()
                frame, shed = lane.queue.take(now_ns)
                for old, reason in shed:
                    self.drop(old, reason)
                lane.busy = (now_ns, frame) if frame is not None else None
                self.changed.notify_all()
            if frame is None:
                continue
            try:
                postings = self._analysed(lane.worker, frame)
            except BaseException:
                self._end_worker(lane, frame, Outcome.dropped(DropReason.MODEL_UNAVAILABLE))
                raise
            with self.changed:
                if generation != lane.generation:
                    return
                lane.busy = None
                self._deliver(frame, postings)

    def _analysed(self, worker: Worker, frame: Frame) -> list[Posting]:
        """A picture that does not decode costs itself; settings or a tracker that fail on it end its source alone."""
        found: list[Posting] | ParameterInvalid | ValueError | EngineFailed
        try:
            (found,) = worker.analyse_many([frame])
        except (ValueError, OSError) as error:
            where = f"{frame.source_id}: epoch {frame.epoch}, frame {frame.frame_seq}"
            found = EngineFailed(f"{where}: {type(error).__name__}: {error}")
        if isinstance(found, list):
            return found
        if isinstance(found, ValueError):
            return _all(frame, Outcome.dropped(DropReason.DECODE_ERROR))
        self.sources[frame.source_id].refuse(found)
        return _all(frame, Outcome.dead_letter(DeadReason.RETRY_EXHAUSTED))

    def watch(self) -> None:
        """Called now and then: a call that hangs ends the worker, not the run."""
        with self.changed:
            for lane in self.lanes:
                self._watch(lane)

    def _watch(self, lane: Lane) -> None:
        if lane.busy is not None:
            since_ns, frame = lane.busy
            if self.clock.monotonic_ns() - since_ns <= self.settings.inference_timeout_s * NS_PER_S:
                return
            self._end_worker(lane, frame, Outcome.dead_letter(DeadReason.POISON))
        if lane.generation:
            while (waiting := lane.queue.take(self.clock.monotonic_ns())[0]) is not None:
                self.drop(waiting, DropReason.MODEL_UNAVAILABLE)

    def _end_worker(self, lane: Lane, frame: Frame, outcome: Outcome) -> None:
        """The worker is gone, and this is what became of the frame it had; `watch` empties the queue."""
        with self.changed:
            lane.generation += 1
            lane.busy = None
            self._deliver(frame, _all(frame, outcome))

    def _deliver(self, frame: Frame, postings: list[Posting]) -> None:
        source = self.sources[frame.source_id]
        source.postings += postings
        source.outstanding -= 1
        self.changed.notify_all()

    # -- the main thread --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End every source at its present read; what waits is given up, outputs are closed."""
        self._stop.set()
        for source in self.sources.values():
            source.stage.stop()
        with self.changed:
            self.stopping = True
            self.changed.notify_all()

    def guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        """A thread's body: what it raises ends the run and is raised again there."""

        def body() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
                with self.changed:
                    self.failure = self.failure or error
                self.stop()

        return body


def run(
    jobs: Sequence[SourceJob],
    pipelines: Sequence[Pipeline],
    settings: RunSettings | None = None,
    *,
    more_workers: Sequence[Sequence[Pipeline]] = (),
    clock: Clock | None = None,
    transport: PictureCodec | None = None,
    on_progress: OnProgress | None = None,
    observer: StreamMetrics | None = None,
) -> RunSummary:
    """Run until the last source has ended, or until KeyboardInterrupt, which ends all of them in good order.

    more_workers: the same pipelines with engines of their own, for each worker beside the first; the sources are dealt
    out to the workers in turn.

    What became of a source that cannot be read or analysed, or of an output that cannot be written, is in the summary.
    Raises ParameterInvalid where what was set suits no picture of any source.
    """
    hub = Hub(jobs, [pipelines, *more_workers], settings or RunSettings(), clock or SystemClock(), transport, observer)
    started_ns = hub.clock.monotonic_ns()
    threads = _threads(hub)
    for thread in threads:
        thread.start()
    stopped = False
    while True:
        try:
            _supervise(hub, on_progress, observer)
            break
        except KeyboardInterrupt:
            stopped = True
            hub.stop()
    for thread in threads:
        thread.join(timeout=None if thread.name != "worker" else 2 * hub.settings.inference_timeout_s)
    if hub.failure is not None:
        raise hub.failure
    seconds = (hub.clock.monotonic_ns() - started_ns) / NS_PER_S
    summaries = tuple(source.summary() for source in hub.sources.values())
    unfit = [s.refused for s in hub.sources.values() if isinstance(s.refused, ParameterInvalid)]
    if len(unfit) == len(summaries) and not any(b.results for s in summaries for b in s.balances.values()):
        raise unfit[0]
    if observer is not None:
        observer.totals(summaries)
    failures = {name: text for lane in hub.lanes for name, text in lane.worker.failures.items()}
    return RunSummary(summaries, seconds, stopped, failures)


def _all(frame: Frame, outcome: Outcome) -> list[Posting]:
    return [Posting(frame.ledger_key(name), frame.pts_ns, outcome) for name in frame.pipelines]


def _threads(hub: Hub) -> list[threading.Thread]:
    threads = []
    for source in hub.sources.values():
        for name, work in (("ingest", source.ingest), ("mix", source.mix)):
            threads.append(threading.Thread(target=hub.guarded(work), name=f"{name} {source.source_id}", daemon=True))
    for lane in hub.lanes:
        threads.append(threading.Thread(target=hub.guarded(partial(hub.work, lane)), name="worker", daemon=True))
    return threads


def _supervise(hub: Hub, on_progress: OnProgress | None, observer: StreamMetrics | None) -> None:
    while True:
        with hub.changed:
            patience_s = 0.5 if hub.failure is None else 0.05
            if hub.changed.wait_for(lambda: all(s.done for s in hub.sources.values()), timeout=patience_s):
                return
        hub.watch()
        summaries = [source.summary() for source in hub.sources.values()] if on_progress or observer else []
        if observer is not None:
            observer.totals(summaries)
        if on_progress is not None:
            on_progress(summaries)
