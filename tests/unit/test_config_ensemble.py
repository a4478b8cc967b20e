"""The GPU ensemble's four configurations against Triton's own protobuf."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from triton_support import adder_model, colours_model, redness_model
from tritonclient.grpc import model_config_pb2 as pb

from converters import proof
from converters.config_ensemble import ensemble_configs, publish_ensemble, write_ensemble
from serving.adapters.triton_room import room_of
from serving.bundle import ModelBundle
from serving.errors import BuildFailed, EngineFailed, SpecInvalid


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
    assert engine.HasField("dynamic_batching") and not engine.dynamic_batching.HasField("default_queue_policy")


def test_the_ensemble_tells_its_clients_how_many_may_wait(tmp_path: Path) -> None:
    configs = parsed(colours_model(tmp_path, batch={"opt": 1, "max": 8}, serving={"max_queue_size": 5}))
    assert room_of(configs["colours"]) == 5 + 8


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


def test_publishing_again_replaces_the_older_version_and_leaves_nothing_aside(tmp_path: Path) -> None:
    first = colours_model(tmp_path / "repository")
    (first / "engine.tensorrt.sm90.plan").write_bytes(b"first")
    home = publish_ensemble(ModelBundle.staging(first), tmp_path / "repository")
    assert home == tmp_path / "repository.gpu"
    second = first.rename(first.with_name("2"))
    (second / "engine.tensorrt.sm90.plan").write_bytes(b"second")
    publish_ensemble(ModelBundle.staging(second), tmp_path / "repository")
    assert sorted(p.name for p in home.iterdir() if not p.name.startswith(".")) == [
        "colours", "colours_engine", "colours_postprocess", "colours_preprocess"
    ]  # fmt: skip
    assert [p.name for p in (home / "colours").iterdir() if p.is_symlink()] == ["2"]
    assert (home / "colours_engine" / "2" / "model.plan").read_bytes() == b"second"
    assert not list((home / ".staging").iterdir())


def test_a_version_without_a_plan_leaves_the_older_ensemble_alone(tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository")
    plan = version / "engine.tensorrt.sm90.plan"
    plan.write_bytes(b"plan")
    home = publish_ensemble(ModelBundle.staging(version), tmp_path / "repository")
    plan.unlink()
    with pytest.raises(BuildFailed, match=r"\.plan"):
        publish_ensemble(ModelBundle.staging(version), tmp_path / "repository")
    assert (home / "colours" / "config.pbtxt").is_file() and (home / "colours_engine" / "1").is_dir()


def test_target_gpu_builds_what_tritons_backend_takes_and_refuses_at_once_without_a_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = ModelBundle.load(colours_model(tmp_path)).spec
    assert proof.libraries(spec, "gpu") == ["tensorrt"]
    assert proof.libraries(spec, "cpu") == [name for name in spec.engines if name.startswith("tensorrt")]

    def none() -> int:
        raise EngineFailed("no usable GPU")

    monkeypatch.setattr(proof, "compute_capability", none)
    with pytest.raises(BuildFailed, match="target gpu: no usable GPU"):
        proof.require_device()
