"""bad-cases: the samples that a model gets most wrong, with pictures and reasons."""

from __future__ import annotations

import json as text
from pathlib import Path
from typing import Annotated

import typer

from serving.cli.commands_evaluation import (
    Config,
    Data,
    Json,
    Limit,
    ModelName,
    Repository,
    Runtime,
    Server,
    check_runtime,
    metered,
    spaced,
)
from serving.cli.output import print_json, print_table, say, settings_from
from serving.errors import StorageFailed


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bad-cases")(bad_cases)


def bad_cases(
    model: ModelName, data: Data,
    output: Annotated[Path, typer.Option("--output", help="folder for index.html and bad_cases.json")],
    runtime: Runtime = "served", server: Server = "",
    scenario: Annotated[str, typer.Option(help="named thresholds of the model's spec")] = "",
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="how many of the worst samples")] = 24,
    limit: Limit = None, repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """The samples that a model gets most wrong, worst first, with pictures and reasons (docs/evaluation.md)."""
    from evaluation.bad_cases import bad_cases as find
    from evaluation.bad_cases import page
    from evaluation.family import family_named
    from serving.cli.scored import opened
    from serving.preprocess.decode import decode
    from serving.preprocess.limits import DecodeLimits

    check_runtime(runtime, server)
    with opened(settings_from(config, repository=repository), model, runtime, server) as (bundle, ask):
        family = family_named(bundle.spec.task)
        items = spaced(family.read(data, bundle.labels), limit)
        cases, count = find(
            family, items, bundle.labels, ask, top, scenario, over=lambda rows: metered(rows, len(items))
        )
    about = f"{model} version {bundle.version}, certificate {bundle.certificate_id}, {server or runtime}: "
    about += f"{count} of {len(items)} samples of {data} went wrong; the worst {len(cases)}."
    told = {
        "model": model, "model_version": str(bundle.version), "certificate_id": bundle.certificate_id,
        "runtime": server or runtime, "data": str(data), "samples": len(items), "bad": count,
        "cases": [case.to_document() for case in cases],
    }  # fmt: skip
    html = page(f"Bad cases of {model}", about, cases, lambda c: decode(c.item.path.read_bytes(), DecodeLimits()))
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "index.html").write_text(html, "utf-8")
        (output / "bad_cases.json").write_text(text.dumps(told, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise StorageFailed(f"{output}: cannot be written: {error.strerror or error}") from error
    if json:
        print_json(told)
    else:
        rows = [{"file": c.item.name, "badness": f"{c.verdict.badness:.3f}", "reason": c.verdict.reason} for c in cases]
        print_table(f"{model}: {count} of {len(items)} samples went wrong", rows)
    say(f"pictures: {output / 'index.html'}")
