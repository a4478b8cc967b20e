"""The light install: everything a running process needs comes from the serving lock, and torch is not among it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".tools" / "bin" / "uv"
IMPORTS = (
    "import serving.served_model, serving.gateway.main, serving.streams.run, serving.cli, serving.engines.openvino;"
    "import importlib.util as u; print([n for n in ('torch', 'onnx', 'sklearn', 'tensorrt_rtx') if u.find_spec(n)])"
)


@pytest.mark.skipif(not UV.exists(), reason="skipped: uv: make setup")
def test_a_bare_environment_from_the_serving_lock_imports_gateway_and_streams(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    python = str(venv / "bin" / "python")
    for command in (
        [str(UV), "venv", "--quiet", "--python", sys.executable, str(venv)],
        [str(UV), "pip", "sync", "--quiet", "--python", python, "requirements-serving.lock"],
    ):
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=280)
    try:
        done = subprocess.run(
            [python, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout.strip() == "[]", done.stderr[-2000:]
    finally:
        shutil.rmtree(venv)
