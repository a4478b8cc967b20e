"""What a conversion starts from: whatever could change the result changes the content's hash, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from small_onnx import WEIGHT, gathered, write_onnx, write_spec

from converters.digest import external_files
from converters.local_code import code_of
from serving.errors import SpecInvalid


@pytest.mark.parametrize("name", ["w.bin", "m.onnx.data", "w" * 200])
def test_weights_beside_an_onnx_file_are_part_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx", name)
    before = gathered(write_spec(tmp_path))
    assert list(before.external) == [name]
    (tmp_path / "notes.txt").write_text("not named by the graph")
    assert gathered(tmp_path / "small.yaml").content_sha256 == before.content_sha256
    (tmp_path / name).write_bytes((WEIGHT + 1).tobytes())
    after = gathered(tmp_path / "small.yaml")
    assert after.checkpoint_sha256 == before.checkpoint_sha256
    assert after.external != before.external and after.content_sha256 != before.content_sha256


def test_an_onnx_file_with_its_weights_inside_has_no_external_files(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx")
    (tmp_path / "empty.onnx").touch()
    assert external_files(tmp_path / "m.onnx") == external_files(tmp_path / "empty.onnx") == ()


def test_the_reference_counts_with_its_weights_and_has_to_be_there(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx")
    write_onnx(tmp_path / "r.onnx", "r.bin")
    path = write_spec(tmp_path, parity={"samples": "samples", "reference": "r.onnx"})
    before = gathered(path)
    (tmp_path / "r.bin").write_bytes((WEIGHT + 1).tobytes())
    assert gathered(path).content_sha256 != before.content_sha256
    (tmp_path / "r.onnx").unlink()
    with pytest.raises(SpecInvalid, match=r"parity\.reference: .*r\.onnx does not exist"):
        gathered(path)


def _package(folder: Path) -> None:
    for name, text in (
        ("mynet/__init__.py", "from mynet.blocks import build\n"),
        ("mynet/blocks.py", "import torch, common\n"),
        ("mynet/deep/more.py", ""),
        ("common.py", "WIDTH = 3\n"),
        ("train.py", "import mynet\n"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("changed", "counts"),
    [("mynet/blocks.py", True), ("mynet/deep/more.py", True), ("common.py", True), ("train.py", False)],
)
def test_a_factory_counts_with_its_package_and_what_that_imports(changed: str, counts: bool, tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx")
    _package(tmp_path)
    path = write_spec(tmp_path, factory={"callable": "mynet:build"})
    before = gathered(path).content_sha256
    (tmp_path / changed).write_text("CHANGED = True\n")
    assert (gathered(path).content_sha256 != before) is counts


def test_installed_code_counts_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version: Callable[[], list[tuple[str, str]]] = lambda: code_of(["yaml.nodes:Node"], tmp_path)  # noqa: E731
    before = version()
    assert before == [("PyYAML", yaml.__version__)]
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert version() != before


def test_an_editable_package_counts_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    names = [name for name, _ in code_of(["mynet.blocks:build", "mynet:other"], tmp_path)]
    assert {"common.py", "mynet/__init__.py", "mynet/blocks.py", "mynet/deep/more.py"} == set(names)


def test_of_our_own_packages_the_named_file_counts(tmp_path: Path) -> None:
    named = [name for name, _ in code_of(["models.architectures.digits_net:digits_net"], tmp_path)]
    assert named == ["models/architectures/digits_net.py"]


def _labelled(folder: Path, metric: str, label: str, task: str = "classification") -> Path:
    write_onnx(folder / "m.onnx")
    path = write_spec(
        folder, task=task, inputs=[], outputs=["y"] if task == "classification" else ["boxes", "scores"],
        preprocess={"width": 4, "height": 4}, labels=["cat", "dog"],
        parity={"samples": "samples", "labels": "labels.csv"}, expect={"metric": metric, "at_least": 0.9},
    )  # fmt: skip
    Image.new("RGB", (4, 4)).save(folder / "samples" / "a.png")
    (folder / "samples" / "labels.csv").write_text(f"file,label\na.png,{label}\n")
    return path


@pytest.mark.parametrize(
    ("metric", "label", "task", "words"),
    [
        ("top1", "cta", "classification", r"labels\.csv: a\.png: expected a class_id or a class's name, got 'cta'"),
        ("f1", "cat;2", "classification", r"a\.png: expected a class_id .* got '2'"),
        ("top2", "cat", "classification", r"expect\.metric: expected top1, top5 or f1, got 'top2'"),
        ("count_exact", "many", "detection", r"a\.png: expected the number of objects, got 'many'"),
        ("top1", "1", "detection", r"expect\.metric: expected count_exact or count_recall, got 'top1'"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_converted(
    metric: str, label: str, task: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecInvalid, match=words):
        gathered(_labelled(tmp_path, metric, label, task))


@pytest.mark.parametrize("label", ["cat", "1", "cat;dog", "unknown", ""])
def test_labels_that_can_be_scored_are_taken(label: str, tmp_path: Path) -> None:
    assert gathered(_labelled(tmp_path, "top1", label)).samples.labelled
