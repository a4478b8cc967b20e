"""profile: where a request's time, copies and bytes go, and what binds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.output import print_json, print_table, say, settings_from

BYTES = {
    "request": "body, client to gateway",
    "to_triton": "gateway to Triton, as it came",
    "pixels": "decoded picture",
    "copied": "tensors copied into the engine's batch",
    "answer": "back to the client",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(profile)


def profile(
    model: Annotated[str, typer.Argument(help="name of a published model")],
    sample: Annotated[Path | None, typer.Option(help="what is sent; default: a sample it was certified with")] = None,
    clients: Annotated[int, typer.Option(min=1, max=64, help="of the loaded level")] = 8,
    seconds: Annotated[float, typer.Option(min=0.2, max=600.0, help="length of a level")] = 3.0,
    repository: Annotated[Path | None, typer.Option("--repository", help="model repository")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
) -> None:
    """Where a request's time, copies and bytes go, alone and under load; what binds it, and what to try next."""
    from serving.profiling.main import profile_model

    settings = settings_from(config, repository=repository)
    found = profile_model(settings, model, sample=sample, clients=clients, seconds=seconds, progress=say)
    print_json(found) if json else _print(found)


def _print(found: dict[str, Any]) -> None:
    alone, loaded = found["levels"]
    rows = [
        {
            "stage": stage,
            "1 client, ms": f"{ms:.2f}",
            "of it": f"{ms / alone['mean_ms']:.0%}",
            f"{loaded['clients']} clients, ms": f"{loaded['stages_ms'][stage]:.2f}",
            "CPU-ms": f"{loaded['cpu_ms'][stage]:.2f}" if stage in loaded["cpu_ms"] else "",
        }
        for stage, ms in alone["stages_ms"].items()
    ]
    print_table(f"{found['model']} version {found['version']}, {found['sample']}", rows)
    levels = ("clients", "requests", "errors", "requests_per_s", "mean_ms", "p50_ms", "p95_ms", "batch")
    print_table("as the clients saw it", [{name: level[name] for name in levels} for level in found["levels"]])
    print_table(
        "bytes of one request",
        [{"step": name, "bytes": size, "what": BYTES[name]} for name, size in found["bytes"].items()],
    )
    print(f"bound by {found['cause']}, {found['share']:.0%} of a request: {found['why']}")
    for number, step in enumerate(found["try_next"], 1):
        print(f"  {number}. {step}")
