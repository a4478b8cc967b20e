"""ingest, worker, mixer, accountant, ledger: the stages of a stream as processes that meet on Kafka."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serving.cli.commands_ingest import ingest
from serving.cli.output import print_json, print_table, say, settings_from
from serving.cli.role_start import checked

Kafka = Annotated[str | None, typer.Option("--kafka", help="host:port of the brokers")]
Models = Annotated[list[str], typer.Option("--model", help="a published model; may be given several times")]
Member = Annotated[str, typer.Option("--member", help="name kept over restarts: its partitions wait for it")]
MetricsPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="loopback port of healthz, readyz, metrics; 0: any free one")
]
Repository = Annotated[Path | None, typer.Option("--repository", help="model repository")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (ingest, worker, mixer, accountant, ledger):
        app.command()(command)


def worker(
    model: Models,
    track: Annotated[str, typer.Option(help="tracker of sources whose record names none, such as bytetrack")] = "",
    reid: Annotated[str, typer.Option(help="a published embedding model, for sources tracked by deepsort")] = "",
    triton: Annotated[str, typer.Option(help="grpc://host:port[,...], or embedded: infer through Triton")] = "",
    triton_target: Annotated[Literal["cpu", "gpu"], typer.Option(help="whose certificates count in Triton")] = "cpu",
    max_batch: Annotated[int, typer.Option(min=0, max=1024, help="frames to a model at once; 0: its own most")] = 0,
    member: Member = "", metrics_port: MetricsPort = None, repository: Repository = None, kafka: Kafka = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Analyse frames: one outcome for each of its models. Workers of the same models share the partitions."""
    from serving.cli.stream_models import stream_models
    from serving.roles.main_worker import WorkerOptions, run_worker

    settings = checked(settings_from(config, repository=repository, kafka=kafka, role_metrics_port=metrics_port))
    options = WorkerOptions(tuple(model), track, member, max_batch, reid)
    with stream_models(settings, [*model, *([reid] if reid else [])], triton, triton_target) as open_model:
        role = run_worker(settings, options, open_model)
    say(f"worker ended: {dict(role.counters)}")


def mixer(
    output: Annotated[Path, typer.Option(help="folder; HLS of each source in a folder of its name")],
    delay_ms: Annotated[int, typer.Option(help="delay of live sources that nobody registered, ms")] = 250,
    draw_threshold: Annotated[float, typer.Option(help="boxes below it are not drawn")] = 0.2,
    member: Member = "", metrics_port: MetricsPort = None, repository: Repository = None, kafka: Kafka = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Draw results on the frames they were computed from, and write the mixed video."""
    from serving.roles.main_mixer import MixerOptions, run_mixer

    settings = checked(settings_from(config, repository=repository, kafka=kafka, role_metrics_port=metrics_port))
    run_mixer(settings, MixerOptions(output, delay_ms, draw_threshold, member))


def accountant(
    member: Member = "", metrics_port: MetricsPort = None, kafka: Kafka = None, config: Config = None
) -> None:
    """Merge outcomes, close keys, write `outcomes`; forged records become dead letters."""
    from serving.roles.main_accountant import run_accountant

    role = run_accountant(checked(settings_from(config, kafka=kafka, role_metrics_port=metrics_port)), member)
    say(f"accountant ended: {role.dead_letters} dead letters")


def ledger(
    source_id: Annotated[str, typer.Argument(help="name of the source")] = "",
    every: Annotated[bool, typer.Option("--all", help="all sources")] = False,
    first: Annotated[int, typer.Option("--from", min=0, help="frame_seq to begin at")] = 0,
    to: Annotated[int | None, typer.Option("--to", min=0, help="frame_seq to end before; none: to the end")] = None,
    epoch: Annotated[int, typer.Option(min=0, help="this epoch only; 0: all of them")] = 0,
    kafka: Kafka = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """The balance of a source: accepted = results + dropped + dead; exit 1 where a key is open or missing.

    Of a live source that goes on, the newest minute is in flight and stands in a column of its own."""
    from serving.roles.ledger import EVERYTHING, Due, read_ledger
    from serving.roles.main import open_log

    if not source_id and not every:
        raise typer.BadParameter("name a source, or give --all")
    settings = settings_from(config, kafka=kafka)
    log, names = open_log(settings, "ledger")
    due = Due(int(time.time() * 1000), max(60_000, settings.delay_max_ms + settings.lateness_ms))
    rows = read_ledger(log, names, source_id, range(first, EVERYTHING.stop if to is None else to), epoch, due)
    documents = [{**asdict(row), "balanced": row.balanced} for row in rows]
    print_json(documents) if json else print_table("ledger", _for_people(documents))
    for row in rows:
        if row.open and not row.holes:
            say(
                f"{row.source_id}: open from frame_seq {row.closed_to} on: a live source's key closes a minute after"
                f" its frame, a file's when its claims say that it is over and every model has answered; if it stays,"
                f" no accountant or worker runs, or no claim has `last`. --to {row.closed_to}: what is closed"
            )
    if not rows or not all(row.balanced for row in rows):
        raise typer.Exit(1)


def _for_people(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a screen is wide enough for; what is nowhere the case is left out."""
    always = ("source_id", "epoch", "pipeline", "accepted", "results", "dropped", "dead", "in_flight", "open", "holes")
    names = [*always, *(name for name in ("missing", "forgotten") if any(row[name] for row in documents))]
    return [
        {name: row[name] for name in names}
        | {"reasons": ", ".join(f"{reason} {count}" for reason, count in row["reasons"].items())}
        for row in documents
    ]
