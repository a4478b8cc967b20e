"""Topics as code: what is refused before anything is touched, what is warned of, and what is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.config import Settings
from serving.errors import TopicsInvalid
from serving.ports_log import TopicState
from serving.topics import Change, apply, load_topics, plan_topics, streams_per_partition, wanted_topics
from serving.topics_checks import Retention

SHIPPED = Path(__file__).resolve().parents[3] / "deploy" / "kafka" / "topics.yaml"
RETENTION = Retention(900, 21_600, 604_800, 2.0, 2.0, 300)


class ListTopics:
    """A cluster in memory."""

    def __init__(self, brokers: int = 1) -> None:
        self.topics: dict[str, TopicState] = {}
        self.count = brokers

    def brokers(self) -> int:
        return self.count

    def describe(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        return {name: state for name, state in self.topics.items() if name in names}

    def create(self, name: str, state: TopicState) -> None:
        assert name not in self.topics
        self.topics[name] = state

    def grow(self, name: str, partitions: int) -> None:
        self.topics[name] = replace(self.topics[name], partitions=partitions)

    def alter(self, name: str, settings: Mapping[str, str]) -> None:
        state = self.topics[name]
        self.topics[name] = replace(state, settings={**state.settings, **settings})


def shipped() -> dict[str, Any]:
    value = yaml.safe_load(SHIPPED.read_text())
    assert isinstance(value, dict)
    return value


def written(folder: Path, change: Mapping[str, Any]) -> Path:
    """The shipped file with values replaced, by dotted path; None takes a key away."""
    document = shipped()
    for path, value in change.items():
        *above, last = path.split("/")
        node = document
        for key in above:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    file = folder / "topics.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_the_shipped_file_suits_the_default_settings() -> None:
    s = Settings()
    retention = Retention(
        s.retention_frames_s, s.retention_results_s, s.retention_dead_letters_s,
        s.delay_max_ms / 1000, s.lateness_ms / 1000, s.recovery_s,
    )  # fmt: skip
    plan = plan_topics(load_topics(SHIPPED), retention, ListTopics())
    assert plan.refused == () and plan.warnings == ()
    assert len(plan.changes) == 6 and {c.what for c in plan.changes} == {"create"}
    assert plan.cost_gb == {"frames": 13.0, "results": 10.4, "outcomes": 3.1}


def test_frames_as_the_design_says() -> None:
    wanted = wanted_topics(load_topics(SHIPPED), RETENTION, "single", "acme.")
    frames = wanted["acme.frames"].settings
    assert frames["segment.bytes"] == str(64 << 20) and int(frames["retention.bytes"]) > 0
    assert frames["max.message.bytes"] == str(4 << 20) and frames["retention.ms"] == "900000"
    for name, state in wanted.items():
        assert state.settings["message.timestamp.type"] == "LogAppendTime", name
    assert wanted["acme.outcomes"].settings["cleanup.policy"] == "compact,delete"
    assert wanted["acme.outcomes"].settings["retention.ms"] == wanted["acme.results"].settings["retention.ms"]
    for name in ("timelines", "streams"):
        assert wanted[f"acme.{name}"].settings["cleanup.policy"] == "compact"


def test_applied_there_is_nothing_left_to_do() -> None:
    admin, file = ListTopics(), load_topics(SHIPPED)
    assert len(apply(plan_topics(file, RETENTION, admin), admin)) == 6
    assert plan_topics(file, RETENTION, admin).changes == ()


def test_a_setting_changed_by_hand_is_named_and_mended() -> None:
    admin, file = ListTopics(), load_topics(SHIPPED)
    apply(plan_topics(file, RETENTION, admin), admin)
    admin.alter("frames", {"message.timestamp.type": "CreateTime", "other.setting": "x"})
    plan = plan_topics(file, RETENTION, admin)
    assert plan.changes == (Change("frames", "message.timestamp.type", "CreateTime", "LogAppendTime"),)
    apply(plan, admin)
    assert admin.topics["frames"].settings["other.setting"] == "x", "what the file does not name is left alone"
    assert plan_topics(file, RETENTION, admin).changes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topics/frames/partitions": 6}, "need one number of partitions"),
        ({"topics/streams": None}, r"missing \['streams'\]"),
        ({"topics/extra": {"partitions": 1}}, r"unknown \['extra'\]"),
        ({"topics/frames/partition": 3}, "topics.frames.partition: Extra inputs"),
        ({"topics/frames/partitions": 0}, "topics.frames.partitions: .*greater than or equal to 1"),
        ({"topics/frames/retention": "for ever"}, "topics.frames.retention"),
        ({"load/fps": -1}, "load.fps"),
        ({"version": 2}, "version"),
        ({"profiles/single/min_insync": 2}, "min_insync is above replication"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(tmp_path: Path, change: Mapping[str, Any], message: str) -> None:
    with pytest.raises(TopicsInvalid, match=message):
        load_topics(written(tmp_path, change))


def test_a_topic_without_retention_that_deletes_is_refused(tmp_path: Path) -> None:
    file = load_topics(written(tmp_path, {"topics/results/retention": ""}))
    with pytest.raises(TopicsInvalid, match=r"topics\.results.*expected `retention`"):
        plan_topics(file, RETENTION, ListTopics())


def test_the_registry_does_not_grow(tmp_path: Path) -> None:
    """A source's records would lie in two partitions, and whoever followed the old one would not see its removal."""
    admin = ListTopics()
    apply(plan_topics(load_topics(SHIPPED), RETENTION, admin, prefix="acme."), admin)
    grown = load_topics(written(tmp_path, {"topics/streams/partitions": 24}))
    plan = plan_topics(grown, RETENTION, admin, prefix="acme.")
    assert plan.changes == () and "acme.streams: it has 12 partitions, 24 are wanted" in plan.refused[0]


def alike(count: int) -> dict[str, Any]:
    return {f"topics/{name}/partitions": count for name in ("frames", "results", "outcomes", "timelines")}


@pytest.mark.parametrize(
    ("change", "retention", "message"),
    [
        (alike(10), RETENTION, "10 partitions for up to 11 workers: 1 of them would never get a record"),
        ({}, replace(RETENTION, frames_s=300), r"frames: retention_frames_s is 300 s, at least 360 s are needed"),
        ({}, replace(RETENTION, recovery_s=3600), "recovery_s = 3600"),
        ({}, replace(RETENTION, delay_s=900, lateness_s=10), "at least 1210 s are needed"),
        ({"topics/frames/settings/retention.bytes": 100 << 20}, RETENTION, "retention.bytes .* holds 58 s"),
    ],
)
def test_what_would_lose_records_is_refused_and_changes_nothing(
    tmp_path: Path, change: Mapping[str, Any], retention: Retention, message: str
) -> None:
    admin = ListTopics()
    plan = plan_topics(load_topics(written(tmp_path, change)), retention, admin)
    with pytest.raises(TopicsInvalid, match=message):
        apply(plan, admin)
    assert admin.topics == {}


def test_as_many_partitions_as_consumers_is_warned_of(tmp_path: Path) -> None:
    plan = plan_topics(load_topics(written(tmp_path, alike(11))), RETENTION, ListTopics())
    assert plan.refused == () and "no room for one more" in plan.warnings[0]


def test_far_too_long_is_named_with_its_cost() -> None:
    week = replace(RETENTION, frames_s=7 * 86_400)
    plan = plan_topics(load_topics(SHIPPED), week, ListTopics())
    assert any("1680 times what is needed; it costs about 51.5 GB" in text for text in plan.warnings), plan.warnings
    assert any("retention.bytes deletes after about" in text for text in plan.warnings)
    thrice = plan_topics(load_topics(SHIPPED), RETENTION, ListTopics(3), "replicated")
    assert thrice.cost_gb["frames"] == pytest.approx(38.9)


def test_copies_need_brokers_and_a_profile_a_name() -> None:
    file = load_topics(SHIPPED)
    assert "expected 3 brokers or more, got 1" in plan_topics(file, RETENTION, ListTopics(1), "replicated").refused[0]
    assert plan_topics(file, RETENTION, ListTopics(3), "replicated").refused == ()
    with pytest.raises(TopicsInvalid, match="expected one of single, replicated"):
        plan_topics(file, RETENTION, ListTopics(), "other")


def test_partitions_are_added_only_while_ingest_stands_still(tmp_path: Path) -> None:
    admin = ListTopics()
    apply(plan_topics(load_topics(SHIPPED), RETENTION, admin), admin)
    more = plan_topics(load_topics(written(tmp_path, alike(16))), RETENTION, admin)
    assert len(more.grows) == 4
    with pytest.raises(TopicsInvalid, match="stop ingest"):
        apply(more, admin)
    assert admin.topics["frames"].partitions == 12
    apply(more, admin, add_partitions=True)
    assert admin.topics["frames"].partitions == 16
    fewer = plan_topics(load_topics(SHIPPED), RETENTION, admin)
    assert "Kafka takes none away" in fewer.refused[0]


def test_streams_per_partition() -> None:
    shared = streams_per_partition(["a", "b", "c", "d"], 2)
    assert sorted(name for names in shared.values() for name in names) == ["a", "b", "c", "d"] and set(shared) == {0, 1}
