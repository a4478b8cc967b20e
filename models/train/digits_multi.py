"""Train a multi-label classifier: which digits are in a scene of up to four, in about two minutes on one core.

python -m models.train.digits_multi --output digits_multi.pth --samples samples/

Scenes are those of models/train/digit_scenes.py; of their boxes nothing is shown in training.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.train.digit_scenes import Scenes, scenes
from models.train.digit_yolo import as_sent
from models.train.digits import load

TRAINED_ON, HELD_OUT, EPOCHS = 2000, 128, 16


@dataclass(frozen=True, slots=True)
class Trained:
    """The checkpoint (torch.save bytes of a state dict) and how training went, an entry an epoch.

    loss: mean binary cross-entropy of the training batches; f1: over all (scene, class) pairs of held-out scenes at a
    score of 0.5.
    """

    checkpoint: bytes
    loss: tuple[float, ...]
    f1: tuple[float, ...]


def held_out(seed: int = 7, count: int = HELD_OUT) -> Scenes:
    """Scenes of handwritings that training never saw."""
    data = load(seed)
    return scenes(data.held_out_images, data.held_out_labels, count, seed + 2)


def truth_of(made: Scenes) -> npt.NDArray[np.bool_]:
    """bool [n, 10]: which digits are in each scene."""
    truth = np.zeros((len(made), 10), bool)
    for row, digits in enumerate(made.digits):
        truth[row, digits] = True
    return truth


def train(
    *, seed: int = 7, epochs: int = EPOCHS, count: int = TRAINED_ON, batch: int = 32,
    progress: Callable[[str], None] = lambda line: None,
) -> Trained:  # fmt: skip
    """Train on the CPU, reproducibly."""
    import torch
    from torch.nn import functional

    from models.architectures.digits_multi import digits_multi
    from models.train.digits import _one_thread, _tensor

    data = load(seed)
    made = scenes(data.train_images, data.train_labels, count, seed)
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        net = digits_multi()
        pictures, truth = _tensor(as_sent(made.images, seed)), torch.from_numpy(truth_of(made)).float()
        optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
        steps = epochs * -(-count // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
        judged = held_out(seed)
        losses, scores = [], []
        for epoch in range(epochs):
            net.train()
            total = 0.0
            for chosen in torch.randperm(count).split(batch):  # type: ignore[no-untyped-call]
                optimiser.zero_grad()
                loss = functional.binary_cross_entropy_with_logits(net(pictures[chosen]), truth[chosen])
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            losses.append(total / count)
            scores.append(_f1(net, judged))
            progress(f"digits_multi: epoch {epoch + 1}/{epochs}, loss {losses[-1]:.3f}, f1 {scores[-1]:.3f}")
    sink = io.BytesIO()
    torch.save(net.state_dict(), sink)
    return Trained(sink.getvalue(), tuple(losses), tuple(scores))


def _f1(net: Any, judged: Scenes) -> float:
    """See `Trained.f1`."""
    import torch

    from models.train.digits import _tensor

    net.eval()
    with torch.no_grad():
        given = (net(_tensor(judged.images)) >= 0).numpy()
    truth = truth_of(judged)
    return float(2 * (given & truth).sum() / (given.sum() + truth.sum()))


def write_samples(made: Scenes, folder: Path) -> None:
    """PNG files and `labels.csv`: the digits of each scene as `3;7`."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rows = [("file", "label")]
    for number, (image, digits) in enumerate(zip(made.images, made.digits, strict=True)):
        name = f"scene_{number:03d}.png"
        Image.fromarray(image).save(folder / name)
        rows.append((name, ";".join(map(str, np.unique(digits)))))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink, lineterminator="\n").writerows(rows)


def main() -> None:
    """Train, print the curves, write checkpoint and held-out scenes."""
    options = argparse.ArgumentParser(description="train the multi-label digit classifier")
    options.add_argument("--output", type=Path, required=True, help="checkpoint to write (a state dict)")
    options.add_argument("--samples", type=Path, help="folder for held-out scenes and labels.csv")
    options.add_argument("--seed", type=int, default=7)
    chosen = options.parse_args()
    trained = train(seed=chosen.seed, progress=print)
    chosen.output.write_bytes(trained.checkpoint)
    if chosen.samples:
        write_samples(held_out(chosen.seed), chosen.samples)
    print(json.dumps({"loss": np.round(trained.loss, 4).tolist(), "f1": np.round(trained.f1, 4).tolist()}))


if __name__ == "__main__":
    main()
