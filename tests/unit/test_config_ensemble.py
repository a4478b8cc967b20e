"""The GPU ensemble's four configurations against Triton's own protobuf."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from triton_support import adder_model, colours_model, redness_model
from tritonclient.grpc import model_config_pb2 as pb

from converters.config_ensemble import ensemble_configs, write_ensemble
from serving.bundle import ModelBundle
from serving.errors import BuildFailed, SpecInvalid


def parsed(version: Path) -> dict[str, pb.ModelConfig]:
    configs = ensemble_configs(ModelBundle.load(version))
    return {name: text_format.Parse(text, pb.ModelConfig()) for name, text in configs.items()}


def test_the_ensemble_looks_like_the_single_model_to_its_callers(tmp_path: Path) -> None:
    version = redness_model(tmp_path)
    single = text_format.Parse((version.parent / "config.pbtxt").read_text(), pb.ModelConfig())
    ensemble = parsed(version)["redness"]
    assert ensemble.platform == "ensemble" and ensemble.max_batch_size == single.max_batch_size
    assert [(i.name, i.data_type, list(i.dims), i.optional) for i in ensemble.input] == [
        (i.name, i.data_type, list(i.dims), i.optional) for i in single.input
    ]
    assert list(ensemble.output) == list(single.output)


def test_every_tensor_between_the_steps_is_made_once_and_used(tmp_path: Path) -> None:
    configs = parsed(redness_model(tmp_path))
    ensemble = configs["redness"]
    steps = ensemble.ensemble_scheduling.step
    assert [s.model_name for s in steps] == ["redness_preprocess", "redness_engine", "redness_postprocess"]
    known = {i.name for i in ensemble.input}
    for step in steps:
        config = configs[step.model_name]
        assert set(step.input_map) == {i.name for i in config.input}
        assert set(step.output_map) == {o.name for o in config.output}
        assert set(step.input_map.values()) <= known
        assert not set(step.output_map.values()) & known
        known |= set(step.output_map.values())
    assert {o.name for o in ensemble.output} <= known


def test_the_engine_step_is_tritons_own_tensorrt_backend(tmp_path: Path) -> None:
    engine = parsed(colours_model(tmp_path, batch={"opt": 4, "max": 16}, serving={"instances": 2}))["colours_engine"]
    assert (engine.platform, engine.default_model_filename, engine.max_batch_size) == (
        "tensorrt_plan",
        "model.plan",
        16,
    )
    assert [(g.kind, g.count) for g in engine.instance_group] == [(pb.ModelInstanceGroup.KIND_GPU, 2)]
    assert [(i.name, i.data_type, list(i.dims)) for i in engine.input] == [("x", pb.TYPE_FP32, [3, 8, 8])]
    assert engine.dynamic_batching.default_queue_policy.max_queue_size == 64


def test_the_plan_is_linked_and_its_absence_is_named(tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository")
    with pytest.raises(BuildFailed, match=r"\.plan"):
        write_ensemble(ModelBundle.load(version), tmp_path / "none")
    (version / "engine.tensorrt.sm90.plan").write_bytes(b"plan")
    names = write_ensemble(ModelBundle.staging(version), tmp_path / "gpu")
    assert names[0] == "colours"
    assert (tmp_path / "gpu" / "colours_engine" / "1" / "model.plan").read_bytes() == b"plan"
    assert (tmp_path / "gpu" / "colours" / "1" / "spec.json").is_file()


def test_a_raw_model_needs_no_ensemble(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="raw"):
        ensemble_configs(ModelBundle.load(adder_model(tmp_path)))
