"""The row `preprocess_fast` measures pictures that are really decoded at a fraction, whatever the samples are."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_spec import tiny_spec

from converters import rows_fast
from converters.parity import Judge, StageRow
from converters.rows_gates import decisions_only, gate_of
from converters.rows_network import Reference
from converters.samples import Sample
from serving.preprocess import fast
from serving.preprocess.decode import decode
from serving.preprocess.reference import prepare
from serving.tasks import task_named
from serving.types import Array

PLANE = {"width": 32, "height": 32, "kernel": "cv2_linear", "fast": True}


def network(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Two classes: brighter on the left, or on the right."""
    pictures = inputs["input"]
    half = pictures.shape[-1] // 2
    lead = 20 * (pictures[..., :half].mean(axis=(1, 2, 3)) - pictures[..., half:].mean(axis=(1, 2, 3)))
    return {"logits": np.stack([lead, -lead], 1).astype(np.float32)}


def sample(index: int, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> Sample:
    """Bright on one side, by turns."""
    width, height = size
    picture = np.full((height, width, 3), 40, np.uint8)
    half = slice(0, width // 2) if index % 2 else slice(width // 2, width)
    picture[:, half] = 200
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return Sample(f"s{index}", Path(f"s{index}"), buffer.getvalue())


def row(samples: list[Sample], **plane: Any) -> StageRow:
    spec = tiny_spec(preprocess={**PLANE, **plane}, labels=["left", "right"])
    assert spec.preprocess is not None
    rule = spec.preprocess
    prepared = [prepare(decode(s.data), rule) for s in samples]
    inputs = [{"input": p.tensor} for p in prepared]
    outputs = [{"logits": network({"input": p.tensor[None]})["logits"][0]} for p in prepared]
    reference = Reference([s.name for s in samples], inputs, outputs, [p.transform for p in prepared])
    judge = Judge(task_named("classification"), spec, ("left", "right"))
    gate = decisions_only(gate_of("preprocess_fast", judge.task, spec))
    return rows_fast.fast_decisions_row(network, reference, samples, rule, judge, gate)


def test_samples_that_are_never_reduced_are_asked_as_photos_too() -> None:
    found = row([sample(i) for i in range(10)])
    assert found.status == "passed", found.reason
    assert found.figures["reduced"] == found.figures["photos"] == 8 and found.samples == 18


def test_samples_that_are_large_enough_are_taken_as_they_are() -> None:
    large = [sample(i, (1600, 1200), "JPEG") for i in range(9)]
    found = row([*large, sample(9)])
    assert found.status == "passed" and found.figures["reduced"] == 9 and found.figures["photos"] == 0
    mixed = row([*large[:2], sample(9), sample(10)])
    assert mixed.figures["reduced"] == 4 and mixed.figures["photos"] == 2


def test_a_path_that_is_wrong_only_where_it_reduces_fails_on_small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fast.decode_checked

    def mirrored(data: bytes, header: Any, reduce: int = 1) -> Array:
        pixels = real(data, header, reduce)
        return pixels[:, ::-1].copy() if reduce > 1 else pixels

    monkeypatch.setattr(fast, "decode_checked", mirrored)
    found = row([sample(i) for i in range(3)])
    assert found.status == "failed" and "3 of 6 samples, first s0 as a photo of 4000 x 3000" in found.reason


def test_a_plane_as_large_as_a_photo_is_proven_on_the_largest_that_is_decoded() -> None:
    found = row([sample(0)], width=2048, height=1536)
    assert found.status == "passed" and {w.sample for w in found.worst} == {"s0", "s0 as a photo of 7302 x 5477"}


def test_a_rule_under_which_nothing_is_ever_reduced_does_not_pass() -> None:
    found = row([sample(0)], resize="none", width=64, height=48)
    assert found.status == "failed" and "no picture is decoded at a fraction" in found.reason
