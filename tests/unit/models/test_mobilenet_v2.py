"""torchvision's weights answer labelled photos; wrong colour or a forgotten mean loses the score."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters.training_recipes import torchvision_classification
from models.importers import ImportedModel
from models.importers.mobilenet_v2 import labels_of_source
from serving.preprocess.reference import prepare
from serving.spec import ModelSpec

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("opencv-doc")]
MODELS = Path(__file__).resolve().parents[3] / "models"
LABELS, SPEC = MODELS / "labels" / "imagenet1k.txt", MODELS / "mobilenet_v2.yaml"


def test_labels_file_is_the_sources_own() -> None:
    assert LABELS.read_text("utf-8").splitlines() == labels_of_source()


def test_samples_are_enough_and_score(imported: Callable[[str], ImportedModel]) -> None:
    import torch
    from torchvision.models import mobilenet_v2

    got = imported("mobilenet_v2")
    pictures = [path for path in got.samples.iterdir() if path.suffix in (".jpg", ".png")]
    assert len(pictures) >= 32
    net = mobilenet_v2()
    net.load_state_dict(torch.load(got.checkpoint, weights_only=True), strict=True)
    net.eval()
    names = labels_of_source()
    assert got.labels is not None
    with got.labels.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    truth = [names.index(row["label"]) for row in rows]
    pixels = [torchvision_classification((got.samples / row["file"]).read_bytes())[0] for row in rows]
    assert all(p.shape == (224, 224, 3) for p in pixels)
    batch = torch.from_numpy(np.stack(pixels).astype(np.float32) / 255).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def top1(images: torch.Tensor) -> float:
        with torch.no_grad():
            return float(np.mean(np.equal(net(images).argmax(1).tolist(), truth)))

    assert top1((batch - mean) / std) >= 0.75
    assert top1((batch.flip(1) - mean) / std) < 0.75, "BGR must fail the spec's `expect`"
    assert top1(batch) < 0.75, "a forgotten mean must fail the spec's `expect`"


def test_the_specs_preprocessing_is_the_weights_own(imported: Callable[[str], ImportedModel]) -> None:
    from PIL import Image
    from torchvision.models import MobileNet_V2_Weights

    path = imported("mobilenet_v2").samples / "coffee.png"
    preset = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()(Image.open(path).convert("RGB")).numpy()
    spec = ModelSpec.read(SPEC).preprocess
    assert spec is not None
    ours = prepare(np.asarray(Image.open(path).convert("RGB")), spec).tensor
    assert np.abs(ours - preset).max() < 1e-6
