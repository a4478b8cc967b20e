"""ingest and streams: sources read by name, or registered for whoever follows the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.output import print_json, print_table, say, settings_from
from serving.cli.role_start import checked

if TYPE_CHECKING:
    from serving.config import Settings
    from serving.records import StreamMessage
    from serving.roles.ingest import LogIngest

Kafka = Annotated[str | None, typer.Option("--kafka", help="host:port of the brokers")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Repository = Annotated[Path | None, typer.Option("--repository", help="model repository, which says what hears")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]
SourceId = Annotated[str, typer.Argument(metavar="NAME", help="name of the source")]
Models = Annotated[list[str] | None, typer.Option("--model", help="a published model; may be given several times")]
Every = Annotated[int | None, typer.Option(min=1, help="analyse each n-th frame")]
Delay = Annotated[int | None, typer.Option(help="presentation delay of a live source, milliseconds")]
Mixed = Annotated[bool | None, typer.Option(help="every frame carries its picture, so that a mixer can show it")]
MaxFps = Annotated[int | None, typer.Option(min=1, help="frames a second beyond which a live source sheds")]
Lease = Annotated[int | None, typer.Option("--timeout", help="a live source without a picture for S seconds ends")]
Track = Annotated[str | None, typer.Option(help="tracker, such as bytetrack")]
Roi = Annotated[str | None, typer.Option(help="x1,y1,x2,y2 in source pixels: analyse only this part")]
Mask = Annotated[str | None, typer.Option(help="picture of the source's size; black is not analysed")]
Scenario = Annotated[str | None, typer.Option(help="named thresholds of the model's spec")]
Recording = Annotated[bool | None, typer.Option(help="an MP4 of the mixed video beside the HLS")]
Publish = Annotated[str | None, typer.Option(help="RTSP or RTMP address that gets the mixed video as well")]
Captions = Annotated[bool | None, typer.Option(help="a banner, and a name at each box, in the mixed video")]
streams_app = typer.Typer(help="registered sources: add, list, change, remove", add_completion=False,
                          no_args_is_help=True)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands of the registry; `ingest` is with the roles."""
    streams_app.command()(add)
    streams_app.command("list")(list_streams)
    streams_app.command()(change)
    streams_app.command()(remove)
    app.add_typer(streams_app, name="streams")


def ingest(
    source_id: Annotated[str, typer.Argument(metavar="[NAME", help="name of the source; none: all registered")] = "",
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS]", help="file, folder or network address; secrets by name: {CAMERA_1}")
    ] = "",
    model: Models = None,
    every: Annotated[int, typer.Option(min=1, help="analyse each n-th frame")] = 1,
    delay_ms: Annotated[int, typer.Option(help="presentation delay of a live source, milliseconds")] = 250,
    mixed: Annotated[bool, typer.Option(help="every frame carries its picture, so that a mixer can show it")] = True,
    timeout: Lease = None,
    member: Annotated[str, typer.Option("--member", help="name kept over restarts: its share waits for it")] = "",
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="healthz, readyz, metrics; 0: any")] = None,
    repository: Repository = None, kafka: Kafka = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Read one source (NAME ADDRESS --model M), or without arguments every registered one, each in its own process."""
    from serving.records import StreamMessage
    from serving.roles.main_ingest import run_ingest, run_supervisor

    settings = checked(settings_from(config, repository=repository, kafka=kafka, role_metrics_port=metrics_port))
    if not source_id:
        fleet = run_supervisor(settings, member)
        say(f"ingest ended: {dict(fleet.take_ends()) or 'no source'}")
        return
    if not address or not model:
        raise typer.BadParameter("NAME needs an ADDRESS and at least one --model; without NAME: all registered sources")
    stream = StreamMessage(source_id, address, tuple(model), every, delay_ms, mixed, lease_s=timeout)
    _say_ingested(run_ingest(settings, stream), json)


def add(
    source_id: SourceId,
    address: Annotated[str, typer.Argument(help="file, folder or network address; secrets by name: {CAMERA_1}")],
    model: Models = None, every: Every = None, delay_ms: Delay = None, mixed: Mixed = True, max_fps: MaxFps = None,
    timeout: Lease = None, track: Track = None, roi: Roi = None, mask: Mask = None, scenario: Scenario = None,
    recording: Recording = None, publish: Publish = None, captions: Captions = None,
    repository: Repository = None, kafka: Kafka = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Register a source: whoever runs `lockstep ingest` reads it."""
    from serving.errors import ParameterInvalid
    from serving.records import StreamMessage
    from serving.roles.reading import split

    if not model:
        raise typer.BadParameter("name at least one --model")
    settings = settings_from(config, repository=repository, kafka=kafka)
    given = _given(every, delay_ms, mixed, max_fps, timeout, track, roi, mask, scenario, recording, publish, captions)
    streams = split(replace(StreamMessage(source_id, address, tuple(model)), **given), settings.repository)
    with _registry(settings) as registry:
        known = registry.read()
        for name in [s.source_id for s in streams if s.source_id in known and known[s.source_id].active]:
            raise ParameterInvalid(f"{name}: is registered already", hint=f"lockstep streams change {name}")
        for stream in streams:
            _write(registry, settings, stream)
    _show(streams, json)


def change(
    source_id: SourceId,
    address: Annotated[str | None, typer.Option(help="another address")] = None,
    model: Models = None, every: Every = None, delay_ms: Delay = None, mixed: Mixed = None, max_fps: MaxFps = None,
    timeout: Lease = None, track: Track = None, roi: Roi = None, mask: Mask = None, scenario: Scenario = None,
    recording: Recording = None, publish: Publish = None, captions: Captions = None,
    kafka: Kafka = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Change a registered source; a new epoch where ingest reads it otherwise. Without options: read it again."""
    settings = settings_from(config, kafka=kafka)
    given = _given(every, delay_ms, mixed, max_fps, timeout, track, roi, mask, scenario, recording, publish, captions)
    given |= {} if address is None else {"address": address}
    given |= {"pipelines": tuple(model)} if model else {}
    with _registry(settings) as registry:
        stream = replace(registry.find(source_id), **given, supervised=True)
        _write(registry, settings, stream)
    _show([stream], json)


def remove(
    source_id: SourceId,
    forget: Annotated[bool, typer.Option(help="leave no record that it ever was (compaction takes it away)")] = False,
    kafka: Kafka = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Take a source away: its ingest ends, its ledger closes, its results stay for their time."""
    from serving.records import StreamState

    with _registry(settings_from(config, kafka=kafka)) as registry:
        stream = replace(registry.find(source_id), state=StreamState.REMOVED)
        registry.forget(source_id) if forget else registry.write(stream)
    _show([stream], json)


def list_streams(
    every: Annotated[bool, typer.Option("--all", help="removed ones too")] = False,
    kafka: Kafka = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """The registered sources."""
    with _registry(settings_from(config, kafka=kafka)) as registry:
        found = [stream for _, stream in sorted(registry.read().items()) if every or stream.active]
    _show(found, json)


def _given(*values: Any) -> dict[str, Any]:
    names = ("every", "delay_ms", "mixed", "max_fps", "lease_s", "track", "roi", "mask", "scenario", "recording",
             "publish", "captions")  # fmt: skip
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _registry(settings: Settings) -> Any:
    from serving.roles.main import open_log
    from serving.roles.registry import open_registry

    return open_registry(*open_log(settings, "streams"))


def _write(registry: Any, settings: Settings, stream: StreamMessage) -> None:
    """What ingest would refuse is refused here."""
    from serving.records import encode_stream
    from serving.records.streams import check_secrets
    from serving.roles.sources import check_registered

    encode_stream(stream)
    for name in ("address", "publish"):
        check_secrets(getattr(stream, name), name)
    check_registered(settings, stream)
    registry.write(stream)


def _show(streams: list[StreamMessage], json: bool) -> None:
    from serving.roles.registry import stream_document

    documents = [stream_document(stream) for stream in streams]
    if json:
        print_json(documents)
        return
    names = ("source_id", "state", "address", "pipelines", "every", "delay_ms", "mixed")
    print_table("streams", [{name: _cell(document[name]) for name in names} for document in documents])


def _cell(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def _say_ingested(roles: list[LogIngest], json: bool) -> None:
    """One document, that of the sound inside the one of the pictures."""
    first, *others = [_ingested(role) for role in roles]
    if json:
        print_json(first | ({"sound": others[0]} if others else {}))
    else:
        print_table("ingest", [first, *others])
    errors = [role.stage.error for role in roles if role.stage.error is not None]
    for error in errors:
        say(f"error[{error.code}]: {error}")
    if errors:
        raise typer.Exit(1)


def _ingested(role: LogIngest) -> dict[str, Any]:
    stage = role.stage
    document = {"source_id": role.stream.source_id, "records": role.frames, "pictures": stage.counters.pictures}
    return document | {"fenced": role.fenced, "error": str(stage.error) if stage.error else None}
