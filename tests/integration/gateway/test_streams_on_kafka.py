"""The stream routes of a gateway over a real broker and a real Redis, with records as the roles write them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka_support import shared_kafka
from redis_support import RedisServer
from starlette.testclient import TestClient

from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.adapters.redis import RedisIndex
from serving.clock import SystemClock
from serving.config import Settings
from serving.gateway.app import create_app
from serving.gateway.catalogue import Catalogue
from serving.gateway.main import make_streams
from serving.murmur2 import partition_of
from serving.ports_log import NewRecord, TopicState
from serving.records import OutcomeMessage, encode_outcome, encode_result, result_document
from serving.roles.index import IndexWriter
from serving.roles.names import Names
from serving.roles.registered import Registered
from serving.roles.state import publish_state
from serving.testing.stub_bundles import stub_bundles, stub_canaries
from serving.testing.stub_server import StubServer
from serving.testing.stub_streams import FRAME_NS, a_result

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.needs("redis")]
NAMES = Names("rest.")
PARTITIONS = 12  # as deploy/kafka/topics.yaml: what costs a request a partition shows
CAMERA = "rtsp://{CAM}:{CAM}@127.0.0.1:9/live"


class System:
    """A gateway, and what stands behind it."""

    def __init__(self, kafka: str, redis: str, folder: Path, names: Names = NAMES) -> None:
        self.names = names
        self.settings = Settings(
            kafka=kafka, kafka_prefix=self.names.prefix, redis=redis, mixed_dir=folder / "mixed",
            sources_allowed_hosts="127.0.0.1", sources_secrets="CAM",
        )  # fmt: skip
        admin = KafkaTopics(KafkaOptions(kafka))
        for topic in ("streams", "results", "outcomes", "frames", "timelines"):
            policy = {"cleanup.policy": "compact"} if topic in ("streams", "timelines") else {}
            admin.create(self.names.topic(topic), TopicState(PARTITIONS, 1, policy))
        self.log, self.index = KafkaLog(KafkaOptions(kafka)), RedisIndex(redis, self.names.prefix)
        bundles = stub_bundles(folder)
        streams = make_streams(self.settings)
        self.app = create_app(
            self.settings, StubServer(bundles), Catalogue(bundles), stub_canaries(bundles), streams=streams
        )

    def record(self, source_id: str, seqs: range) -> list[dict[str, Any]]:
        """Results as workers write them, last one first, and then outcomes as the accountant does."""
        producer, number, found = self.log.producer(), partition_of(source_id.encode(), PARTITIONS), []
        messages = [a_result(source_id, 1, seq, "persons") for seq in seqs]
        for message in reversed(messages):
            encoded = encode_result(message)
            producer.append(NewRecord(self.names.topic("results"), encoded.key, encoded.value, encoded.headers, number))
            found.append(result_document(message))
        for message in messages:
            encoded = encode_outcome(OutcomeMessage(message.posting.key, message.posting.outcome))
            producer.append(
                NewRecord(self.names.topic("outcomes"), encoded.key, encoded.value, encoded.headers, number)
            )
        assert producer.close(20) == 0
        return found[::-1]


@pytest.fixture
def system(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> System:
    return System(shared_kafka(request).bootstrap, redis_server.url, tmp_path)


def until(condition: Callable[[], Any], patience_s: float = 30) -> Any:
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return found


def test_register_read_results_and_follow_events(system: System, redis_server: RedisServer) -> None:
    writer = IndexWriter(system.index, system.log, NAMES, SystemClock()).start()
    writer.assigned(list(range(PARTITIONS)))
    with TestClient(system.app) as client:
        until(lambda: client.get("/v1/streams").is_success)
        body = {"source_id": "gate", "address": CAMERA, "pipelines": ["persons"], "mixed": True}
        assert client.post("/v1/streams", json=body).status_code == 201
        registered = Registered(system.log, NAMES)
        registered.catch_up()
        found = registered.get("gate")
        assert found is not None and found.address == CAMERA and found.active, "what ingest, workers and mixers read"
        before = system.record("gate", range(10))
        until(lambda: len(client.get("/v1/streams/gate/results").json()["results"]) == 10)
        some = client.get(f"/v1/streams/gate/results?from_pts_ns={2 * FRAME_NS}&to_pts_ns={4 * FRAME_NS}").json()
        assert some["results"] == before[2:4] and some["epoch"] == 1

        late = threading.Timer(1.5, lambda: system.record("gate", range(10, 40)))
        late.start()
        answer = client.get("/v1/streams/gate/events?seconds=6")
        late.join()
        data = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        assert [document["pts_ns"] for document in data] == [n * FRAME_NS for n in range(10, 40)]

        publish_state(system.index, "mixer", "gate", {"epoch": 1, "shown": 40, "mismatched": 0})
        publish_state(system.index, "accountant", "gate", {"accepted": 40, "results": 40, "dropped": {"stale": 2}})
        state = until(lambda: (s := client.get("/v1/streams/gate").json()["state"])["drops"] and s)
        assert state["drops"] == {"stale": 2} and state["alignment"]["aligned"] is True
        assert state["last_result_age_s"] < 60

        redis_server.stop()
        assert client.get("/v1/streams/gate/results").json()["code"] == "index_unavailable"
        assert until(lambda: client.get("/v1/streams").json())["streams"][0]["state"] is None
        assert client.delete("/v1/streams/gate").status_code == 204, "registration needs no index"
        registered.catch_up()
        found = registered.get("gate")
        assert found is not None and not found.active
        registered.close()
    writer.close()
    system.index.close()


def test_a_broker_that_is_away_costs_the_models_nothing(tmp_path: Path) -> None:
    """G8: the stream routes say it themselves, at once; the sync path stays ready."""
    bundles = stub_bundles(tmp_path)
    settings = Settings(kafka="127.0.0.1:1", redis="", mixed_dir=tmp_path / "mixed")
    streams = make_streams(settings)
    app = create_app(settings, StubServer(bundles), Catalogue(bundles), stub_canaries(bundles), streams=streams)
    with TestClient(app) as client:
        for _ in range(3):
            began = time.monotonic()
            answer = client.get("/v1/streams")
            assert answer.status_code == 503 and answer.json()["code"] == "streams_unavailable"
            assert "retry-after" in answer.headers and time.monotonic() - began < 1
        assert until(lambda: client.get("/readyz").is_success)
        assert client.get("/v1/models").is_success
