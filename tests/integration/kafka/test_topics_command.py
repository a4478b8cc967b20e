"""`lockstep topics diff | apply | streams` on a real cluster."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from deploy.embedded.kafka import EmbeddedKafka
from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.cli.commands_topics import default_file, register
from serving.config import ConfigInvalid
from serving.errors import LogUnavailable
from serving.murmur2 import partition_of
from serving.records import StreamMessage, StreamState
from serving.roles.names import Names
from serving.roles.registry import open_registry

pytestmark = pytest.mark.needs("kafka")


def lockstep(*arguments: str) -> tuple[int, Any]:
    """Exit status and JSON of a call."""
    app = typer.Typer()
    app.command()(lambda: None)
    register(app)
    done = CliRunner().invoke(app, ["topics", *arguments, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def test_apply_makes_the_cluster_what_the_file_says(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    config = tmp_path / "lockstep.yaml"
    config.write_text(f"kafka: {kafka.bootstrap}\nkafka_prefix: acme.\n")
    at = ("--config", str(config))
    code, before = lockstep("diff", *at)
    assert code == 1 and len(before["changes"]) == 6 and before["refused"] == []
    code, done = lockstep("apply", *at)
    assert code == 0 and len(done["changes"]) == 6
    after = lockstep("diff", *at)
    assert after == (0, {**before, "changes": []}), after
    admin = KafkaTopics(KafkaOptions(kafka.bootstrap))
    state = admin.describe(["acme.frames"])["acme.frames"]
    assert (state.partitions, state.replication) == (12, 1)
    assert state.settings["message.timestamp.type"] == "LogAppendTime"
    assert state.settings["segment.bytes"] == str(64 << 20)

    admin.alter("acme.frames", {"retention.ms": "1000"})
    code, changed = lockstep("diff", *at)
    assert code == 1
    assert changed["changes"] == [{"topic": "acme.frames", "what": "retention.ms", "now": "1000", "wanted": "900000"}]
    assert lockstep("apply", *at)[0] == 0 and lockstep("diff", *at)[0] == 0


def test_partitions_are_added_with_the_word_for_it(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    config, file = tmp_path / "lockstep.yaml", tmp_path / "topics.yaml"
    config.write_text(f"kafka: {kafka.bootstrap}\nkafka_prefix: grow.\n")
    document = yaml.safe_load(default_file().read_text())
    document["load"]["workers_max"] = 1
    for count in (2, 3):
        for name in ("frames", "results", "outcomes", "timelines"):
            document["topics"][name]["partitions"] = count
        file.write_text(yaml.safe_dump(document))
        extra = ("--add-partitions",) if count == 3 else ()
        assert lockstep("apply", "--config", str(config), "--file", str(file), *extra)[0] == 0
    state = KafkaTopics(KafkaOptions(kafka.bootstrap)).describe(["grow.frames", "grow.streams"])
    assert state["grow.frames"].partitions == 3
    assert state["grow.streams"].partitions == document["topics"]["streams"]["partitions"], "not one of those that grow"


def test_streams_names_the_sources_of_each_partition_and_the_hot_one(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    config = tmp_path / "lockstep.yaml"
    config.write_text(f"kafka: {kafka.bootstrap}\nkafka_prefix: shared.\n")
    at = ("--config", str(config))
    assert lockstep("apply", *at)[0] == 0
    names = [f"cam{n}" for n in range(200)]
    crowd = [name for name in names if partition_of(name.encode(), 12) == 5][:4]
    alone, gone = (next(name for name in names if partition_of(name.encode(), 12) == n) for n in (7, 8))
    with open_registry(KafkaLog(KafkaOptions(kafka.bootstrap)), Names("shared.")) as registry:
        for name in [*crowd, alone]:
            registry.write(StreamMessage(name, "udp://127.0.0.1:9", ("m",)))
        registry.write(StreamMessage(gone, "udp://127.0.0.1:9", ("m",), state=StreamState.REMOVED))
    code, rows = lockstep("streams", *at)
    assert code == 0 and [row["partition"] for row in rows] == list(range(12))
    assert {row["partition"]: row["names"] for row in rows if row["streams"]} == {5: sorted(crowd), 7: [alone]}
    assert [row["partition"] for row in rows if row["hot"]] == [5]


def test_three_copies_on_one_broker_are_refused(kafka: EmbeddedKafka) -> None:
    code, done = lockstep("apply", "--kafka", kafka.bootstrap, "--profile", "replicated")
    assert code == 1 and "expected 3 brokers" in done["refused"][0]
    assert KafkaTopics(KafkaOptions(kafka.bootstrap)).describe(["frames"]) == {}


def test_no_broker_and_no_address_are_errors_of_their_own() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(LogUnavailable, match="no broker answers"):
            KafkaTopics(KafkaOptions(f"127.0.0.1:{free.getsockname()[1]}"), timeout_s=1.0).brokers()
    with pytest.raises(ConfigInvalid, match="host:port"):
        lockstep("diff")
    with pytest.raises(ConfigInvalid, match="host:port"):
        lockstep("diff", "--kafka", "nonsense")
