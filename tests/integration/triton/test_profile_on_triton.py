"""`lockstep profile` on a real Triton and gateway: the stages add up, and the model's own pages say the same."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from triton_support import TRITON_HOME, colours_model, png
from typer.testing import CliRunner

from serving import cli
from serving.profiling.cause import CAUSES

pytestmark = pytest.mark.needs("triton")


def test_a_large_picture_of_a_tiny_model_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours_model(tmp_path / "repository")
    noise = np.random.default_rng(1).integers(0, 255, (90, 120, 3), np.uint8)
    sample = tmp_path / "large.png"
    sample.write_bytes(png(cv2.resize(noise, (1600, 1200))))
    monkeypatch.setenv("LOCKSTEP_TRITON_HOME", str(TRITON_HOME))
    monkeypatch.setenv("LOCKSTEP_CACHE_DIR", str(tmp_path / "cache"))
    if not cli.app.registered_commands:
        cli._register()
    given = ["profile", "colours", "--sample", str(sample), "--seconds", "0.6", "--clients", "3", "--json"]
    done = CliRunner().invoke(cli.app, [*given, "--repository", str(tmp_path / "repository")])
    assert done.exit_code == 0, done.output + str(done.exception)
    found = json.loads(done.stdout)
    assert "(2/2)" in done.stderr and "about" in done.stderr
    alone, loaded = found["levels"]
    assert (alone["clients"], loaded["clients"]) == (1, 3) and not alone["errors"] and not loaded["errors"]
    assert sum(alone["stages_ms"].values()) == pytest.approx(alone["mean_ms"], rel=0.25)
    assert found["cause"] in CAUSES and found["cause"] == "input_size", found
    assert alone["stages_ms"]["decode"] > alone["stages_ms"]["infer"]
    assert found["bytes"]["request"] == sample.stat().st_size and found["bytes"]["pixels"] == 1600 * 1200 * 3
    assert found["bytes"]["copied"] == 8 * 8 * 3 * 4 and found["bytes"]["answer"] > 50
    assert not list((tmp_path / "cache" / "run").iterdir())
