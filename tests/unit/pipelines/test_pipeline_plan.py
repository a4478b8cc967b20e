"""What is wrong with a pipeline is said when its file is read: cycles, missing models and classes, shapes."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pipeline_support import ANSWER, STEPS, FakeModel, brightness, colour, faces, models, pipeline, spec_of

from serving.errors import SpecInvalid
from serving.pipelines import Part, Plan
from serving.spec import ModelSpec
from serving.tasks import task_named

# Embeddings that are not those of the rows: of the whole picture, and of boxes within the rows' crops.
OTHERS: list[dict[str, Any]] = [
    {"name": "whole", "do": "infer", "model": "embedder"},
    {"name": "inner", "do": "infer", "of": "crops", "model": "detector"},
    {"name": "inner_crops", "do": "crop", "of": "inner"},
    {"name": "inner_look", "do": "infer", "of": "inner_crops", "model": "embedder"},
]


def plan(steps: list[dict[str, Any]], answer: dict[str, Any] = ANSWER, **more: FakeModel) -> Plan:
    return Plan.of(spec_of(steps, answer), {name: Part.of(m.bundle) for name, m in models(**more).items()})


def changed(place: int, **values: Any) -> list[dict[str, Any]]:
    steps = deepcopy(STEPS)
    steps[place] |= values
    return steps


def test_what_was_written_to_spec_json_is_read_back_the_same() -> None:
    spec = spec_of(changed(1, when={"min_side": 3}))
    again = ModelSpec.model_validate(spec.model_dump(mode="json"))
    parts = {name: Part.of(m.bundle) for name, m in models().items()}
    assert again == spec and Plan.of(again, parts).chain("look") == Plan.of(spec, parts).chain("look")


def test_steps_may_stand_in_any_order() -> None:
    assert [s.name for s in plan(STEPS[::-1]).steps] == ["boxes", "crops", "look", "who"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (changed(1, of="look"), "a cycle: (look of crops of look|crops of look of crops)"),
        (changed(0, of="who"), "a cycle: .*boxes"),
        (changed(0, of="boxes"), "a cycle: boxes of boxes"),
        (changed(1, of="boxs"), r"steps.crops.of: no step 'boxs'; did you mean 'boxes'\?"),
        (changed(1, name="boxes"), "name 'boxes' given twice"),
        (changed(1, name="label"), "name 'label' is reserved"),
        (changed(1, do="resize"), "steps.crops.do: expected one of cascade, crop, infer, match, pitch, got 'resize'"),
        (changed(0, model="detectr"), "steps.boxes.model: there is no model 'detectr'; there are: detector, embedder"),
        (changed(0, model=None), "steps.boxes: infer needs `model`"),
        (changed(1, when={"labels": ["tal"]}), r"when.labels: the model has no class 'tal'; did you mean 'tall'\?"),
        (changed(0, when={"labels": ["tall"]}), "when: labels: there are no boxes before this step"),
        (changed(1, options={"margins": 1}), "steps.crops.options.margins: .*known: margin, square, quality"),
        (changed(3, options={"threshold": 7}), "steps.who.options.threshold"),
        (changed(3, options={}), "steps.who.options.threshold: Field required"),
        (changed(3, gallery=None), "steps.who: match needs `gallery`"),
        (changed(3, of="crops"), "steps.who: of: crops gives no embedding"),
        (changed(2, of="boxes"), "steps.look: of: boxes gives no pictures"),
        (changed(1, of="look")[1:2] + STEPS[:1] + STEPS[2:], "cycle"),
        (changed(0, parameters={"score_treshold": 1}), "steps.boxes: parameters: unknown parameter 'score_treshold'"),
    ],
)
def test_each_fault_is_named(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SpecInvalid, match=message):
        plan(steps)


def test_crops_of_a_model_without_boxes_are_refused() -> None:
    with pytest.raises(SpecInvalid, match="steps.crops: of: boxes gives no boxes"):
        plan(changed(0, model="classifier"), classifier=FakeModel("classifier", "classification", brightness, ("a",)))


def test_a_network_of_one_size_takes_no_crops_of_any() -> None:
    fixed = {"preprocess": {"width": 112, "height": 112, "resize": "none"}}
    only = FakeModel("embedder", "embedding", colour, **fixed)
    with pytest.raises(SpecInvalid, match="steps.look: embedder takes 112x112 only, the crops are of any size"):
        plan(STEPS, embedder=only)


def test_chips_must_be_made_for_the_embedder_that_reads_them() -> None:
    size = {"preprocess": {"width": 150, "height": 150}, "options": {"align": "dlib_150"}}
    aligned = FakeModel("embedder", "embedding", colour, **size)
    with pytest.raises(SpecInvalid, match="takes chips of dlib_150, it gets pictures that are not aligned"):
        plan(STEPS, embedder=aligned)
    other = FakeModel("other", "embedding", colour, preprocess={"width": 112, "height": 112},
                      options={"align": "arcface_112"})  # fmt: skip
    with pytest.raises(SpecInvalid, match="takes chips of dlib_150, it gets arcface_112"):
        plan(changed(1, model="other"), embedder=aligned, other=other)
    assert plan(changed(1, model="embedder"), embedder=aligned).steps


def test_the_answer_names_steps_that_give_what_it_tells() -> None:
    for answer, message in (
        ({"detections": "look"}, "step 'look' gives no boxes"),
        ({"detections": "boxs"}, "did you mean 'boxes'"),
        ({"fields": ["whom"]}, r"answer(.fields)?: no step 'whom'"),
    ):
        with pytest.raises(SpecInvalid, match=message):
            plan(STEPS, answer)
    for appearance, message in (
        ("who", "answer.appearance: expected an embedding of crops of boxes, got step 'who'"),
        ("crops", "got step 'crops'"),
        ("boxes", "got step 'boxes'"),
        ("whole", "got step 'whole'"),
        ("inner_look", "got step 'inner_look'"),
        ("lok", r"answer.appearance: no step 'lok'; did you mean 'look'\?"),
    ):
        with pytest.raises(SpecInvalid, match=message):
            plan([*STEPS, *OTHERS], {"detections": "boxes", "appearance": appearance})
    with pytest.raises(SpecInvalid, match=r"an embedding of crops of the rows \(answer.detections\), got step 'look'"):
        plan(STEPS, {"fields": ["who"], "appearance": "look"})
    with pytest.raises(SpecInvalid, match="answer: no step 'lok'"):
        task_named("pipeline").check(spec_of(STEPS, {"detections": "boxes", "appearance": "lok"}))
    assert plan([*STEPS, *OTHERS], {"detections": "boxes", "appearance": "look"}).steps
    with pytest.raises(SpecInvalid, match="answer: expected detections, fields or both"):
        task_named("pipeline").check(spec_of(STEPS, {}))


def test_the_yaml_is_read_strictly_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("name: p\ntask: pipeline\nsteps:\n  - {name: a, do: infer, modle: m}\nanswer: {fields: [a]}\n")
    with pytest.raises(SpecInvalid, match=r"p.yaml:4: steps.0.modle: unknown key; did you mean 'model'\?"):
        ModelSpec.read(path)
    path.write_text("name: p\ntask: pipeline\n")
    with pytest.raises(SpecInvalid, match="it needs at least one"):
        ModelSpec.read(path)


def test_the_chain_changes_with_everything_that_moves_a_vector() -> None:
    def mark(steps: list[dict[str, Any]] = STEPS, **more: FakeModel) -> str:
        return plan(steps, **more).chain("look")

    same = mark()
    assert mark(changed(3, options={"threshold": 0.5})) == same, "what comes after the vector does not count"
    assert mark(changed(1, when={"min_side": 30})) == same, "nor does which boxes are taken"
    others = {
        mark(changed(1, options={"margin": 0.2})),
        mark(embedder=FakeModel("embedder2", "embedding", colour)),
        mark(detector=FakeModel("detector2", "face", faces, ("wide", "tall"))),
    }
    assert len(others) == 3 and same not in others


def test_models_that_share_a_file_are_closed_once_each(tmp_path: Path) -> None:
    parts = models()
    pipeline(tmp_path, parts).close()
    assert all(part.closed for part in parts.values())
