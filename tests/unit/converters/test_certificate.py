"""Verdict, statement and page from hand-made rows."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.certificate import (
    NO_DEVICE,
    NO_TRITON,
    Subject,
    certificate,
    certificate_id,
    encode,
    machine,
    tools,
    what_blocks,
)
from converters.parity import SampleVerdict, StageRow, failed, not_run
from converters.report_html import next_steps, render

GOOD = (
    StageRow("load", "passed", "keys"),
    StageRow("onnx_fp32", "passed", "numbers", figures={"max_abs": 1e-6}, samples=40),
    not_run("engine_tensorrt_rtx", "engine", f"{NO_DEVICE}: cannot be run here"),
    not_run("transport", "frames", "no pictures: the log carries nothing else"),
    StageRow("expected_score", "passed", "labels", figures={"checkpoint": 0.99, "served": 0.98}),
)


def _subject(**changes: Any) -> Subject:
    value: dict[str, Any] = {
        "model": "small", "version": 1, "target": "cpu", "engine": "openvino", "precision": "f32", "shipped": True,
        "weak": False, "limit": None, "content_sha256": "c" * 64, "manifest_sha256": "a" * 64,
        "checkpoint_sha256": "b" * 64, "spec_sha256": "d" * 64, "samples": [{"name": f"{i}.png"} for i in range(40)],
    }  # fmt: skip
    return Subject(**{**value, **changes})


def test_all_rows_passed_is_a_passed_certificate_with_its_facts() -> None:
    document = certificate(_subject(), GOOD)
    assert document["verdict"] == "passed" and document["blockers"] == []
    assert document["statement"].startswith("agreement proven on 40 samples, expected score reached (checkpoint 0.99")
    assert document["tools"]["numpy"] == np.__version__ and document["machine"]["cores"] >= 1
    data = encode(document)
    assert certificate_id(data) == hashlib.sha256(data).hexdigest()[:12]
    assert json.loads(data) == document


def test_the_first_failed_row_is_the_stage_that_is_named() -> None:
    rows = [GOOD[0], failed("preprocess", "pixels", "colour"), failed("server", "documents", "differs"), *GOOD[1:]]
    document = certificate(_subject(), rows)
    assert document["verdict"] == "failed"
    assert document["statement"] == "failed at preprocess: colour"
    assert document["blockers"] == ["preprocess: colour", "server: differs"]


def test_without_labels_correctness_is_not_claimed() -> None:
    rows = [*GOOD[:-1], not_run("expected_score", "labels", "no labels")]
    assert certificate(_subject(), rows)["statement"] == "agreement proven on 40 samples, correctness not: no labels"


@pytest.mark.parametrize(("shipped", "blocked"), [(True, True), (False, False)])
def test_few_samples_are_weak_and_refused_for_shipped_models(shipped: bool, blocked: bool) -> None:
    document = certificate(_subject(shipped=shipped, weak=True, samples=[{}] * 8), GOOD)
    assert document["weak"] and (document["verdict"] == "failed") == blocked
    assert "weak" in (document["blockers"][0] if blocked else document["statement"])


@pytest.mark.parametrize("shipped", [True, False])
def test_rows_that_had_no_box_to_compare_weaken_and_block_shipped_models(shipped: bool) -> None:
    def row(stage: str, boxes: float) -> StageRow:
        return StageRow(stage, "passed", "decisions", figures={"boxes": boxes}, samples=40)

    empty = certificate(_subject(shipped=shipped), [*GOOD, row("server", 0.0), row("gateway", 0.0)])
    assert empty["weak"] and (empty["verdict"] == "failed") == shipped
    assert "no sample has a box that is sure enough to be compared (server, gateway)" in empty["statement"]
    some = certificate(_subject(shipped=shipped), [*GOOD, row("server", 3.0)])
    assert not some["weak"] and some["verdict"] == "passed"


@pytest.mark.parametrize("stage", ["server", "gateway"])
def test_a_machine_without_triton_blocks_shipped_models_and_weakens_others(stage: str) -> None:
    rows = [*GOOD, not_run(stage, "documents", f"{NO_TRITON}: make setup")]
    assert certificate(_subject(shipped=True), rows)["verdict"] == "failed"
    other = certificate(_subject(shipped=False), rows)
    assert other["verdict"] == "passed" and other["weak"] and f"not proven through {stage}" in other["statement"]


def test_a_row_not_run_for_another_reason_blocks() -> None:
    assert what_blocks([*GOOD, not_run("server", "d", "an earlier stage failed")], False, False, "cpu")
    assert what_blocks([*GOOD, not_run("onnx_fp32", "d", "no samples")], False, False, "cpu")
    assert what_blocks([], False, False, "cpu") == ["no rows"]


def test_no_device_is_no_excuse_for_the_target_that_needs_it() -> None:
    assert not what_blocks(GOOD, True, False, "cpu")
    assert "engine_tensorrt_rtx" in what_blocks(GOOD, True, False, "gpu")[0]


def test_machine_facts_come_from_cpuinfo(tmp_path: Path) -> None:
    text = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 amx_bf16 amx_tile\nprocessor\t: 1\n"
    (tmp_path / "cpuinfo").write_text(text)
    found = machine(tmp_path / "cpuinfo")
    assert found["cpu"] == "Some CPU" and found["cores"] == 2 and found["isa"] == ["avx2", "amx_tile", "amx_bf16"]
    assert "python" in tools()


def _png() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def test_the_page_shows_both_answers_the_picture_and_what_to_do() -> None:
    box = {"xyxy": [5.0, 5.0, 30.0, 30.0], "confidence": 0.9, "class_id": 0, "label": "person", "origin": "measured"}
    worst = SampleVerdict(
        "<img>.png", False, {"cosine": 0.5}, "IoU <b>0.1</b>", {"detections": [box]}, {"detections": []}
    )
    rows = [
        GOOD[0],
        StageRow("engine_openvino", "failed", "c", "1 of 1", {"iou": 0.5}, ("iou",), "old", worst=(worst,)),
    ]
    page = render(certificate(_subject(), rows), "0123456789ab", {"<img>.png": _png()}).decode()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "person 0.900 [5, 5, 30, 30]" in page and "nothing from 0 on" in page
    assert "What to do" in page and "begin here" in page and "iou 0.5 (loosened)" in page and "because: old" in page
    assert "<b>0.1</b>" not in page and "&lt;b&gt;0.1" in page, "texts out of files are escaped"
    assert not re.search(r"<script|https?://", page), "one page, nothing fetched"


def test_the_page_of_a_passed_certificate_has_no_steps() -> None:
    page = render(certificate(_subject(), GOOD), "0123456789ab", {}).decode()
    assert "What to do" not in page and "the log carries nothing else" in page


def test_what_to_do_follows_the_failed_rows_in_order() -> None:
    rows = [{"stage": "load", "status": "passed"}, {"stage": "onnx_fp16", "status": "failed"}]
    rows.append({"stage": "labels", "status": "failed"})
    (first, advice), (second, _) = next_steps(rows)
    assert (first, second) == ("onnx_fp16", "labels") and "keep_fp32" in advice
