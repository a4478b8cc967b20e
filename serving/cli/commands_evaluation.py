"""evaluate, thresholds: how good a model is on labelled data, and what it must refuse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.output import print_json, print_table, say, settings_from

ModelName = Annotated[str, typer.Argument(help="name of a published model")]
Data = Annotated[Path, typer.Option("--data", help="pictures with labels.csv (file,label), or a subfolder a label")]
Server = Annotated[str, typer.Option(help="through a running gateway, e.g. http://127.0.0.1:8080")]
Runtime = Annotated[str, typer.Option(help="served, checkpoint, onnx, openvino, onnxruntime, tensorrt_rtx, tensorrt")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="only so many samples, evenly spaced")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]
Repository = Annotated[Path | None, typer.Option("--repository", help="model repository")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(evaluate)
    app.command()(thresholds)


def evaluate(
    model: ModelName, data: Data, runtime: Runtime = "served", server: Server = "",
    scenario: Annotated[str, typer.Option(help="named thresholds of the model's spec")] = "",
    at_least: Annotated[list[str] | None, typer.Option(help="metric=value; below it the exit status is 1")] = None,
    limit: Limit = None, repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Score a model on labelled data by its task's metrics, through any runtime (docs/evaluation.md)."""
    from evaluation.family import evaluate as score
    from evaluation.family import family_named
    from serving.cli.scored import opened

    check_runtime(runtime, server)
    floors = _floors(at_least or [])
    with opened(settings_from(config, repository=repository), model, runtime, server) as (bundle, ask):
        family = family_named(bundle.spec.task)
        items = spaced(family.read(data, bundle.labels), limit)
        scores = score(family, items, bundle.labels, ask, scenario, over=lambda rows: metered(rows, len(items)))
    told = {
        "model": model, "model_version": str(bundle.version), "certificate_id": bundle.certificate_id,
        "task": bundle.spec.task, "runtime": server or runtime, "data": str(data), "scores": scores,
    }  # fmt: skip
    flat = _flat(scores)
    short = {name: flat.get(name) for name, floor in floors.items() if not flat.get(name, -1.0) >= floor}
    if json:
        print_json({**told, "below_floor": short})
    else:
        print_table(f"{model} ({told['runtime']}) on {data}", [{"metric": n, "value": v} for n, v in flat.items()])
    for name, got in short.items():
        say(f"{name}: expected at least {floors[name]:g}, got {got}; metrics: {', '.join(flat)}")
    if short:
        raise typer.Exit(1)


def thresholds(
    model: ModelName, data: Data, runtime: Runtime = "served", server: Server = "",
    far: Annotated[float, typer.Option(min=0, max=1, help="share of unknown samples that may be accepted")] = 0.01,
    margin: Annotated[float | None, typer.Option(min=0, max=1, help="lead over the runner-up; default: chosen")] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="one threshold for each class")] = False,
    limit: Limit = None, repository: Repository = None, config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """A classifier's thresholds for a wanted false-accept rate, from samples of which some are labelled `unknown`; an
    embedder's cosine from which two pictures are near duplicates, from any folder of different pictures."""
    from evaluation.metrics.classification import FAMILY
    from evaluation.thresholds import choose
    from serving.cli.scored import opened

    check_runtime(runtime, server)
    with opened(settings_from(config, repository=repository), model, runtime, server) as (bundle, ask):
        if bundle.spec.task == "embedding":
            _near_duplicates(model, data, ask, far, limit, json)
            return
        if bundle.spec.task != "classification":
            what = f"thresholds are for tasks classification and embedding, got {bundle.spec.task}"
            raise typer.BadParameter(f"{model}: {what}")
        items = spaced(FAMILY.read(data, bundle.labels), limit)
        counted = lambda *given: metered(ask(*given), len(items))  # noqa: E731
        found = choose(items, counted, far, margin, bundle.labels, by_class)
    if json:
        print_json({"model": model, "data": str(data), **found})
        return
    rows = [
        {"measured on": part, **{k: f"{v:.4g}" for k, v in found[part].items()}} for part in ("chosen_on", "held_out")
    ]
    print_table(f"{model}: false-accept rate wanted {far:g}", rows)
    print("in the model's YAML (with options.unknown: true):")
    print(f"thresholds:\n  default: {_yaml(found['thresholds'])}")
    if found["note"]:
        say(found["note"])


def _near_duplicates(model: str, data: Path, ask: Any, far: float, limit: int | None, json: bool) -> None:
    """From which cosine on two pictures are copies of one, by seeded copies of the pictures in `data`."""
    import tempfile

    from evaluation.near_duplicates import KINDS, choose, read_pictures

    pictures = spaced(read_pictures(data), limit)
    total = len(pictures) * (1 + len(KINDS))
    say(f"{len(pictures)} pictures and {len(KINDS)} copies of each: {total} to ask for")
    with tempfile.TemporaryDirectory(prefix="lockstep-copies-") as folder:
        found = choose(pictures, lambda *given: metered(ask(*given), len(given[0])), far, Path(folder))
    if json:
        print_json({"model": model, "data": str(data), **found})
        return
    rows = [
        {"measured on": part, **{k: f"{v:.4g}" for k, v in found[part].items()}} for part in ("chosen_on", "held_out")
    ]
    print_table(f"{model}: near duplicates from a cosine of {found['threshold']} on", rows)
    print(f"lockstep galleries duplicates NAME --threshold {found['threshold']}")


def spaced(items: list[Any], limit: int | None) -> list[Any]:
    """At most `limit` of the items, evenly spaced, in order."""
    if limit is None or limit >= len(items):
        return items
    return [items[place * len(items) // limit] for place in range(limit)]


def metered(rows: Iterable[Any], total: int) -> Iterator[Any]:
    """The rows, with rate and remaining time on stderr."""
    from converters.meter import Meter

    return Meter(say, "evaluate", total).over(rows)


def check_runtime(runtime: str, server: str) -> None:
    """Raise BadParameter for a --runtime that there is not, or that does not go with --server."""
    from serving.cli.scored import RUNTIMES, SERVED

    if runtime not in RUNTIMES:
        raise typer.BadParameter(f"--runtime: expected one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if server and runtime != SERVED:
        raise typer.BadParameter("--server asks what the gateway serves: leave --runtime out")


def _floors(given: list[str]) -> dict[str, float]:
    floors = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            floors[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise typer.BadParameter(f"--at-least {text}: expected metric=number, e.g. top1=0.9")
    return floors


def _flat(scores: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """Numbers by dotted name; lists (confusions) are left to --json."""
    flat: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        elif isinstance(value, int | float):
            flat[f"{before}{name}"] = round(float(value), 6)
    return flat


def _yaml(values: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(values), default_flow_style=True, sort_keys=False, width=1000)).strip()
