"""silero_vad: equal to the package's own files on real speech, and the published `_half` file refused by its flips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from converters.parity import Judge
from converters.rows_gates import gate_of
from converters.rows_network import Reference, network_row
from models.importers import ImportedModel
from models.importers.manifest import read_manifest
from models.importers.package import fetch
from models.importers.silero_vad import training_side
from serving.preprocess.audio import windows_of
from serving.sequences import run_windows
from serving.spec import ModelSpec
from serving.tasks import task_named
from serving.types import Array
from tests.unit.models.conftest import CACHE

SPEC = ModelSpec.read(Path("models/silero_vad.yaml"))


@pytest.fixture(scope="module")
def brought(imported: Callable[[str], ImportedModel]) -> ImportedModel:
    return imported("silero_vad")


@pytest.fixture(scope="module")
def sounds(brought: ImportedModel) -> list[tuple[str, Array]]:
    """The recordings as they are: name and windows."""
    assert SPEC.sound is not None
    files = sorted(brought.samples.glob("recorded_*.wav"))
    return [(f.name, np.concatenate(list(windows_of(f.read_bytes(), SPEC.sound)))) for f in files]


def published(name: str) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A file of the package as our network: its state has the batch in the middle."""
    package = fetch(read_manifest()["silero-vad"], CACHE, print)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(package.path(f"silero_vad/data/{name}")), options)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        state = np.ascontiguousarray(inputs["state"].transpose(1, 0, 2))
        score, after = session.run(None, {"input": inputs["window"], "state": state})
        return {"probability": score, "state_out": after.transpose(1, 0, 2)}

    return run


def ours(brought: ImportedModel) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The checkpoint in our module."""
    import torch

    from models.architectures.silero_vad import silero_vad

    module = silero_vad().eval()
    module.load_state_dict(torch.load(brought.checkpoint, weights_only=True))

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            score, state = module(torch.from_numpy(inputs["window"].copy()), torch.from_numpy(inputs["state"].copy()))
        return {"probability": score.numpy(), "state_out": state.numpy()}

    return run


def heard(run: Callable[[Mapping[str, Array]], dict[str, Array]], windows: Array) -> Array:
    assert SPEC.sound is not None
    outputs, _ = run_windows(run, windows[None], SPEC.sound)
    return np.asarray(outputs["probability"][0, :, 0])


def test_windows_are_those_of_the_training_side(brought: ImportedModel) -> None:
    assert SPEC.sound is not None
    for file in sorted(brought.samples.glob("*.wav"))[::6]:
        data = file.read_bytes()
        assert np.array_equal(np.concatenate(list(windows_of(data, SPEC.sound))), training_side(data))


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
def test_the_port_equals_the_packages_files_over_whole_recordings(
    brought: ImportedModel, sounds: list[tuple[str, Array]]
) -> None:
    """Against the TorchScript file, which carries its own state, and the package's OpenVINO ONNX file."""
    import torch

    package = fetch(read_manifest()["silero-vad"], CACHE, print)
    script = torch.jit.load(str(package.path("silero_vad/data/silero_vad.jit")), map_location="cpu")
    port, other = ours(brought), published("silero_vad_openvino_16k.onnx")
    speech = 0
    for _, windows in sounds[:4]:
        script.reset_states()
        with torch.inference_mode():
            theirs = [float(script(torch.from_numpy(w[None, 64:].copy()), 16_000)) for w in windows]
        mine = heard(port, windows)
        assert np.abs(mine - np.array(theirs)).max() < 1e-5
        assert np.abs(mine - heard(other, windows)).max() < 1e-5
        speech += int((mine >= 0.5).sum())
    assert speech > 100


def test_the_published_half_file_is_refused_and_the_place_is_named(
    brought: ImportedModel, sounds: list[tuple[str, Array]]
) -> None:
    port = ours(brought)
    names = [name for name, _ in sounds]
    outputs = [{"probability": heard(port, windows)[:, None]} for _, windows in sounds]
    reference = Reference(names, [{"window": w} for _, w in sounds], outputs, [None] * len(sounds))
    judge = Judge(task_named("audio"), SPEC, ("speech",))
    gate = gate_of("onnx_fp16", task_named("audio"), SPEC)
    good = network_row("onnx_fp16", "itself", port, reference, judge, gate)
    assert good.status == "passed"
    row = network_row("onnx_fp16", "silero_vad_half.onnx", published("silero_vad_half.onnx"), reference, judge, gate)
    print(row.reason, row.figures)
    assert row.status == "failed"
    assert "decisions flip, first in window" in row.reason and " s: " in row.reason
    assert any(name in row.reason for name in names)
