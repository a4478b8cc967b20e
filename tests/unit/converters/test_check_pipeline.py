"""`lockstep check` of a pipeline: the shipped ones fit; a broken one is named by its step, with nothing converted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from converters.check import check
from converters.check_pipeline import PipelineReport
from serving.errors import SpecInvalid

MODELS = Path(__file__).resolve().parents[3] / "models"
PIPELINES = sorted(p.name for p in MODELS.glob("*.yaml") if "\nsteps:" in p.read_text("utf-8"))


@pytest.mark.parametrize("name", PIPELINES)
def test_every_shipped_pipeline_fits_its_models(name: str) -> None:
    report = check(MODELS / name)
    assert isinstance(report, PipelineReport) and report.passed and report.steps
    assert report.to_table().row_count == len(report.steps) == len(report.to_dict()["steps"])


def test_steps_are_told_in_the_order_they_run() -> None:
    report = check(MODELS / "face_identify.yaml")
    assert isinstance(report, PipelineReport)
    assert [(s.name, s.model, s.gives) for s in report.steps] == [
        ("faces", "face_retina", "face"), ("chip", "face_embedder", "pictures"),
        ("look", "face_embedder", "embedding"), ("identity", "", "a subject, or unknown"),
    ]  # fmt: skip
    assert report.rows == "faces" and report.fields == ("chip", "identity")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"of": "image"}, "steps.identity"),
        ({"of": "lok"}, "lok"),
        ({"options": {"threshold": 3}}, "steps.identity.options.threshold"),
        ({"do": "mach"}, "expected one of"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], said: str, tmp_path: Path) -> None:
    tree = yaml.safe_load((MODELS / "face_identify.yaml").read_text("utf-8"))
    tree["steps"][3] |= change
    for model in ("face_retina", "face_embedder"):
        (tmp_path / f"{model}.yaml").write_bytes((MODELS / f"{model}.yaml").read_bytes())
    (broken := tmp_path / "broken.yaml").write_text(yaml.safe_dump({**tree, "name": "broken"}), "utf-8")
    with pytest.raises(SpecInvalid, match=said):
        check(broken)


def test_a_model_without_a_file_beside_it_is_named_with_what_to_do(tmp_path: Path) -> None:
    (alone := tmp_path / "face_identify.yaml").write_bytes((MODELS / "face_identify.yaml").read_bytes())
    with pytest.raises(SpecInvalid, match=r"steps\.faces\.model: face_retina: no face_retina\.yaml"):
        check(alone)
