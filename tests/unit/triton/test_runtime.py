"""The private view of the repository that Triton gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from triton_support import colours_model
from tritonclient.grpc import model_config_pb2 as pb

from serving.adapters.triton_room import room_of
from serving.backend import real_version_dir
from serving.errors import CertificateRefused, SpecInvalid, Unavailable
from serving.triton.home import TritonHome
from serving.triton.runtime import Runtime, instances_of, reap
from serving.tuning import TUNING, Tuning, TuningRow, read_tuning


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    runtime = Runtime(tmp_path / "run", "test_")
    runtime.repository.mkdir(parents=True)
    return runtime


def config_of(runtime: Runtime, name: str = "colours") -> pb.ModelConfig:
    return text_format.Parse((runtime.repository / name / "config.pbtxt").read_text(), pb.ModelConfig())


def test_a_version_appears_by_link_and_the_repository_is_not_touched(runtime: Runtime, tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository")
    (version / "__pycache__").mkdir()
    (version / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"planted")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in version.parent.rglob("*"))
    assert runtime.add_model("colours", version) is None
    shown = runtime.repository / "colours" / "1"
    assert {p.name for p in shown.iterdir()} == {p.name for p in version.iterdir() if p.is_file()}, "no bytecode"
    assert real_version_dir(shown) == version.resolve()
    assert config_of(runtime) == text_format.Parse((version.parent / "config.pbtxt").read_text(), pb.ModelConfig())
    assert sorted((p.name, p.stat().st_mtime_ns) for p in version.parent.rglob("*")) == before


def test_the_chosen_version_is_the_one_that_is_served(runtime: Runtime, tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository", version=2)
    version.rename(version.with_name("3"))
    runtime.add_model("colours", version.with_name("3"))
    assert list(config_of(runtime).version_policy.specific.versions) == [3]


def test_a_certificates_server_lets_nothing_time_out_in_the_queue(runtime: Runtime, tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository", serving={"queue_timeout_ms": 40})
    runtime.add_model("colours", version, patient=True)
    policy = config_of(runtime).dynamic_batching.default_queue_policy
    assert policy.default_timeout_microseconds == 0 and policy.max_queue_size > 0


def test_tuning_sets_instances_and_bounds_the_batch(runtime: Runtime, tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository", serving={"instances": 1, "max_queue_size": 9})
    row = TuningRow(instances=2, threads=1, max_batch=4, clients=8, requests_per_s=10, p50_ms=1, p95_ms=2)
    tuning = Tuning(instances=2, threads=1, max_batch=4, cores=2, table=(row,))
    tuning.write(version)
    assert runtime.add_model("colours", version) == tuning
    config = config_of(runtime)
    assert (config.instance_group[0].count, config.max_batch_size) == (2, 4)
    assert room_of(config) == 9 + 2 * 4
    assert max(w.batch_size for w in config.model_warmup) <= 4
    assert instances_of((runtime.repository / "colours" / "config.pbtxt").read_text()) == 2


def test_a_broken_tuning_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / TUNING).write_text('{"instances": 0}')
    with pytest.raises(SpecInvalid, match="tuning.json"):
        read_tuning(tmp_path)


def test_each_generation_changes_the_configuration_and_nothing_else(runtime: Runtime, tmp_path: Path) -> None:
    runtime.add_model("colours", colours_model(tmp_path / "repository"))
    first = config_of(runtime)
    seen = set()
    for generation in (1, 2, 3):
        runtime.next_generation("colours", generation)
        config = config_of(runtime)
        seen.add(config.parameters["generation"].string_value)
        del config.parameters["generation"]
        assert config == first
    assert seen == {"1", "2", "3"}


def test_a_model_without_configuration_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository")
    (version.parent / "config.pbtxt").unlink()
    with pytest.raises(CertificateRefused, match=r"config\.pbtxt"):
        runtime.add_model("colours", version)


def test_without_triton_the_message_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="make setup") as caught:
        Runtime.create(tmp_path, TritonHome(tmp_path / "nowhere"))
    assert "tritonserver" in str(caught.value)


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead, alive, other = tmp_path / "triton-4194305-ab", tmp_path / "triton-1-ab", tmp_path / "something"
    tuned = tmp_path / "tune-4194305-cd"
    for folder in (dead, alive, other, tuned):
        folder.mkdir()
    assert sorted(reap(tmp_path)) == [dead, tuned]
    assert not dead.exists() and not tuned.exists() and alive.exists() and other.exists()
