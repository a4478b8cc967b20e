"""Pictures and sound of one file over the log: the sound is a source of its own, heard as `lockstep run` hears it.

The clip of `test_run_sound` turns white exactly while a tone sounds, a second after its sound began: a piece that is
keyed by the sound's own count from zero lies a second beside the picture it belongs to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import soundfile
import soxr
from kafka_support import shared_kafka

from models.importers import ImportedModel
from serving.adapters.kafka import KafkaLog, KafkaOptions, KafkaTopics
from serving.adapters.video import ReaderOptions
from serving.adapters.video.heard import SoundTrack
from serving.align import Balance, CloseRule
from serving.clock import SystemClock
from serving.ports_log import RecordLog, TopicPartition, TopicState
from serving.preprocess.jpeg import JpegCodec
from serving.records import StreamMessage, decode_result, result_document
from serving.roles.accountant import LogAccountant
from serving.roles.following import standing
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.jobs import WorkerSettings
from serving.roles.mixer import LogMixer
from serving.roles.names import Names
from serving.roles.reading import source_of
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker
from serving.served_model import ServedModel
from serving.spec import ModelSpec, SoundSpec
from serving.streams.models import OpenedModel, in_process, open_pipelines
from serving.streams.worker import Worker
from serving.testing.memory_log import MemoryLog
from serving.testing.stub_bundles import make_bundle
from tests.integration.kafka.test_one_source import Sink, new_role
from tests.integration.streams import test_run_sound as clips
from tests.unit.models.conftest import imported as imported
from tests.unit.models.test_silero_vad import published

CLOCK = SystemClock()
TOPICS = ("frames", "results", "outcomes", "timelines", "dead_letter", "streams")
VOLATILE = ("timings_ms", "attempt", "raw_pts", "dts")


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.needs("kafka"))])
def system(request: pytest.FixtureRequest) -> tuple[RecordLog, Names]:
    return _memory() if request.param == "memory" else _kafka(request)


def _memory() -> tuple[RecordLog, Names]:
    names = Names("sound.")
    return MemoryLog({names.topic(topic): 2 for topic in TOPICS}), names


def _kafka(request: pytest.FixtureRequest) -> tuple[RecordLog, Names]:
    names = Names(f"sound{time.monotonic_ns() % 1_000_000}.")
    options = KafkaOptions(shared_kafka(request).bootstrap, delivery_timeout_s=0)
    admin = KafkaTopics(options)
    for topic in TOPICS:
        admin.create(names.topic(topic), TopicState(2, 1, {}))
    return KafkaLog(options), names


OpenModel = Callable[[str], OpenedModel]
clip, open_model = clips.clip, clips.open_model  # the fixtures


def streams_of(path: Path, eyes: str = "eyes", ears: str = "ears") -> list[StreamMessage]:
    """What `lockstep ingest` makes of a file and these models."""
    sound = StreamMessage("clip-sound", str(path), (ears,), sound=SoundSpec(window=512))
    return [*([StreamMessage("clip", str(path), (eyes,), mixed=True)] if eyes else []), sound]


def through_the_log(
    log: RecordLog, names: Names, streams: list[StreamMessage], open_model: OpenModel, track: str = "", reid: str = ""
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Balance]]:
    """Results of each source by frame, and balances, once every source is over and accounted for."""
    models = tuple(name for stream in streams for name in stream.pipelines)
    with ExitStack() as stack:
        pipelines, most = open_pipelines(models, open_model, stack, track, reid)
        role = Worker(pipelines, None, LogTransport(JpegCodec()), lambda frame: worker.first_id(frame))
        worker = LogWorker(log, names, role, WorkerSettings(max_batch=most), CLOCK, lambda: None)
        accountant = LogAccountant(log, names, CloseRule(), CLOCK)
        mixer = LogMixer(log, names, new_role(Sink()), JpegCodec(), CLOCK)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            for stream in streams:
                source = source_of(stream, ReaderOptions())
                LogIngest(
                    log, names, source, stream, "ingest-1", IngestSettings(JpegCodec()), CLOCK, lambda seconds: False
                ).run()
            shown = [stream.source_id for stream in streams if stream.sound is None]
            deadline = time.monotonic() + 60
            while not (
                all(accountant.is_finished(stream.source_id) for stream in streams)
                and all(mixer.outputs(source_id) is not None for source_id in shown)
            ):
                accountant.step(0.02)
                mixer.step(0.02)
                assert thread.is_alive() and time.monotonic() < deadline, worker.counters
            assert mixer.refused == accountant.dead_letters == 0
            assert mixer.role("clip-sound") is None, "nothing of a sound is shown"
            balances = {s.source_id: accountant.totals(s.source_id)[s.pipelines[0]] for s in streams}
        finally:
            worker.stop()
            thread.join(30)
            accountant.close()
            mixer.close()
    return {stream.source_id: results_of(log, names, stream.source_id) for stream in streams}, balances


def results_of(log: RecordLog, names: Names, source_id: str) -> list[dict[str, Any]]:
    places = [TopicPartition(names.topic("results"), n) for n in range(2)]
    found: list[dict[str, Any]] = []
    for record in chain.from_iterable(standing(log, places)):
        if record.key == source_id.encode():
            found.append(result_document(decode_result(record.key, record.value, record.headers)))
    return sorted(found, key=lambda document: document["frame_seq"])


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Document by document, but for how long it took and how it came."""
    kept = [[{k: v for k, v in row.items() if k not in VOLATILE} for row in rows] for rows in (found, wanted)]
    return len(wanted) > 0 and kept[0] == kept[1]


def beside_the_picture(found: dict[str, list[dict[str, Any]]]) -> bool:
    """The tone begins with the first white picture, by their PTS."""
    white = next(row["pts_ns"] for row in found["clip"] if row["classes"][0]["class_id"] == 1)
    ((start, _),) = clips.last_words(found["clip-sound"])
    return abs(start - white) < 0.064 * clips.NS


def test_sound_over_the_log_is_what_run_hears_beside_the_pictures(
    system: tuple[RecordLog, Names], clip: Path, open_model: OpenModel, tmp_path: Path
) -> None:
    clips.ran(clip, open_model, "eyes", "ears", results=tmp_path / "r.jsonl")
    found, balances = through_the_log(*system, streams_of(clip), open_model)
    assert same(found["clip-sound"], clips.lines(tmp_path / "r-clip-sound.jsonl"))
    assert beside_the_picture(found)
    for source_id, balance in balances.items():
        assert balance.holds and balance.in_flight == 0 and balance.results == balance.accepted == len(found[source_id])


def test_seeded_defect_pieces_keyed_by_the_sounds_own_count_are_caught(
    clip: Path, open_model: OpenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips.ran(clip, open_model, "eyes", "ears", results=tmp_path / "r.jsonl")
    begun = SoundTrack.__init__

    def from_zero(track: SoundTrack, *given: Any) -> None:
        begun(track, *given)
        track.first_picture_s = None

    monkeypatch.setattr(SoundTrack, "__init__", from_zero)
    found, balances = through_the_log(*_memory(), streams_of(clip), open_model)
    assert not beside_the_picture(found)
    assert not same(found["clip-sound"], clips.lines(tmp_path / "r-clip-sound.jsonl"))
    assert all(balance.holds for balance in balances.values()), "no account can see it: only the keys are wrong"


@pytest.mark.needs("kafka")
def test_real_speech_over_a_real_broker_is_what_run_hears(
    request: pytest.FixtureRequest, imported: Callable[[str], ImportedModel], tmp_path: Path
) -> None:
    """silero-vad's own network and a recording of it, beside pictures that begin a second after the sound."""
    recording = next(imported("silero_vad").samples.glob("recorded_*0870.wav"))
    samples, rate = soundfile.read(recording, dtype="float32")
    spoken = soxr.resample(samples, rate, clips.RATE)
    path = clips.make_sound_clip(tmp_path / "clip.mkv", spoken.astype(np.float32), pictures=4)
    silero = silero_in(tmp_path)
    summary = clips.ran(path, silero, "silero_vad", results=tmp_path / "r.jsonl")
    found, balances = through_the_log(*_kafka(request), streams_of(path, "", "silero_vad"), silero)
    wanted = [row | {"source_id": "clip-sound"} for row in clips.lines(tmp_path / "r.jsonl")]
    assert summary.sources[0].balances["silero_vad"].results == balances["clip-sound"].results == len(wanted) > 8
    assert balances["clip-sound"].holds and len(clips.last_words(wanted)) >= 1
    assert same(found["clip-sound"], wanted)


def silero_in(folder: Path) -> OpenModel:
    """The package's file in onnxruntime, with the rules of the YAML."""
    run = published("silero_vad_openvino_16k.onnx")

    def opened(name: str) -> OpenedModel:
        bundle = make_bundle(folder / str(uuid4()), name, "audio", sound={"window": 512}, outputs=["p"], labels=["x"])
        object.__setattr__(bundle, "spec", ModelSpec.read(Path("models/silero_vad.yaml")))
        return in_process(ServedModel(bundle, clips.Engine(run)))

    return opened
