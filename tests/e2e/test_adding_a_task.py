"""docs/adding-a-task.md, applied to a copy of the project: its own test passes and nothing else was edited."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.blocks import blocks_of

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("serving", "converters", "models", "pyproject.toml", "tests/conftest.py")


@pytest.mark.needs("torch", "triton")
def test_the_documented_files_are_a_working_task(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for name in COPIED:
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (copy / ".triton").symlink_to(ROOT / ".triton")
    blocks = blocks_of(ROOT / "docs" / "adding-a-task.md")
    assert [n for n in blocks if n.startswith("serving/")] == ["serving/tasks/keypoints.py"], (
        "one file of ours, a new one"
    )
    for name, body in blocks.items():
        target = copy / name
        assert not target.exists(), f"{name} would edit a file that exists"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/tasks/test_keypoints.py"]
    env = {"PYTHONPATH": str(copy), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
