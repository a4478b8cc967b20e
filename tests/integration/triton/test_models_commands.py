"""`lockstep models verify` and `models canary`: what an init container and a health check of Triton run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.triton_support import colours_model, redness_model, shared_triton

MAIN = "from serving.cli import main; main()"


def lockstep(*words: str) -> tuple[int, Any, str]:
    command = [sys.executable, "-c", MAIN, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_verify_names_the_model_whose_file_was_changed_and_the_one_that_is_missing(tmp_path: Path) -> None:
    colours_model(tmp_path)
    folder = redness_model(tmp_path)
    code, rows, _ = lockstep("models", "verify", "--repository", str(tmp_path))
    assert code == 0 and [row["state"] for row in rows] == ["servable", "servable"]
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"x")
    code, rows, _ = lockstep("models", "verify", "--repository", str(tmp_path))
    assert code == 1
    assert {row["model"]: row["state"] for row in rows} == {"colours": "servable", "redness": "refused"}
    assert "model.onnx" in rows[1]["reason"]
    code, rows, _ = lockstep("models", "verify", "colours", "--repository", str(tmp_path))
    assert code == 0
    code, rows, _ = lockstep("models", "verify", "colours", "absent", "--repository", str(tmp_path))
    assert code == 1 and rows[1] == {
        "model": "absent", "version": "", "certificate": "", "state": "refused", "reason": "not in the repository",
    }  # fmt: skip


def test_verify_refuses_an_empty_repository_and_an_uncertified_target(tmp_path: Path) -> None:
    code, rows, said = lockstep("models", "verify", "--repository", str(tmp_path / "none"))
    assert code == 1 and rows == [] and "lockstep convert" in said
    colours_model(tmp_path)
    assert lockstep("models", "verify", "--target", "gpu", "--repository", str(tmp_path))[0] == 1


@pytest.mark.needs("triton")
def test_the_canary_tells_right_answers_from_wrong_ones_and_from_none(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    triton = shared_triton(request)
    colours_model(tmp_path)
    place = ("--repository", str(tmp_path))
    code, rows, said = lockstep("models", "canary", "--triton", f"grpc://{triton.grpc_url}", *place)
    assert code == 0 and rows == [{"model": "colours", "right": True, "reason": ""}], said
    # The same name, other labels' order: the server answers, and is wrong by this repository's certificate.
    other = tmp_path / "other"
    redness_model(other, name="colours")
    code, rows, _ = lockstep("models", "canary", "--triton", f"grpc://{triton.grpc_url}", "--repository", str(other))
    assert code == 1 and rows[0]["reason"]
    code, rows, _ = lockstep("models", "canary", "--triton", "grpc://127.0.0.1:1", *place)
    assert code == 1 and rows[0]["reason"].startswith("unavailable")
