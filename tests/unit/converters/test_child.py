"""The limited child: it answers like the module, and whatever it opens cannot reach out of its walls."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from small_onnx import gathered, write_onnx, write_spec

from converters import child
from converters.arrays import load_samples, save_samples
from converters.artifacts import computed_by_checkpoint
from converters.child import run_child
from converters.job import ChildJob, ChildReport, Limits, LoadReport
from converters.work_folder import WorkFolder
from serving.errors import CheckpointRefused, ConversionError, KeysMismatch, SpecInvalid, StorageFailed

ROOT = Path(__file__).resolve().parents[3]
Job = Callable[..., ChildJob]
needs_torch = pytest.mark.needs("torch")


def test_job_and_report_survive_json(job: Job, tmp_path: Path) -> None:
    whole = replace(job(tmp_path / "x.pt"), inputs=tmp_path / "in.npz", pictures=(tmp_path / "a.jpg",))
    assert ChildJob.from_json(whole.to_json()) == whole
    report = ChildReport(LoadReport("state_dict", "00", missing=("a",)), source_labels=("x",), notes=("n",))
    assert ChildReport.from_json(report.to_json()) == report
    with pytest.raises(ConversionError, match="not readable"):
        ChildReport.from_json("{}")


@needs_torch
def test_it_writes_graph_reference_and_report_without_torch_in_the_parent(job: Job, tmp_path: Path) -> None:
    """The training side's own tensors are what the reference runs on."""
    import nets
    import torch

    torch.manual_seed(1)
    net = nets.tiny().eval()
    torch.save(net.state_dict(), tmp_path / "t.pt")
    ours = [{"images": np.full((1, 8, 8), i / 9, np.float32)} for i in range(9)]
    save_samples(tmp_path / "in.npz", ours)
    for i in range(2):
        (tmp_path / f"{i}.raw").write_bytes(bytes([10 * i] * 64))
    task = replace(
        job(tmp_path / "t.pt", parity={"training_side": "sides:bytes_as_picture", "training_arguments": {"scale": 2}}),
        inputs=tmp_path / "in.npz",
        pictures=(tmp_path / "0.raw", tmp_path / "1.raw"),
    )
    lines: list[str] = []
    report = run_child(task, progress=lines.append)
    assert report.load.keys == len(net.state_dict())
    assert report.training_pixels
    assert report.training_tensors
    training = load_samples(task.folder / "training.npz")
    assert training[1]["pixels"].shape == (8, 8, 1)
    expected = net(torch.from_numpy(np.stack([s["tensor"] for s in training]))).detach().numpy()
    answers = load_samples(task.folder / "reference.npz")
    np.testing.assert_allclose(np.stack([a["logits"] for a in answers]), expected, rtol=1e-6, atol=1e-6)
    assert (task.folder / "model.raw.onnx").stat().st_size > 0
    assert any("export" in line for line in lines)


@needs_torch
def test_an_error_of_the_child_comes_back_as_its_class(job: Job, tmp_path: Path) -> None:
    import torch

    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "t.pt")
    with pytest.raises(KeysMismatch, match="missing: conv.bias"):
        run_child(job(tmp_path / "t.pt"), progress=lambda line: None)


@needs_torch
def test_a_hostile_factory_reaches_nothing(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network, files outside, other programs, the environment's secrets: all closed; its own folder is open."""
    monkeypatch.setenv("LOCKSTEP_TEST_SECRET", "hunter2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = {"port": server.getsockname()[1], "outside": str(tmp_path / "marker")}
        task = job(None, factory={"callable": "sides:attack", "arguments": arguments})
        with pytest.raises(SpecInvalid) as caught:
            run_child(task, progress=lambda line: None)
    found = json.loads(caught.value.message.split("ValueError: ", 1)[1])
    assert found == {
        "connect": False,
        "connect_out": False,
        "write_outside": False,
        "run_program": False,
        "environment": False,
        "write_inside": True,
    }
    assert not (tmp_path / "marker").exists()


@needs_torch
def test_memory_and_processor_limits_are_named(job: Job, tmp_path: Path) -> None:
    hungry = job(None, factory={"callable": "sides:hungry"})
    with pytest.raises(CheckpointRefused, match="limit of 3000 MiB"):
        run_child(hungry, Limits(memory_bytes=3000 << 20), progress=lambda line: None)
    busy = job(None, factory={"callable": "sides:busy"})
    with pytest.raises(CheckpointRefused, match="processor time"):
        run_child(busy, Limits(cpu_seconds=8), progress=lambda line: None)


def test_a_child_that_hangs_is_ended_with_its_children(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its whole process group goes, and the wait is bounded."""
    script = "import os, time\npid = os.fork()\nopen('pid', 'w').write(str(pid)) if pid else None\ntime.sleep(60)\n"
    monkeypatch.setattr(child, "_command", lambda request: [sys.executable, "-c", script])
    task, start = job(None), time.monotonic()
    with pytest.raises(CheckpointRefused, match=r"did not finish within 1.5 s"):
        run_child(task, Limits(wall_seconds=1.5), progress=lambda line: None)
    assert time.monotonic() - start < 15
    grandchild = int((task.folder / "pid").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(grandchild) and psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the grandchild outlived its group"
        time.sleep(0.05)


RUN = """
import sys
from pathlib import Path
from converters import child
from converters.job import ChildJob
child._command = lambda request: [sys.executable, "-c", sys.argv[2]]
child.run_child(ChildJob.from_json(Path(sys.argv[1]).read_text()))
"""
WALLED = """
import os, time
from pathlib import Path
from converters import sandbox
from converters.job import Limits
sandbox.enter(Path.cwd(), Limits())
Path("pid.new").write_text(str(os.getpid()))
os.rename("pid.new", "pid")
time.sleep(60)
"""


def test_a_child_ends_with_a_converter_that_is_killed(job: Job, tmp_path: Path) -> None:
    """The lock goes with the converter, so the next one would start a second child in the same folder."""
    task = job(None)
    (tmp_path / "task.json").write_text(task.to_json())
    command = [sys.executable, "-c", RUN, str(tmp_path / "task.json"), WALLED]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as converter:
        deadline = time.monotonic() + 30
        while not (task.folder / "pid").is_file():
            assert converter.poll() is None and time.monotonic() < deadline, "the child did not start"
            time.sleep(0.05)
        child_process = psutil.Process(int((task.folder / "pid").read_text()))
        converter.kill()
    _, alive = psutil.wait_procs([child_process], timeout=10)
    for process in alive:
        process.kill()
    assert not alive, "the child outlived its converter"


FULL = """
import errno, sys
import converters.work
from converters import child

def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device", "model.raw.onnx")

converters.work.do = full
sys.exit(child.main(sys.argv[1:]))
"""


def test_a_full_disk_is_no_fault_of_the_checkpoint(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_command", lambda request: [sys.executable, "-c", FULL, str(request)])
    with pytest.raises(StorageFailed, match="No space left on device"):
        run_child(job(None), progress=lambda line: None)


def test_a_disk_that_is_full_before_the_child_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, samples: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    write_onnx(tmp_path / "m.onnx")
    sources = gathered(write_spec(tmp_path))
    monkeypatch.setattr("converters.artifacts.save_samples", full)
    with pytest.raises(StorageFailed, match=r"No space left on device .*inputs\.npz"):
        computed_by_checkpoint(sources, WorkFolder.of(tmp_path, "small", "a" * 64), lambda line: None)


def test_a_child_that_dies_says_its_last_line(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys, os; print('about to fall', file=sys.stderr, flush=True); os.abort()"
    monkeypatch.setattr(child, "_command", lambda request: [sys.executable, "-c", script])
    with pytest.raises(CheckpointRefused, match="aborted.*about to fall"):
        run_child(job(None), progress=lambda line: None)


@pytest.mark.parametrize(("name", "value"), [("wall_seconds", 0), ("memory_bytes", -1)])
def test_limits_are_checked_where_they_are_made(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})
