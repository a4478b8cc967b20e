"""What the limited child answers is kept only of the checkpoint that was hashed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters import artifacts
from converters.arrays import save_samples
from converters.job import REFERENCE, ChildJob, ChildReport, LoadReport
from converters.meter import Say
from converters.samples import Sample, SampleSet
from converters.sources import Sources
from converters.work_folder import WorkFolder
from serving.bundle import sha256_of
from serving.errors import CheckpointRefused
from serving.spec import ModelSpec
from serving.tasks import task_named

SPEC = ModelSpec.model_validate(
    {
        "name": "m", "task": "raw", "checkpoint": {"format": "onnx"}, "inputs": [{"name": "x", "shape": [3]}],
        "outputs": ["y"],
    }
)  # fmt: skip
Child = Callable[[ChildJob, Say], ChildReport]


def sources_of(folder: Path) -> Sources:
    checkpoint = folder / "m.onnx"
    checkpoint.write_bytes(b"epoch 1")
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3, np.float32))
    samples = SampleSet((Sample("a.npz", folder / "a.npz", buffer.getvalue()),), labelled=False)
    yaml, content = folder / "m.yaml", "c" * 64
    sha256, task = sha256_of(checkpoint), task_named("raw")
    return Sources(SPEC, yaml, task, checkpoint, sha256, (), samples, None, "cpu", content, folder)


def loaded(job: ChildJob, progress: Say) -> ChildReport:
    assert job.checkpoint is not None
    save_samples(job.folder / REFERENCE, [{"y": np.zeros(3, np.float32)}])
    return ChildReport(LoadReport("onnx", sha256_of(job.checkpoint)))


def overwritten_before(job: ChildJob, progress: Say) -> ChildReport:
    assert job.checkpoint is not None
    job.checkpoint.write_bytes(b"epoch 2")
    return loaded(job, progress)


def overwritten_between_hash_and_load(job: ChildJob, progress: Say) -> ChildReport:
    report = loaded(job, progress)
    assert job.checkpoint is not None
    job.checkpoint.write_bytes(b"epoch 2")
    return report


def taken_away(job: ChildJob, progress: Say) -> ChildReport:
    report = loaded(job, progress)
    assert job.checkpoint is not None
    job.checkpoint.unlink()
    return report


@pytest.mark.parametrize("child", [overwritten_before, overwritten_between_hash_and_load, taken_away])
def test_a_checkpoint_that_training_overwrites_meanwhile_is_refused_and_nothing_is_kept(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, work = sources_of(tmp_path), WorkFolder.of(tmp_path / "cache", "m", "c" * 64)
    monkeypatch.setattr(artifacts, "run_child", child)
    message = f"stage load: .*changed while it was read: .*{sources.checkpoint_sha256}"
    with pytest.raises(CheckpointRefused, match=message):
        artifacts.computed_by_checkpoint(sources, work, lambda line: None)
    assert not list(work.path.glob("stage.*"))
    sources.checkpoint.write_bytes(b"epoch 1")
    monkeypatch.setattr(artifacts, "run_child", loaded)
    computed = artifacts.computed_by_checkpoint(sources, work, lambda line: None)
    assert computed.report.load.sha256 == sources.checkpoint_sha256
