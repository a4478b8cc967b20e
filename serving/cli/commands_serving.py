"""serve, doctor, config, bench: running and looking at the system."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from serving.cli.output import print_json, print_table, say, settings_from
from serving.config import load_settings
from serving.errors import ServingError
from serving.spec import json_schema

Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]
Repository = Annotated[Path | None, typer.Option("--repository", help="model repository")]
P = ParamSpec("P")
bench_app = typer.Typer(help="benchmarks against the bare loop and peers", add_completion=False, no_args_is_help=True)
PEDESTRIANS = Path(__file__).parents[2] / "models" / "samples" / "pedestrians.mp4"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(serve)
    app.command()(doctor)
    app.command("config")(show_config)
    for name, (command, code) in BENCHMARKS.items():
        bench_app.command(name)(_said(command, code))
    app.add_typer(bench_app, name="bench")


def serve(
    models: Annotated[list[str] | None, typer.Argument(help="models to serve; default: all certified")] = None,
    triton: Annotated[str | None, typer.Option(help="grpc://host:port[,...] of existing Tritons")] = None,
    host: Annotated[str | None, typer.Option(help="address to bind (loopback)")] = None,
    port: Annotated[int | None, typer.Option(help="port to bind (8080)")] = None,
    workers: Annotated[int | None, typer.Option(help="gateway processes")] = None,
    allow_unauthenticated: Annotated[bool, typer.Option(help="allow an address other than loopback")] = False,
    repository: Repository = None, config: Config = None,
) -> None:  # fmt: skip
    """Start the embedded Triton and the gateway; Ctrl-C drains and stops both."""
    from serving.launcher import serve as run

    settings = settings_from(
        config, repository=repository, triton_url=triton, host=host, port=port, workers=workers,
        allow_unauthenticated=allow_unauthenticated or None,
    )  # fmt: skip
    raise typer.Exit(run(settings, tuple(models or ())))


def doctor(
    entry: Annotated[bool, typer.Option("--entry", help="only refuse what can never work, in one line")] = False,
    config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """CPU features, GPU, driver, CUDA, TensorRT, Triton, libraries; which combinations will not work and why."""
    from serving.doctor import gather, refusals, report

    settings = load_settings(config).settings
    found = gather(settings.triton_home, settings.cuda_version, settings.triton_version)
    if entry:
        for line in (lines := refusals(found)):
            say(f"doctor: {line}")
        raise typer.Exit(1 if lines else 0)
    document: dict[str, Any] = report(found)
    if json:
        print_json(document)
    else:
        facts = document["facts"]
        plain = {name: value for name, value in facts.items() if name not in ("packages", "gpus")}
        print_table("this machine", [{"fact": name, "value": value} for name, value in plain.items()])
        print_table("packages", [{"package": name, "version": version} for name, version in facts["packages"].items()])
        print_table("findings", document["findings"])
    if not document["ok"]:
        raise typer.Exit(1)


def show_config(
    config: Config = None,
    json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="the JSON Schema of a model's YAML, for editors")] = False,
) -> None:
    """Every setting with its value and where it came from."""
    if schema:
        print_json(json_schema())
        return
    loaded = load_settings(config)
    values = loaded.settings.model_dump(mode="json")
    rows = [{"setting": name, "value": value, "source": loaded.sources[name]} for name, value in values.items()]
    print_json(rows) if json else print_table("settings", rows)


def bench_rest(
    models: Annotated[list[str] | None, typer.Argument(help="default: mobilenet_v2 person_ssdlite")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="rounds; 10 or more for a figure to quote")] = 10,
    seconds: Annotated[float, typer.Option(min=1.0, help="length of one arm's block")] = 3.0,
    size: Annotated[list[str] | None, typer.Option("--size", help="640x480, 12mp")] = None,
    output: Annotated[Path, typer.Option(help="folder of the report")] = Path("docs/measurements"),
    repository: Repository = None, config: Config = None,
) -> None:  # fmt: skip
    """The running server against PLAIN and BEST bare loops, mosec and FastAPI, interleaved; writes table and plot."""
    from loadtest import photos, report, rest

    settings = settings_from(config, repository=repository)
    run = rest.run(
        settings.repository, models or ["mobilenet_v2", "person_ssdlite"], size or ["640x480", "12mp"],
        photos.from_packages(), rounds=rounds, seconds=seconds, say=say,
    )  # fmt: skip
    print(report.table(run))
    print(report.write(run, output, time.strftime("rest-%Y%m%d-%H%M", time.gmtime())))


def bench_overload(
    url: Annotated[str, typer.Argument(help="a running gateway's infer route, http://.../v1/models/NAME/infer")],
    picture: Annotated[Path, typer.Argument(help="the JPEG that is sent")],
    peak: Annotated[float, typer.Option(min=1.0, help="requests a second it is thought to reach")],
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=1.0)] = 5.0,
) -> None:
    """Open loop at 1x, 2x and 5x of the peak rate: goodput kept, and how quickly the rest is refused (needs oha)."""
    from loadtest import overload

    print(overload.table(overload.run(url, picture, peak, rounds, seconds, say)))


def bench_load(
    models: Annotated[list[str] | None, typer.Argument(help="default: mobilenet_v2 person_ssdlite")] = None,
    against: Annotated[str | None, typer.Option(help="a running gateway; default: one started here")] = None,
    seconds: Annotated[float, typer.Option(min=2.0, max=600.0, help="length of a phase; there are about eight")] = 8.0,
    rate: Annotated[float, typer.Option(min=0.0, help="requests a second taken as its peak; 0: measured first")] = 0.0,
    bad_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="share of bad bodies")] = 0.03,
    processes: Annotated[int, typer.Option(min=1, max=64, help="generator processes")] = 2,
    deadline_ms: Annotated[int, typer.Option(min=1, max=60_000, help="an answer later than this is not good")] = 1000,
    stream_address: Annotated[str | None, typer.Option(help="register and remove sources of this address too")] = None,
    output: Annotated[Path, typer.Option(help="folder of the report")] = Path("output/loadtest"),
    repository: Repository = None, config: Config = None,
) -> None:  # fmt: skip
    """Open-loop load (steady, ramp, spike, 2x, 5x) on every served workload; one HTML report with plots."""
    from loadtest import load, load_report

    chosen = tuple(models or (() if against else ("mobilenet_v2", "person_ssdlite")))
    folder = settings_from(config, repository=repository).repository.resolve()
    job = load.Job(folder, chosen, against, seconds, rate, bad_share, processes, deadline_ms, stream_address)
    run = load.run(job, output, say)
    target = load_report.write(run, output, time.strftime("load-%Y%m%d-%H%M%S", time.gmtime()))
    print_table("phases", load_report.short(run))
    print_table("what it says", load_report.verdicts(run))
    print(target)


def bench_workloads(
    rounds: Annotated[int, typer.Option(min=1, help="rounds of ours and bare in turns; 10 or more to quote")] = 5,
    repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Gallery search, trackers, a sound stream, faces: CPU-ms against the bare loop of the same steps, and limits."""
    from models.importers import import_model
    from serving.testing.workload_bench import measure

    settings = settings_from(config, repository=repository)
    sound = import_model("silero_vad", settings.cache_dir, say).samples / "recorded_lity_01_austen_64kb_0870.wav"
    photo = import_model("face_retina", settings.cache_dir, say).samples / "sample2.jpg"
    rows = [figure.to_row() for figure in measure(settings, sound, photo, rounds, say)]
    print_json(rows) if json else print_table("workloads", rows)
    if any(row["verdict"] == "missed" for row in rows):
        raise typer.Exit(1)


def bench_stream(
    model: Annotated[str, typer.Option("--model", "-m", help="a published detector")] = "person_ssdlite",
    rounds: Annotated[int, typer.Option(min=1, help="rounds; 10 or more for a figure to quote")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="length of one arm's block")] = 3.5,
    streams: Annotated[int, typer.Option(min=1, max=64, help="copies of the clip in one run")] = 4,
    sample: Annotated[Path, typer.Option(help="short clip to make the sources from")] = PEDESTRIANS,
    output: Annotated[Path, typer.Option(help="folder of the report")] = Path("docs/measurements"),
    repository: Repository = None, config: Config = None,
) -> None:  # fmt: skip
    """`lockstep run` over several streams against the bare loop's stage costs, interleaved; the core; the tracker."""
    from loadtest import stream, stream_report

    settings = settings_from(config, repository=repository)
    run = stream.run(stream.Job(settings.repository.resolve(), model, sample, streams, rounds, seconds), say)
    print(stream_report.table(run))
    print(stream_report.write(run, output, time.strftime("stream-%Y%m%d-%H%M", time.gmtime())))


def bench_kafka(
    model: Annotated[str, typer.Option("--model", "-m", help="a published detector")] = "person_ssdlite",
    streams: Annotated[int, typer.Option(min=1, max=64, help="copies of the clip at once")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="rounds; 10 or more for a figure to quote")] = 5,
    frames: Annotated[int, typer.Option(min=10, help="pictures of each copy")] = 300,
    stub_frames: Annotated[int, typer.Option(min=100, help="frames for one worker with a model for nothing")] = 3000,
    kills: Annotated[int, typer.Option(min=0, help="kill -9 of the worker that has a live source (F1)")] = 20,
    outages: Annotated[int, typer.Option(min=0, help="times the broker goes away (F2)")] = 5,
    outage_s: Annotated[float, typer.Option(min=1.0, help="for how long, seconds")] = 30.0,
    sample: Annotated[Path, typer.Option(help="short clip to make the sources from")] = PEDESTRIANS,
    output: Annotated[Path, typer.Option(help="folder of the report")] = Path("docs/measurements"),
    repository: Repository = None, config: Config = None,
) -> None:  # fmt: skip
    """Streams through Kafka against `lockstep run` and N_max: CPU of each hop, one worker's results, F1, F2."""
    from loadtest import kafka, kafka_report

    settings = settings_from(config, repository=repository)
    job = kafka.Job(
        settings.repository.resolve(), model, sample.resolve(), streams, rounds, frames, "768x576", stub_frames, kills,
        outages, outage_s,
    )  # fmt: skip
    run = kafka.run(job, say)
    print(kafka_report.table(run))
    print(kafka_report.hop_table(run["figures"]))
    print(kafka_report.summary(run["figures"], run["fps"]))
    print(kafka_report.write(run, output, time.strftime("kafka-%Y%m%d-%H%M", time.gmtime())))


BENCHMARKS: dict[str, tuple[Callable[..., None], str]] = {  # with the code of what keeps each from running
    "rest": (bench_rest, "bench_rest"), "stream": (bench_stream, "bench_stream"), "kafka": (bench_kafka, "bench_kafka"),
    "overload": (bench_overload, "bench_overload"), "load": (bench_load, "load_test"),
    "workloads": (bench_workloads, "bench_workloads"),
}  # fmt: skip


def _said(command: Callable[P, None], code: str) -> Callable[P, None]:
    """What keeps a benchmark from running is one line and exit 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ServingError, typer.Exit):
            raise  # said where every command's are
        except (RuntimeError, ValueError, OSError) as error:
            say(f"error[{code}]: {error}")
            raise typer.Exit(1) from None

    return run
