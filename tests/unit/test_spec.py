"""Model specs: a short YAML is enough, and every mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import SpecInvalid
from serving.spec import ModelSpec, json_schema

GOOD = """\
name: flowers
task: classification
checkpoint: {path: flowers.pth}
factory: {callable: "my.nets:flowers"}
preprocess:
  width: 224
  height: 224
labels: [daisy, rose]
"""


def read(tmp_path: Path, text: str) -> ModelSpec:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    return ModelSpec.read(path)


def test_ten_lines_are_a_model(tmp_path: Path) -> None:
    spec = read(tmp_path, GOOD)
    assert spec.preprocess is not None and spec.preprocess.channels == 3
    assert spec.label_names(tmp_path) == ("daisy", "rose")
    assert ModelSpec.model_validate(spec.model_dump(mode="json")) == spec


MISTAKES = [
    (("  width: 224", "  widht: 224"), r"model.yaml:6: preprocess.widht: unknown key; did you mean 'width'\?"),
    (("task:", "taks:"), r"model.yaml:2: taks: unknown key; did you mean 'task'\?"),
    (("labels: [daisy, rose]", "labels: [rose, rose]"), "expected unique names"),
    (("width: 224", "width: -1"), r"model.yaml:6: preprocess.width: .*greater than or equal to 0, got -1"),
    (("name: flowers", "name: Flowers!"), "model.yaml:1: name: .*pattern"),
    (('factory: {callable: "my.nets:flowers"}', ""), "holds weights only: `factory` is missing"),
    (("labels:", "batch: {opt: 9, max: 8}\nlabels:"), "opt 9 is over max 8"),
    (("  height: 224", "  height: 224\n  mean: [0.5]"), "mean: expected 3 values for colour rgb, got 1"),
    (("  height: 224", "  height: 224\n  std: [1, 0, 1]"), "other than 0"),
    (("  height: 224", "  resize: letterbox"), "resize letterbox needs width and height"),
    (("labels:", "expect: {metric: top1, at_least: 0.9}\nlabels:"), r"model.yaml:8: expect: .*`parity.labels`"),
    (("name: flowers", "name: [flowers"), "not YAML"),
    (("labels: [daisy, rose]", "description: 2024-13-01"), "model.yaml: not YAML: month must be in 1..12"),
    (("labels:", "preprocess: {width: 8}\nlabels:"), "model.yaml:8: preprocess: given twice, before in line 5"),
    (("labels:", "  width: 64\nlabels:"), "model.yaml:8: preprocess.width: given twice, before in line 6"),
    (("flowers.pth", "a.pth, 'path': b.pth"), "model.yaml:3: checkpoint.path: given twice, before in line 3"),
    (("labels: [daisy, rose]", "labels: &again [*again]"), "model.yaml:8: labels"),
    ((GOOD, "- 1"), "expected a mapping"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(SpecInvalid, match=message) as caught:
        read(tmp_path, text)
    assert caught.value.code == "spec_invalid"


def test_a_score_is_expected_of_labelled_samples(tmp_path: Path) -> None:
    more = "parity: {samples: photos, labels: labels.csv}\nexpect: {metric: top1, at_least: 0.9}\n"
    assert read(tmp_path, GOOD + more).expect is not None
    published = ModelSpec.read(tmp_path / "model.yaml").model_dump(mode="json") | {"parity": {"samples": "photos"}}
    assert ModelSpec.model_validate(published).expect is not None, "what was published before goes on"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="nowhere.yaml: cannot be read"):
        ModelSpec.read(tmp_path / "nowhere.yaml")
    spec = read(tmp_path, GOOD.replace("[daisy, rose]", "labels.txt"))
    with pytest.raises(SpecInvalid, match=r"labels file labels.txt does not exist"):
        spec.label_names(tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"caf\xe9\n", r"labels\.txt: expected UTF-8 text, byte 3"), (b"cat\ndog\ncat\n", "'cat' stands there more than")],
)
def test_a_labels_file_is_utf_8_and_names_no_class_twice(data: bytes, words: str, tmp_path: Path) -> None:
    spec = read(tmp_path, GOOD.replace("[daisy, rose]", "labels.txt"))
    (tmp_path / "labels.txt").write_bytes(data)
    with pytest.raises(SpecInvalid, match=words):
        spec.label_names(tmp_path)
    (tmp_path / "labels.txt").write_text("daisy\nrose\n", "utf-8-sig")
    assert spec.label_names(tmp_path) == ("daisy", "rose"), "without the byte order mark"


def test_the_schema_for_editors_knows_every_key() -> None:
    assert set(json_schema()["properties"]) == set(ModelSpec.model_fields)


def test_what_an_anchor_brings_may_be_given_anew(tmp_path: Path) -> None:
    shared = "thresholds:\n  day: &day {score_threshold: 0.5, margin: 0.1}\n  night: {<<: *day, score_threshold: 0.7}\n"
    assert read(tmp_path, GOOD + shared).thresholds["night"] == {"score_threshold": 0.7, "margin": 0.1}
