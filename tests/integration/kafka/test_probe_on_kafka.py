"""The stranger, as a process of its own, reads the topic of a real broker."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from confluent_kafka import Producer

from deploy.embedded.kafka import EmbeddedKafka
from loadtest.servers import free_port
from serving.adapters.kafka import KafkaOptions, KafkaTopics
from serving.ports_log import TopicState

pytestmark = pytest.mark.needs("kafka")


def test_results_of_one_source_are_counted_with_their_age(kafka: EmbeddedKafka) -> None:
    prefix = f"probe{time.monotonic_ns()}."
    KafkaTopics(KafkaOptions(kafka.bootstrap)).create(f"{prefix}results", TopicState(3, 1, {}))
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(20):
        row = {"epoch": 1, "pts_ns": number * 40, "pipeline": "m", "outcome": "result", "capture_ns": time.time_ns()}
        for source in ("cam", "other"):
            producer.produce(f"{prefix}results", json.dumps(row), key=source)
    assert producer.flush(30) == 0
    nobody = f"http://127.0.0.1:{free_port()}"
    line = [sys.executable, "-m", "loadtest.stream_probe", nobody, "cam", "--no-hls", "--json",
            "--kafka", kafka.bootstrap, "--prefix", prefix, "--first", "earliest", "--seconds", "8"]  # fmt: skip
    ended = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    rows = {row["way"]: row for row in map(json.loads, ended.stdout.splitlines())}
    found = rows["kafka"]
    assert found["ok"] and found["outcomes"] == {"result": 20}, (found, ended.stderr)
    assert (found["twice"], found["out_of_order"]) == (0, 0) and 0 <= found["age_p50_s"] < 120
    assert not rows["events"]["ok"] and ended.returncode == 1  # there is no gateway, and it says so
