"""One followed object over a real broker: its box comes by REST, a worker follows it, and the ledger balances."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from kafka_support import shared_kafka
from redis_support import RedisServer
from starlette.testclient import TestClient
from test_streams_on_kafka import CAMERA, PARTITIONS, System, until

from serving.align import CloseRule
from serving.clock import SystemClock
from serving.frames import SourceKind
from serving.ports_log import TopicPartition
from serving.preprocess.jpeg import JpegCodec
from serving.records import StreamMessage, decode_result, result_document
from serving.records.schema import results_schema
from serving.roles.accountant import LogAccountant
from serving.roles.following import standing
from serving.roles.index import IndexWriter
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.jobs import WorkerSettings
from serving.roles.ledger import read_ledger
from serving.roles.names import Names
from serving.roles.regions import SourceRegions
from serving.roles.registered import Registered
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker
from serving.streams.drawing import Drawing
from serving.streams.run import run
from serving.streams.sessions import session_of
from serving.streams.source_run import SourceJob
from serving.streams.worker import Pipeline, Region, Worker
from serving.targets import Aim
from serving.testing.list_source import Connection, ListSource
from tests.unit.tasks.test_targets_followed import SPEC, TASK, Model, picture

pytestmark = [pytest.mark.needs("kafka"), pytest.mark.needs("redis")]
NAMES = Names("targets.")
FRAMES, FOLLOWED, BOX = 12, "tower", (40, 60, 80, 100)
VOLATILE = ("timings_ms", "attempt", "capture_ns", "capture_quality", "raw_pts", "dts", "epoch")
CLOCK = SystemClock()


@pytest.fixture
def system(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> System:
    return System(shared_kafka(request).bootstrap, redis_server.url, tmp_path, NAMES)


def pipeline() -> Pipeline:
    return Pipeline(
        "siamfc", 1, TASK.name, Model(), lambda result: TASK.to_document(result, ("target",)), ("target",),
        new_session=session_of(TASK, SPEC, {}),
    )  # fmt: skip


def source() -> ListSource:
    return ListSource(FOLLOWED, [Connection([(3600 * n, picture(40 + 4 * n)) for n in range(FRAMES)])], SourceKind.FILE)


def ingested(system: System, ingest_id: str) -> None:
    stream = StreamMessage(FOLLOWED, "file:clip", ("siamfc",), mixed=False)
    role = LogIngest(
        system.log, NAMES, source(), stream, ingest_id, IngestSettings(JpegCodec()), CLOCK, lambda seconds: False
    )
    role.run()
    assert role.frames == FRAMES and not role.fenced


@contextmanager
def roles(system: System) -> Iterator[None]:
    """A worker and an accountant that fills the index."""
    registered, regions = Registered(system.log, NAMES), SourceRegions({}, lambda stream, path: False)
    worker = LogWorker(
        system.log, NAMES, Worker([pipeline()], regions, LogTransport(JpegCodec())), WorkerSettings(), CLOCK,
        lambda: None, registered=registered, regions=regions, codec=JpegCodec(),
    )  # fmt: skip
    writer = IndexWriter(system.index, system.log, NAMES, CLOCK).start()
    accountant = LogAccountant(system.log, NAMES, CloseRule(), CLOCK, index=system.index, writer=writer)
    stop = threading.Event()

    def account() -> None:
        while not stop.is_set():
            accountant.step()
        accountant.close()

    threads = [threading.Thread(target=worker.run), threading.Thread(target=account)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        worker.stop()
        stop.set()
        for thread in threads:
            thread.join(30)
        writer.close()


def results(system: System, epoch: int) -> list[dict[str, Any]]:
    topic = NAMES.topic("results")
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    found: list[dict[str, Any]] = []
    for record in chain.from_iterable(standing(system.log, places)):
        jsonschema.validate(json.loads(record.value or b""), results_schema())
        found.append(result_document(decode_result(record.key, record.value, record.headers)))
    mine = [document for document in found if (document["source_id"], document["epoch"]) == (FOLLOWED, epoch)]
    return sorted(map(bare, mine), key=lambda document: int(document["frame_seq"]))


def bare(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in VOLATILE}


def in_process() -> list[dict[str, Any]]:
    """`lockstep run --transport jpeg --target ...`."""
    lines, region = io.StringIO(), Region(targets=(Aim(1, BOX),))
    job = SourceJob(source(), Drawing({}), lambda stream: [], results=lines, mixed=False, region=region)
    run([job], [pipeline()], transport=JpegCodec())
    return [bare(json.loads(line)) for line in lines.getvalue().splitlines()]


def test_a_box_given_by_rest_is_followed_by_the_worker_as_run_follows_it(system: System, tmp_path: Path) -> None:
    with TestClient(system.app) as client, roles(system):
        until(lambda: client.get("/v1/streams").is_success)
        body = {"source_id": FOLLOWED, "address": CAMERA, "pipelines": ["persons"]}
        assert client.post("/v1/streams", json=body).status_code == 201
        targets = f"/v1/streams/{FOLLOWED}/targets"
        early = client.post(targets, json={"xyxy": BOX})
        assert early.status_code == 409, "its size is not known yet"
        ingested(system, "ingest-1")
        until(lambda: len(client.get(f"/v1/streams/{FOLLOWED}/results").json()["results"]) == FRAMES)
        assert [document["targets"] for document in results(system, 1)] == [[]] * FRAMES, "nobody was named"
        assert client.post(targets, json={"xyxy": [300, 150, 340, 190]}).status_code == 422
        given = client.post(targets, json={"xyxy": BOX, "epoch": 2, "pts_ns": 0})
        assert given.status_code == 201 and given.json()["target_id"] == 1, given.text
        ingested(system, "ingest-2")
        until(lambda: len(results(system, 2)) == FRAMES)
        until(lambda: all(row.balanced for row in read_ledger(system.log, NAMES, FOLLOWED)))
        rows = read_ledger(system.log, NAMES, FOLLOWED)
    assert [(row.epoch, row.accepted, row.results, row.open) for row in rows] == [
        (n, FRAMES, FRAMES, 0) for n in (1, 2)
    ]
    found = results(system, 2)
    assert [document["targets"][0]["state"] for document in found] == ["tracking"] * FRAMES
    assert abs(found[-1]["detections"][0]["xyxy"][0] - (40 + 4 * (FRAMES - 1))) < 4
    assert found == in_process()
