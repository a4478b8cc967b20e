"""`tune` on a real Triton: the choice is recorded and the next start follows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from triton_support import colours_model, settings_for

from serving import tune
from serving.bundle import ModelBundle
from serving.triton.embedded import EmbeddedTriton
from serving.tuning import Tuning

pytestmark = pytest.mark.needs("triton")


def test_the_choice_is_recorded_and_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = colours_model(tmp_path / "repository")
    monkeypatch.setattr(tune, "process_candidates", lambda cores, batch: [tune.Candidate(2, 1, 2)])
    said: list[str] = []
    result = tune.tune_model(settings_for(tmp_path), "colours", seconds=0.4, progress=said.append)
    assert [(r["instances"], r["max_batch"]) for r in result["rows"]] == [(2, 2), (2, 1)]
    assert all(r["requests_per_s"] > 1 and not r["errors"] and r["alone_p50_ms"] > 0 for r in result["rows"])
    assert len(said) == 2
    recorded = Tuning.model_validate(json.loads((version / "tuning.json").read_bytes()))
    assert recorded.instances == 2 and recorded.peak_rss_bytes > 20 * 2**20
    assert not list((tmp_path / "cache" / "run").iterdir())
    ModelBundle.load(version)  # tuning is not part of what was certified
    with EmbeddedTriton(tmp_path / "repository", (), settings_for(tmp_path)) as triton:
        triton.wait_ready(30)
        assert len(triton.watch("colours").stubs) == 2
