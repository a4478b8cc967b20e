"""The graph without weights: every bit and the square, in a batch, and nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from models.importers.sync_code import BITS, SAMPLES, graph, write_samples  # noqa: E402
from serving.spec import ModelSpec  # noqa: E402
from serving.testing.sync_code import picture  # noqa: E402

MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.fixture(scope="module")
def session() -> object:
    return onnxruntime.InferenceSession(graph().SerializeToString())


def run(session, pictures):  # type: ignore[no-untyped-def]
    given = np.stack([p.transpose(2, 0, 1) for p in pictures]).astype(np.float32) / 255
    return session.run(None, {"images": given})


def test_numbers_and_places(session: object) -> None:
    indices = [0, 1, 65535, *(1 << k for k in range(BITS)), *(n * 977 % 65536 for n in range(40))]
    centres = [(20.0 + 4.7 * n, 56.0 + n) for n in range(len(indices))]
    pairs = zip(indices, centres, strict=True)
    boxes, scores = run(session, [picture(i, n, c) for n, (i, c) in enumerate(pairs)])
    for row, (index, centre) in enumerate(zip(indices, centres, strict=True)):
        bits = [int(scores[row, k + 1, k + 1] > 0.5) for k in range(BITS)]
        assert int("".join(map(str, bits)), 2) == index
        assert np.all(np.abs(np.diag(scores[row])[1:] - np.array(bits)) < 0.01), "scores are far from the threshold"
        assert scores[row, 0, 0] > 0.95 and np.abs((boxes[row, 0, :2] + boxes[row, 0, 2:]) / 2 - centre).max() < 0.1
    assert np.count_nonzero(scores * (1 - np.eye(BITS + 1))) == 0


def test_nothing_is_found_where_nothing_is(session: object) -> None:
    boxes, scores = run(session, [np.full((240, 320, 3), 20, np.uint8)])
    assert scores.max() == 0 and np.isfinite(boxes).all()


def test_labels_and_samples_fit(tmp_path: Path) -> None:
    spec = ModelSpec.read(MODELS / "sync_code.yaml")
    assert list(spec.labels) == ["square", *(f"bit_{k}" for k in reversed(range(BITS)))]
    write_samples(tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == SAMPLES >= 32
