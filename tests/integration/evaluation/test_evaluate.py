"""`lockstep evaluate` and `thresholds` on a model that was converted here: every runtime through one door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.train import digits, digits_open

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.needs("torch", "triton"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted digits_open and all 450 held-out digits."""
    folder = tmp_path_factory.mktemp("evaluate")
    settings = {"repository": str(folder / "repository"), "cache_dir": str(folder / "cache")}
    (folder / "settings.yaml").write_text(json.dumps(settings), "utf-8")
    digits_open.write_samples(digits.load(), folder / "data")
    done = lockstep(folder, "convert", "models/digits_open.yaml", "--json")
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    return folder


def lockstep(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lockstep"), *arguments, "--config", str(home / "settings.yaml")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def scores(home: Path, *arguments: str) -> dict[str, Any]:
    done = lockstep(home, "evaluate", "digits_open", "--data", str(home / "data"), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document["scores"]  # type: ignore[no-any-return]


def test_all_runtimes_score_alike_and_over_the_stated_floor(home: Path) -> None:
    served, checkpoint, onnx = (scores(home, "--runtime", name) for name in ("served", "checkpoint", "onnx"))
    assert served["samples"] == 450
    for found in (served, checkpoint, onnx):
        assert found["top1"] >= 0.98 and found["open_set"]["auroc"] >= 0.96
        assert found["open_set"]["far"] <= 0.1 and found["open_set"]["tar"] >= 0.85
    assert onnx["top1"] == checkpoint["top1"] and served["top1"] == pytest.approx(checkpoint["top1"], abs=0.01)
    assert served["open_set"]["auroc"] == pytest.approx(checkpoint["open_set"]["auroc"], abs=0.005)


def test_a_floor_that_is_missed_is_the_exit_status(home: Path) -> None:
    given = ("evaluate", "digits_open", "--data", str(home / "data"), "--limit", "40")
    done = lockstep(home, *given, "--at-least", "open_set.far=2")
    assert done.returncode == 1 and "open_set.far: expected at least 2, got" in done.stderr
    assert lockstep(home, *given, "--at-least", "top1=0.9").returncode == 0
    assert lockstep(home, *given, "--runtime", "tensorflow").returncode == 2


def test_thresholds_keep_the_wanted_rate(home: Path) -> None:
    done = lockstep(home, "thresholds", "digits_open", "--data", str(home / "data"), "--far", "0.03", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["chosen_on"]["far"] <= 0.03
    assert found["held_out"]["far"] <= 0.10 and found["held_out"]["tar"] >= 0.75
    assert 0 < found["thresholds"]["score_threshold"] < 1


def test_bad_cases_are_the_wrong_answers_and_a_page_shows_them(home: Path) -> None:
    found = scores(home)
    done = lockstep(
        home, "bad-cases", "digits_open", "--data", str(home / "data"), "--output", str(home / "bad"), "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    refusals = found["open_set"]
    unknown = sum("_is_7" in n.name or "_is_8" in n.name or "_is_9" in n.name for n in (home / "data").glob("*.png"))
    wrong = refusals["far"] * unknown + (1 - refusals["tar"]) * (450 - unknown)
    assert told["bad"] == round(wrong), "far and tar count the same answers"
    badness = [case["badness"] for case in told["cases"]]
    assert len(badness) == min(24, told["bad"]) and badness == sorted(badness, reverse=True)
    page = (home / "bad" / "index.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == len(badness)
    assert all(Path(case["file"]).name in page and case["reason"] in page for case in told["cases"])
