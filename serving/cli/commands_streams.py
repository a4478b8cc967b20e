"""run and sync-test: streams on this machine, and the measure of their alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serving.cli.output import print_json, say, settings_from

Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]
Repository = Annotated[Path | None, typer.Option("--repository", help="model repository")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command("sync-test")(sync_test)


def run(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="file, folder, address, or NAME=ADDRESS")],
    model: Annotated[list[str], typer.Option("--model", "-m", help="a published model; several are several pipelines")],
    track: Annotated[str, typer.Option(help="bytetrack, ocsort, or deepsort (with appearances)")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="mixed video: .mp4, or a folder: HLS")] = None,
    results: Annotated[Path | None, typer.Option(help="JSON Lines, one for each frame and model")] = None,
    webvtt: Annotated[Path | None, typer.Option(help="metadata track of the mixed video")] = None,
    sheet: Annotated[Path | None, typer.Option(help="contact sheet of the mixed video (PNG)")] = None,
    every: Annotated[int, typer.Option(min=1, help="analyse every Nth frame and fill between")] = 1,
    roi: Annotated[list[str] | None, typer.Option(help="[NAME=]x1,y1,x2,y2 in source pixels: analyse only it")] = None,
    mask: Annotated[list[str] | None, typer.Option(help="[NAME=]PICTURE of the source's size; black: unseen")] = None,
    target: Annotated[list[str] | None, typer.Option(help="[NAME=]x1,y1,x2,y2[@seconds]: follow it")] = None,
    timeout: Annotated[float | None, typer.Option(help="a live source without a picture for S seconds ends")] = None,
    draw_threshold: Annotated[float, typer.Option(help="boxes below it are not drawn; results keep them")] = 0.2,
    banner: Annotated[bool, typer.Option(help="a bar with source, time, frame and balance")] = True,
    scenario: Annotated[str, typer.Option(help="named thresholds of the model's spec")] = "",
    delay_ms: Annotated[int, typer.Option(help="presentation delay of live sources, milliseconds")] = 250,
    fill: Annotated[bool, typer.Option(help="draw boxes between results")] = True,
    assume_fps: Annotated[str, typer.Option(help="rate of a source without PTS, e.g. 30000/1001")] = "",
    threads: Annotated[int, typer.Option(min=1, help="decoder threads a source")] = 1,
    transport: Annotated[str, typer.Option(help="jpeg: pictures as the log carries them")] = "",
    triton: Annotated[str, typer.Option(help="grpc://host:port[,...], or embedded: infer through Triton")] = "",
    triton_target: Annotated[Literal["cpu", "gpu"], typer.Option(help="whose certificates count in Triton")] = "cpu",
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="serve /metrics on loopback")] = None,
    reid: Annotated[str, typer.Option(help="a published embedding model: what boxes look like, for deepsort")] = "",
    events: Annotated[Path | None, typer.Option(help="track events as JSON Lines: appear, leave, zones, lines")] = None,
    event_rules: Annotated[Path | None, typer.Option(help="zones, lines and debounce of --events (YAML)")] = None,
    workers: Annotated[int, typer.Option(min=0, help="that share the sources, an engine each; 0: one a core")] = 0,
    presence: Annotated[Path | None, typer.Option(help="who is on screen from which to which PTS, as JSON")] = None,
    repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Video through models to a mixed video and results, each result on the frame it was computed from."""
    from serving.cli.stream_models import stream_models
    from serving.preprocess.jpeg import frame_codec
    from serving.streams.main import RunOptions, run_streams

    settings = settings_from(config, repository=repository)
    options = RunOptions(
        tuple(sources), tuple(model), track, output, results, webvtt, sheet, every,
        tuple(roi or ()), tuple(mask or ()), timeout, draw_threshold,
        banner, scenario, delay_ms, fill, assume_fps, threads, transport, metrics_port,
        reid=reid, events=events, event_rules=event_rules, presence=presence, workers=workers,
        target=tuple(target or ()), codec=frame_codec(settings),
    )  # fmt: skip
    names = [*options.models, *([reid] if reid else [])]
    with stream_models(settings, names, triton, triton_target) as open_model:
        summary = run_streams(options, open_model, progress())
    print_json(summary.to_document()) if json else print(summary.text())
    if not summary.ok:
        raise typer.Exit(1)


def sync_test(
    kind: Annotated[list[str] | None, typer.Option("--kind", "-k", help="clip kinds; default: all")] = None,
    mutant: Annotated[str, typer.Option(help="a known defect, which must be caught (exit status 1)")] = "",
    model: Annotated[str, typer.Option(help="detect with this published model (sync_code), not from pixels")] = "",
    picture: Annotated[Path | None, typer.Option(help="PNG of the error over time")] = None,
    keep: Annotated[Path | None, typer.Option(help="folder that keeps clips and mixed videos")] = None,
    make: Annotated[Path | None, typer.Option(help="only write the clip, for another program to mix")] = None,
    check: Annotated[str, typer.Option(help="only check a file that another program mixed from it")] = "",
    against: Annotated[str, typer.Option(help="measure the running system whose gateway is at this URL")] = "",
    seconds: Annotated[float, typer.Option(min=2, help="of mixed video to judge (--against)")] = 20.0,
    delay_ms: Annotated[int, typer.Option(min=100, help="presentation delay of the test's sources (--against)")] = 1000,
    repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Measure from pixels that every box lies on the picture it was computed from (docs/sync-test.md)."""
    from serving.adapters.video.storage import make_folder
    from serving.cli.answer import open_model
    from serving.testing.sync_model import as_detector
    from serving.testing.sync_play import read_picture
    from serving.testing.sync_test import error_picture
    from serving.testing.sync_test import sync_test as measure

    if make is not None or check:
        _foreign((kind or ["ibbp"])[0], make, check, json)
        return
    if against:
        _against(against, seconds, delay_ms, model, json)
        return
    settings = settings_from(config, repository=repository)
    infer = as_detector(open_model(settings, model).infer) if model else read_picture
    if picture is not None:
        make_folder(picture.parent)  # told before the minutes of the test
    report = measure(tuple(kind or ()), mutant, infer, keep, say)
    print_json(report.to_document()) if json else print(report.text())
    if picture is not None:
        error_picture(report, picture)
    if not report.ok:
        raise typer.Exit(1)


def _foreign(kind: str, make: Path | None, check: str, json: bool) -> None:
    """The clip for another program, or what it made of it."""
    from serving.testing.sync_foreign import check_mixed, make_clip

    if make is not None:
        say(f"{make}: {make_clip(kind, make)} pictures of kind {kind}")
    if check:
        found = check_mixed(kind, check)
        print_json(found.to_document()) if json else print(found.text())
        if found.exact < 1 or not found.with_box:
            raise typer.Exit(1)


def _against(url: str, seconds: float, delay_ms: int, model: str, json: bool) -> None:
    """A running system, measured from outside."""
    from serving.testing.sync_against import AgainstOptions, sync_against

    report = sync_against(AgainstOptions(url.rstrip("/"), seconds, delay_ms, model or "sync_code"), say)
    print_json(report.to_document()) if json else print(report.text())
    if not report.ok:
        raise typer.Exit(1)


def progress(every_s: float = 2.0) -> Callable[[Sequence[Any]], None]:
    """One line on stderr every few seconds: frames, rate, drops by reason, alignment."""
    from serving.clock import NS_PER_S, SystemClock

    clock = SystemClock()
    state = {"started": clock.monotonic_ns(), "said": clock.monotonic_ns()}

    def report(sources: Sequence[Any]) -> None:
        now = clock.monotonic_ns()
        if now - state["said"] < every_s * NS_PER_S:
            return
        state["said"] = now
        seconds = (now - state["started"]) / NS_PER_S
        say("  ".join(_one(source, seconds) for source in sources))

    return report


def _one(source: Any, seconds: float) -> str:
    reasons: dict[str, int] = {}
    for balance in source.balances.values():
        for reason, count in balance.reasons:
            reasons[reason] = reasons.get(reason, 0) + count
    drops = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "no drops"
    aligned = "aligned" if not source.mismatched else f"{source.mismatched} MISMATCHED"
    rate = source.shown / seconds
    return f"{source.source_id}: {source.shown} frames, {rate:.1f}/s, {drops}, {source.late} late, {aligned}"
