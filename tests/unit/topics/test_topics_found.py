"""Topics as a cluster has them, looked at when a role starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from serving.cli.commands_topics import default_file
from serving.errors import TopicsInvalid
from serving.ports_log import TopicState
from serving.topics import hot_partitions, load_topics, streams_per_partition, wanted_topics
from serving.topics_checks import Retention
from serving.topics_found import check_cluster, check_found

RETENTION = Retention(900, 21_600, 604_800, 2.0, 2.0, 300)
FILE = load_topics(default_file())
Change = Callable[[dict[str, TopicState]], None]


class Cluster:
    """Topics as they are."""

    def __init__(self, found: dict[str, TopicState]) -> None:
        self.found = found

    def describe(self, names: list[str]) -> dict[str, TopicState]:
        return {name: self.found[name] for name in names if name in self.found}


def good() -> dict[str, TopicState]:
    return dict(wanted_topics(FILE, RETENTION, "single", "acme."))


def setting(topic: str, key: str, value: str) -> Change:
    def change(found: dict[str, TopicState]) -> None:
        state = found[f"acme.{topic}"]
        found[f"acme.{topic}"] = replace(state, settings={**state.settings, key: value})

    return change


def fewer(found: dict[str, TopicState]) -> None:
    found["acme.results"] = replace(found["acme.results"], partitions=11)


def gone(found: dict[str, TopicState]) -> None:
    del found["acme.timelines"]


def test_what_apply_makes_will_do() -> None:
    assert check_cluster(Cluster(good()), FILE, RETENTION, "acme.") == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (gone, "no topic acme.timelines"),
        (fewer, "got frames 12, results 11"),
        (setting("frames", "retention.ms", "60000"), "acme.frames: it keeps records for 60 s, at least 360 s"),
        (setting("outcomes", "retention.ms", "1"), "acme.outcomes: it keeps records for 0 s"),
        (setting("timelines", "cleanup.policy", "delete"), "expected compact, got delete"),
        (setting("streams", "cleanup.policy", "compact,delete"), "expected compact, got compact,delete"),
        (setting("frames", "cleanup.policy", "compact"), "it would grow for ever"),
        (setting("frames", "max.message.bytes", "1048588"), "max.message.bytes: expected at least 4194304"),
    ],
)
def test_what_would_lose_or_mix_records_is_refused(change: Change, what: str) -> None:
    found = good()
    change(found)
    with pytest.raises(TopicsInvalid, match=what):
        check_cluster(Cluster(found), FILE, RETENTION, "acme.")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("3600000", "for 3600 s, retention_frames_s is 900 s"),
        (str(60 * 86_400_000), "times what is needed; at the load of the file that costs about 74650 GB"),
        ("-1", "for ever; at the load of the file that costs about 1244 GB a day"),
    ],
)
def test_what_costs_too_much_is_named_with_its_cost(value: str, what: str) -> None:
    found = good()
    setting("frames", "retention.ms", value)(found)
    report = check_found(found, FILE, RETENTION, "acme.")
    assert report.refused == [] and len(report.warnings) == 1 and what in report.warnings[0]


def test_bytes_that_hold_less_than_is_needed_are_named() -> None:
    found = good()
    setting("frames", "retention.bytes", "100000000")(found)
    (warning,) = check_found(found, FILE, RETENTION, "acme.").warnings
    assert "acme.frames: retention.bytes 100000000 a partition holds 83 s" in warning and "at least 360 s" in warning


def test_a_partition_with_far_more_than_its_share_is_hot() -> None:
    shared = streams_per_partition([f"cam-{n}" for n in range(40)], 8)
    assert sum(map(len, shared.values())) == 40 and hot_partitions(shared) == []
    assert hot_partitions({0: ["a", "b", "c"], 1: [], 2: [], 3: []}) == [0]
    assert hot_partitions({0: ["a", "b"], 1: [], 2: []}) == [] and hot_partitions({}) == []
