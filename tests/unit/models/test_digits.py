"""The digits checkpoint is trained for real, generalises, and its samples are what it was trained to see."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.importers import ImportedModel
from models.train import digits

pytestmark = pytest.mark.needs("torch")


def test_the_checkpoint_answers_its_samples(imported: Callable[[str], ImportedModel]) -> None:
    import torch

    from models.architectures.digits_net import digits_net

    got = imported("digits")
    net = digits_net(classes=10, width=16)
    net.load_state_dict(torch.load(got.checkpoint, weights_only=True), strict=True)
    net.eval()
    assert got.labels is not None
    with got.labels.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    assert len(rows) >= 64 and {row["label"] for row in rows} == set("0123456789")
    pictures = np.stack([np.asarray(Image.open(got.samples / row["file"])) for row in rows])
    assert pictures.shape[1:] == (32, 32) and pictures.dtype == np.uint8
    with torch.no_grad():
        answers = net(torch.from_numpy(pictures.astype(np.float32) / 255)[:, None]).argmax(1).tolist()
        turned = net(torch.from_numpy(255.0 - pictures.astype(np.float32))[:, None] / 255).argmax(1).tolist()
    truth = [int(row["label"]) for row in rows]
    assert np.mean(np.equal(answers, truth)) >= 0.95
    assert np.mean(np.equal(turned, truth)) < 0.5, "inverted pictures must not score: the samples would prove nothing"


def test_no_sample_was_trained_on() -> None:
    data = digits.load()
    assert len(data.train_images) + len(data.held_out_images) == 1797
    seen = {image.tobytes() for image in data.train_images}
    assert not [image for image in data.held_out_images if image.tobytes() in seen]


def test_training_is_reproducible_from_its_seed() -> None:
    import torch

    whole = digits.load()
    data = replace(whole, train_images=whole.train_images[:256], train_labels=whole.train_labels[:256])
    one, two, other = (
        torch.load(io.BytesIO(digits.train(data, seed=seed, epochs=1)[0]), weights_only=True) for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_the_command_prints_its_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "d.pth"
    monkeypatch.setattr(sys, "argv", ["digits", "--output", str(output), "--epochs", "1"])
    digits.main()
    assert output.is_file() and "held-out accuracy 0." in capsys.readouterr().out
