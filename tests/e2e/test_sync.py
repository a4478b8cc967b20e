"""sync-test as a user runs it: every kind passes, every mutant is caught by every kind named for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.errors import StorageFailed
from serving.testing.mutants import MUTANTS
from serving.testing.sync_check import MAX_FILL_ERROR, MAX_TOGGLES, MIN_COVERAGE, MIN_MEASURED
from serving.testing.sync_clips import KINDS
from serving.testing.sync_test import DTS_SHARES, MUTANT_KINDS, SyncReport, error_picture, sync_test

QUICK = ("ibbp", "pyramid", "vfr", "wrap_both", "reconnect", "missing", "flv", "every_fifth")


@pytest.fixture(scope="module")
def caught(request: pytest.FixtureRequest) -> Iterator[set[str]]:
    """Mutants that were caught; the total is printed, in one line, when this file is done."""
    names: set[str] = set()
    yield names
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nmutation gate: {len(names)} of {len(MUTANTS)} known defects caught: {', '.join(sorted(names))}")


def test_the_bounds_are_those_of_the_specification_for_every_kind() -> None:
    assert (MIN_MEASURED, MIN_COVERAGE, MAX_FILL_ERROR, MAX_TOGGLES) == (0.95, 0.99, 0.5, 1.0)


@pytest.mark.parametrize("kind", QUICK)
def test_measured_boxes_lie_on_their_own_pictures(kind: str) -> None:
    report = sync_test([kind])
    found = report.scores[0]
    assert report.ok, report.text()
    assert found.exact == 1.0 and found.ae_max == 0 and found.measured_boxes >= 50


@pytest.mark.long
@pytest.mark.parametrize("kind", [k for k in (*KINDS, "drift") if k not in QUICK])
def test_every_other_kind(kind: str) -> None:
    report = sync_test([kind])
    assert report.ok, report.text()


def test_the_dts_mutant_fails_with_the_shares_of_the_specification(caught: set[str]) -> None:
    report = sync_test(list(DTS_SHARES), "dts")
    assert set(report.caught) == set(DTS_SHARES)
    for found in report.scores:
        assert abs(found.exact - DTS_SHARES[found.kind]) <= 0.05, found
    caught.add("dts")


def test_a_dts_key_passes_where_there_are_no_b_frames() -> None:
    """So a suite without them would prove nothing."""
    report = sync_test(["no_b"], "dts")
    assert report.ok and report.scores[0].exact == 1.0


@pytest.mark.parametrize("mutant", [name for name in MUTANTS if name != "dts"])
def test_every_mutant_is_caught(mutant: str, caught: set[str]) -> None:
    report = sync_test([MUTANT_KINDS[mutant][0]], mutant)
    assert report.caught == (MUTANT_KINDS[mutant][0],), report.text()
    caught.add(mutant)


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_mutant_is_caught_by_all_its_kinds(mutant: str) -> None:
    report = sync_test((), mutant)
    assert report.caught == MUTANT_KINDS[mutant], report.text()


def test_every_mutant_has_its_kinds_in_the_page() -> None:
    assert set(MUTANT_KINDS) == set(MUTANTS)
    page = (Path(__file__).resolve().parents[2] / "docs" / "sync-test.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for mutant, kinds in MUTANT_KINDS.items():
        assert all(f"`{kind}`" in rows[mutant] for kind in kinds), rows[mutant]
    assert set(KINDS) | {"drift"} <= set(rows)


def test_the_command(tmp_path: Path) -> None:
    from serving.cli import _register, app

    _register()
    runner = CliRunner()
    good = runner.invoke(app, ["sync-test", "--kind", "reconnect_storm", "--json"])
    assert good.exit_code == 0 and json.loads(good.stdout)["kinds"][0]["exact"] == 1.0
    picture = tmp_path / "new" / "e.png"
    bad = ["sync-test", "--mutant", "no_epoch", "--picture", str(picture), "--keep", str(tmp_path / "k")]
    caught = runner.invoke(app, bad)
    assert caught.exit_code == 1 and "caught by reconnect_storm" in caught.stdout
    assert picture.stat().st_size > 500 and (tmp_path / "k" / "mixed-reconnect_storm.mp4").exists()


def test_the_picture_of_an_empty_report(tmp_path: Path) -> None:
    error_picture(SyncReport("", ()), tmp_path / "e.png")
    assert (tmp_path / "e.png").exists()


def test_an_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="file: cannot be written"):
        sync_test(["no_b"], keep=tmp_path / "file")
    with pytest.raises(StorageFailed, match="e.png: cannot be written"):
        error_picture(SyncReport("", ()), tmp_path / "file" / "e.png")


def test_the_shipped_model_reads_what_the_stub_reads() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    import numpy as np

    from models.importers.sync_code import graph
    from serving.testing import sync_code
    from serving.testing.sync_model import as_detector
    from serving.types import Detections, ImageSize, InferRequest, InferResponse

    session = onnxruntime.InferenceSession(graph().SerializeToString())

    def infer(requests):  # type: ignore[no-untyped-def]
        for request in requests:
            given = (request.frame.transpose(2, 0, 1)[None] / 255).astype(np.float32)
            boxes, scores = session.run(None, {"images": given})
            place, class_id = np.nonzero(scores[0] >= 0.5)
            found = Detections(boxes[0][place], scores[0][place, class_id], class_id.astype(np.int64))
            yield InferResponse(found, ImageSize(320, 240), {})

    detect = as_detector(lambda requests: list(infer(requests)))
    for index in (0, 1, 299, 32768, 65535):
        rgb = sync_code.picture(index, 3, (100.3, 88.7))
        answer = detect([InferRequest(frame=rgb)])[0]
        box = sync_code.find_square(rgb)
        assert isinstance(answer, InferResponse) and isinstance(answer.result, Detections) and box is not None
        assert answer.result.class_id.tolist() == [index]
        assert np.abs(answer.result.xyxy[0] - box).max() < 0.2
