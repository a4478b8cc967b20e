"""Samples: fixed order, labels by file, refusals that name file and reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.samples import prepare_all, read_samples, read_tensors, truth
from serving.errors import SpecInvalid
from serving.spec import ModelSpec


def _spec(**changes: Any) -> ModelSpec:
    value: dict[str, Any] = {
        "name": "small", "task": "classification", "factory": {"callable": "a:b"},
        "preprocess": {"width": 4, "height": 4}, "labels": ["cat", "dog"], "parity": {"labels": "labels.csv"},
    }  # fmt: skip
    return ModelSpec.model_validate({**value, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(10):
        Image.fromarray(np.full((6, 8, 3), 20 * index, np.uint8)).save(tmp_path / f"p{index}.png")
    (tmp_path / "labels.csv").write_text("file,label\np0.png,dog\np3.png,cat\n")
    return tmp_path


def test_samples_come_sorted_with_their_labels(folder: Path) -> None:
    found = read_samples(_spec(), folder)
    assert found.names == tuple(f"p{i}.png" for i in range(10)) and found.weak and found.labelled
    assert truth([s.label for s in found.samples], ("cat", "dog"))[:4] == ["1", None, None, "0"]
    assert len({s.sha256 for s in found.samples}) == 10
    assert [p.pixels[0, 0, 0] for p in prepare_all(found, _spec().preprocess)] == [20 * i for i in range(10)]  # type: ignore[arg-type]


def test_a_limit_takes_evenly_spaced_samples(folder: Path) -> None:
    assert read_samples(_spec(), folder, 4).names == ("p0.png", "p3.png", "p6.png", "p9.png")
    assert len(read_samples(_spec(), folder, 99)) == 10


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p0.png,dog\n", "columns file,label"),
        ("file,label\nmissing.png,dog\n", "names missing.png"),
        (None, "No such file"),
        (b"file,label\np0.png,caf\xe9\n", "labels.csv: expected UTF-8 text, byte 21 is not"),
    ],
)
def test_bad_label_files_are_named(folder: Path, text: str | bytes | None, why: str) -> None:
    (folder / "labels.csv").unlink()
    if text is not None:
        (folder / "labels.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SpecInvalid, match=why):
        read_samples(_spec(), folder)


def test_a_byte_order_mark_is_no_part_of_the_header(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label\np0.png,dog\n", "utf-8-sig")
    assert read_samples(_spec(), folder).samples[0].label == "dog"


def test_no_folder_and_no_samples(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="is not a folder"):
        read_samples(_spec(), tmp_path / "nowhere")
    with pytest.raises(SpecInvalid, match=r"no \.jpg"):
        read_samples(_spec(), tmp_path)


def test_a_sample_that_is_no_picture_is_named(folder: Path) -> None:
    (folder / "p5.png").write_text("text")
    with pytest.raises(SpecInvalid, match=r"p5\.png"):
        prepare_all(read_samples(_spec(), folder), _spec().preprocess)  # type: ignore[arg-type]


RAW: dict[str, Any] = {
    "task": "raw", "preprocess": None, "parity": {}, "outputs": ["y"],
    "inputs": [{"name": "x", "shape": [2, 3], "dynamic": {0: [1, 9]}}],
}  # fmt: skip


def _npz(folder: Path, **arrays: Any) -> None:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    (folder / "a.npz").write_bytes(sink.getvalue())


def test_raw_samples_are_named_tensors(tmp_path: Path) -> None:
    _npz(tmp_path, x=np.ones((5, 3), np.float32))
    tensors = read_tensors(read_samples(_spec(**RAW), tmp_path), _spec(**RAW))
    assert tensors[0]["x"].shape == (5, 3)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"z": np.ones((2, 3), np.float32)}, r"expected tensors \['x'\]"),
        ({"x": np.ones((2, 3), np.float64)}, "got float64"),
        ({"x": np.ones((2, 4), np.float32)}, r"got float32 \[2, 4\]"),
        ({"x": np.array([{}], object)}, "plain arrays"),
    ],
)
def test_raw_samples_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    _npz(tmp_path, **arrays)
    with pytest.raises(SpecInvalid, match=why):
        read_tensors(read_samples(_spec(**RAW), tmp_path), _spec(**RAW))
