"""models/sound_events.yaml through the whole flow: certified with its spectrogram inside, then asked in every way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from converters.parity import Judge
from converters.rows_gates import gate_of
from converters.rows_network import Reference, network_row
from models.importers import ImportedModel
from models.train.sound_events import training_side
from serving.sequences import run_windows
from serving.tasks import task_named
from serving.types import Array
from tests.integration.streams import test_run_sound as clips
from tests.unit.models.conftest import CACHE
from tests.unit.models.conftest import imported as imported
from tests.unit.models.test_sound_events import LABELS, RULE, SPEC

ROOT = Path(__file__).resolve().parents[3]
SCENE = "scene_00_20db.wav"
pytestmark = [pytest.mark.needs("torch", "triton"), pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of settings; what is imported is in the project's cache."""
    folder = tmp_path_factory.mktemp("sound_events")
    settings = {"repository": str(folder / "repository"), "cache_dir": str(CACHE)}
    (folder / "settings.yaml").write_text(json.dumps(settings), "utf-8")
    return folder


@pytest.fixture(scope="module")
def certificate(home: Path) -> dict[str, Any]:
    lockstep(home, "convert", "models/sound_events.yaml")
    (file,) = (home / "repository" / "sound_events").glob("*/certificate.cpu.json")
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def lockstep(home: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "lockstep"), *arguments, "--config", str(home / "settings.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    return done.stdout


def test_every_row_passes_and_the_score_is_that_of_every_runtime(
    certificate: dict[str, Any], home: Path, imported: Callable[[str], ImportedModel]
) -> None:
    rows = {row["stage"]: row for row in certificate["rows"]}
    assert certificate["verdict"] == "passed"
    assert rows["preprocess"]["status"] == rows["onnx_fp16"]["status"] == rows["expected_score"]["status"] == "passed"
    samples = str(imported("sound_events").samples)
    for runtime in ("served", "checkpoint", "onnx"):
        told = lockstep(home, "evaluate", "sound_events", "--data", samples, "--runtime", runtime, "--json")
        scores = json.loads(told)["scores"]
        assert scores["samples"] == 36 and set(scores["by_class"]) == set(LABELS)
        assert scores["event_f1"] == pytest.approx(rows["expected_score"]["figures"]["served"], abs=0.02)


def test_a_file_and_its_stream_say_the_same(
    certificate: dict[str, Any], home: Path, imported: Callable[[str], ImportedModel], tmp_path: Path
) -> None:
    sound = imported("sound_events").samples / SCENE
    events = json.loads(lockstep(home, "infer", "sound_events", str(sound), "--json"))["events"]
    assert len({event["label"] for event in events}) >= 2
    lockstep(home, "run", str(sound), "--model", "sound_events", "--results", str(tmp_path / "r.jsonl"))
    wanted = [(event["start_pts_ns"], event["end_pts_ns"]) for event in events]
    assert sorted(clips.last_words(clips.lines(tmp_path / "r.jsonl"))) == sorted(wanted)


def test_a_spectrogram_that_was_exported_wrong_is_refused(
    certificate: dict[str, Any], home: Path, imported: Callable[[str], ImportedModel], tmp_path: Path
) -> None:
    """The bands of the exported graph, one further down: seen because they are inside it."""
    (path,) = (home / "repository" / "sound_events").glob("*/model.onnx")
    model = onnx.load(path)
    (bands,) = [tensor for tensor in model.graph.initializer if sorted(tensor.dims) == [40, 257]]
    good = session_of(model)
    moved = np.roll(numpy_helper.to_array(bands), 1, list(bands.dims).index(40))
    bands.CopyFrom(numpy_helper.from_array(moved.copy(), bands.name))
    files = sorted(imported("sound_events").samples.glob("*.wav"))[::6]
    windows = [{"window": training_side(file.read_bytes())} for file in files]
    outputs = [{k: v[0] for k, v in run_windows(good, one["window"][None], RULE)[0].items()} for one in windows]
    reference = Reference([file.name for file in files], windows, outputs, [None] * len(files))
    judge, gate = Judge(task_named("audio"), SPEC, LABELS), gate_of("engine_openvino", task_named("audio"), SPEC)
    assert network_row("onnx_fp32", "good", good, reference, judge, gate).status == "passed"
    row = network_row("onnx_fp32", "bands moved", session_of(model), reference, judge, gate)
    assert row.status == "failed" and "decisions flip, first in window" in row.reason


def session_of(model: Any) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))
