"""Bad input of a conversion: a clear error with its code, nothing half-made left, and the next run works."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from convert_support import LIMIT, Converted, Lines, visible
from safetensors.numpy import save_file

from converters.main import convert
from converters.publish import model_lock
from serving.config import Settings
from serving.errors import ConversionError

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("triton"), pytest.mark.needs("tensorrt_rtx")]


def digits_weights(width: int = 16) -> dict[str, Any]:
    """Random weights with the keys of models/architectures/digits_net.py."""
    rng, weights = np.random.default_rng(1), {}
    for index, (before, after) in zip((0, 4, 8), ((1, width), (width, 2 * width), (2 * width, 4 * width)), strict=True):
        weights[f"features.{index}.weight"] = rng.normal(0, 0.2, (after, before, 3, 3)).astype(np.float32)
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            weights[f"features.{index + 1}.{name}"] = np.full(after, value, np.float32)
        weights[f"features.{index + 1}.num_batches_tracked"] = np.array(1, np.int64)
    weights["head.weight"] = rng.normal(0, 0.2, (10, 4 * width)).astype(np.float32)
    weights["head.bias"] = np.zeros(10, np.float32)
    return weights


class Hostile:
    """A pickle that writes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.mark}",))


def hostile_pickle(folder: Path) -> dict[str, Any]:
    (folder / "checkpoint.pth").write_bytes(pickle.dumps({"head.weight": Hostile(folder / "it-ran")}))
    return {"path": "checkpoint.pth", "format": "state_dict"}


def not_a_number(folder: Path) -> dict[str, Any]:
    weights = digits_weights()
    weights["head.weight"][3, 5] = np.nan
    save_file(weights, folder / "checkpoint.safetensors")
    return {"path": "checkpoint.safetensors", "format": "safetensors"}


def another_architecture(folder: Path) -> dict[str, Any]:
    save_file(digits_weights(width=8), folder / "checkpoint.safetensors")
    return {"path": "checkpoint.safetensors", "format": "safetensors"}


def text(folder: Path) -> dict[str, Any]:
    (folder / "checkpoint.safetensors").write_text("this is no checkpoint\n" * 50)
    return {"path": "checkpoint.safetensors", "format": "safetensors"}


CHECKPOINTS: list[tuple[Callable[[Path], dict[str, Any]], str, str]] = [
    (hostile_pickle, "checkpoint_refused", ""),
    (not_a_number, "checkpoint_refused", "NaN"),
    (another_architecture, "keys_mismatch", "features.0.weight"),
    (text, "checkpoint_refused", ""),
]


def changed(converted: Converted, folder: Path, **changes: Any) -> Path:
    value = yaml.safe_load(converted.spec_path.read_text())
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump({**value, **changes}), "utf-8")
    return path


@pytest.mark.parametrize(("make", "code", "words"), CHECKPOINTS, ids=[c[0].__name__ for c in CHECKPOINTS])
def test_a_bad_checkpoint_is_refused_at_its_stage(
    make: Callable[[Path], dict[str, Any]], code: str, words: str, converted: Converted, tmp_path: Path
) -> None:
    before = visible(converted.settings.repository)
    path = changed(converted, tmp_path, checkpoint=make(tmp_path))
    with pytest.raises(ConversionError) as caught:
        convert(path, settings=converted.settings, limit=LIMIT, progress=Lines())
    assert caught.value.code == code
    assert str(caught.value).startswith("stage load: ") and words in str(caught.value)
    assert not (tmp_path / "it-ran").exists()
    assert visible(converted.settings.repository) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preproces": {}}, "did you mean 'preprocess'"),
        ({"checkpoint": {"path": "missing.pth"}}, "missing.pth does not exist"),
        ({"labels": "missing.txt"}, "labels file missing.txt does not exist"),
        ({"parity": {"samples": "nowhere", "labels": "labels.csv"}}, "nowhere is not a folder"),
        ({"parity": {"samples": "samples"}}, "names no CSV"),
        ({"parity": {"labels": "labels.csv", "gates": {"engine": {"cosine": 0.5}}}}, "add `because:`"),
        ({"task": "classificaton"}, "unknown task 'classificaton'"),
    ],
)
def test_a_bad_spec_is_named_before_any_work(
    changes: dict[str, Any], words: str, converted: Converted, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError) as caught:
        convert(changed(converted, tmp_path, **changes), settings=converted.settings, limit=LIMIT, progress=Lines())
    assert caught.value.code == "spec_invalid" and words in str(caught.value)


def test_two_converters_at_once_the_second_is_told(converted: Converted) -> None:
    with model_lock(converted.settings.repository, "digits"), pytest.raises(ConversionError) as caught:
        convert(converted.spec_path, settings=converted.settings, limit=LIMIT, progress=Lines())
    assert caught.value.code == "conversion_busy" and caught.value.retryable


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is too small for the version."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip(
            "skipped: tmpfs: needs the right to mount; tests/unit/converters/test_publish.py tries it by a double"
        )
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_while_publishing_leaves_nothing(converted: Converted, full_disk: Path) -> None:
    settings = converted.settings.model_copy(update={"repository": full_disk})
    with pytest.raises(ConversionError) as caught:
        convert(converted.spec_path, settings=settings, limit=LIMIT, progress=Lines())
    assert caught.value.code == "storage_failed" and "No space left" in str(caught.value)
    assert visible(full_disk) == []


RUN = """
import sys
from pathlib import Path
from converters.main import convert
from serving.config import Settings
settings = Settings(repository=Path(sys.argv[2]), cache_dir=Path(sys.argv[3]))
convert(Path(sys.argv[1]), settings=settings, limit=int(sys.argv[4]), progress=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize(
    ("moment", "running"), [("start a private Triton", "tritonserver"), ("start a private gateway", "private_server")]
)
def test_a_killed_converter_leaves_no_half_version_and_no_process(
    moment: str, running: str, converted: Converted, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", RUN, str(converted.spec_path), str(tmp_path), str(converted.settings.cache_dir),
               str(LIMIT)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        if not any(moment in line for line in process.stdout):
            pytest.fail(f"the conversion ended before {moment!r}")
        started = wait_for_child(process.pid, running)
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=20)
    for child in alive:
        child.kill()
    assert not alive, f"left running: {[(p.pid, p.name()) for p in alive]}"
    assert not [name for name in visible(tmp_path) if not name.startswith(".staging")]
    lines = Lines()
    settings = Settings(repository=tmp_path, cache_dir=converted.settings.cache_dir)
    result = convert(converted.spec_path, settings=settings, limit=LIMIT, progress=lines)
    assert result.outcome == "published" and lines.any("checkpoint: reused")
    assert not any(name.startswith(".staging") for name in visible(tmp_path))
    shutil.rmtree(tmp_path / "digits")


def wait_for_child(pid: int, words: str) -> list[psutil.Process]:
    """All descendants, as soon as one whose command line has the words has itself started (0.5 s for its own)."""
    for _ in range(200):
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(pid).children(recursive=True)
            if any(words in " ".join(child.cmdline()) for child in children):
                time.sleep(0.5)
                return psutil.Process(pid).children(recursive=True)
        time.sleep(0.05)
    return pytest.fail(f"no child process with {words!r}")
