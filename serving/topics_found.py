"""Whether the topics that a cluster has will do for the roles that are about to use them; asked when a role starts.

`serving.topics` compares with the file, to the letter. Here only what would lose, mix or refuse records is refused:
an operator may have other numbers of partitions than the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.errors import TopicsInvalid
from serving.ports_log import MAX_RECORD_BYTES, TopicAdmin, TopicState
from serving.records import PARTITIONED_ALIKE, TOPICS
from serving.topics_checks import DAY_SECONDS, FAR_TOO_LONG, Report, Retention, bytes_per_second
from serving.topics_file import TopicsFile

COMPACTED = ("timelines", "streams")
KEPT_FOR_A_TIME = ("frames", "results", "outcomes")
LARGE = ("frames", "results", "dead_letter")


def check_cluster(admin: TopicAdmin, file: TopicsFile, retention: Retention, prefix: str = "") -> Sequence[str]:
    """Warnings. Raises TopicsInvalid with all that is wrong, LogUnavailable where no broker answers."""
    report = check_found(admin.describe([prefix + name for name in TOPICS]), file, retention, prefix)
    if report.refused:
        raise TopicsInvalid("; ".join(report.refused), hint="lockstep topics diff, lockstep topics apply")
    return report.warnings


def check_found(found: Mapping[str, TopicState], file: TopicsFile, retention: Retention, prefix: str = "") -> Report:
    """What is wrong with topics as they are. file: the load by which disk is counted."""
    report = Report()
    states = {name: found[prefix + name] for name in TOPICS if prefix + name in found}
    missing = [prefix + name for name in TOPICS if name not in states]
    if missing:
        report.refused.append(f"no topic {', '.join(missing)}")
    alike = {name: states[name].partitions for name in PARTITIONED_ALIKE if name in states}
    if len(set(alike.values())) > 1:
        numbers = ", ".join(f"{name} {count}" for name, count in alike.items())
        report.refused.append(f"partitions: expected one number in all of these, got {numbers}")
    for name, state in states.items():
        _check_cleanup(prefix + name, name in COMPACTED, state, report)
        most = int(state.settings.get("max.message.bytes", MAX_RECORD_BYTES))
        if name in LARGE and most < MAX_RECORD_BYTES:
            report.refused.append(
                f"{prefix + name}: max.message.bytes: expected at least {MAX_RECORD_BYTES}, got {most}"
            )
        if name in KEPT_FOR_A_TIME:
            _check_kept(prefix, name, state, file, retention, report)
    return report


def _check_cleanup(topic: str, compacted: bool, state: TopicState, report: Report) -> None:
    policy = state.settings.get("cleanup.policy", "delete")
    if compacted and policy != "compact":
        report.refused.append(
            f"{topic}: cleanup.policy: expected compact, got {policy}: what it says would be forgotten"
        )
    elif not compacted and "delete" not in policy:
        report.refused.append(f"{topic}: cleanup.policy: expected delete, got {policy}: it would grow for ever")


def _check_kept(
    prefix: str, name: str, state: TopicState, file: TopicsFile, retention: Retention, report: Report
) -> None:
    topic, wanted_s, needed_s = prefix + name, retention.of(file.topics[name].retention), retention.needed_s
    kept_ms = int(state.settings.get("retention.ms", wanted_s * 1000))
    kept_s = kept_ms // 1000 if kept_ms >= 0 else None
    limit, rate = int(state.settings.get("retention.bytes", -1)), bytes_per_second(name, file) or 0
    if 0 <= limit * state.partitions < rate * needed_s:
        report.warnings.append(
            f"{topic}: retention.bytes {limit} a partition holds {limit * state.partitions / rate:.0f} s at the load of"
            f" the file, at least {needed_s} s are needed"
        )
    if kept_s is not None and kept_s < needed_s:
        report.refused.append(
            f"{topic}: it keeps records for {kept_s} s, at least {needed_s} s are needed: max(60, D + L) to close a key"
            f" and recovery_s = {retention.recovery_s} s of outage"
        )
        return
    if kept_s is None or (kept_s > FAR_TOO_LONG * needed_s and kept_s > DAY_SECONDS):
        a_day = rate * DAY_SECONDS / 1e9 * state.replication
        cost = f"{a_day:.0f} GB a day, without end" if kept_s is None else f"{a_day * kept_s / DAY_SECONDS:.0f} GB"
        shown = "for ever" if kept_s is None else f"for {kept_s} s, {kept_s // needed_s} times what is needed"
        report.warnings.append(f"{topic}: it keeps records {shown}; at the load of the file that costs about {cost}")
    elif kept_s != wanted_s:
        setting = file.topics[name].retention
        report.warnings.append(
            f"{topic}: it keeps records for {kept_s} s, {setting} is {wanted_s} s: lockstep topics apply"
        )
