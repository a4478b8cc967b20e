"""Train a digit classifier in seconds: the example of 'your own checkpoint'.

    python -m models.train.digits --output digits.pth --samples samples/

Data: scikit-learn's 1797 handwritten digits, 8x8, 17 grey levels (E. Alpaydin, C. Kaynak, UCI repository, 1998). Each
is made a 32x32 picture by repeating pixels, as the PNG samples are written, so training and serving see the same.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SIDE = 32


@dataclass(frozen=True, slots=True)
class DigitsData:
    """Pictures uint8 `[N, 32, 32]` and their digits, split into a training and a held-out part."""

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    held_out_images: npt.NDArray[np.uint8]
    held_out_labels: npt.NDArray[np.int64]


def load(seed: int = 7, held_out: float = 0.25) -> DigitsData:
    """Split by class, reproducibly."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8).repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)
    labels = raw.target.astype(np.int64)
    parts = train_test_split(images, labels, test_size=held_out, random_state=seed, stratify=labels)
    return DigitsData(parts[0], parts[2], parts[1], parts[3])


def train(data: DigitsData, *, seed: int = 7, epochs: int = 8, batch: int = 64) -> tuple[bytes, float]:
    """Train on the CPU. Returns the state dict as torch.save bytes, and the held-out accuracy in 0..1."""
    import torch
    from torch.nn import functional

    from models.architectures.digits_net import digits_net

    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        net = digits_net()
        images, labels = _tensor(data.train_images), torch.from_numpy(data.train_labels)
        steps = epochs * -(-len(images) // batch)
        optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for chosen in order.split(batch):  # type: ignore[no-untyped-call]
                optimiser.zero_grad()
                functional.cross_entropy(net(images[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        net.eval()
        with torch.no_grad():
            answers = net(_tensor(data.held_out_images)).argmax(1).numpy()
    sink = io.BytesIO()
    torch.save(net.state_dict(), sink)
    return sink.getvalue(), float((answers == data.held_out_labels).mean())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Faster for a network this small, and sums in the same order on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_samples(data: DigitsData, folder: Path, count: int = 128) -> None:
    """The first `count` held-out pictures as PNG, with `labels.csv` (`file,label`). Nothing is chosen by result."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str]] = [("file", "label")]
    for number, (image, label) in enumerate(zip(data.held_out_images[:count], data.held_out_labels, strict=False)):
        name = f"digit_{number:03d}.png"
        Image.fromarray(image).save(folder / name)
        rows.append((name, str(label)))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink, lineterminator="\n").writerows(rows)


def _tensor(images: npt.NDArray[np.uint8]):  # type: ignore[no-untyped-def]  # torch is imported where it is used
    import torch

    return torch.from_numpy(images.astype(np.float32) / 255)[:, None]


def main() -> None:
    """Train, print the held-out accuracy, write checkpoint and samples."""
    options = argparse.ArgumentParser(description="train the digits classifier on scikit-learn's digits")
    options.add_argument("--output", type=Path, required=True, help="checkpoint to write (a state dict)")
    options.add_argument("--samples", type=Path, help="folder for held-out pictures and labels.csv")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--epochs", type=int, default=8)
    chosen = options.parse_args()
    data = load(chosen.seed)
    checkpoint, accuracy = train(data, seed=chosen.seed, epochs=chosen.epochs)
    chosen.output.write_bytes(checkpoint)
    if chosen.samples:
        write_samples(data, chosen.samples)
    print(f"held-out accuracy {accuracy:.4f} on {len(data.held_out_labels)} digits -> {chosen.output}")


if __name__ == "__main__":
    main()
