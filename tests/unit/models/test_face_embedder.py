"""The port of the face embedding equals face-api itself; its chips tell people apart."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.golden.face_embedder import noise
from models.importers import ImportedModel
from models.importers.face_embedder import MEAN, constants_of_source, training_side
from models.importers.tfjs_weights import read_weights
from serving.errors import ImportFailed
from serving.preprocess.decode import decode
from serving.preprocess.reference import prepare
from serving.spec import ModelSpec

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("npm")]
ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "lockstep"


@pytest.fixture(scope="module")
def golden() -> Mapping[str, Any]:
    with np.load(ROOT / "tests" / "data" / "golden" / "face_embedder.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def model(imported: Callable[[str], ImportedModel]) -> ImportedModel:
    return imported("face_embedder")


@pytest.fixture(scope="module")
def embed(model: ImportedModel) -> Callable[[Any], Any]:
    import torch

    from models.architectures.face_resnet import face_resnet

    net = face_resnet()
    net.load_state_dict(torch.load(model.checkpoint, weights_only=True), strict=True)
    net.eval()

    def run(chip: Any) -> Any:
        tensor = (chip.astype(np.float32) - np.array(MEAN, np.float32)) / np.float32(255)
        with torch.no_grad():
            return net(torch.from_numpy(np.ascontiguousarray(tensor.transpose(2, 0, 1)))[None])[0].numpy()

    return run


@pytest.mark.parametrize("name", ["noise", "astronaut_0"])
def test_the_port_equals_face_api(embed: Callable[[Any], Any], golden: Mapping[str, Any], name: str) -> None:
    ours, theirs = embed(golden[f"{name}/chip"]), golden[f"{name}/embedding"]
    assert ours.shape == (128,)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_red_and_blue_swapped_is_another_embedding(embed: Callable[[Any], Any], golden: Mapping[str, Any]) -> None:
    chip, theirs = golden["astronaut_0/chip"], golden["astronaut_0/embedding"]
    assert np.abs(embed(chip[:, :, ::-1]) - theirs).max() > 0.01 * np.abs(theirs).max()


def test_the_stored_noise_is_the_recipes(golden: Mapping[str, Any]) -> None:
    assert np.array_equal(golden["noise/chip"], noise())


def test_people_are_told_apart_by_dlibs_own_threshold(embed: Callable[[Any], Any], model: ImportedModel) -> None:
    """dlib calls two chips one person below a distance of 0.6 of its unnormalised numbers."""
    names = ("obama_0", "obama2_0", "obama3_0", "biden_0", "astronaut_0")
    found = {name: embed(decode((model.samples / f"{name}.png").read_bytes())) for name in names}
    same = [np.linalg.norm(found[a] - found[b]) for a in names[:3] for b in names[:3] if a < b]
    other = [np.linalg.norm(found[a] - found[b]) for a in names[:3] for b in names[3:]]
    assert max(same) < 0.5 and min(other) > 0.7


def test_our_preprocessing_is_the_training_sides(model: ImportedModel) -> None:
    spec = ModelSpec.read(ROOT / "models" / "face_embedder.yaml")
    assert spec.preprocess is not None
    data = (model.samples / "biden_0.png").read_bytes()
    pixels, tensor = training_side(data)
    ours = prepare(decode(data), spec.preprocess)
    assert np.array_equal(ours.pixels, pixels) and np.abs(ours.tensor - tensor).max() < 1e-6


def test_constants_come_from_the_source() -> None:
    assert constants_of_source(CACHE) == {"align": "dlib_150"}


def test_weights_that_do_not_fit_their_manifest_are_refused() -> None:
    entry = {"name": "a", "shape": [2], "dtype": "float32"}
    manifest = [{"weights": [entry]}]
    assert read_weights(manifest, np.array([1.5, 2.5], "<f4").tobytes(), "w")["a"].tolist() == [1.5, 2.5]
    for data in (b"\0" * 7, b"\0" * 9):
        with pytest.raises(ImportFailed, match="bytes"):
            read_weights(manifest, data, "w")
    with pytest.raises(ImportFailed, match="expected float32"):
        read_weights([{"weights": [{**entry, "dtype": "int32"}]}], b"\0" * 8, "w")


@pytest.mark.long
def test_face_api_still_answers_what_was_stored(golden: Mapping[str, Any], tmp_path: Path) -> None:
    from models.golden.face_embedder import answers

    (tmp_path / "package.json").write_text(json.dumps({"name": "golden", "private": True}), "utf-8")
    packages = ["@vladmandic/face-api@1.7.15", "@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0"]
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=280)
    again = answers(tmp_path, {"noise": golden["noise/chip"]})
    assert np.abs(again["noise/embedding"] - golden["noise/embedding"]).max() < 1e-6
