"""Topics as code: what deploy/kafka/topics.yaml says, what the cluster has, what would have to change.

    plan = plan_topics(load_topics(path), settings_of_time, profile, admin)
    plan.changes, plan.refused, plan.warnings;  apply(plan, admin)

Settings that would lose or mix records are refused before anything is touched: fewer partitions than consumers, counts
that differ between topics that share partition numbers, a retention shorter than what the system needs to recover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.errors import TopicsInvalid
from serving.murmur2 import partition_of
from serving.ports_log import TopicAdmin, TopicState
from serving.records import PARTITIONED_ALIKE
from serving.topics_checks import Retention, check
from serving.topics_file import TopicsFile, read_topics

EVERYWHERE = {"message.timestamp.type": "LogAppendTime", "unclean.leader.election.enable": "false"}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do to one topic. what: create, partitions or a setting's name."""

    topic: str
    what: str
    now: str
    wanted: str


@dataclass(frozen=True, slots=True)
class TopicsPlan:
    """What a cluster has otherwise than it should. refused: why nothing may be applied.

    cost_gb: on disk, all replicas together.
    """

    wanted: Mapping[str, TopicState]
    changes: tuple[Change, ...] = ()
    refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    cost_gb: Mapping[str, float] = field(default_factory=dict)

    @property
    def grows(self) -> tuple[str, ...]:
        """Topics whose number of partitions is to be raised: keys move, so ingest has to stand still."""
        return tuple(change.topic for change in self.changes if change.what == "partitions")


def wanted_topics(file: TopicsFile, retention: Retention, profile: str, prefix: str = "") -> dict[str, TopicState]:
    """The topics as they shall be. Raises TopicsInvalid for an unknown profile."""
    if profile not in file.profiles:
        raise TopicsInvalid(f"profile {profile!r}: expected one of {', '.join(file.profiles)}")
    safety = file.profiles[profile]
    wanted = {}
    for name, topic in file.topics.items():
        settings = {**EVERYWHERE, "min.insync.replicas": str(safety.min_insync)}
        settings |= {key: _text(value) for key, value in topic.settings.items()}
        if topic.retention:
            settings["retention.ms"] = str(retention.of(topic.retention) * 1000)
        elif "delete" in settings.get("cleanup.policy", "delete"):
            raise TopicsInvalid(f"topics.{name}: records are deleted by time, expected `retention`, got none")
        wanted[prefix + name] = TopicState(topic.partitions, safety.replication, settings)
    return wanted


def plan_topics(
    file: TopicsFile, retention: Retention, admin: TopicAdmin, profile: str = "single", prefix: str = ""
) -> TopicsPlan:
    """Compare. Raises LogUnavailable, TopicsInvalid."""
    wanted = wanted_topics(file, retention, profile, prefix)
    found = admin.describe(list(wanted))
    report = check(file, retention, file.profiles[profile].replication)
    refused, warnings = list(report.refused), list(report.warnings)
    changes: list[Change] = []
    brokers = admin.brokers()
    if file.profiles[profile].replication > brokers:
        needed = file.profiles[profile].replication
        refused.append(f"profile {profile}: expected {needed} brokers or more, got {brokers}")
    for name, state in wanted.items():
        if name not in found:
            changes.append(Change(name, "create", "", f"{state.partitions} partitions"))
        else:
            changes += _differences(name, found[name], state, refused, may_grow=name != f"{prefix}streams")
    return TopicsPlan(wanted, tuple(changes), tuple(refused), tuple(warnings), report.cost_gb)


def apply(plan: TopicsPlan, admin: TopicAdmin, add_partitions: bool = False) -> tuple[Change, ...]:
    """Make it so; what was done. Raises TopicsInvalid, with nothing touched, where the plan is refused.

    add_partitions: whoever calls has stopped ingest. Without it a plan that raises a count is refused.
    """
    if plan.refused:
        raise TopicsInvalid("; ".join(plan.refused))
    if plan.grows and not add_partitions:
        raise TopicsInvalid(
            f"{', '.join(plan.grows)}: more partitions are wanted, and keys would move while they are written",
            hint="stop ingest, `lockstep topics apply --add-partitions`, start ingest",
        )
    for change in plan.changes:
        state = plan.wanted[change.topic]
        if change.what == "create":
            admin.create(change.topic, state)
        elif change.what == "partitions":
            admin.grow(change.topic, state.partitions)
        else:
            admin.alter(change.topic, {change.what: state.settings[change.what]})
    return plan.changes


def load_topics(path: Path) -> TopicsFile:
    """The YAML, strictly read. Raises TopicsInvalid with the key."""
    return read_topics(path, PARTITIONED_ALIKE)


def streams_per_partition(source_ids: Sequence[str], partitions: int) -> dict[int, list[str]]:
    """Which sources share a partition (see `hot_partitions`)."""
    shared: dict[int, list[str]] = {number: [] for number in range(partitions)}
    for source_id in sorted(source_ids):
        shared[partition_of(source_id.encode(), partitions)].append(source_id)
    return shared


def hot_partitions(shared: Mapping[int, Sequence[str]]) -> list[int]:
    """Those with three sources or more, and over twice an even share: one worker has them all."""
    even = -(-sum(map(len, shared.values())) // max(1, len(shared)))
    return [number for number, names in sorted(shared.items()) if len(names) >= 3 and len(names) > 2 * even]


def _differences(name: str, now: TopicState, wanted: TopicState, refused: list[str], may_grow: bool) -> list[Change]:
    changes = []
    if now.partitions < wanted.partitions and not may_grow:
        refused.append(
            f"{name}: it has {now.partitions} partitions, {wanted.partitions} are wanted; a source's records would lie"
            f" in two of them, and its removal not be seen: write {now.partitions}, which does for any number of them"
        )
    elif now.partitions < wanted.partitions:
        changes.append(Change(name, "partitions", str(now.partitions), str(wanted.partitions)))
    elif now.partitions > wanted.partitions:
        refused.append(
            f"{name}: it has {now.partitions} partitions, {wanted.partitions} are wanted; Kafka takes none away:"
            " write the larger number, or delete the topic by hand"
        )
    if now.replication != wanted.replication:
        refused.append(
            f"{name}: its replication is {now.replication}, {wanted.replication} is wanted; reassign its replicas with"
            " kafka-reassign-partitions, or choose the other profile"
        )
    for key, value in wanted.settings.items():
        if now.settings.get(key) != value:
            changes.append(Change(name, key, now.settings.get(key, ""), value))
    return changes


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
