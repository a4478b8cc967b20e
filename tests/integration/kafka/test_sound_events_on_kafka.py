"""Sounds of several classes over the log: each class its own events, document by document what `lockstep run` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soxr

from models.importers import ImportedModel
from models.samples.sound_scenes import read_wav
from serving.ports_log import RecordLog
from serving.roles.names import Names
from serving.served_model import ServedModel
from serving.streams.models import OpenedModel, OpenModel, in_process
from serving.testing.stub_bundles import make_bundle
from tests.integration.kafka import test_sound_on_kafka as over
from tests.integration.streams import test_run_sound as clips
from tests.unit.models.conftest import imported as imported
from tests.unit.models.test_sound_events import SPEC, trained

pytestmark = [pytest.mark.needs("torch"), pytest.mark.timeout(600)]
system = over.system  # the fixture: a log in memory, and a real broker
SCENE = "scene_00_20db.wav"


def opener(folder: Path, brought: ImportedModel) -> OpenModel:
    """The checkpoint with the rules of its YAML."""

    def opened(name: str) -> OpenedModel:
        bundle = make_bundle(folder / "repository", name, "audio", sound={"window": 512}, outputs=["p"], labels=["x"])
        object.__setattr__(bundle, "spec", SPEC)
        object.__setattr__(bundle, "labels", SPEC.labels)
        return in_process(ServedModel(bundle, clips.Engine(trained(brought))))

    return opened


def test_each_class_has_its_events_over_the_log_as_run_tells_them(
    system: tuple[RecordLog, Names], imported: Callable[[str], ImportedModel], tmp_path: Path
) -> None:
    brought = imported("sound_events")
    samples = soxr.resample(read_wav(brought.samples / SCENE), 16_000, clips.RATE).astype(np.float32)
    path = clips.make_sound_clip(tmp_path / "clip.mkv", samples, pictures=4)
    clips.ran(path, opener(tmp_path / "a", brought), "sound_events", results=tmp_path / "r.jsonl")
    wanted = [row | {"source_id": "clip-sound"} for row in clips.lines(tmp_path / "r.jsonl")]
    streams = over.streams_of(path, "", "sound_events")
    found, balances = over.through_the_log(*system, streams, opener(tmp_path / "b", brought))
    assert len({event["label"] for row in wanted for event in row["events"]}) >= 2
    assert over.same(found["clip-sound"], wanted) and balances["clip-sound"].holds
    assert balances["clip-sound"].results == len(wanted) > 8
