"""Scores of near-duplicate search equal scikit-learn's; copies are the same for the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from evaluation.family import Item, Parameters
from evaluation.near_duplicates import KINDS, choose, near_duplicate_scores, read_pictures, write_copies
from serving.errors import SpecInvalid
from serving.types import Embedding, TaskResult


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def thumbnails(items: Sequence[Item], asks: Sequence[Parameters]) -> Iterator[tuple[TaskResult, ...]]:
    """A poor embedder: 6x6 grey pixels without their mean."""
    for item in items:
        small = cv2.resize(cv2.imread(str(item.path), cv2.IMREAD_GRAYSCALE), (6, 6), interpolation=cv2.INTER_AREA)
        vector = small.astype(np.float32).ravel()
        yield tuple(Embedding(vector - vector.mean()) for _ in asks)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "more").mkdir()
    for number in range(16):
        blobs = cv2.resize(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8), (140, 100), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / ("more" if number % 5 == 0 else ".") / f"{number:02d}.png"), blobs)
    return tmp_path


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.9])
def test_recall_and_precision_are_scikit_learns(threshold: float) -> None:
    rng = np.random.default_rng(1)
    originals = unit(rng.standard_normal((40, 8)))
    copies = {kind: unit(originals + noise * rng.standard_normal((40, 8))) for kind, noise in (("a", 0.1), ("b", 0.4))}
    scores = near_duplicate_scores(originals, copies, threshold)
    said = np.concatenate([(vectors @ originals.T >= threshold).ravel() for vectors in copies.values()])
    truth = np.tile(np.eye(40, dtype=bool).ravel(), 2)
    assert scores["recall"] == pytest.approx(recall_score(truth, said))
    assert scores["precision"] == pytest.approx(precision_score(truth, said))
    assert scores["recall"] == pytest.approx((scores["recall_a"] + scores["recall_b"]) / 2)
    assert scores["recall_a"] > scores["recall_b"] and 0 < scores["precision"] < 1


def test_copies_are_those_of_their_seed(folder: Path, tmp_path: Path) -> None:
    pictures = read_pictures(folder)
    marks = []
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        (target := tmp_path / "copies" / name).mkdir(parents=True)
        made = write_copies(pictures, target, seed)
        assert {kind: len(items) for kind, items in made.items()} == dict.fromkeys(KINDS, 16)
        marks.append({i.name: hashlib.sha256(i.path.read_bytes()).hexdigest() for v in made.values() for i in v})
    assert marks[0] == marks[1] != marks[2]
    first = cv2.imread(str(pictures[0]))
    assert np.array_equal(cv2.imread(str(tmp_path / "copies" / "one" / "00000_mirror.png")), first[:, ::-1])


def test_the_threshold_keeps_the_wanted_rate_and_a_poor_embedder_is_seen_to_be_one(
    folder: Path, tmp_path: Path
) -> None:
    (copies := tmp_path / "copies").mkdir()
    pictures = read_pictures(folder)
    found = choose(pictures, thumbnails, 0.05, copies)
    assert found["pictures"] == 16 and 0 < found["threshold"] <= 1
    assert found["chosen_on"]["false_accepts"] <= 0.05
    assert found["held_out"]["recall_resize"] == found["held_out"]["recall_jpeg"] == 1.0
    assert found["held_out"]["recall_mirror"] < 0.5, "6x6 pixels mirrored are another picture"
    with pytest.raises(SpecInvalid, match="needs 100 pairs"):
        choose(pictures, thumbnails, 0.01, copies)


def test_too_few_pictures_or_a_broken_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="at least 4"):
        read_pictures(tmp_path)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(SpecInvalid, match=r"0\.png"):
        write_copies(read_pictures(tmp_path), tmp_path)
