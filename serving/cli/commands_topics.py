"""topics: the log's topics as code, compared with a cluster and made so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.output import print_json, print_table, say, settings_from

if TYPE_CHECKING:
    from serving.adapters.kafka import KafkaTopics
    from serving.config import Settings
    from serving.topics import TopicsPlan

File = Annotated[Path | None, typer.Option("--file", help="topics as code; default: deploy/kafka/topics.yaml")]
Kafka = Annotated[str | None, typer.Option("--kafka", help="host:port of the brokers")]
Profile = Annotated[str | None, typer.Option("--profile", help="single or replicated")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Config = Annotated[Path | None, typer.Option("--config", help="settings file (YAML)")]
topics_app = typer.Typer(
    help="the log's topics as code: diff, apply, streams", add_completion=False, no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    topics_app.command()(diff)
    topics_app.command()(apply)
    topics_app.command()(streams)
    app.add_typer(topics_app, name="topics")


def diff(
    file: File = None, kafka: Kafka = None, profile: Profile = None, config: Config = None, json: Json = False
) -> None:
    """What the cluster has otherwise than the file says; exit 1 where anything differs or is refused."""
    plan, _ = _plan(file, kafka, profile, config)
    _show(plan, json, "what differs")
    if plan.changes or plan.refused:
        raise typer.Exit(1)


def apply(
    file: File = None, kafka: Kafka = None, profile: Profile = None,
    add_partitions: Annotated[bool, typer.Option("--add-partitions", help="ingest is stopped: keys may move")] = False,
    config: Config = None, json: Json = False,
) -> None:  # fmt: skip
    """Make the cluster's topics what the file says. Refused settings change nothing."""
    from serving.topics import apply as make_so

    plan, admin = _plan(file, kafka, profile, config)
    if not plan.refused:
        make_so(plan, admin, add_partitions)
    _show(plan, json, "done")
    if plan.refused:
        raise typer.Exit(1)


def streams(kafka: Kafka = None, config: Config = None, json: Json = False) -> None:
    """The registered sources of each partition; a hot one is named: its sources share one worker."""
    from serving.roles.main import open_log
    from serving.roles.registry import open_registry
    from serving.topics import hot_partitions, streams_per_partition

    log, names = open_log(settings_from(config, kafka=kafka), "topics")
    with open_registry(log, names) as registry:
        active = [name for name, stream in registry.read().items() if stream.active]
    shared = streams_per_partition(active, log.partitions(names.topic("frames")))
    hot = hot_partitions(shared)
    rows = [{"partition": n, "streams": len(found), "hot": n in hot, "names": found} for n, found in shared.items()]
    print_json(rows) if json else print_table("streams by partition", rows)
    for number in hot:
        say(f"hot: partition {number} has {len(shared[number])} of {len(active)} streams; add partitions, or rename")


def _plan(
    file: Path | None, kafka: str | None, profile: str | None, config: Path | None
) -> tuple[TopicsPlan, KafkaTopics]:
    from serving.adapters.kafka import KafkaOptions, KafkaTopics
    from serving.config import ConfigInvalid
    from serving.topics import load_topics, plan_topics

    settings = settings_from(config, kafka=kafka, kafka_profile=profile)
    if not settings.kafka:
        raise ConfigInvalid(
            "kafka: expected host:port of a broker, got nothing",
            hint="--kafka HOST:PORT, or the setting `kafka`; a broker for one machine: python -m deploy.embedded.kafka",
        )
    try:
        options = KafkaOptions(settings.kafka)
    except ValueError as error:
        raise ConfigInvalid(f"kafka: {error}") from error
    admin = KafkaTopics(options)
    described = load_topics(file or default_file())
    return plan_topics(described, retention_of(settings), admin, settings.kafka_profile, settings.kafka_prefix), admin


def default_file() -> Path:
    """deploy/kafka/topics.yaml of this installation."""
    import deploy

    return Path(str(deploy.__file__)).parent / "kafka" / "topics.yaml"


def retention_of(settings: Settings) -> Any:
    """The times that topics are compared with; the settings are their one place."""
    from serving.topics_checks import Retention

    return Retention(
        settings.retention_frames_s,
        settings.retention_results_s,
        settings.retention_dead_letters_s,
        settings.delay_max_ms / 1000,
        settings.lateness_ms / 1000,
        settings.recovery_s,
    )


def _show(plan: TopicsPlan, json: bool, title: str) -> None:
    changes = [{"topic": c.topic, "what": c.what, "now": c.now, "wanted": c.wanted} for c in plan.changes]
    if json:
        document = {"changes": changes, "refused": plan.refused, "warnings": plan.warnings, "cost_gb": plan.cost_gb}
        print_json(document)
        return
    for text in plan.refused:
        say(f"refused: {text}")
    for text in plan.warnings:
        say(f"warning: {text}")
    print_table(title, [] if plan.refused and title == "done" else changes)
    print_table("disk, GB at the load of the file", [{"topic": k, "GB": v} for k, v in plan.cost_gb.items()])
