"""Train a digit classifier that knows 0 to 6 and must refuse the others, with one of three heads, in seconds.

    python -m models.train.digits_open --head sigmoid --output digits_open.pth --samples samples/

Data: scikit-learn's digits, as models/train/digits.py reads them. 0 to 6 are taught; 7 is shown in training as 'none of
these' (the head `other` has a class for it, `sigmoid` says no to every class, `cosine` does not see it); 8 and 9 are
never shown, so that refusing them cannot be learned by heart.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.train.digits import DigitsData, _one_thread, _tensor, load

KNOWN, SHOWN, NEVER_SHOWN = 7, 7, (8, 9)
HEADS = ("other", "sigmoid", "cosine")
SCALE, LEAD = 12.0, 0.2  # of the cosine head's softmax: sharpness, and the lead that the right class must have


@dataclass(frozen=True, slots=True)
class Trained:
    """The checkpoint (torch.save bytes of a state dict) and how training went, an entry an epoch.

    loss: mean of the training batches; accuracy: share of held-out known digits whose best known class is right.
    """

    checkpoint: bytes
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]


def train(data: DigitsData, head: str, *, seed: int = 7, epochs: int = 12, batch: int = 64) -> Trained:
    """Train on the CPU, reproducibly."""
    import torch

    from models.architectures.digits_open import digits_open

    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        net = digits_open(KNOWN, 16, head)  # type: ignore[arg-type]
        seen = data.train_labels <= (KNOWN - 1 if head == "cosine" else SHOWN)
        images, labels = _tensor(data.train_images[seen]), torch.from_numpy(data.train_labels[seen])
        steps = epochs * -(-len(images) // batch)
        optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
        losses, scores = [], []
        for _ in range(epochs):
            net.train()
            total = 0.0
            for chosen in torch.randperm(len(images)).split(batch):  # type: ignore[no-untyped-call]
                optimiser.zero_grad()
                loss = _loss(head, net(images[chosen]), labels[chosen])
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            losses.append(total / len(images))
            scores.append(_accuracy(net, data))
    sink = io.BytesIO()
    torch.save(net.state_dict(), sink)
    return Trained(sink.getvalue(), tuple(losses), tuple(scores))


def _loss(head: str, answer: Any, labels: Any) -> Any:
    import torch
    from torch.nn import functional

    if head == "other":
        return functional.cross_entropy(answer, labels)
    truth = functional.one_hot(labels, KNOWN + 1)[:, :KNOWN].float()
    if head == "sigmoid":
        return functional.binary_cross_entropy_with_logits(answer, truth, pos_weight=torch.full((KNOWN,), 3.0))
    return functional.cross_entropy(SCALE * (answer - LEAD * truth), labels)


def _accuracy(net: Any, data: DigitsData) -> float:
    import torch

    known = data.held_out_labels < KNOWN
    net.eval()
    with torch.no_grad():
        answers = net(_tensor(data.held_out_images[known]))[:, :KNOWN].argmax(1).numpy()
    return float((answers == data.held_out_labels[known]).mean())


def write_samples(data: DigitsData, folder: Path, count: int | None = None) -> None:
    """The first `count` held-out pictures (None: all) as PNG, with `labels.csv`: the digit, or `unknown` for 7 to 9."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rows = [("file", "label")]
    pairs = list(zip(data.held_out_images, data.held_out_labels, strict=True))[:count]
    for number, (image, label) in enumerate(pairs):
        name = f"digit_{number:03d}_is_{label}.png"
        Image.fromarray(image).save(folder / name)
        rows.append((name, str(label) if label < KNOWN else "unknown"))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink, lineterminator="\n").writerows(rows)


def main() -> None:
    """Train, print curves and held-out accuracy, write checkpoint and samples."""
    options = argparse.ArgumentParser(description="train an open-set digits classifier on scikit-learn's digits")
    options.add_argument("--head", choices=HEADS, default="sigmoid")
    options.add_argument("--output", type=Path, required=True, help="checkpoint to write (a state dict)")
    options.add_argument("--samples", type=Path, help="folder for all held-out pictures and labels.csv")
    options.add_argument("--seed", type=int, default=7)
    chosen = options.parse_args()
    data = load(chosen.seed)
    trained = train(data, chosen.head, seed=chosen.seed)
    chosen.output.write_bytes(trained.checkpoint)
    if chosen.samples:
        write_samples(data, chosen.samples)
    print(json.dumps({"loss": np.round(trained.loss, 4).tolist(), "accuracy": np.round(trained.accuracy, 4).tolist()}))


if __name__ == "__main__":
    main()
