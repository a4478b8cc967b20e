"""Wiring of `lockstep run`: addresses, models, trackers and files become the parts that `run` is handed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from serving.adapters.video import AddressSource, HlsWriter, Mp4Writer, ReaderOptions
from serving.adapters.video.address import path_of, scheme_of
from serving.clock import NS_PER_MS
from serving.config import child_environment
from serving.errors import ParameterInvalid, StorageFailed
from serving.frames import SourceKind
from serving.media import OutputStream, VideoWriter
from serving.metrics import Metrics
from serving.preprocess.jpeg import JpegCodec
from serving.streams.by_source import addresses_of, names_of, regions_of
from serving.streams.drawing import Drawing
from serving.streams.event_lines import EventLines
from serving.streams.ingest import ReconnectRules
from serving.streams.lines import WebVtt, describe
from serving.streams.metrics_page import metrics_page
from serving.streams.models import OpenModel, open_pipelines
from serving.streams.observe import StreamMetrics
from serving.streams.outputs import TextOutput
from serving.streams.presence import Presence
from serving.streams.run import OnProgress, RunSettings, run
from serving.streams.sheet import ContactSheet
from serving.streams.sound_jobs import common_rule, sound_job, sound_name, sound_source
from serving.streams.source_run import SourceJob
from serving.streams.summary import RunSummary
from serving.streams.worker import Pipeline
from serving.tasks import task_named
from serving.trackers import check_track
from serving.tracking.events import EventRules
from serving.tracking.rules_file import read_rules

PICTURES = ("output", "webvtt", "sheet", "presence", "events", "track")  # options of those who look


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of `lockstep run`. With several sources, each output's name gets `-SOURCE_ID` before its suffix.

    roi, mask: what is analysed, each `NAME=VALUE` for one source or a value for those without one of their own.

    sources: addresses, or NAME=ADDRESS. output: .mp4, or a folder (or .m3u8 in one) for HLS. timeout_s: a live source
    without a picture for so long ends. draw_threshold: boxes below it are not drawn; it removes nothing from results.
    transport: "" or "jpeg" (pictures as the log carries them: `codec`). reid: an embedding model, for trackers that
    compare appearances. events: JSON Lines of track events, by the zones and lines of event_rules (YAML). metrics_port:
    serve /metrics on loopback, 0 for any. workers: that share the sources, each with engines of its own; 0: one a core.
    target: objects to follow, each `[NAME=]x1,y1,x2,y2[@seconds]`.
    """

    sources: tuple[str, ...]
    models: tuple[str, ...]
    track: str = ""
    output: Path | None = None
    results: Path | None = None
    webvtt: Path | None = None
    sheet: Path | None = None
    every: int = 1
    roi: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    timeout_s: float | None = None
    draw_threshold: float = 0.2
    banner: bool = True
    scenario: str = ""
    delay_ms: int = 250
    fill: bool = True
    assume_fps: str = ""
    threads: int = 1
    transport: str = ""
    metrics_port: int | None = None
    presence: Path | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    reid: str = ""
    events: Path | None = None
    event_rules: Path | None = None
    workers: int = 0
    target: tuple[str, ...] = ()
    codec: JpegCodec = field(default_factory=JpegCodec)

    def __post_init__(self) -> None:
        checks: Sequence[tuple[str, bool, str]] = (
            ("SOURCE", bool(self.sources), "at least one source"),
            ("--model", bool(self.models), "at least one model"),
            ("--events", self.events is None or bool(self.track), "a tracker: --track bytetrack"),
            ("--event-rules", self.event_rules is None or self.events is not None, "--events FILE as well"),
            ("--output", _is_output(self.output), "NAME.mp4, or a folder (or an .m3u8 in one) for HLS"),
            ("--every", self.every >= 1, "1 or more"),
            ("--workers", 0 <= self.workers <= 64, "0 (by cores) to 64"),
            ("--draw-threshold", 0 <= self.draw_threshold <= 1, "0 to 1"),
            ("--delay-ms", 0 <= self.delay_ms <= 60_000, "0 to 60000"),
            ("--timeout", self.timeout_s is None or self.timeout_s > 0, "more than 0 seconds"),
            ("--transport", self.transport in ("", "jpeg"), "jpeg, or nothing"),
        )
        for name, good, expected in checks:
            if not good:
                raise ParameterInvalid(f"{name}: expected {expected}")
        check_track("--track", self.track)

    @property
    def workers_for_sources(self) -> int:
        """As asked, else one a core; no more than there are sources."""
        return min(len(self.sources), self.workers or len(os.sched_getaffinity(0)))


def _is_output(path: Path | None) -> bool:
    return path is None or path.suffix.lower() in (".mp4", ".m3u8", "") or path.is_dir()


def run_streams(options: RunOptions, open_model: OpenModel, on_progress: OnProgress | None = None) -> RunSummary:
    """Run what the options say. open_model: a certified model by name (`in_process`, `through_triton`)."""
    metrics = StreamMetrics(Metrics())
    with ExitStack() as stack:
        if options.metrics_port is not None:
            stack.enter_context(metrics_page(metrics.metrics, options.metrics_port))
        _check_not_sources(options)
        pipelines, *more = [_pipelines(options, open_model, stack) for _ in range(options.workers_for_sources)]
        jobs = _jobs(options, pipelines, stack)
        transport = options.codec if options.transport else None
        settings = _settings(options, jobs)
        return run(
            jobs, pipelines, settings,
            more_workers=more, transport=transport, on_progress=on_progress, observer=metrics,
        )  # fmt: skip


def _settings(options: RunOptions, jobs: Sequence[SourceJob]) -> RunSettings:
    live = any(job.source.kind is SourceKind.LIVE for job in jobs)
    return RunSettings(
        every=options.every,
        delay_ns=options.delay_ms * NS_PER_MS,
        fill=options.fill,
        inference_timeout_s=8.0 if live else 30.0,
        rules=ReconnectRules(lease_s=options.timeout_s),
    )


def _pipelines(options: RunOptions, open_model: OpenModel, stack: ExitStack) -> list[Pipeline]:
    """For one worker: an engine belongs to one thread."""
    given = {**options.parameters, **({"scenario": options.scenario} if options.scenario else {})}
    return open_pipelines(options.models, open_model, stack, options.track, options.reid, given)[0]


def _jobs(options: RunOptions, pipelines: Sequence[Pipeline], stack: ExitStack) -> list[SourceJob]:
    """A job for each source whose pictures somebody looks at, and one for each whose sound somebody hears."""
    seen = tuple(pipeline for pipeline in pipelines if pipeline.sound is None)
    heard = tuple(pipeline for pipeline in pipelines if pipeline.sound is not None)
    jobs = _picture_jobs(options, seen, stack) if seen else []
    if not seen and (name := next((n for n in PICTURES if getattr(options, n)), "")):
        raise ParameterInvalid(f"--{name}: expected a model that looks at pictures; {heard[0].name} hears sound")
    return [*jobs, *_sound_jobs(options, heard, [job.source.source_id for job in jobs], stack)] if heard else jobs


def _sound_jobs(
    options: RunOptions, heard: Sequence[Pipeline], taken: Sequence[str], stack: ExitStack
) -> list[SourceJob]:
    """Beside pictures the sound is a source of its own, `NAME-sound`, and so are its results."""
    rule, jobs = common_rule({p.name: p.sound for p in heard if p.sound is not None}), []
    for name, address in zip(names_of(options.sources), addresses_of(options.sources), strict=True):
        source_id = sound_name(name) if taken else name
        if source_id in taken:
            raise ParameterInvalid(f"{source_id}: is the name of the sound of {name} too", hint="name it: NAME=ADDRESS")
        path = options.results and (
            _suffixed(options.results, source_id) if taken else _path_for(options.results, name, len(options.sources))
        )
        source = sound_source(source_id, address, rule, _reader_options(options))
        jobs.append(sound_job(source, address, [p.name for p in heard], _open_at(path, stack)))
    return jobs


def _picture_jobs(options: RunOptions, pipelines: Sequence[Pipeline], stack: ExitStack) -> list[SourceJob]:
    _check_targets(options, pipelines)
    labels = {pipeline.name: pipeline.labels for pipeline in pipelines}
    regions = regions_of(names_of(options.sources), options.roi, options.mask, options.target)
    reader = _reader_options(options)
    jobs = []
    for name, address in zip(names_of(options.sources), addresses_of(options.sources), strict=True):
        source = AddressSource(name, address, reader)
        sinks: list[WebVtt | Presence] = [*_cues(options, name, stack)]
        if (who := _open(options.presence, name, options, stack)) is not None:
            sinks.append(Presence(name, who))
        events, sheet = _events(options, name, labels, stack), ContactSheet() if options.sheet else None
        closing: list[Callable[[], object]] = [part.close for part in (*sinks, *([events] if events else []))]
        if sheet is not None and options.sheet is not None:
            closing.append(partial(sheet.save, _path_for(options.sheet, name, len(options.sources))))
        jobs.append(
            SourceJob(
                source=source,
                shown_as=source.shown,
                draw=Drawing(labels, options.draw_threshold, options.banner),
                make_writers=_writers(options, name, address),
                results=_open(options.results, name, options, stack),
                sinks=sinks,
                sheet=sheet,
                region=regions[name],
                mixed=options.output is not None,
                events=events,
                pipelines=tuple(labels),
                closing=closing,
            )
        )
    return jobs


def _check_targets(options: RunOptions, pipelines: Sequence[Pipeline]) -> None:
    follow = [p.name for p in pipelines if getattr(task_named(p.task), "follows_targets", False)]
    if follow and not options.target:
        raise ParameterInvalid(f"--target: expected x1,y1,x2,y2[@seconds]: {follow[0]} follows what a box shows it")
    if options.target and not follow:
        raise ParameterInvalid("--target: expected a model that follows one object", hint="--model siamfc")


def _events(options: RunOptions, name: str, labels: Mapping[str, Sequence[str]], stack: ExitStack) -> EventLines | None:
    file = _open(options.events, name, options, stack)
    if file is None:
        return None
    rules = read_rules(options.event_rules) if options.event_rules else EventRules()
    return EventLines(name, rules, labels, file)


def _writers(options: RunOptions, name: str, address: str) -> Callable[[OutputStream], list[VideoWriter]]:
    if options.output is None:
        return lambda stream: []
    path = _path_for(options.output, name, len(options.sources))
    hls = _is_hls(path)
    folder = (path.parent if path.suffix == ".m3u8" else path) if hls else path.parent
    _check_writable(folder if folder.exists() else folder.parent)
    if hls:
        return lambda stream: [HlsWriter(folder, stream, describe)]
    sound = str(path_of(address)) if scheme_of(address) == "file" and path_of(address).is_file() else None
    return lambda stream: [Mp4Writer(path, stream, sound_from=sound)]


def _is_hls(path: Path) -> bool:
    return path.suffix in (".m3u8", "") or path.is_dir()


def _cues(options: RunOptions, name: str, stack: ExitStack) -> list[WebVtt]:
    """Of the frames of the mixed video, at its times; without one of all that are shown."""
    file = _open(options.webvtt, name, options, stack)
    if file is None:
        return []
    path = options.output and _path_for(options.output, name, len(options.sources))
    return [WebVtt(file, of_video=path is not None, source_times=path is not None and not _is_hls(path))]


def _check_not_sources(options: RunOptions) -> None:
    """Nothing that is read is written over."""
    read = {path_of(a).resolve() for a in addresses_of(options.sources) if scheme_of(a) == "file"}
    written = (options.output, options.results, options.webvtt, options.sheet, options.presence, options.events)
    for path in written:
        for name in names_of(options.sources) if path is not None else ():
            if path is not None and _path_for(path, name, len(options.sources)).resolve() in read:
                raise ParameterInvalid(f"{path}: is a source of this run", hint="choose another output")


def _check_writable(folder: Path) -> None:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageFailed(
            f"{folder}: not a folder that can be written to", hint="create it, or choose another output"
        )


def _reader_options(options: RunOptions) -> ReaderOptions:
    base = ReaderOptions(secrets=child_environment(), threads=options.threads)
    if options.assume_fps:
        try:
            base = replace(base, assume_fps=Fraction(options.assume_fps))
        except (ValueError, ZeroDivisionError) as error:
            raise ParameterInvalid(f"--assume-fps: expected 25 or 30000/1001, got {options.assume_fps!r}") from error
    if options.timeout_s is not None:
        open_s, read_s = (min(t, options.timeout_s) for t in (base.open_timeout_s, base.read_timeout_s))
        base = replace(base, open_timeout_s=open_s, read_timeout_s=read_s)
    return base


def _path_for(path: Path, name: str, sources: int) -> Path:
    return path if sources == 1 else _suffixed(path, name)


def _suffixed(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}{path.suffix}")


def _open(path: Path | None, name: str, options: RunOptions, stack: ExitStack) -> TextOutput | None:
    return _open_at(None if path is None else _path_for(path, name, len(options.sources)), stack)


def _open_at(path: Path | None, stack: ExitStack) -> TextOutput | None:
    if path is None:
        return None
    file = TextOutput(path)
    stack.callback(file.close)
    return file
