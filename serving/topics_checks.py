"""Whether topic settings suit the system: partitions for its consumers, time to recover, and the cost on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.errors import TopicsInvalid
from serving.topics_file import Topic, TopicsFile

CLOSE_SECONDS = 60  # a ledger key closes max(60 s, D + L) after its frame record came in
FAR_TOO_LONG = 100  # times what is needed
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds: how long records are kept, and what of that the system needs.

    delay_s: the largest D of a source. lateness_s: L. recovery_s: the longest outage that shall lose nothing.
    """

    frames_s: int
    results_s: int
    dead_letters_s: int
    delay_s: float
    lateness_s: float
    recovery_s: int

    @property
    def needed_s(self) -> int:
        """Shortest retention with which nothing is lost: the time to close a key, and an outage before it is read."""
        return int(max(CLOSE_SECONDS, self.delay_s + self.lateness_s) + self.recovery_s + 0.999)

    def of(self, setting: str) -> int:
        """Seconds by the setting's name."""
        known = {
            "retention_frames_s": self.frames_s,
            "retention_results_s": self.results_s,
            "retention_dead_letters_s": self.dead_letters_s,
        }
        if setting not in known:
            raise TopicsInvalid(f"retention {setting!r}: expected one of {', '.join(known)}")
        return known[setting]


@dataclass(slots=True)
class Report:
    """What is wrong, what is doubtful, and what it costs."""

    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cost_gb: dict[str, float] = field(default_factory=dict)


def check(file: TopicsFile, retention: Retention, replication: int) -> Report:
    """All checks that need no cluster."""
    report = Report()
    _check_partitions(file, report)
    for name, topic in file.topics.items():
        if topic.retention and name != "dead_letter":
            _check_retention(name, topic, file, retention, replication, report)
    return report


def _check_partitions(file: TopicsFile, report: Report) -> None:
    partitions, consumers = file.topics["frames"].partitions, file.load.workers_max
    if partitions < consumers:
        report.refused.append(
            f"frames: {partitions} partitions for up to {consumers} workers: {consumers - partitions} of them would"
            " never get a record; raise partitions or lower load.workers_max"
        )
    elif partitions == consumers:
        report.warnings.append(f"frames: {partitions} partitions for as many workers: no room for one more")


def _check_retention(
    name: str, topic: Topic, file: TopicsFile, retention: Retention, replication: int, report: Report
) -> None:
    kept_s, needed_s = retention.of(topic.retention), retention.needed_s
    if kept_s < needed_s:
        report.refused.append(
            f"{name}: {topic.retention} is {kept_s} s, at least {needed_s} s are needed: max(60, D + L) to close a key"
            f" and recovery_s = {retention.recovery_s} s of outage"
        )
    rate = bytes_per_second(name, file)
    if rate is None:
        return
    held = rate * kept_s
    limit = topic.settings.get("retention.bytes")
    if isinstance(limit, int) and limit > 0:
        most = limit * topic.partitions
        shortest_s = limit * topic.partitions / rate / _unevenness(file, topic)
        if shortest_s < needed_s:
            report.refused.append(
                f"{name}: retention.bytes {limit} a partition holds {shortest_s:.0f} s at the load of the file,"
                f" at least {needed_s} s are needed"
            )
        elif most < held:
            report.warnings.append(
                f"{name}: retention.bytes deletes after about {most / rate:.0f} s at the load of the file, before"
                f" {topic.retention} = {kept_s} s"
            )
        held = min(held, most)
    report.cost_gb[name] = round(held * replication / 1e9, 1)
    if kept_s > FAR_TOO_LONG * needed_s and kept_s > DAY_SECONDS:
        report.warnings.append(
            f"{name}: {topic.retention} is {kept_s} s, {kept_s // needed_s} times what is needed; it costs about"
            f" {report.cost_gb[name]:g} GB on disk"
        )


def bytes_per_second(name: str, file: TopicsFile) -> float | None:
    """What is written to a topic at the load of the file; None where that is next to nothing."""
    load = file.load
    frames = load.sources * load.fps
    each: Mapping[str, float] = {
        "frames": load.frame_kb,
        "results": load.result_kb * load.pipelines,
        "outcomes": 0.6 * load.pipelines,  # two records a key, about 300 bytes each
    }
    return frames * each[name] * 1000 if name in each else None


def _unevenness(file: TopicsFile, topic: Topic) -> float:
    """How much more than its share the fullest partition may get: one source cannot be split."""
    return max(1.0, topic.partitions / file.load.sources)
