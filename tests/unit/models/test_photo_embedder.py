"""The features of MobileNetV2 find copies of real photos: the network itself, by its YAML's preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.family import Item, Parameters
from evaluation.near_duplicates import choose, read_pictures
from models.importers import ImportedModel
from serving.preprocess.decode import decode
from serving.preprocess.reference import prepare
from serving.spec import ModelSpec
from serving.types import Embedding, TaskResult

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("opencv-doc"), pytest.mark.timeout(600)]
SPEC = ModelSpec.read(Path(__file__).resolve().parents[3] / "models" / "photo_embedder.yaml")


@pytest.fixture(scope="module")
def model(imported: Callable[[str], ImportedModel]) -> ImportedModel:
    return imported("photo_embedder")


@pytest.fixture(scope="module")
def net(model: ImportedModel) -> Any:
    import torch

    from models.architectures.photo_embedder import photo_embedder

    made = photo_embedder()
    made.load_state_dict(torch.load(model.checkpoint, weights_only=True), strict=True)
    return made.eval()


def test_the_features_are_what_the_classifier_sees(net: Any) -> None:
    import torch
    from torchvision.models import mobilenet_v2

    whole = mobilenet_v2()
    whole.load_state_dict(net.state_dict())
    given = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(whole.eval()(given), net.classifier(net(given)), atol=1e-5)


def test_copies_of_real_photos_are_found_and_other_photos_are_not(
    net: Any, model: ImportedModel, tmp_path: Path
) -> None:
    import torch

    def ask(items: Sequence[Item], asks: Sequence[Parameters]) -> Iterator[tuple[TaskResult, ...]]:
        for item in items:
            tensor = prepare(decode(item.path.read_bytes()), SPEC.preprocess).tensor
            with torch.no_grad():
                vector = net(torch.from_numpy(np.ascontiguousarray(tensor))[None])[0].numpy()
            yield tuple(Embedding(vector) for _ in asks)

    found = choose(read_pictures(model.samples), ask, 0.01, tmp_path)
    held_out = found["held_out"]
    assert held_out["recall"] >= 0.95 and held_out["precision"] >= 0.9 and held_out["top1"] >= 0.98
